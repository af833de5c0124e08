"""A sample of the rows for a fit: centroids need fewer rows than labels."""

from __future__ import annotations

import torch
from torch import Tensor

from kmeans_module.core.problem import Problem
from kmeans_module.core.sparse import is_sparse, sparse_rows_at
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
    if isinstance(rows, HeldRows) and rows.group is None and rows.n_problems == 1:
        first_batch = rows.batches[0]
        if is_sparse(first_batch.x):  # which is the only one
            return _sparse_subsample(first_batch, m, seeds)
    x, weights, valid = keyed_sample(rows, m, seeds, rows.group, example=rows.example)
    first, stop = (m * (rank(rows.group) + i) // world_size(rows.group) for i in (0, 1))
    batch = Batch(_part(x, first, stop), _weighing(weights, valid, first, stop), start=first)
    return HeldRows([batch], n_problems=rows.n_problems, group=rows.group)


def _sparse_subsample(batch: Batch, m: int, seeds: Tensor) -> HeldRows:
    """The same sample of sparse rows, sparse: their numbers are drawn in their place."""
    numbers = torch.arange(len(batch.x), device=batch.x.device, dtype=torch.int64).unsqueeze(-1)
    stand_in = batch._replace(x=numbers, handle=None)
    drawn, weights, valid = keyed_sample([stand_in], m, seeds, None, example=numbers[:0])
    weight = _weighing(weights, valid, 0, m)
    return HeldRows([Batch(sparse_rows_at(batch.x, drawn[0, :, 0]), weight, start=0)])


def _weighing(weights: Tensor, valid: Tensor, first: int, stop: int) -> Tensor | None:
    """Weights of slots, of which a problem with fewer rows of positive weight leaves some, which
    shall weigh nothing."""
    weights = weights.where(valid, 0)
    return None if bool((weights == 1).all()) else _part(weights, first, stop)


def _part(drawn: Tensor, first: int, stop: int) -> Tensor:
    """Slots of what was drawn, (P, m, ...); without P where it is 1."""
    part = drawn[:, first:stop]
    return part if len(part) > 1 else part[0]
