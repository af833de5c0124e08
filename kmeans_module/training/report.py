"""What is told of an iteration."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch

from kmeans_module.core.lloyd import Iteration

# What is logged is the same on all ranks already: the maximum over them changes nothing.
_LOG_OPTIONS: dict[str, Any] = {
    "on_step": False, "on_epoch": True, "batch_size": 1, "sync_dist": True, "reduce_fx": "max",
}  # fmt: skip


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


def log_values(lit: Any, values: Mapping[str, Any], *, prog_bar: Collection[str] = ()) -> None:
    """Log numbers of a LitKMeans over its iterations; those of prog_bar show on the bar too.

    Lightning takes a metric "step" as the x-axis, and within a fit ModelCheckpoint takes it as the
    step in the names of its files, also where it is that of an epoch long past: there the loggers
    are told by themselves.
    """
    trainer, iteration = lit.trainer, int(lit.kmeans.n_iter)
    fitting = trainer.state.fn == "fit"
    for name, value in values.items():
        logger = False if fitting else None
        lit.log(name, value, prog_bar=name in prog_bar, logger=logger, **_LOG_OPTIONS)
    if not fitting:
        lit.log("step", float(iteration), **_LOG_OPTIONS)
    if not fitting or trainer.sanity_checking:
        return
    tensors = {name: torch.as_tensor(value) for name, value in values.items()}
    for logger in trainer.loggers:
        logger.log_metrics({name: x.item() for name, x in tensors.items()}, step=iteration)
        logger.save()
    trainer.logged_metrics.update(tensors)


def why_converged(iteration: Iteration, tol: float, variance: float) -> str:
    """Why no iteration follows."""
    shift = float(iteration.shift)
    if shift == 0 or shift > tol * variance:
        return "the centroids stand still"
    return f"shift {shift:.3g} is within tol={tol:g} × variance"
