"""Figures for clustered pixels: the palette, and pictures beside their quantized versions."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import Tensor

from kmeans_module import checks as check
from kmeans_module.figures.arrays import FloatArray, to_numpy
from kmeans_module.figures.drawing import draw_bars, new_figure

MAX_IMAGE_SIDE = 1_000
MAX_IMAGES = 4


def palette_figure(centroids: Tensor, counts: Tensor) -> Figure:
    """Swatches of the colors of a palette, the most frequent first.

    Each swatch shows its hexadecimal code and its share of the pixels; beyond 256 colors there is
    no room for this text.

    Args:
        centroids: colors, RGB ``(k, 3)`` in [0, 1].
        counts: number of pixels of each, ``(k,)``.

    Returns:
        The figure, which belongs to no window; ``savefig`` writes it.
    """
    centroids = check.check_sized("centroids", centroids, ("k", 3))
    counts = check.check_sized("counts", counts, (len(centroids),))
    colors, shares = _sorted_palette(centroids, counts)
    k = len(colors)
    columns = min(k, 8 if k <= 64 else int(np.ceil(np.sqrt(k))))
    n_rows = -(-k // columns)
    row, column = np.divmod(np.arange(k), columns)
    figure = new_figure(max(0.95 * min(columns, 14), 3.0), 0.95 * min(n_rows, 14) + 0.5)
    ax = figure.add_subplot()
    draw_bars(ax, column - 0.48, row - 0.48, 0.96, 0.96, colors)
    if k <= 256:
        dark = colors @ (0.299, 0.587, 0.114) < 0.55  # the luma of ITU-R BT.601
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
    ax.set_title(f"{k:,} color{'s' * (k != 1)}, by share of the pixels")
    ax.set_axis_off()
    return figure


def quantized_figure(
    originals: Iterable[Tensor], quantized: Iterable[Tensor], palette: Tensor, counts: Tensor
) -> Figure:
    """Up to four images, each beside its quantized version, above their palette.

    Args:
        originals: images of shape ``(height, width, 3)`` in [0, 1]; sizes may differ.
        quantized: the same images in the colors of the palette.
        palette: shape ``(k, 3)``, in [0, 1].
        counts: number of pixels of each color, of shape ``(k,)``; the widths in the strip.

    Returns:
        The figure, which belongs to no window; ``savefig`` writes it.
    """
    palette = check.check_sized("palette", palette, ("k", 3))
    counts = check.check_sized("counts", counts, (len(palette),))
    originals = list(originals)
    quantized = check.check_listed("quantized", quantized, len(originals))
    pairs = list(zip(originals, quantized, strict=True))[:MAX_IMAGES]
    for original, replaced in pairs:
        original = check.check_sized("originals", original, ("height", "width", 3))
        check.check_sized("quantized", replaced, tuple(original.shape))
    heights = [5.0 * image.shape[0] / image.shape[1] for image, _ in pairs]
    figure = new_figure(10.0, sum(heights) + 1.0)
    grid = figure.add_gridspec(len(pairs) + 1, 2, height_ratios=[*heights, 0.4])
    for row, pair in enumerate(pairs):
        for column, image in enumerate(pair):
            step = -(-max(image.shape[:2]) // MAX_IMAGE_SIDE)
            ax = figure.add_subplot(grid[row, column])
            ax.imshow(to_numpy(image[::step, ::step]).clip(0, 1))
            ax.set_axis_off()
            if row == 0:
                ax.set_title(f"{len(palette):,} colors" if column else "original")
    colors, shares = _sorted_palette(palette, counts)
    ax = figure.add_subplot(grid[-1, :], xlim=(0, 1), ylim=(0, 1))
    draw_bars(ax, shares.cumsum() - shares, 0, shares, 1, colors)
    ax.set_axis_off()
    return figure


def _sorted_palette(centroids: Tensor, counts: Tensor) -> tuple[FloatArray, FloatArray]:
    """The colors ``(k, 3)``, the most frequent first, and their shares ``(k,)`` of the pixels."""
    sizes = to_numpy(counts)
    order = np.argsort(-sizes, kind="stable")
    return to_numpy(centroids)[order].clip(0, 1), sizes[order] / (sizes.sum() or 1.0)
