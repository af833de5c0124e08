"""Figures of the clustering in TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure

from kmeans_module import figures
from kmeans_module.checks import check_flag, check_integer
from kmeans_module.training.callbacks.drawing import draw_clusters, feature_names, own_colors
from kmeans_module.training.callbacks.hyperparameters import hide_default_metric, log_outcome
from kmeans_module.training.callbacks.projector import save_projection
from kmeans_module.training.callbacks.reading import as_kmeans, n_iterations
from kmeans_module.training.callbacks.recorder import Recorder, evaluated
from kmeans_module.training.lit_kmeans import LitKMeans


class ClusterFigures(Callback):
    """Draws the clustering for every TensorBoard logger; without one it does nothing.

    After chosen iterations: samples by cluster with the centroids and their paths, the cluster
    sizes, and for pictures the palette. At the end the centroids and a sample go to the
    embedding projector, and the HParams tab gets what the fit found, by which runs compare:
    inertia, n_iter, converged, cluster_usage (share of the clusters with a sample), and where
    true labels are known how the clusters agree with them.

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
            loggers = _tensorboards(trainer)
            if loggers:
                Recorder.attach(trainer)
            for logger in loggers:
                hide_default_metric(logger)

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
        loggers = _tensorboards(trainer)
        if not loggers or lit.last is None:
            return
        evaluation = evaluated(lit)
        if not trainer.is_global_zero:
            return
        for logger in loggers:
            log_outcome(logger, lit, evaluation)
        if self.projector:
            self._project(trainer, lit)

    def _draw(self, trainer: Trainer, lit: LitKMeans) -> None:
        loggers = _tensorboards(trainer)
        if lit.last is None or not loggers or not trainer.is_global_zero:
            return
        self._drawn = n_iterations(lit)
        sizes = lit.last.counts
        drawings = {
            "clusters": draw_clusters(Recorder.of(trainer).trajectory, lit, trainer),
            "cluster sizes": figures.cluster_sizes_figure(sizes, colors=own_colors(lit, trainer)),
        }
        if own_colors(lit, trainer) is not None:
            drawings["palette"] = figures.palette_figure(lit.kmeans.centroids, sizes)
        for tag, drawing in drawings.items():
            image = _pixels(drawing)
            for logger in loggers:
                logger.experiment.add_image(tag, image, self._drawn, dataformats="HWC")

    def _project(self, trainer: Trainer, lit: LitKMeans) -> None:
        trajectory = Recorder.of(trainer).trajectory
        x = trajectory.x
        for logger in _tensorboards(trainer):
            if "://" in logger.log_dir:  # files are written to this machine only
                continue
            save_projection(
                Path(logger.log_dir),
                x,
                lit.kmeans(x.to(lit.device)),
                lit.kmeans.centroids.detach(),
                target=trajectory.target,
                feature_names=feature_names(trainer, x.shape[1]),
                colors=own_colors(lit, trainer) is not None,
            )


def _tensorboards(trainer: Trainer) -> list[TensorBoardLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def _pixels(figure: Figure) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The figure as (H, W, 3) bytes; without pyplot, which TensorBoard's add_figure would load."""
    canvas: Any = figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3]
