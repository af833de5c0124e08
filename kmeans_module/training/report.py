"""What is told of an iteration."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from kmeans_module.core.lloyd import Iteration


def as_numbers(iteration: Iteration) -> Iteration:
    """The iteration of one problem with floats, read with one wait for an accelerator."""
    counts = iteration.counts.reshape(-1)
    tensors = [torch.as_tensor(value) for value in (iteration.inertia, iteration.shift)]
    tensors.append(torch.as_tensor(iteration.moved))
    inertia, shift, moved = torch.stack([t.to(counts).reshape(()) for t in tensors]).tolist()
    return iteration._replace(inertia=inertia, shift=shift, moved=moved, counts=counts)


def logged_numbers(iteration: Iteration, count_rows: Callable[[], float]) -> dict[str, float]:
    """Numbers of an iteration by the names under which they are logged, but for those that the
    progress bar shows too.

    Args:
        iteration: see :func:`as_numbers`.
        count_rows: rows of the pass, over all ranks.
    """
    sizes = iteration.counts
    numbers = [(sizes == 0).sum(), sizes.min(), sizes.median(), sizes.max()]
    names = ("empty_clusters", "size_min", "size_median", "size_max")
    values = torch.stack([number.to(sizes) for number in numbers]).tolist()
    logged = {f"train/{name}": value for name, value in zip(names, values, strict=True)}
    if not math.isnan(iteration.moved):
        logged["train/reassigned"] = float(iteration.moved) / count_rows()
    return logged


def why_converged(iteration: Iteration, tol: float, variance: float) -> str:
    """Why no iteration follows."""
    shift = float(iteration.shift)
    if shift == 0 or shift > tol * variance:
        return "the centroids stand still"
    return f"shift {shift:.3g} is within tol={tol:g} × variance"
