"""Figures of clusterings, drawn without pyplot and without global matplotlib state."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import hsv_to_rgb, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MAX_POINTS = 5_000
MAX_IMAGE_SIDE = 1_000
NUMBERED_CLUSTERS = 20

# Okabe & Ito (2008), Color Universal Design, without black, then 13 colours found by maximising the
# smallest CIE distance, as seen with normal vision, protanopia, deuteranopia and tritanopia.
# fmt: off
_COLORS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442",
    "#4B00B4", "#781E00", "#B4F087", "#693C3C", "#B42DFF", "#69F0F0", "#B478FF", "#5A783C",
    "#B4A54B", "#780F5A", "#0000FF", "#D2E1B4", "#003C96",
)
# fmt: on


def cluster_colors(n_clusters: int) -> FloatArray:
    """The colour of each cluster, the same in every figure and in the animation.

    Up to 20 clusters the colours are told apart with any common colour blindness; beyond, hues are
    spread evenly and lightness varies, with neighbouring labels far apart.

    Returns:
        RGB in [0, 1] of shape ``(n_clusters, 3)``.
    """
    if n_clusters <= len(_COLORS):
        return np.array([to_rgb(color) for color in _COLORS[:n_clusters]]).reshape(-1, 3)
    # Roberts (2018), The unreasonable effectiveness of quasirandom sequences, in three dimensions.
    spread = np.arange(n_clusters)[:, None] * 1.2207440846 ** -np.arange(1.0, 4.0) % 1
    return np.asarray(hsv_to_rgb(spread * (1.0, 0.55, 0.45) + (0.0, 0.4, 0.5)))


def to_numpy(tensor: Tensor | Sequence[float]) -> FloatArray:
    """Any tensor, on any device, as float64 on the CPU."""
    return torch.as_tensor(tensor).detach().cpu().double().numpy()


def evenly(n: int, limit: int) -> IntArray:
    """At most ``limit`` of the indices 0 ... n - 1, evenly spaced, the first and the last kept."""
    return np.linspace(0, n - 1, min(n, limit)).round().astype(np.int64)


class Plane(NamedTuple):
    """Two coordinates in which samples of ``d`` features are drawn.

    Attributes:
        origin: ``(d,)``, drawn at (0, 0).
        axes: ``(d, 2)``, the directions of the two coordinates.
        names: what the two coordinates mean.
    """

    origin: FloatArray
    axes: FloatArray
    names: tuple[str, str]

    def __call__(self, x: FloatArray) -> FloatArray:
        """Coordinates ``(..., 2)`` of the rows ``x`` ``(..., d)``."""
        return np.asarray((x - self.origin) @ self.axes)


def find_plane(x: FloatArray, feature_names: Sequence[str] | None = None) -> Plane:
    """The plane for the samples ``x`` ``(n, d)``: one or two features themselves, else components.

    The principal components are the two directions of largest variance of ``x``; their names say
    which share of the total variance they show. With one feature the second coordinate is zero.
    """
    n, d = x.shape
    if d <= 2:
        names = list(feature_names or [f"feature {i + 1}" for i in range(d)])
        return Plane(np.zeros(d), np.eye(d, 2), (names[0], names[1] if d == 2 else ""))
    origin = x.mean(0)
    centered = x - origin
    scale = np.abs(centered).max() or 1.0
    centered /= scale
    # The smaller of the two Gram matrices; its eigenvectors are the axes, or coordinates on them.
    _, vectors = np.linalg.eigh(centered.T @ centered if n >= d else centered @ centered.T)
    largest = vectors[:, :-3:-1]
    largest = largest if n >= d else centered.T @ largest
    axes = np.zeros((d, 2))
    axes[:, : largest.shape[1]] = largest / np.maximum(np.linalg.norm(largest, axis=0), 1e-12)
    axes *= np.where(axes[np.abs(axes).argmax(0), [0, 1]] < 0, -1, 1)  # eigh leaves the sign open
    shares = ((centered @ axes) ** 2).sum(0) / max((centered**2).sum(), 1e-12)
    first, second = (
        f"principal component {i + 1} ({share:.0%} of variance)".replace("%", " %")
        for i, share in enumerate(shares)
    )
    return Plane(origin, axes, (first, second))


def view_limits(points: FloatArray, centroids: FloatArray) -> FloatArray:
    """Limits ``[[left, right], [bottom, top]]`` for the points ``(n, 2)``, centroids ``(k, 2)``.

    The 98 % in the middle of the points fill at least a third of the view: what lies farther out is
    not shown. Width and height differ by a factor of two at most, so that the aspect can be equal.
    """
    limits = np.array(
        [_robust_range(*columns) for columns in zip(points.T, centroids.T, strict=True)]
    )
    spans = limits[:, 1] - limits[:, 0]
    margins = np.maximum(spans, spans[::-1] * (1.0, 0.5)) - spans
    return np.asarray(limits + margins[:, None] * (-0.5, 0.5))


def _robust_range(points: FloatArray, centroids: FloatArray) -> tuple[float, float]:
    low, high = np.quantile(points, (0.01, 0.99))
    reach = high - low or np.inf
    values = np.concatenate([points, centroids])
    values = values[(values >= low - reach) & (values <= high + reach)]
    low, high = values.min(), values.max()
    size = max(abs(low), abs(high))
    margin = 0.05 * (high - low if high - low > 1e-9 * size else size or 1.0)
    return low - margin, high + margin


def clustering_figure(
    x: Tensor,
    labels: Tensor,
    centroids: Tensor,
    *,
    path: Tensor | None = None,
    assign: Callable[[Tensor], Tensor] | None = None,
    title: str | None = None,
    feature_names: Sequence[str] | None = None,
) -> Figure:
    """Samples coloured by cluster, the centroids, and the path that each of them took.

    Two features are drawn over the faint regions of the clusters, more than two in their principal
    components, one as a histogram above the paths. Of more than 5,000 samples with two or more
    features an even selection is drawn.

    Args:
        x: a sample of the data, of shape ``(n, d)``.
        labels: cluster of each row of ``x``, of shape ``(n,)``.
        centroids: shape ``(k, d)``.
        path: centroids of every iteration so far, of shape ``(t, k, d)``.
        assign: maps ``(m, 2)`` to the ``(m,)`` labels of the regions; nearest centroid by default.
        title: heading of the figure.
        feature_names: ``d`` names, for the axes of one or two features.
    """
    k, d = centroids.shape
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
        return _one_feature_figure(points, clusters, steps, limits, plane.names[0], title)

    (left, right), (bottom, top) = limits
    figure = _new_figure(8.0, 8.0 * (top - bottom) / (right - left) + 0.4)
    ax = figure.add_subplot()
    if d == 2:
        grid, shape = _grid(limits)
        regions = assign(grid.to(centroids)) if assign else _nearest(grid, centroids)
        _draw_regions(ax, limits, cluster_colors(k)[to_numpy(regions).astype(np.int64)], shape)
    size = float(np.clip(15_000 / len(points), 4, 16))
    colors = cluster_colors(k)[clusters]
    ax.scatter(points[:, 0], points[:, 1], s=size, c=colors, linewidths=0, alpha=0.85, zorder=1)
    _draw_paths(ax, steps)
    _draw_centroids(ax, centers)
    _note_hidden(ax, limits, samples=points, centroids=centers)
    ax.set(xlim=(left, right), ylim=(bottom, top), xlabel=plane.names[0], ylabel=plane.names[1])
    ax.set_aspect("equal")
    ax.set_title(title or "")
    return figure


def _one_feature_figure(
    points: FloatArray,
    clusters: IntArray,
    steps: FloatArray,
    limits: FloatArray,
    name: str,
    title: str | None,
) -> Figure:
    """A stacked histogram, whose bars have the colours of the clusters, above the paths."""
    k, n_bins = steps.shape[1], 80
    low, high = limits[0]
    bins = np.floor((points[:, 0] - low) / (high - low) * n_bins).astype(np.int64)
    inside = (bins >= 0) & (bins < n_bins)
    cells = np.bincount(clusters[inside] * n_bins + bins[inside], minlength=k * n_bins)
    counts = cells.reshape(k, n_bins).astype(np.float64)
    cluster, column = counts.nonzero()

    figure = _new_figure(8.0, 5.0)
    grid = figure.add_gridspec(2, 1, height_ratios=(3, 1))
    ax = figure.add_subplot(grid[0] if len(steps) > 1 else grid[:])
    width = (high - low) / n_bins
    base = (counts.cumsum(0) - counts)[cluster, column]
    height, tallest = counts[cluster, column], max(float(counts.sum(0).max()), 1.0)
    _draw_bars(ax, low + column * width, base, width, height, cluster_colors(k)[cluster])
    _draw_centroids(ax, steps[-1])
    _note_hidden(ax, limits, samples=points, centroids=steps[-1])
    ax.set(xlim=(low, high), ylim=(-0.05 * tallest, 1.08 * tallest), ylabel="samples")
    ax.set_title(title or "")
    if len(steps) > 1:
        ax.tick_params(labelbottom=False)
        ax = figure.add_subplot(grid[1], sharex=ax)
        iterations = np.broadcast_to(np.arange(len(steps))[:, None], steps.shape[:2])
        _draw_paths(ax, np.stack([steps[..., 0], iterations], -1))
        ax.set(ylim=(0, len(steps) - 1), ylabel="iteration")
    ax.set_xlabel(name)
    return figure


def cluster_sizes_figure(counts: Tensor) -> Figure:
    """Bars of the sizes ``counts`` ``(k,)``, largest first, in the colours of the clusters."""
    sizes = to_numpy(counts)
    k, mean = len(sizes), float(sizes.mean())
    order = np.argsort(-sizes, kind="stable")
    figure = _new_figure(8.0, 4.0)
    ax = figure.add_subplot()
    ranks = np.arange(k, dtype=np.float64)
    _draw_bars(ax, ranks - 0.42, 0, 0.84, sizes[order], cluster_colors(k)[order])
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


def palette_figure(centroids: Tensor, counts: Tensor) -> Figure:
    """Swatches of the colours ``centroids`` ``(k, 3)`` in [0, 1], the most frequent first.

    Each swatch shows its hexadecimal code and its share of the pixels, from ``counts`` ``(k,)``;
    beyond 256 colours there is no room for them.
    """
    colors, shares = _sorted_palette(centroids, counts)
    k = len(colors)
    columns = min(k, 8 if k <= 64 else int(np.ceil(np.sqrt(k))))
    n_rows = -(-k // columns)
    row, column = np.divmod(np.arange(k), columns)
    figure = _new_figure(max(0.95 * min(columns, 14), 3.0), 0.95 * min(n_rows, 14) + 0.5)
    ax = figure.add_subplot()
    _draw_bars(ax, column - 0.48, row - 0.48, 0.96, 0.96, colors)
    if k <= 256:
        dark = colors @ (0.299, 0.587, 0.114) < 0.55
        for i, (color, share) in enumerate(zip(colors, shares, strict=True)):
            ax.text(
                column[i],
                row[i],
                f"{to_hex(tuple(color))}\n{100 * share:.1f} %",
                ha="center",
                va="center",
                color="white" if dark[i] else "black",
                fontsize=9 if k <= 64 else 7,
                family="monospace",
            )
    ax.set(xlim=(-0.5, columns - 0.5), ylim=(n_rows - 0.5, -0.5), aspect="equal")
    ax.set_title(f"{k:,} colour{'s' * (k != 1)}, by share of the pixels")
    ax.set_axis_off()
    return figure


def quantized_figure(
    originals: Sequence[Tensor], quantized: Sequence[Tensor], palette: Tensor, counts: Tensor
) -> Figure:
    """Up to four images, each beside its quantized version, above their palette.

    Args:
        originals: images of shape ``(height, width, 3)`` in [0, 1]; sizes may differ.
        quantized: the same images in the colours of the palette.
        palette: shape ``(k, 3)``, in [0, 1].
        counts: number of pixels of each colour, of shape ``(k,)``; the widths in the strip.
    """
    pairs = list(zip(originals, quantized, strict=True))[:4]
    heights = [5.0 * image.shape[0] / image.shape[1] for image, _ in pairs]
    figure = _new_figure(10.0, sum(heights) + 1.0)
    grid = figure.add_gridspec(len(pairs) + 1, 2, height_ratios=[*heights, 0.4])
    for row, pair in enumerate(pairs):
        for column, image in enumerate(pair):
            step = -(-max(image.shape[:2]) // MAX_IMAGE_SIDE)
            ax = figure.add_subplot(grid[row, column])
            ax.imshow(to_numpy(image[::step, ::step]).clip(0, 1))
            ax.set_axis_off()
            if row == 0:
                ax.set_title(f"{len(palette):,} colours" if column else "original")
    colors, shares = _sorted_palette(palette, counts)
    ax = figure.add_subplot(grid[-1, :], xlim=(0, 1), ylim=(0, 1))
    _draw_bars(ax, shares.cumsum() - shares, 0, shares, 1, colors)
    ax.set_axis_off()
    return figure


def _sorted_palette(centroids: Tensor, counts: Tensor) -> tuple[FloatArray, FloatArray]:
    sizes = to_numpy(counts)
    order = np.argsort(-sizes, kind="stable")
    return to_numpy(centroids)[order].clip(0, 1), sizes[order] / (sizes.sum() or 1.0)


def _new_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
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
    centers = torch.from_numpy(to_numpy(centroids))
    origin = grid.mean(0)  # far from zero, the squares would cancel
    grid, centers = grid - origin, centers - origin
    squares = (centers**2).sum(1)
    chunks = torch.split(grid, max(1, 2**20 // len(centers)))
    return torch.cat([torch.addmm(squares, rows, centers.T, alpha=-2).argmin(1) for rows in chunks])


def _draw_regions(ax: Axes, limits: FloatArray, colors: FloatArray, shape: tuple[int, int]) -> None:
    """The ``colors`` ``(m, 3)`` of a grid of this shape, faintly, behind everything else."""
    (left, right), (bottom, top) = limits
    ax.imshow(
        (1 - 0.2 * (1 - colors)).reshape(*shape, 3),
        origin="lower",
        extent=(left, right, bottom, top),
        interpolation="bilinear",
        zorder=0,
    )


def _draw_bars(
    ax: Axes,
    left: FloatArray,
    bottom: FloatArray | float,
    width: FloatArray | float,
    height: FloatArray | float,
    colors: FloatArray,
) -> None:
    """All bars as one artist, which stays fast for thousands of them."""
    right, top = left + width, bottom + height
    sides = np.broadcast_arrays(left, bottom, left, top, right, top, right, bottom)
    corners = np.stack(sides, -1).reshape(-1, 4, 2)
    ax.add_collection(PolyCollection(list(corners), facecolors=colors, linewidths=0))


def _marker_scale(k: int) -> float:
    return float(np.clip(np.sqrt(30 / k), 0.4, 1.0))


def _draw_paths(ax: Axes, steps: FloatArray) -> None:
    """Thin lines through ``steps`` ``(t, k, 2)``, over white ones that set them off the samples."""
    if len(steps) > 1:
        lines, scale = list(steps.swapaxes(0, 1)), _marker_scale(steps.shape[1])
        for color, width in (("white", 3.0), ("0.15", 1.2)):
            line = LineCollection(
                lines, colors=color, linewidths=width * scale, alpha=0.8, zorder=2
            )
            ax.add_collection(line, autolim=False)
        ax.plot(*steps[0].T, "o", color="0.15", markersize=4 * scale, linestyle="none", zorder=2)


def _draw_centroids(ax: Axes, centers: FloatArray) -> None:
    """A magenta cross over a black one at each of ``centers`` ``(k, 2)``."""
    scale = _marker_scale(len(centers))
    for color, size, width in (("k", 10.0, 5.0), ("m", 5.0, 2.0)):
        ax.plot(
            *centers.T,
            marker="x",
            color=color,
            markersize=size * scale,
            markeredgewidth=width * scale,
            linestyle="none",
            zorder=3,
        )
    if len(centers) <= NUMBERED_CLUSTERS:
        for cluster, center in enumerate(centers):
            number = ax.annotate(
                str(cluster), center, (9, 6), textcoords="offset points", fontsize=9, clip_on=True
            )
            number.set_path_effects([Stroke(linewidth=2.5, foreground="white"), Normal()])


def _note_hidden(ax: Axes, limits: FloatArray, **drawn: FloatArray) -> None:
    """Say what lies outside of the view."""
    hidden = {
        name: int(((points < limits[:, 0]) | (points > limits[:, 1])).any(1).sum())
        for name, points in drawn.items()
    }
    parts = [
        f"{count:,} {name[: -1 if count == 1 else None]}" for name, count in hidden.items() if count
    ]
    if parts:
        note = " and ".join(parts) + " outside of the view"
        ax.text(0.99, 0.01, note, transform=ax.transAxes, ha="right", fontsize=8, color="0.25")
