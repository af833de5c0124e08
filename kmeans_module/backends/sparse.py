"""What torch computes of sparse rows (n, d) without going through their zeros."""

from __future__ import annotations

import torch
from torch import Tensor

from kmeans_module.core.distances import chunk_rows, unit_rows
from kmeans_module.core.sparse import (
    nonzero_rows,
    part_of,
    rows_at,
    rows_in,
    rows_of_numbers,
    with_numbers,
)
from kmeans_module.core.statistics import (
    MAX_FARTHEST,
    ClusterStats,
    Farthest,
    accumulator_dtype,
    no_farthest,
)


def sparse_unit_rows(x: Tensor) -> Tensor:
    """Sparse rows at length 1, which hold the numbers that the whole rows would."""
    n, d = x.shape
    size = chunk_rows(n, 1, d, 1, x.device)
    numbers = [x.values()[:0]]
    for first in range(0, n, size):
        chunk = part_of(x, slice(first, first + size))
        unit = unit_rows(rows_in(chunk, slice(None)))
        numbers.append(unit[rows_of_numbers(chunk), chunk.col_indices().long()])
    return with_numbers(x, torch.cat(numbers))


def sparse_weights(
    x: Tensor, sample_weight: Tensor | None, *, metric: str, problems: int
) -> Tensor:
    """Weights (P, n) of sparse rows; a zero row weighs nothing under the cosine metric."""
    exact = accumulator_dtype(x.device)
    weights = torch.ones((problems, x.shape[0]), dtype=exact, device=x.device)
    if sample_weight is not None:
        weights = sample_weight.to(exact).expand(problems, -1)
    return weights * nonzero_rows(x) if metric == "cosine" else weights


def sparse_extent(x: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of each feature, (d,) float64."""
    n, d = x.shape
    columns, values = x.col_indices().long(), _exact(x)
    low = torch.full((d,), torch.inf, dtype=values.dtype, device=x.device)
    high = -low
    low.scatter_reduce_(0, columns, values, "amin")
    high.scatter_reduce_(0, columns, values, "amax")
    some_zeros = torch.bincount(columns, minlength=d) < n
    return low.where(~some_zeros, low.clamp(max=0)), high.where(~some_zeros, high.clamp(min=0))


def sparse_sums(x: Tensor, weights: Tensor | None, center: Tensor | None = None) -> Tensor:
    """Weighted sums of the features or, about a center, of squared differences: (P, d) float64.

    Zeros of a feature are counted, and add the square of the center each: nothing cancels.

    Args:
        x: sparse rows (n, d).
        weights: (P, n) float64; None for weight 1.
        center: (P, d) or (1, d), or None.
    """
    columns, values = x.col_indices().long(), _exact(x)
    of_values = None if weights is None else weights[:, rows_of_numbers(x)]
    total = values.new_full((1, 1), x.shape[0]) if weights is None else weights.sum(-1, True)

    def summed(numbers: Tensor) -> Tensor:
        """Sums by feature of numbers (m,) or (P, m), (1, d) or (P, d)."""
        numbers = numbers if of_values is None else numbers * of_values
        numbers = numbers.view(-1, len(columns))
        sums = numbers.new_zeros((len(numbers), x.shape[1]))
        return sums.index_add_(1, columns, numbers)

    if center is None:
        return summed(values)
    zeros = total - summed(torch.ones_like(values))
    return summed((values - center[:, columns]).square_()) + zeros * center.square()


def sparse_moments(
    x: Tensor, sample_weight: Tensor | None, center: Tensor | None, unit: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """See :meth:`kmeans_module.backends.Backend.moments`; unit are the rows at length 1 where the
    metric asks for these."""
    weighs = None
    if sample_weight is not None:
        weighs = (sample_weight > 0).to(accumulator_dtype(x.device)).view(-1, x.shape[0])
    sums = sparse_sums(x if unit is None else unit, weighs, center)
    low, high = sparse_extent(x) if center is None else (sums[0], sums[0])
    return low, high, sums


def sparse_stats_of_labels(unit: Tensor, weights: Tensor, labels: Tensor, k: int) -> ClusterStats:
    """:func:`kmeans_module.core.statistics.stats_of_labels` of sparse rows.

    Args:
        unit: rows (n, d) in the space of the metric.
        weights: (P, n) float64.
        labels: (P, n).
        k: clusters of each problem.
    """
    problems, d = len(labels), unit.shape[1]
    rows, columns, values = rows_of_numbers(unit), unit.col_indices().long(), _exact(unit)
    counts = weights.new_zeros((problems, k)).scatter_add_(1, labels, weights)
    sums = weights.new_zeros((problems, k * d))
    for p in range(problems):
        places = labels[p, rows] * d + columns
        sums[p].index_add_(0, places, weights[p, rows] * values)
    inertia = weights.new_full((problems,), torch.nan)
    return ClusterStats(sums.view(problems, k, d), counts, inertia)


def sparse_farthest(
    x: Tensor,
    weights: Tensor,
    labels: Tensor,
    distances: Tensor,
    k: int,
    *,
    metric: str,
    start: int,
) -> Farthest:
    """:func:`kmeans_module.core.statistics.find_farthest` of sparse rows (n, d), of which only
    these few are made dense; weights, labels and distances are (P, n)."""
    m, d = min(k, MAX_FARTHEST), x.shape[1]
    none = no_farthest(labels, distances, n_features=d, m=m)
    key = distances.where(weights > 0, -1.0)
    order = key.argsort(dim=-1, descending=True, stable=True)[:, :m]
    rows = rows_at(x, order).to(distances.dtype)
    return none + Farthest(
        key.gather(-1, order),
        unit_rows(rows) if metric == "cosine" else rows,
        labels.gather(-1, order),
        weights.gather(-1, order),
        order + start,
    )


def _exact(x: Tensor) -> Tensor:
    values = x.values()
    values = values.to(torch.uint8) if values.dtype == torch.bool else values
    return values.to(accumulator_dtype(x.device))
