"""What an E-step yields, and what of it travels: over chunks, batches and ranks.

Inside the package every tensor has a leading axis of P independent problems (P = 1 for plain
k-means), where the public functions have batch_shape; rows are (n, d) when all problems share
them, else (P, n, d).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from kmeans_module.core.distances import unit_rows
from kmeans_module.core.guard import for_other_inputs
from kmeans_module.core.sparse import rows_in

MAX_FARTHEST = 64


def accumulator_dtype(device: torch.device) -> torch.dtype:
    """float64, which counts exactly to 2^53; float32 on MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def to_host(tensors: Sequence[Tensor]) -> list[NDArray[Any]]:
    """Tensors of one shape as arrays, with a single wait for the device."""
    if tensors[0].device.type == "cpu":
        return [tensor.numpy() for tensor in tensors]
    together = torch.stack([tensor.to(tensors[0]) for tensor in tensors]).cpu()
    return list(np.asarray(together))


def from_host(values: Tensor | NDArray[Any] | float) -> Tensor:
    """Numbers of the host as a tensor there, whatever the default device; tensors as they are."""
    return values if isinstance(values, Tensor) else torch.from_numpy(np.asarray(values))


def gather_rows(rows: Tensor, index: Tensor) -> Tensor:
    """Rows (..., n, d) at index (..., m): (..., m, d)."""
    return rows.gather(-2, index.unsqueeze(-1).expand(*index.shape, rows.shape[-1]))


def space_rows(x: Tensor, part: slice, *, metric: str, dtype: torch.dtype) -> Tensor:
    """A slice of the rows in the space where the metric is Euclidean, (m, d) or (P, m, d)."""
    rows = rows_in(x, part).to(dtype)
    return unit_rows(rows) if metric == "cosine" else rows


def row_weights(
    sample_weight: Tensor | None, part: slice, rows: Tensor, *, metric: str
) -> Tensor | None:
    """Weights (P, m) of a slice of the rows, (P, m, d); None for weight 1.

    A zero row weighs nothing under the cosine metric.
    """
    accumulator = accumulator_dtype(rows.device)
    weights = None
    if sample_weight is not None:
        weights = sample_weight[..., part].to(accumulator).expand(rows.shape[:-1])
    if metric == "cosine":
        nonzero = (rows != 0).any(dim=-1)
        weights = nonzero.to(accumulator) if weights is None else weights * nonzero
    return weights


def rows_and_weights(
    x: Tensor,
    sample_weight: Tensor | None,
    part: slice,
    *,
    metric: str,
    dtype: torch.dtype,
    problems: int,
) -> tuple[Tensor, Tensor | None]:
    """A slice of the rows (P, m, d), in the space of the metric, and their weights (P, m)."""
    rows = space_rows(x, part, metric=metric, dtype=dtype).expand(problems, -1, -1)
    return rows, row_weights(sample_weight, part, rows, metric=metric)


class Farthest(NamedTuple):
    """The m samples farthest from their centroid, farthest first, ties by lowest index.

    Attributes:
        distances: squared distances, (P, m); -1 where there are fewer than m samples.
        rows: the samples, (P, m, d).
        labels: their clusters, (P, m) int64.
        weights: their weights, (P, m); 0 where there are fewer than m samples.
        indices: their numbers in the whole data, (P, m) int64.
    """

    distances: Tensor
    rows: Tensor
    labels: Tensor
    weights: Tensor
    indices: Tensor

    def _top(self, m: int) -> Farthest:
        """The m farthest of these."""
        by_index = self.indices.argsort(dim=-1, stable=True)
        distances = self.distances.gather(-1, by_index)
        by_distance = distances.argsort(dim=-1, descending=True, stable=True)
        order = by_index.gather(-1, by_distance)[..., :m]
        return Farthest(
            self.distances.gather(-1, order),
            gather_rows(self.rows, order),
            self.labels.gather(-1, order),
            self.weights.gather(-1, order),
            self.indices.gather(-1, order),
        )

    def __add__(self, other: Farthest) -> Farthest:  # type: ignore[override]
        dim = self.distances.ndim - 1
        joined = (torch.cat(pair, dim=dim) for pair in zip(self, other, strict=True))
        return Farthest(*joined)._top(self.distances.shape[-1])


