"""What the callbacks have in common: the trajectory of a fit, and how it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure

from kmeans_module.figures import clusterings as plotting
from kmeans_module.figures.trajectory import Trajectory
from kmeans_module.training.lit_kmeans import LitKMeans, as_batch


class Recorder(Callback):
    """Keeps the trajectory of a fit, on the first rank."""

    def __init__(self) -> None:
        self.trajectory = Trajectory()
        self.sampled = False

    def wanted(self, trainer: Trainer) -> bool:
        return trainer.is_global_zero

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        as_kmeans(pl_module)
        self.trajectory = Trajectory()
        self.sampled = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.wanted(trainer) and not self.trajectory.iterations:
            kmeans = as_kmeans(pl_module).kmeans
            self.trajectory.record(int(kmeans.n_iter), kmeans.centroids)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.wanted(trainer) and not self.sampled:
            n_batches = trainer.num_training_batches
            self.trajectory.sample(as_batch(batch).x, n_batches=n_batches)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        lit = as_kmeans(pl_module)
        self.sampled = True
        if self.wanted(trainer) and lit.last is not None:
            self.trajectory.measured(self.trajectory.iterations[-1], lit.last.inertia)
            self.trajectory.record(lit.last.n_iter, lit.kmeans.centroids)


def as_kmeans(pl_module: LightningModule) -> LitKMeans:
    if not isinstance(pl_module, LitKMeans):
        raise TypeError(f"this callback is for LitKMeans; got {type(pl_module).__name__}")
    return pl_module


def feature_names(trainer: Trainer) -> Sequence[str] | None:
    return getattr(getattr(trainer, "datamodule", None), "feature_names", None)


def draw_clusters(trajectory: Trajectory, lit: LitKMeans, trainer: Trainer) -> Figure:
    x = trajectory.x.float()
    path = trajectory.centroids
    n_iter = trajectory.iterations[-1]
    return plotting.clustering_figure(
        x, lit.kmeans(x.to(lit.device)), path[-1], path=path,
        assign=lambda grid: lit.kmeans(grid.to(lit.device)),
        title=f"iteration {n_iter}", feature_names=feature_names(trainer),
    )  # fmt: skip
