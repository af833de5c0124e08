"""The nearest centroids in torch, see :func:`kmeans_module.backends.search`.

One product for a chunk of rows discards centroids, with a margin for its rounding and for that of
the Σ(x - c)² which decides among the others; ties go to the lowest index.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kmeans_module.core import distances
from kmeans_module.core.distances import (
    central,
    chunk_rows,
    compute_dtype,
    full_precision,
    pairwise_distances,
    squared_norms,
)
from kmeans_module.core.guard import captured, for_onnx, for_other_inputs, under_mode
from kmeans_module.core.neighbors import Neighbors, of_unit_rows, ranked

Measure = Callable[[Tensor, Tensor, Tensor], Tensor]

_SPARE = 8  # centroids beyond the m nearest that are looked for at once: few rows have more
_TINY = {torch.float32: 1e-30, torch.float64: 1e-290}  # of which underflow leaves nothing


def torch_search(
    x: Tensor,
    centroids: Tensor,
    m: int,
    *,
    metric: str,
    measure: Measure | None = None,
    unit_rows: Callable[[Tensor], Tensor] = distances.unit_rows,
) -> Neighbors:
    """The m nearest of centroids (P, k, d) to rows (n, d) or (P, n, d): (P, n, m).

    Args:
        x, centroids, m, metric: see :func:`kmeans_module.backends.search`.
        measure: squared distances (P, r, c) of rows (P, r, d) to the candidates of each one,
            labels (P, r, c); -1 stands for none, which is infinitely far.
        unit_rows: rows at length 1.
    """
    problems, k, d = centroids.shape
    n = x.shape[-2]
    dtype = compute_dtype(x, centroids)
    centroids = centroids.to(dtype)
    recorded = under_mode() is not None or x.is_meta or captured(x)

    def of_part(part: slice) -> Neighbors:
        rows = x[..., part, :].to(dtype)
        rows = unit_rows(rows) if metric == "cosine" else rows
        rows = rows.expand(problems, -1, -1)
        if recorded:
            found = _among_all(rows, centroids, m)
        else:
            candidates = _screen(rows, centroids, m)
            measured = (measure or _measure)(rows, centroids, candidates)
            found = ranked(measured, candidates, m)
        return of_unit_rows(found, rows) if metric == "cosine" else found

    if for_other_inputs():
        return of_part(slice(None))
    size = chunk_rows(n, k, d, problems, x.device)
    parts = [of_part(slice(first, first + size)) for first in range(0, max(1, n), size)]
    return Neighbors(*(torch.cat(found, dim=1) for found in zip(*parts, strict=True)))


def _among_all(rows: Tensor, centroids: Tensor, m: int) -> Neighbors:
    """The same for code that is recorded, which measures all centroids whatever the numbers."""
    measured = pairwise_distances(rows, centroids)
    if not for_onnx():
        labels = torch.arange(centroids.shape[1], device=rows.device).expand_as(measured)
        return ranked(measured, labels, m)
    # Which does not know a stable sort, but takes ties by the lowest index.
    nearest = measured.topk(m, dim=-1, largest=False)
    return Neighbors(nearest.values, nearest.indices)


def _screen(rows: Tensor, centroids: Tensor, m: int) -> Tensor:
    """Labels (P, r, c), ascending, of the centroids that may be among the m nearest; -1 where a row
    has fewer of them than another one."""
    k, d = centroids.shape[1:]
    offset = central(centroids)
    rows, centroids = rows - offset, centroids - offset
    # The error of a sum of d products, in whatever order, of norms and of differences.
    margin, tiny = (d + 64) * torch.finfo(rows.dtype).eps, _TINY[rows.dtype]
    of_rows = rows.square().sum(dim=-1, keepdim=True)
    of_centroids = centroids.square().sum(dim=-1)
    least = of_rows * (1 - margin) - tiny + (of_centroids * (1 - margin)).unsqueeze(1)
    with full_precision(rows.device):
        least.baddbmm_(rows, centroids.mT, alpha=-2)
    # What overflows stays: its norm makes the limit of its row infinite, or NaN.
    least.nan_to_num_(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    value, labels = least.topk(min(k, m + _SPARE), dim=-1, largest=False)
    norms = of_centroids.unsqueeze(1).expand_as(least).gather(-1, labels[..., :m])
    most = value[..., :m] + 2 * tiny + 2 * margin * (of_rows + norms)
    limit = most.amax(dim=-1, keepdim=True)
    n_kept = (least > limit).logical_not_().sum(dim=-1)
    c = int(n_kept.max()) if n_kept.numel() else m
    if c > labels.shape[-1]:
        value, labels = least.topk(c, dim=-1, largest=False)
    labels = labels[..., :c].masked_fill(value[..., :c] > limit, k).sort(dim=-1).values
    return labels.masked_fill(labels == k, -1)


def _measure(rows: Tensor, centroids: Tensor, candidates: Tensor) -> Tensor:
    measured = rows.new_full(candidates.shape, torch.inf)
    kind = "cpu" if rows.device.type == "cpu" else "accelerator"
    size = max(1, distances.CHUNK_ELEMENTS[kind] // (4 * rows.shape[-1]))
    for pairs in torch.split((candidates >= 0).nonzero(), size):
        problem, row, place = pairs.unbind(dim=-1)
        others = centroids[problem, candidates[problem, row, place]]
        measured[problem, row, place] = squared_norms(rows[problem, row] - others)
    return measured