@dataclass(frozen=True)
class ClusterStats:
    """Sufficient statistics of an E-step; those of disjoint rows add up with ``+``.

    Attributes:
        sums: weighted sum of the samples of each cluster, (P, k, d) float64.
        counts: weight of the samples of each cluster, (P, k) float64.
        inertia: weighted sum of squared distances, (P,) float64.
        farthest: the min(k, 64) farthest samples, for the clusters that are empty;
            None where no cluster is, in compiled code farthest of no samples.
    """

    sums: Tensor
    counts: Tensor
    inertia: Tensor
    farthest: Farthest | None = None

    def __add__(self, other: ClusterStats) -> ClusterStats:
        # A cluster empty in the whole is empty in each part: one part without is enough.
        farthest = None
        if self.farthest is not None and other.farthest is not None:
            farthest = self.farthest + other.farthest
        return ClusterStats(
            self.sums + other.sums,
            self.counts + other.counts,
            self.inertia + other.inertia,
            farthest,
        )

    def __radd__(self, other: object) -> ClusterStats:
        """What ``sum`` begins with is 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    @classmethod
    def nothing(cls, problems: int, k: int, d: int, *, device: torch.device) -> ClusterStats:
        """Statistics of no samples.

        Args:
            problems, k, d: sizes of the centroids (P, k, d).
            device: of the statistics.
        """
        exact = accumulator_dtype(device)
        sums = torch.zeros((problems, k, d), dtype=exact, device=device)
        counts, inertia = sums.new_zeros((problems, k)), sums.new_zeros(problems)
        labels = torch.zeros((problems, 0), dtype=torch.int64, device=device)
        m = min(k, MAX_FARTHEST)
        farthest = no_farthest(labels, labels.to(exact), n_features=d, m=m)
        return cls(sums, counts, inertia, farthest)

    def reshape(self, batch_shape: tuple[int, ...]) -> ClusterStats:
        """The same with other leading dimensions; (-1,) gives the axis of problems."""
        problem_dims = self.inertia.ndim

        def view(tensor: Tensor) -> Tensor:
            return tensor.reshape((*batch_shape, *tensor.shape[problem_dims:]))

        farthest = self.farthest and Farthest(*map(view, self.farthest))
        return ClusterStats(view(self.sums), view(self.counts), view(self.inertia), farthest)


def stats_of_labels(
    x: Tensor, sample_weight: Tensor | None, labels: Tensor, k: int, *, metric: str
) -> ClusterStats:
    """Sums and counts of the clusters of given labels, in float64; the inertia, which no
    centroids are given for, is NaN.

    Args:
        x: (n, d), or (P, n, d).
        sample_weight: (n,) or (P, n); None for weight 1.
        labels: (P, n).
        k: clusters of each problem.
        metric: whose space the sums are in.
    """
    problems, n = labels.shape
    exact = accumulator_dtype(x.device)
    rows, weights = rows_and_weights(
        x, sample_weight, slice(None), metric=metric, problems=problems,
        dtype=torch.promote_types(x.dtype, torch.float32),
    )  # fmt: skip
    if weights is None:
        weights = torch.ones((problems, n), dtype=exact, device=x.device)
    first = torch.arange(problems, device=x.device).unsqueeze(-1) * k
    clusters = (labels + first).flatten()
    counts = weights.new_zeros(problems * k).index_add_(0, clusters, weights.flatten())
    weighted = (rows * weights.unsqueeze(-1)).flatten(0, 1)
    sums = weights.new_zeros((problems * k, x.shape[-1])).index_add_(0, clusters, weighted)
    return ClusterStats(
        sums.view(problems, k, -1), counts.view(problems, k), weights.new_full((problems,), np.nan)
    )


class EStep(NamedTuple):
    """Outcome of an E-step.

    Attributes:
        labels: nearest centroid of each sample, (P, n) int64; ties go to the lowest index. None
            for a stream, as are the distances.
        distances: squared Euclidean distance to that centroid, (P, n).
        stats: sums, counts, inertia of the clusters.
    """

    labels: Tensor
    distances: Tensor
    stats: ClusterStats

    def reshape(self, batch_shape: tuple[int, ...]) -> EStep:
        """The same with batch_shape in place of the axis of problems."""
        if self.labels is None:
            return self._replace(stats=self.stats.reshape(batch_shape))
        n = self.labels.shape[-1]
        return EStep(
            self.labels.reshape(*batch_shape, n),
            self.distances.reshape(*batch_shape, n),
            self.stats.reshape(batch_shape),
        )


def no_farthest(labels: Tensor, distances: Tensor, *, n_features: int, m: int) -> Farthest:
    """The m farthest of no samples, for labels and distances (P, n)."""
    problems = labels.shape[0]
    return Farthest(
        distances.new_full((problems, m), -1.0),
        distances.new_zeros((problems, m, n_features)),
        labels.new_zeros((problems, m)),
        distances.new_zeros((problems, m), dtype=accumulator_dtype(labels.device)),
        labels.new_full((problems, m), torch.iinfo(torch.int64).max),
    )


def find_farthest(
    chunk_of: Callable[[slice], tuple[Tensor, Tensor | None]],
    labels: Tensor,
    distances: Tensor,
    *,
    n_features: int,
    m: int,
    start: int = 0,
    chunk_size: int = 1 << 16,
) -> Farthest:
    """The m samples of positive weight that are farthest from their centroid.

    Args:
        chunk_of: rows (P, c, d) and weights (P, c) or None of a slice of the samples.
        labels: (P, n).
        distances: (P, n).
        n_features: d.
        m: how many to find.
        start: number of the first row in the whole data.
        chunk_size: rows looked at together.
    """
    n = labels.shape[1]
    accumulator = accumulator_dtype(labels.device)
    found = no_farthest(labels, distances, n_features=n_features, m=m)
    # Chunks would be counted once and for all in a program for any number of rows.
    whole = for_other_inputs()
    for first in (0,) if whole else range(0, n, chunk_size):
        part = slice(None) if whole else slice(first, min(first + chunk_size, n))
        rows, weights = chunk_of(part)
        key, clusters = distances[:, part], labels[:, part]
        if weights is None:
            weights = torch.ones_like(key, dtype=accumulator)
        key = key.where(weights > 0, -1.0)
        if whole:  # which may be fewer than m rows
            rows, clusters = pad(rows, (0, 0, 0, m)), pad(clusters, (0, m))
            key, weights = pad(key, (0, m), value=-1.0), pad(weights, (0, m))
        order = key.argsort(dim=-1, descending=True, stable=True)[:, :m]
        found = found + Farthest(
            key.gather(-1, order),
            gather_rows(rows, order),
            clusters.gather(-1, order),
            weights.gather(-1, order),
            order + (start + first),
        )
    return found
