"""Figures of the clustering in TensorBoard."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure

from kmeans_module.data import ImageDataModule
from kmeans_module.figures import clusterings as plotting
from kmeans_module.training.callbacks.recorder import Recorder, as_kmeans, draw_clusters
from kmeans_module.training.lit_kmeans import LitKMeans


class ClusterFigures(Recorder):
    """Draws the clustering for every TensorBoard logger; without one it does nothing.

    After chosen iterations: samples by cluster with the centroids and their paths, the cluster
    sizes, and for pictures the palette. At the end the centroids and a sample go to the
    embedding projector.

    Args:
        every_n_iterations: draw after each so many iterations, and at the end; None: after
            iterations 1, 2, 4, 8, ..., when most changes.
        projector: whether to fill the embedding projector.
    """

    def __init__(self, every_n_iterations: int | None = None, projector: bool = True) -> None:
        super().__init__()
        if every_n_iterations is not None and every_n_iterations < 1:
            raise ValueError(f"every_n_iterations should be >= 1; got {every_n_iterations}")
        self.every_n_iterations = every_n_iterations
        self.projector = projector
        self._drawn = -1

    def wanted(self, trainer: Trainer) -> bool:
        return trainer.is_global_zero and bool(_tensorboards(trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        epoch = trainer.current_epoch + 1
        every = self.every_n_iterations
        due = epoch & (epoch - 1) == 0 if every is None else epoch % every == 0
        if due and self.wanted(trainer):
            self._draw(trainer, as_kmeans(pl_module))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        lit = as_kmeans(pl_module)
        if not self.wanted(trainer) or lit.last is None:
            return
        if self._drawn != lit.last.n_iter:
            self._draw(trainer, lit)
        if self.projector:
            self._project(trainer, lit)

    def _draw(self, trainer: Trainer, lit: LitKMeans) -> None:
        assert lit.last is not None
        self._drawn = lit.last.n_iter
        figures = {
            "clusters": draw_clusters(self.trajectory, lit, trainer),
            "cluster sizes": plotting.cluster_sizes_figure(lit.last.sizes),
        }
        if _is_picture(trainer):
            figures["palette"] = plotting.palette_figure(lit.kmeans.centroids, lit.last.sizes)
        for logger in _tensorboards(trainer):
            for tag, figure in figures.items():
                image = _image(figure)
                logger.experiment.add_image(tag, image, lit.last.n_iter, dataformats="HWC")

    def _project(self, trainer: Trainer, lit: LitKMeans) -> None:
        assert lit.last is not None
        x = self.trajectory.x
        labels = lit.kmeans(x.to(lit.device)).tolist()
        names = [f"centroid {j}" for j in range(lit.kmeans.n_clusters)]
        points = torch.cat([lit.kmeans.centroids.float().cpu(), x.float()])
        metadata = names + [f"cluster {label}" for label in labels]
        for logger in _tensorboards(trainer):
            logger.experiment.add_embedding(
                points, metadata, global_step=lit.last.n_iter, tag="clusters"
            )


def _tensorboards(trainer: Trainer) -> list[TensorBoardLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def _is_picture(trainer: Trainer) -> bool:
    return isinstance(getattr(trainer, "datamodule", None), ImageDataModule)


def _image(figure: Figure) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The figure as (H, W, 3) bytes; without pyplot, which add_figure would load."""
    canvas: Any = figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3]
