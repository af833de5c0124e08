"""Rows that ranks hold in any order, dealt anew: each rank gets those of consecutive numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kmeans_module.rows.batch import Batch
from kmeans_module.rows.ranks import ProcessGroup, all_cat, all_sum, rank, world_size


def in_order(batches: Sequence[Batch], group: ProcessGroup) -> list[Batch]:
    """As many batches as before, of the rows whose numbers follow each other.

    So rows in memory are numbered as in one process, and draws are the same.

    Args:
        batches: of this rank, as many on each rank, with an ``index``; x is (n, d).
        group: the ranks.
    """
    n_batches, device = len(batches), batches[0].x.device
    indices = [batch.index for batch in batches if batch.index is not None]
    everywhere = [all_cat(index, group) for index in indices]
    order = torch.cat(everywhere).argsort(stable=True)
    n = len(order)
    places = torch.empty_like(order)
    places[order] = torch.arange(n, device=order.device)
    edges = [n * r // world_size(group) for r in range(world_size(group) + 1)]
    low, high = edges[rank(group) : rank(group) + 2]
    weighted = torch.tensor([any(batch.sample_weight is not None for batch in batches)]).long()
    is_weighted = bool(all_sum([weighted], group)[0])
    x = batches[0].x.new_empty((high - low, batches[0].x.shape[-1]))
    weight = torch.empty(high - low, dtype=torch.float64, device=device) if is_weighted else None
    first = 0
    for batch, numbers in zip(batches, everywhere, strict=True):
        place = places[first : first + len(numbers)] - low
        first += len(numbers)
        mine = ((place >= 0) & (place < high - low)).nonzero().squeeze(-1)
        x[place[mine]] = all_cat(batch.x, group)[mine]
        if weight is not None:
            weight[place[mine]] = all_cat(_weights(batch), group)[mine]
    parts = x.tensor_split(n_batches)
    weights = [None] * n_batches if weight is None else weight.tensor_split(n_batches)
    starts = torch.tensor([low, *map(len, parts)]).cumsum(0).tolist()
    return [
        Batch(part, own_weight, start=start, handle=i)
        for i, (part, own_weight, start) in enumerate(zip(parts, weights, starts, strict=False))
    ]


def _weights(batch: Batch) -> Tensor:
    if batch.sample_weight is None:
        return torch.ones(len(batch.x), dtype=torch.float64, device=batch.x.device)
    return batch.sample_weight.double()
