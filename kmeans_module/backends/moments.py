"""Extent and sums of the features of rows, in torch."""

from __future__ import annotations

import torch
from torch import Tensor

from kmeans_module.backends.sparse import sparse_moments, sparse_unit_rows
from kmeans_module.core.distances import unit_rows
from kmeans_module.core.sparse import is_sparse
from kmeans_module.core.statistics import accumulator_dtype

_MOMENT_ELEMENTS = 1 << 21


def torch_moments(
    x: Tensor, sample_weight: Tensor | None, center: Tensor | None, *, metric: str
) -> tuple[Tensor, Tensor, Tensor]:
    """See :meth:`kmeans_module.backends.Backend.moments`."""
    if is_sparse(x):
        unit = None
        if metric == "cosine":
            unit = sparse_unit_rows(x.to(torch.promote_types(x.dtype, torch.float32)))
        return sparse_moments(x, sample_weight, center, unit)
    accumulator = accumulator_dtype(x.device)
    n, d = x.shape[-2:]
    low = torch.full((d,), torch.inf, dtype=accumulator, device=x.device)
    high = -low
    sums = torch.zeros((1, d), dtype=accumulator, device=x.device)
    size = max(1, _MOMENT_ELEMENTS // max(1, x.numel() // max(1, n)))
    for start in range(0, n, size):
        rows = x[..., start : start + size, :]
        rows = rows.to(torch.uint8) if rows.dtype == torch.bool else rows
        if center is None:
            bounds = rows.flatten(0, -2).aminmax(dim=0)
            low = torch.minimum(low, bounds.min.to(accumulator))
            high = torch.maximum(high, bounds.max.to(accumulator))
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        rows = (unit_rows(rows) if metric == "cosine" else rows).to(accumulator)
        rows = rows if center is None else (rows - center.unsqueeze(-2)).square_()
        if sample_weight is not None:
            weighs = sample_weight[..., start : start + rows.shape[-2]] > 0
            rows = rows * weighs.to(accumulator).unsqueeze(-1)
        sums = sums + rows.sum(dim=-2)
    return low, high, sums
