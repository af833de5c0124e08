"""A sample of the rows for a fit: centroids need fewer rows than labels."""

from __future__ import annotations

import torch
from torch import Tensor

from kmeans_module.core.problem import Problem
from kmeans_module.rows.batch import Batch
from kmeans_module.rows.entry import AnyRows
from kmeans_module.rows.held import HeldRows
from kmeans_module.rows.keyed import draw_seeds, keyed_sample
from kmeans_module.rows.ranks import rank, world_size


def subsample(
    rows: AnyRows, problem: Problem, m: int | None, generator: torch.Generator | None
) -> AnyRows:
    """A uniform sample of the rows of positive weight, with their weights; the same one whatever
    batches and ranks hold the rows.

    Args:
        rows: of this rank.
        problem: what is asked for.
        m: rows to draw; None for all.
        generator: what the draw comes from; None for torch's default. Nothing is drawn where there
            are no more than m rows.

    Returns:
        In memory, on the device of the rows, each rank with its part; the rows themselves where
        there are no more than m.
    """
    if m is None or rows.moments(problem.metric).n_samples <= m:
        return rows
    seeds = draw_seeds(rows.n_problems, generator, rows.device, rows.group)
    x, weights, valid = keyed_sample(rows, m, seeds, rows.group, example=rows.example)
    first, stop = (m * (rank(rows.group) + i) // world_size(rows.group) for i in (0, 1))
    # A problem with fewer rows of positive weight leaves slots, which shall weigh nothing.
    weights = weights.where(valid, 0)
    weight = None if bool((weights == 1).all()) else _part(weights, first, stop)
    batch = Batch(_part(x, first, stop), weight, start=first)
    return HeldRows([batch], n_problems=rows.n_problems, group=rows.group)


def _part(drawn: Tensor, first: int, stop: int) -> Tensor:
    """Slots of what was drawn, (P, m, ...); without P where it is 1."""
    part = drawn[:, first:stop]
    return part if len(part) > 1 else part[0]
