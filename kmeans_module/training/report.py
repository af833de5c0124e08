"""What is told of an iteration."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kmeans_module.core.lloyd import Iteration
from kmeans_module.core.statistics import from_host

# What is logged is the same on all ranks already: the maximum over them changes nothing.
_LOG_OPTIONS: dict[str, Any] = {
    "on_step": False, "on_epoch": True, "batch_size": 1, "sync_dist": True, "reduce_fx": "max",
}  # fmt: skip


def sizes(counts: Tensor) -> list[Tensor]:
    """Of the weights of clusters (P, k): how many are 0, least, median and largest, (P,) each."""
    empty = (counts == 0).sum(dim=-1).to(counts)
    median = counts.sort(dim=-1).values[..., (counts.shape[-1] - 1) // 2]
    return [empty, counts.amin(dim=-1), median, counts.amax(dim=-1)]


def of_restart(iteration: Iteration, number: int) -> Iteration:
    """The iteration of one of several problems."""
    one = slice(number, number + 1)
    return iteration._replace(
        inertia=from_host(iteration.inertia)[one],
        shift=from_host(iteration.shift)[one],
        moved=from_host(iteration.moved)[one],
        counts=iteration.counts[one],
    )


def as_numbers(iteration: Iteration) -> Iteration:
    """The iteration of one problem, whose numbers are on the host, with floats."""
    inertia, shift, moved = (
        float(from_host(value)) for value in (iteration.inertia, iteration.shift, iteration.moved)
    )
    counts = iteration.counts.reshape(-1)
    return iteration._replace(inertia=inertia, shift=shift, moved=moved, counts=counts)


def logged_numbers(
    iteration: Iteration, sizes: Sequence[float], count_rows: Callable[[], float]
) -> dict[str, float]:
    """Numbers of an iteration by the names under which they are logged, but for those that the
    progress bar shows too.

    Args:
        iteration: see :func:`as_numbers`.
        sizes: see :func:`sizes`.
        count_rows: rows of the pass, over all ranks.
    """
    names = ("empty_clusters", "size_min", "size_median", "size_max")
    logged = {f"train/{name}": float(size) for name, size in zip(names, sizes, strict=True)}
    if not math.isnan(iteration.moved):
        logged["train/reassigned"] = float(iteration.moved) / count_rows()
    return logged


def log_values(lit: Any, values: Mapping[str, Any], *, prog_bar: Collection[str] = ()) -> None:
    """Log numbers of a LitKMeans over its iterations; those of prog_bar show on the bar too.

    Lightning takes a metric "step" as the x-axis, and within a fit ModelCheckpoint takes it as the
    step in the names of its files, also where it is that of an epoch long past: there the loggers
    are told by themselves.
    """
    trainer = lit.trainer
    fitting = trainer.state.fn == "fit"
    iteration = lit.iterations if fitting else int(lit.kmeans.n_iter)
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


def is_last_iteration(trainer: Any, *, m_steps_ahead: int) -> bool:
    """Whether the Trainer's limits end the fit with this epoch.

    Args:
        trainer: of the fit.
        m_steps_ahead: of this epoch, that the optimizer has not counted yet.
    """
    steps = trainer.global_step + m_steps_ahead
    ended = trainer.current_epoch + 1 == trainer.max_epochs
    return bool(ended or (trainer.max_steps != -1 and steps >= trainer.max_steps))


def why_converged(iteration: Iteration, tol: float, variance: float) -> str:
    """Why no iteration follows."""
    shift = float(iteration.shift)
    if shift == 0 or shift > tol * variance:
        return "the centroids stand still"
    return f"shift {shift:.3g} is within tol={tol:g} × variance"
