"""What figures are drawn of: bars, regions, paths, centroids, each as few artists as possible."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke

from kmeans_module.figures.arrays import FloatArray

NUMBERED_CLUSTERS = 20
_SCREEN_DPI = 80
LITERALLY: dict[str, Any] = {"parse_math": False, "usetex": False}


class ShownFigure(Figure):
    """A Figure that a notebook shows, although pyplot does not know it."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=_SCREEN_DPI)
        return file.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, width and height in inches, that pyplot does not know."""
    figure = ShownFigure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def literal(text: str, limit: int = 80) -> str:
    """A name or a title as one line that fits beside an axis; for text that is drawn as it is.

    Matplotlib takes dollar signs for mathematics, unless ``**LITERALLY`` tells it not to.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def draw_bars(
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


def draw_regions(ax: Axes, limits: FloatArray, colors: FloatArray, shape: tuple[int, int]) -> None:
    """The ``colors`` ``(m, 3)`` of a grid of this shape, faintly, behind everything else."""
    (left, right), (bottom, top) = limits
    ax.imshow(
        (1 - 0.2 * (1 - colors)).reshape(*shape, 3),
        origin="lower",
        extent=(left, right, bottom, top),
        interpolation="bilinear",
        zorder=0,
    )


def draw_paths(ax: Axes, steps: FloatArray) -> None:
    """Thin lines through ``steps`` ``(t, k, 2)``, over white ones that set them off the samples."""
    if len(steps) > 1:
        lines, scale = list(steps.swapaxes(0, 1)), _marker_scale(steps.shape[1])
        for color, width in (("white", 3.0), ("0.15", 1.2)):
            line = LineCollection(
                lines, colors=color, linewidths=width * scale, alpha=0.8, zorder=2
            )
            ax.add_collection(line, autolim=False)
        ax.plot(*steps[0].T, "o", color="0.15", markersize=4 * scale, linestyle="none", zorder=2)


def draw_centroids(ax: Axes, centers: FloatArray) -> None:
    """A magenta cross over a black one at each of ``centers`` ``(k, 2)``; few are numbered."""
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


def note_hidden(ax: Axes, limits: FloatArray, **points_by_name: FloatArray) -> None:
    """Say how many points ``(n, 2)`` of each name (a plural) lie outside of the view."""
    hidden = {
        name: int(((points < limits[:, 0]) | (points > limits[:, 1])).any(1).sum())
        for name, points in points_by_name.items()
    }
    parts = [
        f"{count:,} {name[: -1 if count == 1 else None]}" for name, count in hidden.items() if count
    ]
    if parts:
        note = " and ".join(parts) + " outside of the view"
        ax.text(0.99, 0.01, note, transform=ax.transAxes, ha="right", fontsize=8, color="0.25")


def _marker_scale(k: int) -> float:
    return float(np.clip(np.sqrt(30 / k), 0.4, 1.0))
