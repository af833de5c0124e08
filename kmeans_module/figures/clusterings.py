"""Figures of a clustering: the samples by cluster, and the sizes of the clusters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from kmeans_module import checks as check
from kmeans_module.figures.arrays import to_numpy
from kmeans_module.figures.colors import colors_of
from kmeans_module.figures.drawing import (
    LITERALLY,
    NUMBERED_CLUSTERS,
    draw_bars,
    draw_paths,
    literal,
    new_figure,
)
from kmeans_module.figures.view import View, draw_histogram, draw_plane, view_of


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
        colors: of the clusters, RGB ``(k, 3)`` in [0, 1]: for pixels their centroids; None for
            colors that are told apart.

    Returns:
        The figure, which belongs to no window; ``savefig`` writes it.
    """
    centroids = check.check_sized("centroids", centroids, ("k", "d"))
    k, d = centroids.shape
    x = check.check_sized("x", x, ("n", d))
    labels = check.check_labels(check.check_sized("labels", labels, (len(x),)), k)
    if path is not None and len(path := check.check_tensor("path", path)):
        path = check.check_sized("path", path, ("t", k, d))
    check.check_callable("assign", assign)
    check.check_text("title", title)
    view = view_of(
        x, labels, centroids, colors_of(colors, k), path=path, feature_names=feature_names
    )
    if view.is_flat:
        return _one_feature_figure(view, title)
    (left, right), (bottom, top) = view.limits
    figure = new_figure(8.0, 8.0 * (top - bottom) / (right - left) + 0.4)
    ax = figure.add_subplot()
    draw_plane(ax, view, assign)
    ax.set_title(literal(title or ""), **LITERALLY)
    return figure


class Panel(NamedTuple):
    """A clustering among several.

    Attributes:
        title: heading.
        x: a sample of its data, ``(n, d)``.
        labels: ``(n,)``.
        centroids: ``(k, d)``.
    """

    title: str
    x: Tensor
    labels: Tensor
    centroids: Tensor


def small_multiples_figure(
    panels: Sequence[Panel],
    *,
    title: str | None = None,
    feature_names: Iterable[str] | None = None,
    colors: Tensor | None = None,
) -> Figure:
    """Clusterings side by side, each in a plane of its own; see :func:`clustering_figure`."""
    names = None if feature_names is None else list(feature_names)
    columns = int(np.ceil(np.sqrt(len(panels))))
    rows = -(-len(panels) // columns)
    figure = new_figure(10.0, 10.0 * rows / columns + 0.4)
    for number, panel in enumerate(panels):
        palette = colors_of(colors, len(panel.centroids))
        view = view_of(panel.x, panel.labels, panel.centroids, palette, feature_names=names)
        ax = figure.add_subplot(rows, columns, number + 1)
        (draw_histogram if view.is_flat else draw_plane)(ax, view)
        ax.set_title(literal(panel.title), **LITERALLY)
        for text in (ax.xaxis.label, ax.yaxis.label):
            text.set_fontsize(7)
    figure.suptitle(literal(title or ""), **LITERALLY)
    return figure


def cluster_sizes_figure(counts: Tensor, *, colors: Tensor | None = None) -> Figure:
    """Bars of the sizes of the clusters, the largest first, in the colors of the clusters.

    Args:
        counts: sizes, ``(k,)``.
        colors: of the clusters, RGB ``(k, 3)`` in [0, 1]; None for colors that are told apart.

    Returns:
        The figure, which belongs to no window; ``savefig`` writes it.
    """
    sizes = to_numpy(check.check_sized("counts", counts, ("k",)))
    k, mean = len(sizes), float(sizes.mean())
    order = np.argsort(-sizes, kind="stable")
    figure = new_figure(8.0, 4.0)
    ax = figure.add_subplot()
    ranks = np.arange(k, dtype=np.float64)
    draw_bars(ax, ranks - 0.42, 0, 0.84, sizes[order], colors_of(colors, k)[order])
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


def _one_feature_figure(view: View, title: str | None) -> Figure:
    """A histogram above the paths."""
    steps = view.steps
    figure = new_figure(8.0, 5.0)
    grid = figure.add_gridspec(2, 1, height_ratios=(3, 1))
    ax = figure.add_subplot(grid[0] if len(steps) > 1 else grid[:])
    draw_histogram(ax, view)
    ax.set_title(literal(title or ""), **LITERALLY)
    if len(steps) > 1:
        ax.set_xlabel("")
        ax.tick_params(labelbottom=False)
        ax = figure.add_subplot(grid[1], sharex=ax)
        iterations = np.broadcast_to(np.arange(len(steps))[:, None], steps.shape[:2])
        draw_paths(ax, np.stack([steps[..., 0], iterations], -1))
        ax.set(ylim=(0, len(steps) - 1), ylabel="iteration")
        ax.set_xlabel(literal(view.names[0]), **LITERALLY)
    return figure
