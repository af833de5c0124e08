"""Figures of a clustering: the samples by cluster, and the sizes of the clusters."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from kmeans_module import checks as check
from kmeans_module import functional
from kmeans_module.figures.arrays import FloatArray, IntArray, evenly, to_numpy
from kmeans_module.figures.colors import colors_or_own
from kmeans_module.figures.drawing import (
    LITERALLY,
    NUMBERED_CLUSTERS,
    draw_bars,
    draw_centroids,
    draw_paths,
    draw_regions,
    literal,
    new_figure,
    note_hidden,
)
from kmeans_module.figures.plane import find_plane, view_limits

MAX_POINTS = 5_000


def clustering_figure(
    x: Tensor,
    labels: Tensor,
    centroids: Tensor,
    *,
    path: Tensor | None = None,
    assign: Callable[[Tensor], Tensor] | None = None,
    title: str | None = None,
    feature_names: Iterable[str] | None = None,
    colors: Tensor | None = None,
) -> Figure:
    """Samples colored by cluster, the centroids, and the path that each centroid took.

    Two features are drawn over the faint regions of the clusters, more than two in their principal
    components, one as a histogram above the paths. Of more than 5,000 samples with two or more
    features an even selection is drawn.

    Args:
        x: a sample of the data, of shape ``(n, d)``.
        labels: cluster of each row of ``x``, of shape ``(n,)``.
        centroids: shape ``(k, d)``.
        path: centroids of every iteration so far, of shape ``(t, k, d)``.
        assign: maps points ``(m, 2)``, of the dtype and on the device of the centroids, to the
            ``(m,)`` labels of the regions; by default the label of the nearest centroid.
        title: heading of the figure.
        feature_names: ``d`` names, for the axes of one or two features.
        colors: of the clusters, red, green and blue in [0, 1], of shape ``(k, 3)``: those of the
            centroids where the samples are pixels. None for colors that are told apart.
    """
    centroids = check.check_sized("centroids", centroids, ("k", "d"))
    k, d = centroids.shape
    x = check.check_sized("x", x, ("n", d))
    labels = check.check_labels(check.check_sized("labels", labels, (len(x),)), k)
    if path is not None and len(path := check.check_tensor("path", path)):
        path = check.check_sized("path", path, ("t", k, d))
    check.check_callable("assign", assign)
    check.check_text("title", title)
    own = colors_or_own(colors, k)
    if d > 1:
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
    if d == 1:
        return _one_feature_figure(points, clusters, steps, limits, plane.names[0], title, own)

    (left, right), (bottom, top) = limits
    figure = new_figure(8.0, 8.0 * (top - bottom) / (right - left) + 0.4)
    ax = figure.add_subplot()
    if d == 2:
        grid, shape = _grid(limits)
        regions = assign(grid.to(centroids)) if assign else _nearest(grid, centroids)
        draw_regions(ax, limits, own[to_numpy(regions).astype(np.int64)], shape)
    size = float(np.clip(15_000 / len(points), 4, 16))
    ax.scatter(
        points[:, 0], points[:, 1], s=size, c=own[clusters], linewidths=0, alpha=0.85, zorder=1
    )
    draw_paths(ax, steps)
    draw_centroids(ax, centers)
    note_hidden(ax, limits, samples=points, centroids=centers)
    ax.set(xlim=(left, right), ylim=(bottom, top))
    ax.set_xlabel(literal(plane.names[0]), **LITERALLY)
    ax.set_ylabel(literal(plane.names[1]), **LITERALLY)
    ax.set_aspect("equal")
    ax.set_title(literal(title or ""), **LITERALLY)
    return figure


def cluster_sizes_figure(counts: Tensor, *, colors: Tensor | None = None) -> Figure:
    """Bars of the sizes ``counts`` ``(k,)``, largest first, in the ``colors`` ``(k, 3)`` of the
    clusters, as in :func:`clustering_figure`."""
    sizes = to_numpy(check.check_sized("counts", counts, ("k",)))
    k, mean = len(sizes), float(sizes.mean())
    order = np.argsort(-sizes, kind="stable")
    figure = new_figure(8.0, 4.0)
    ax = figure.add_subplot()
    ranks = np.arange(k, dtype=np.float64)
    draw_bars(ax, ranks - 0.42, 0, 0.84, sizes[order], colors_or_own(colors, k)[order])
    ax.axhline(mean, color="0.25", linewidth=1, linestyle="--")
    across = ax.get_yaxis_transform()
    ax.text(1, mean, f"mean {mean:,.6g}", transform=across, ha="right", va="bottom", color="0.25")
    empty = int((sizes == 0).sum())
    if empty:
        ax.plot(ranks[k - empty :], np.zeros(empty), "x", color="0.4", markersize=4, clip_on=False)
    if k <= 2 * NUMBERED_CLUSTERS:
        ax.set_xticks(ranks, [str(cluster) for cluster in order])
    ax.set(xlim=(-0.7, k - 0.3), ylim=(0, 1.12 * float(sizes.max()) or 1.0), ylabel="samples")
    ax.set_xlabel("cluster, largest first" if k <= 2 * NUMBERED_CLUSTERS else "rank of the cluster")
    ax.set_title(f"{k:,} cluster{'s' * (k != 1)}, {empty or 'none'} empty")
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def _one_feature_figure(
    points: FloatArray,
    clusters: IntArray,
    steps: FloatArray,
    limits: FloatArray,
    name: str,
    title: str | None,
    colors: FloatArray,
) -> Figure:
    """A stacked histogram, whose bars have the colors of the clusters, above the paths."""
    k, n_bins = steps.shape[1], 80
    low, high = limits[0]
    bins = np.floor((points[:, 0] - low) / (high - low) * n_bins).astype(np.int64)
    inside = (bins >= 0) & (bins < n_bins)
    cells = np.bincount(clusters[inside] * n_bins + bins[inside], minlength=k * n_bins)
    counts = cells.reshape(k, n_bins).astype(np.float64)
    cluster, column = counts.nonzero()

    figure = new_figure(8.0, 5.0)
    grid = figure.add_gridspec(2, 1, height_ratios=(3, 1))
    ax = figure.add_subplot(grid[0] if len(steps) > 1 else grid[:])
    width = (high - low) / n_bins
    base = (counts.cumsum(0) - counts)[cluster, column]
    height, tallest = counts[cluster, column], max(float(counts.sum(0).max()), 1.0)
    draw_bars(ax, low + column * width, base, width, height, colors[cluster])
    draw_centroids(ax, steps[-1])
    note_hidden(ax, limits, samples=points, centroids=steps[-1])
    ax.set(xlim=(low, high), ylim=(-0.05 * tallest, 1.08 * tallest), ylabel="samples")
    ax.set_title(literal(title or ""), **LITERALLY)
    if len(steps) > 1:
        ax.tick_params(labelbottom=False)
        ax = figure.add_subplot(grid[1], sharex=ax)
        iterations = np.broadcast_to(np.arange(len(steps))[:, None], steps.shape[:2])
        draw_paths(ax, np.stack([steps[..., 0], iterations], -1))
        ax.set(ylim=(0, len(steps) - 1), ylabel="iteration")
    ax.set_xlabel(literal(name), **LITERALLY)
    return figure


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
