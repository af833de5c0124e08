"""The trajectory of a fit as a figure and as a page."""

from __future__ import annotations

import torch
from lightning.pytorch import Trainer
from matplotlib.figure import Figure
from torch import Tensor

from kmeans_module import figures, functional
from kmeans_module.data import ArrayDataModule, ImageDataModule
from kmeans_module.figures import Trajectory
from kmeans_module.training.lit_kmeans import LitKMeans


def draw_clusters(trajectory: Trajectory, lit: LitKMeans, trainer: Trainer) -> Figure:
    """The sample by cluster, with the centroids of the latest frame and their paths."""
    x = trajectory.x.float()
    path = trajectory.centroids

    def assign(points: Tensor) -> Tensor:
        labels: Tensor = lit.kmeans(points.to(lit.device))
        return labels

    return figures.clustering_figure(
        x,
        assign(x),
        path[-1],
        path=path,
        assign=assign,
        title=f"iteration {trajectory.iterations[-1]}",
        feature_names=feature_names(trainer, x.shape[1]),
        colors=own_colors(lit, trainer),
    )


def draw_animation(
    trajectory: Trajectory, lit: LitKMeans, trainer: Trainer, *, inertia: float
) -> str:
    """A page that plays the iterations, as HTML.

    Args:
        trajectory: of the fit.
        lit: whose fit it was.
        trainer: whose data module may name the features.
        inertia: of the final centroids, which no iteration has measured.
    """
    x = trajectory.x.float()
    metric = lit.kmeans.metric
    labels = [functional.e_step(x, frame, metric=metric).labels for frame in trajectory.centroids]
    final = torch.tensor([inertia], dtype=torch.float64)
    return figures.animation_html(
        x,
        torch.stack(labels),
        trajectory.centroids,
        torch.cat([trajectory.inertia[:-1], final]),
        title=f"k-means, {lit.kmeans.n_clusters} clusters",
        iterations=trajectory.iterations,
        feature_names=feature_names(trainer, x.shape[1]),
        colors=own_colors(lit, trainer),
    )


def own_colors(lit: LitKMeans, trainer: Trainer) -> Tensor | None:
    """Clusters of pixels have the colors of their centroids, (k, 3); None for others."""
    pixels = isinstance(getattr(trainer, "datamodule", None), ImageDataModule)
    return lit.kmeans.centroids.detach().cpu() if pixels else None


def feature_names(trainer: Trainer, n_features: int) -> list[str] | None:
    """The names that the data module gives the features, if it names them all."""
    names = getattr(getattr(trainer, "datamodule", None), "feature_names", None)
    names = None if names is None else list(names)
    if names is None or len(names) != n_features:
        return None
    data = trainer.datamodule  # type: ignore[attr-defined]
    standardized = isinstance(data, ArrayDataModule) and data.standardize
    return [f"{name}, standardized" for name in names] if standardized else names
