"""Validation, test and prediction with the centroids of a LitKMeans."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from kmeans_module.rows.batch import as_batch
from kmeans_module.training.loaders import nth
from kmeans_module.training.numbering import BatchOf, Numbering
from kmeans_module.training.report import log_values
from kmeans_module.training.scores import Scores


class EvaluationSteps(LightningModule):
    """The steps of validation, test and prediction.

    Attributes:
        kmeans: the :class:`~kmeans_module.KMeansLayer`.
        batch_of: makes a batch of what the loaders hand out, where that is no batch.
        scores: of validation and test.
    """

    kmeans: Any
    batch_of: BatchOf | None

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.ModuleDict({stage: Scores() for stage in ("val", "test")})
        self._numberings: dict[str, Numbering] = {}

    @property
    def initialized(self) -> bool:
        """Whether there are centroids."""
        return bool(self.kmeans.initialized)

    def check_intact(self) -> None:
        """Refuse what was computed from a file that was cut short meanwhile."""
        raise NotImplementedError

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        loader = nth(self.trainer.val_dataloaders, dataloader_idx)
        self._score("val", batch, batch_idx, loader)

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        loader = nth(self.trainer.test_dataloaders, dataloader_idx)
        self._score("test", batch, batch_idx, loader)

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Labels of a batch, for ``trainer.predict``.

        Args:
            batch: what the loader hands out.
            batch_idx: number of the batch, which decides nothing.
            dataloader_idx: number of the loader, which decides nothing.

        Returns:
            (n,) int64.
        """
        labels: Tensor = self(as_batch(batch, self.batch_of).x)
        self.check_intact()
        return labels

    def _score(self, stage: str, data: Any, batch_idx: int, loader: Any) -> None:
        if not self.initialized and self.trainer.sanity_checking:
            return
        if batch_idx == 0:
            self._numberings[stage] = Numbering(
                loader, world_size=self.trainer.world_size, rank=self.trainer.global_rank,
                batch_of=self.batch_of,
            )  # fmt: skip
        batch = self._numberings[stage].read(data, batch_idx)
        self._scores(stage).add(self.kmeans.e_step(batch.x, batch.sample_weight), batch)

    def _log_scores(self, stage: str) -> None:
        if not self.initialized:
            return
        self.check_intact()
        scores = self._scores(stage).compute()
        log_values(self, {f"{stage}/{name}": value for name, value in scores.items()})

    def _scores(self, stage: str) -> Scores:
        scores = self.scores[stage]
        assert isinstance(scores, Scores)
        return scores
