"""What is told of an iteration."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from kmeans_module.core.lloyd import Iteration


def numbers_of(
    iteration: Iteration, count_rows: Callable[[], float]
) -> tuple[dict[str, float], dict[str, float]]:
    """Numbers by the names under which they are logged: for the progress bar too, and others.

    Args:
        iteration: of one problem, without batch_shape.
        count_rows: rows of the pass, over all ranks.
    """
    sizes = iteration.counts
    numbers = [
        iteration.inertia,
        iteration.shift,
        iteration.moved,
        (sizes == 0).sum(),
        sizes.min(),
        sizes.median(),
        sizes.max(),
    ]
    # One wait for an accelerator.
    inertia, shift, moved, empty, smallest, median, largest = torch.stack(
        [number.to(iteration.inertia) for number in numbers]
    ).tolist()
    values = {
        "train/empty_clusters": empty,
        "train/size_min": smallest,
        "train/size_median": median,
        "train/size_max": largest,
    }
    if not math.isnan(moved):
        values["train/reassigned"] = moved / count_rows()
    return {"train/inertia": inertia, "train/shift": shift}, values


def why_converged(iteration: Iteration, tol: float, variance: float) -> str:
    """Why no iteration follows."""
    shift = float(iteration.shift)
    if shift == 0 or shift > tol * variance:
        return "the centroids stand still"
    return f"shift {shift:.3g} is within tol={tol:g} × variance"
