"""All rows of all ranks in one tensor, in their order: for a few rows."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from kmeans_module.core.statistics import accumulator_dtype, gather_rows
from kmeans_module.rows.batch import Batch, row_numbers
from kmeans_module.rows.ranks import ProcessGroup, all_gather, all_sum

_NOWHERE = torch.iinfo(torch.int64).max


def whole(
    batches: Iterable[Batch], group: ProcessGroup | None, *, example: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The rows of all batches of all ranks in the order of their numbers, and their weights.

    Args:
        batches: one pass over the rows of this rank, each with a ``start``; weights are (n,).
        group: the ranks that hold the rest.
        example: no rows, (..., 0, d), of the dtype and dimensions that the rows of all ranks have.

    Returns:
        (..., n, d), and (n,) or None where no batch of any rank has weights.
    """
    device = example.device
    rows, weights = [example], [torch.empty(0, dtype=accumulator_dtype(device), device=device)]
    numbers = [torch.empty(0, dtype=torch.int64, device=device)]
    weighted = False
    for batch in batches:
        n = batch.x.shape[-2]
        weight = batch.sample_weight
        weighted = weighted or weight is not None
        rows.append(batch.x)
        weights.append(weights[0].new_ones(n) if weight is None else weight.to(weights[0]))
        numbers.append(row_numbers(batch))
    x, weight, number = torch.cat(rows, dim=-2), torch.cat(weights), torch.cat(numbers)
    if group is not None:
        n = len(number)
        most = int(all_gather(torch.tensor([n], device=device), group).max())
        weighted = bool(all_sum([torch.tensor([int(weighted)], device=device)], group)[0])
        missing, dtype = most - n, x.dtype
        # Not every dtype can travel; these hold all values of the others.
        wire = torch.float64 if dtype == torch.float64 else torch.float32
        x = x.to(wire if dtype.is_floating_point else torch.int64)
        x = torch.cat([x, x.new_zeros((*x.shape[:-2], missing, x.shape[-1]))], dim=-2)
        x = all_gather(x, group).movedim(0, -3).flatten(-3, -2).to(dtype)
        weight = all_gather(torch.nn.functional.pad(weight, (0, missing)), group).flatten()
        number = torch.cat([number, number.new_full((missing,), _NOWHERE)])
        number = all_gather(number, group).flatten()
    order = number.argsort(stable=True)
    order = order[: int((number < _NOWHERE).sum())]
    x = gather_rows(x, order.expand(*x.shape[:-2], -1))
    return x, weight[order] if weighted else None
