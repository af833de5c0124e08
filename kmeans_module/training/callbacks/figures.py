"""Figures of the clustering in TensorBoard."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure

from kmeans_module import figures
from kmeans_module.checks import check_flag, check_integer
from kmeans_module.data import ImageDataModule
from kmeans_module.training.callbacks.drawing import draw_clusters
from kmeans_module.training.callbacks.reading import as_kmeans, n_iterations
from kmeans_module.training.callbacks.recorder import Recorder
from kmeans_module.training.lit_kmeans import LitKMeans


class ClusterFigures(Callback):
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
        if every_n_iterations is not None:
            check_integer("every_n_iterations", every_n_iterations, minimum=1)
        check_flag("projector", projector)
        self.every_n_iterations = every_n_iterations
        self.projector = projector
        self._drawn = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            as_kmeans(pl_module)
            self._drawn = -1
            if _tensorboards(trainer):
                Recorder.attach(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        every = self.every_n_iterations
        due = epoch & (epoch - 1) == 0 if every is None else epoch % every == 0
        if due:
            self._draw(trainer, as_kmeans(pl_module))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        lit = as_kmeans(pl_module)
        if self._drawn != n_iterations(lit):
            self._draw(trainer, lit)
        if self.projector and self._drawn >= 0:
            self._project(trainer, lit)

    def _draw(self, trainer: Trainer, lit: LitKMeans) -> None:
        loggers = _tensorboards(trainer)
        if lit.last is None or not loggers or not trainer.is_global_zero:
            return
        self._drawn = n_iterations(lit)
        sizes = lit.last.counts
        drawings = {
            "clusters": draw_clusters(Recorder.of(trainer).trajectory, lit, trainer),
            "cluster sizes": figures.cluster_sizes_figure(sizes),
        }
        if isinstance(getattr(trainer, "datamodule", None), ImageDataModule):
            drawings["palette"] = figures.palette_figure(lit.kmeans.centroids, sizes)
        for tag, drawing in drawings.items():
            image = _pixels(drawing)
            for logger in loggers:
                logger.experiment.add_image(tag, image, self._drawn, dataformats="HWC")

    def _project(self, trainer: Trainer, lit: LitKMeans) -> None:
        x = Recorder.of(trainer).trajectory.x
        labels = lit.kmeans(x.to(lit.device)).tolist()
        names = [f"centroid {j}" for j in range(lit.kmeans.n_clusters)]
        points = torch.cat([lit.kmeans.centroids.float().cpu(), x.float()])
        metadata = names + [f"cluster {label}" for label in labels]
        for logger in _tensorboards(trainer):
            logger.experiment.add_embedding(
                points, metadata, global_step=self._drawn, tag="clusters"
            )


def _tensorboards(trainer: Trainer) -> list[TensorBoardLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def _pixels(figure: Figure) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The figure as (H, W, 3) bytes; without pyplot, which TensorBoard's add_figure would load."""
    canvas: Any = figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3]
