"""The recorder of a fit: one for all callbacks that draw it."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from kmeans_module.figures import Trajectory
from kmeans_module.rows.batch import as_batch
from kmeans_module.rows.ranks import all_cat
from kmeans_module.training.callbacks.reading import as_kmeans, has_rows, n_iterations
from kmeans_module.training.lit_kmeans import LitKMeans


class Recorder(Callback):
    """Keeps the trajectory of a fit, on the first rank, with a sample of the rows of all ranks.

    A callback that draws the trajectory calls :meth:`attach` in its ``setup`` and :meth:`of` when
    it draws, so that all of them read one Recorder. It stands before them in the trainer's list:
    in every hook it has recorded before they draw.

    Attributes:
        trajectory: of the latest fit.
    """

    def __init__(self) -> None:
        self.trajectory = Trajectory()
        self._sampled = False

    @classmethod
    def attach(cls, trainer: Any) -> None:
        """Put the Recorder of the Trainer, or a new one, in front of the other callbacks."""
        # trainer is Any, as Lightning documents the attribute callbacks without declaring it.
        recorders = [c for c in trainer.callbacks if isinstance(c, Recorder)] or [cls()]
        others = [c for c in trainer.callbacks if not isinstance(c, Recorder)]
        # A new list: the Trainer may be in the midst of calling a hook of the present one.
        trainer.callbacks = [*recorders, *others]

    @staticmethod
    def of(trainer: Any) -> Recorder:
        """The Recorder that :meth:`attach` has put in front."""
        return next(c for c in trainer.callbacks if isinstance(c, Recorder))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        as_kmeans(pl_module)
        self.trajectory = Trajectory()
        self._sampled = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and not self.trajectory.iterations:
            self._record(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._sampled:
            n_batches = trainer.num_training_batches
            self.trajectory.sample(as_batch(batch).x, n_batches=n_batches)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        lit = as_kmeans(pl_module)
        if not self._sampled:
            self._gather(lit)
        last = lit.last
        if trainer.is_global_zero and last is not None:
            # An iteration measures the centroids that it starts from: those of the frame before.
            self.trajectory.measured(self.trajectory.iterations[-1], float(last.inertia))
            self._record(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._sampled:
            # The fit had converged in its checkpoint: no iteration has shown a batch.
            if trainer.is_global_zero:
                self._record(pl_module)
            for batch in as_kmeans(pl_module).training_batches():
                self.trajectory.sample(batch.x, n_batches=trainer.num_training_batches)
            self._gather(as_kmeans(pl_module))

    def _gather(self, lit: LitKMeans) -> None:
        """Join the samples of all ranks, of which the first may have no row in any batch."""
        self._sampled = True
        if lit.process_group is not None:
            self.trajectory.replace_sample(all_cat(self.trajectory.x.double(), lit.process_group))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A fit that was at its end in its checkpoint did not train."""
        if has_rows(as_kmeans(pl_module)):
            self.on_train_end(trainer, pl_module)

    def _record(self, pl_module: LightningModule) -> None:
        lit = as_kmeans(pl_module)
        self.trajectory.record(n_iterations(lit), lit.kmeans.centroids)
