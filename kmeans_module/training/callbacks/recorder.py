"""The recorder of a fit: one for all callbacks that draw it."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from kmeans_module.figures import Trajectory
from kmeans_module.rows.batch import Batch, as_batch
from kmeans_module.rows.ranks import all_cat, anywhere
from kmeans_module.training.callbacks.labels import Evaluation, evaluate_training_rows
from kmeans_module.training.callbacks.progress import says
from kmeans_module.training.callbacks.reading import as_kmeans, has_rows
from kmeans_module.training.lit_kmeans import LitKMeans


class Recorder(Callback):
    """Keeps the trajectory of a fit, on the first rank, with a sample of the rows of all ranks;
    of restarts that of each.

    A callback that draws the trajectory calls :meth:`attach` in its ``setup`` and :meth:`of` when
    it draws, so that all of them read one Recorder. It stands before them in the trainer's list:
    in every hook it has recorded before they draw.

    Attributes:
        trajectories: of the latest fit, one for each restart.
    """

    def __init__(self) -> None:
        self.trajectories = [Trajectory()]
        self._best = 0
        self._sampled = False
        self._evaluation: Evaluation | None = None

    @property
    def trajectory(self) -> Trajectory:
        """That of the restart whose centroids the layer holds."""
        return self.trajectories[self._best]

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

    def evaluation(self, lit: LitKMeans) -> Evaluation:
        """The training rows as the final centroids cluster them; computed once, by all ranks."""
        if self._evaluation is None:
            says(lit.trainer, "labeling the rows")
            self._evaluation = evaluate_training_rows(lit)
        return self._evaluation

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        as_kmeans(pl_module)
        self.trajectories, self._best, self._evaluation = [Trajectory()], 0, None
        self._sampled = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and not self.trajectory.iterations:
            self._record(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._sampled:
            n_batches = trainer.num_training_batches
            self._sample(as_batch(batch, as_kmeans(pl_module).batch_of), n_batches)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        lit = as_kmeans(pl_module)
        if not self._sampled:
            self._gather(lit)
        if trainer.is_global_zero and lit.last is not None:
            # An iteration measures the centroids that it starts from: those of the frame before.
            for trajectory, inertia in zip(self.trajectories, lit.restarts.inertia, strict=True):
                trajectory.measured(trajectory.iterations[-1], float(inertia))
            self._record(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._sampled:
            # The fit had converged in its checkpoint: no iteration has shown a batch.
            if trainer.is_global_zero:
                self._record(pl_module)
            for batch in as_kmeans(pl_module).training_batches():
                self._sample(batch, trainer.num_training_batches)
            self._gather(as_kmeans(pl_module))

    def _sample(self, batch: Batch, n_batches: float) -> None:
        for trajectory in self.trajectories:
            trajectory.sample(batch.x, n_batches=n_batches, target=batch.target)

    def _gather(self, lit: LitKMeans) -> None:
        """Join the samples of all ranks, of which the first may have no row in any batch."""
        self._sampled = True
        if lit.process_group is not None:
            group, target = lit.process_group, self.trajectory.target
            unknown = anywhere(target is None and len(self.trajectory.x) > 0, group)
            x = all_cat(self.trajectory.x.double(), group)
            if target is None:
                target = torch.empty(0, dtype=torch.int64)
            target = None if unknown else all_cat(target, group)
            for trajectory in self.trajectories:
                trajectory.replace_sample(x, target)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A fit that was at its end in its checkpoint did not train."""
        if has_rows(as_kmeans(pl_module)):
            self.on_train_end(trainer, pl_module)

    def _record(self, pl_module: LightningModule) -> None:
        restarts = as_kmeans(pl_module).restarts
        self._best, n = restarts.best, len(restarts.m_steps)
        if n != len(self.trajectories):
            self.trajectories = [Trajectory(max_frames=max(20, 200 // n)) for _ in range(n)]
        for trajectory, number, centroids in zip(
            self.trajectories, restarts.m_steps, restarts.centroids, strict=True
        ):
            if n == 1 or number not in trajectory.iterations[-1:]:  # it may have converged
                trajectory.record(number, centroids)


def evaluated(lit: LitKMeans) -> Evaluation:
    """The evaluation of a fit, which callbacks share; a collective over the ranks."""
    trainer: Any = lit.trainer
    recorders = [callback for callback in trainer.callbacks if isinstance(callback, Recorder)]
    return recorders[0].evaluation(lit) if recorders else evaluate_training_rows(lit)
