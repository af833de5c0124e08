"""Batches of the training and validation rows, whatever they are."""

from __future__ import annotations

from typing import NamedTuple

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor

from kmeans_module.checks import check_integer, check_number
from kmeans_module.rows.batch import BatchLoader


class Split(NamedTuple):
    """Rows that belong together, and their true labels where the data know them."""

    x: Tensor
    target: Tensor | None = None


class _NoBatches(CombinedLoader):
    """Nothing to iterate over; Lightning takes it in silence, where an empty list makes it warn."""

    flattened: list[object] = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__([], "sequential")

    def __len__(self) -> int:
        return 0


class RowsDataModule(LightningDataModule):
    """Hands out batches of the training and validation rows; a subclass says which rows.

    The rows are made or read once, when they are first asked for, in every process alike, and
    each process iterates over its own share. Works without a Trainer too:
    ``data.setup("fit"); for batch in data.train_dataloader(): ...``.
    """

    def __init__(self, batch_size: int | None, shuffle: bool, seed: int) -> None:
        super().__init__()
        if batch_size is not None:
            check_integer("batch_size", batch_size, minimum=1)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = check_integer("seed", seed, minimum=0)

    @property
    def _training(self) -> Split:
        raise NotImplementedError

    @property
    def _validation(self) -> Split | None:
        return None

    @property
    def _all(self) -> Split:
        """What predictions are for."""
        return self._training

    @property
    def x(self) -> Tensor:
        """Training rows in order, (n_samples, n_features)."""
        return self._training.x

    @property
    def target(self) -> Tensor | None:
        """True labels of the training rows, (n_samples,) int64, where the data know them."""
        return self._training.target

    @property
    def n_samples(self) -> int:
        """Number of training rows."""
        return self.x.shape[0]

    @property
    def n_features(self) -> int:
        """Number of features of a row; known without :meth:`setup`."""
        return self.x.shape[1]

    @property
    def feature_names(self) -> list[str] | None:
        """Names of the features where the data have them."""
        return None

    def setup(self, stage: str | None = None) -> None:
        """Make or read the rows, unless that has been done."""
        _ = self._training

    def train_dataloader(self) -> BatchLoader:
        return self._loader(self._training, shuffle=self.shuffle)

    def val_dataloader(self) -> BatchLoader | CombinedLoader:
        """The validation rows, or no batches at all, and Lightning skips the validation."""
        return _NoBatches() if self._validation is None else self._loader(self._validation)

    def test_dataloader(self) -> BatchLoader:
        """The validation rows if there are any, else the training rows."""
        return self._loader(self._validation or self._training)

    def predict_dataloader(self) -> BatchLoader:
        """All rows in order, so that predictions line up with the file."""
        return self._loader(self._all)

    def _loader(self, rows: Split, shuffle: bool = False) -> BatchLoader:
        trainer = self.trainer
        return BatchLoader(
            rows.x,
            batch_size=self.batch_size,
            target=rows.target,
            shuffle=shuffle,
            seed=self.seed,
            rank=0 if trainer is None else trainer.global_rank,
            world_size=1 if trainer is None else trainer.world_size,
        )


def check_share(name: str, value: float) -> float:
    if check_number(name, value, minimum=0, maximum=1) == 1:
        raise ValueError(f"{name} should be less than 1; got {value}")
    return value
