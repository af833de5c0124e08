"""What a figure shows of a clustering, and how it is drawn on axes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from kmeans_module import functional
from kmeans_module.figures.arrays import FloatArray, IntArray, evenly, to_numpy
from kmeans_module.figures.drawing import (
    LITERALLY,
    draw_bars,
    draw_centroids,
    draw_paths,
    draw_regions,
    literal,
    note_hidden,
)
from kmeans_module.figures.plane import find_plane, view_limits

MAX_POINTS = 5_000


class View(NamedTuple):
    """A clustering in the plane in which it is drawn.

    Attributes:
        points: of the samples, ``(n, 2)``.
        clusters: of the samples, ``(n,)``.
        steps: of the centroids, ``(t, k, 2)``; the last ones are where they are now.
        centroids: ``(k, d)``.
        limits: ``[[left, right], [bottom, top]]``.
        names: what the two coordinates mean.
        colors: of the clusters, ``(k, 3)``.
    """

    points: FloatArray
    clusters: IntArray
    steps: FloatArray
    centroids: Tensor
    limits: FloatArray
    names: tuple[str, str]
    colors: FloatArray

    @property
    def is_flat(self) -> bool:
        """Whether there is one feature only."""
        return self.centroids.shape[1] == 1


def view_of(
    x: Tensor,
    labels: Tensor,
    centroids: Tensor,
    colors: FloatArray,
    *,
    path: Tensor | None = None,
    feature_names: Iterable[str] | None = None,
) -> View:
    """The arguments are those of :func:`kmeans_module.figures.clustering_figure`."""
    if centroids.shape[1] > 1:
        shown = torch.from_numpy(evenly(len(x), MAX_POINTS))
        x, labels = x[shown.to(x.device)], labels[shown.to(labels.device)]
    rows, clusters = to_numpy(x), to_numpy(labels).astype(np.int64)
    plane = find_plane(rows, feature_names)
    points, centers = plane(rows), plane(to_numpy(centroids))
    steps = centers[None]
    if path is not None:
        so_far = plane(to_numpy(path))
        arrived = len(so_far) > 0 and np.array_equal(so_far[-1], centers)
        steps = so_far if arrived else np.concatenate([so_far, steps])
    limits = view_limits(points, centers)
    return View(points, clusters, steps, centroids, limits, plane.names, colors)


def draw_plane(ax: Axes, view: View, assign: Callable[[Tensor], Tensor] | None = None) -> None:
    """Samples, centroids and paths; of two features over the regions of the clusters."""
    (left, right), (bottom, top) = view.limits
    if view.centroids.shape[1] == 2:
        grid, shape = _grid(view.limits)
        regions = assign(grid.to(view.centroids)) if assign else _nearest(grid, view.centroids)
        draw_regions(ax, view.limits, view.colors[to_numpy(regions).astype(np.int64)], shape)
    points = view.points
    size = float(np.clip(15_000 / len(points), 4, 16))
    colors = view.colors[view.clusters]
    ax.scatter(points[:, 0], points[:, 1], s=size, c=colors, linewidths=0, alpha=0.85, zorder=1)
    draw_paths(ax, view.steps)
    draw_centroids(ax, view.steps[-1])
    note_hidden(ax, view.limits, samples=points, centroids=view.steps[-1])
    ax.set(xlim=(left, right), ylim=(bottom, top))
    ax.set_xlabel(literal(view.names[0]), **LITERALLY)
    ax.set_ylabel(literal(view.names[1]), **LITERALLY)
    ax.set_aspect("equal")


def draw_histogram(ax: Axes, view: View) -> None:
    """One feature: a stacked histogram, whose bars have the colors of the clusters."""
    k, n_bins = view.steps.shape[1], 80
    low, high = view.limits[0]
    bins = np.floor((view.points[:, 0] - low) / (high - low) * n_bins).astype(np.int64)
    inside = (bins >= 0) & (bins < n_bins)
    cells = np.bincount(view.clusters[inside] * n_bins + bins[inside], minlength=k * n_bins)
    counts = cells.reshape(k, n_bins).astype(np.float64)
    cluster, column = counts.nonzero()
    width = (high - low) / n_bins
    base = (counts.cumsum(0) - counts)[cluster, column]
    height, tallest = counts[cluster, column], max(float(counts.sum(0).max()), 1.0)
    draw_bars(ax, low + column * width, base, width, height, view.colors[cluster])
    draw_centroids(ax, view.steps[-1])
    note_hidden(ax, view.limits, samples=view.points, centroids=view.steps[-1])
    ax.set(xlim=(low, high), ylim=(-0.05 * tallest, 1.08 * tallest), ylabel="samples")
    ax.set_xlabel(literal(view.names[0]), **LITERALLY)


def _grid(limits: FloatArray) -> tuple[Tensor, tuple[int, int]]:
    """The points ``(m, 2)`` of a grid that fills the view, and its numbers of rows and columns."""
    (left, right), (bottom, top) = limits
    columns = 240
    rows = round(columns * (top - bottom) / (right - left))
    across = left + (np.arange(columns) + 0.5) * ((right - left) / columns)
    up = bottom + (np.arange(rows) + 0.5) * ((top - bottom) / rows)
    grid = np.stack(np.meshgrid(across, up), -1).reshape(-1, 2)
    return torch.from_numpy(grid), (rows, columns)


def _nearest(grid: Tensor, centroids: Tensor) -> Tensor:
    """Label of the centroid ``(k, 2)`` nearest to each point ``(m, 2)`` of the grid."""
    # in float64, whatever the centroids are: the points of a narrow view differ little
    return functional.e_step(grid, centroids.detach().cpu().double()).labels
