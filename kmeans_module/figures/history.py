"""The history of a fit as a figure."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kmeans_module.arrays import as_tensor
from kmeans_module.checks import check_real, check_tensor, check_text
from kmeans_module.figures.arrays import FloatArray, to_numpy
from kmeans_module.figures.colors import cluster_colors
from kmeans_module.figures.drawing import LITERALLY, literal, new_figure

_MARKED = 60  # iterations that get a dot each
_NAMED = 8  # lines that a legend names


def plot_history(history: object, *, title: str | None = None) -> Figure:
    """The inertia over the iterations of a fit.

    Args:
        history: of a :class:`~kmeans_module.FitResult`, a tensor or an array (t,): the inertia of
            the centroids before each iteration, and at last of those that the fit found. With
            leading dimensions (..., t) each problem is a line.
        title: heading; by default it says from where to where the inertia went.

    Returns:
        The figure, which belongs to no window; ``savefig`` writes it.

    Raises:
        ValueError: history is empty, or holds NaN or infinity.
    """
    tensor = check_tensor("history", as_tensor(history, "history"))
    check_real("history", tensor)
    if tensor.ndim < 1 or tensor.numel() == 0:
        raise ValueError(f"history should have shape (..., t); got {tuple(tensor.shape)}")
    check_text("title", title)
    lines = to_numpy(tensor).reshape(-1, tensor.shape[-1])
    if not np.isfinite(lines).all():
        raise ValueError("history should be finite; it contains NaN or infinity")
    n_problems, length = lines.shape
    figure = new_figure(8.0, 4.0)
    ax = figure.add_subplot()
    marker = "o" if length <= _MARKED else ""
    for number, (line, color) in enumerate(zip(lines, cluster_colors(n_problems), strict=True)):
        shown = line if n_problems == 1 else _until_it_stands(line)
        ax.plot(
            np.arange(len(shown)), shown, color=color, marker=marker, markersize=4, label=number
        )
    if 1 < n_problems <= _NAMED:
        ax.legend(title="problem", frameon=False)
    if lines.min() > 0 and lines.max() > 20 * lines.min():
        ax.set_yscale("log")
    if title is None:
        first, last = lines[:, 0].sum(), lines[:, -1].sum()
        title = f"inertia from {first:.6g} to {last:.6g}, {length - 1} iterations"
    ax.set_title(literal(title), **LITERALLY)
    ax.set(xlabel="iteration", ylabel="inertia")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="0.9")
    return figure


def _until_it_stands(line: FloatArray) -> FloatArray:
    """A problem that ended before the others repeats its last inertia, (t,): that is left out."""
    changes = np.flatnonzero(np.diff(line))
    return line[: changes[-1] + 2] if len(changes) else line[:1]
