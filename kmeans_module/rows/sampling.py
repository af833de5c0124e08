"""Cumulative sums of the masses of many rows, and a search in them, block by block."""

from __future__ import annotations

import torch
from torch import Tensor

from kmeans_module.backends.native import workspace as native
from kmeans_module.core.statistics import accumulator_dtype

BLOCK = 1024


def block_sums(mass: Tensor) -> Tensor:
    """Sums of consecutive blocks of (P, n) numbers, the last one short, (P, n_blocks)."""
    if native.serves(mass) and mass.is_contiguous():
        return native.block_sums(mass, BLOCK)
    dtype = accumulator_dtype(mass.device)
    whole = mass.shape[-1] // BLOCK * BLOCK
    sums = mass[:, :whole].reshape(len(mass), -1, BLOCK).sum(dim=-1, dtype=dtype)
    rest = mass[:, whole:].sum(dim=-1, keepdim=True, dtype=dtype)
    return torch.cat([sums, rest], dim=-1) if mass.shape[-1] > whole else sums


def search(mass: Tensor, blocks: Tensor, target: Tensor) -> Tensor:
    """Where the cumulative sum of mass (P, n) exceeds the targets (P, m): (P, m) indices.

    ``blocks`` are the block sums of the mass. Rounding never leads to a row without mass, unless
    none has any.
    """
    if native.serves(mass) and mass.is_contiguous():
        return native.search_sums(mass, BLOCK, blocks, target)
    if 4 * target.shape[-1] * BLOCK > mass.shape[-1]:  # their blocks would outgrow the rows
        cumulative = mass.cumsum(dim=-1, dtype=blocks.dtype)
        target = target.minimum(just_below(cumulative[:, -1:]))
        found = torch.searchsorted(cumulative, target, right=True)
        return found.clamp(max=mass.shape[-1] - 1)
    ends = blocks.cumsum(dim=-1)
    target = target.minimum(just_below(ends[:, -1:]))
    block = torch.searchsorted(ends, target, right=True).clamp(max=ends.shape[-1] - 1)
    inside = (target - (ends - blocks).gather(-1, block)).clamp(min=0)
    index = block.unsqueeze(-1) * BLOCK + torch.arange(BLOCK, device=mass.device)
    within = index < mass.shape[-1]
    index = index.clamp(max=mass.shape[-1] - 1)
    rows = mass.gather(-1, index.flatten(1)).view_as(index).to(blocks.dtype).where(within, 0.0)
    cumulative = rows.cumsum(dim=-1)
    inside = inside.unsqueeze(-1).minimum(just_below(cumulative[..., -1:]))
    found = torch.searchsorted(cumulative, inside, right=True)
    return index.gather(-1, found.clamp(max=BLOCK - 1)).squeeze(-1)


def just_below(value: Tensor) -> Tensor:
    return value.nextafter(torch.zeros_like(value))
