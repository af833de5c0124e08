"""What becomes of empty clusters: every rank takes the same decision, none gives NaN."""

from __future__ import annotations

import torch
from torch import Tensor

from kmeans_module.core.statistics import ClusterStats, gather_rows

POLICIES = ("relocate", "split", "keep", "error")


class EmptyClusterError(ValueError):
    """A cluster has no samples and the policy is "error".

    Attributes:
        problem: the first one with such a cluster.
    """

    problem = 0

    def named(self, batch_shape: tuple[int, ...]) -> EmptyClusterError:
        """The same with the name of the problem, where there are several."""
        if not batch_shape:
            return self
        named = EmptyClusterError(f"{problem_name(self.problem, batch_shape)}: {self}")
        named.problem = self.problem
        return named


def problem_name(problem: int, batch_shape: tuple[int, ...]) -> str:
    """A problem by its index in batch_shape; restarts of all problems count on."""
    index = []
    for size in reversed(batch_shape):
        problem, place = divmod(problem, size)
        index.append(place)
    return f"problem {index[0] if len(index) == 1 else tuple(reversed(index))}"


def rounding(counts: Tensor, dtype: torch.dtype) -> Tensor:
    """Relative error of the mean of equal samples that weigh counts, stored in a dtype."""
    return 4 * torch.finfo(dtype).eps + counts * torch.finfo(counts.dtype).eps


def refill(
    centroids: Tensor,
    sums: Tensor,
    counts: Tensor,
    stats: ClusterStats,
    *,
    policy: str,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """New sums (P, k, d) and counts (P, k), with weight given to empty clusters by the policy.

    Args:
        centroids: before the M-step, (P, k, d), in the dtype of the sums.
        sums: (P, k, d).
        counts: (P, k).
        stats: of the E-step.
        policy: one of POLICIES.
        dtype: that the centroids will be stored in.

    Clusters that stay empty keep their centroid.
    """
    if policy == "relocate" and stats.farthest is not None:
        return _relocate(centroids, sums, counts, stats, dtype)
    if policy == "split":
        return _split(centroids, sums, counts, stats)
    if policy == "error":
        raise_if_empty(counts)
    return sums, counts


def raise_if_empty(counts: Tensor) -> None:
    """Raise EmptyClusterError that names the empty clusters of counts (P, k), of the first
    problem that has such."""
    problems = (counts == 0).any(dim=-1).nonzero().flatten().tolist()
    if not problems:
        return
    empty = (counts[problems[0]] == 0).nonzero().flatten().tolist()
    shown = ", ".join(map(str, empty[:10])) + (", ..." if len(empty) > 10 else "")
    error = EmptyClusterError(
        f"{len(empty)} of {counts.shape[-1]} clusters have no samples (clusters {shown}) "
        'and empty_cluster="error"'
    )
    error.problem = problems[0]
    raise error


def _relocate(
    centroids: Tensor, sums: Tensor, counts: Tensor, stats: ClusterStats, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The i-th empty cluster becomes the i-th farthest sample, which leaves its donor."""
    far = stats.farthest
    assert far is not None
    problems, k, d = sums.shape
    m = far.distances.shape[-1]
    empty = counts == 0
    # A sample that is its centroid, but for rounding, gains nothing from a second one there.
    rows = far.rows.to(sums.dtype)
    apart = (rows - gather_rows(centroids, far.labels)).abs()
    negligible = rounding(counts.gather(-1, far.labels), dtype).unsqueeze(-1) * rows.abs()
    gains = (far.distances > 0) & (apart > negligible).any(dim=-1)
    rank = torch.arange(m, device=sums.device)
    moved = (rank < empty.sum(-1, keepdim=True)) & (far.weights > 0) & gains
    weights = far.weights * moved
    weighted = rows * weights.unsqueeze(-1)

    donors = (far.labels + k * torch.arange(problems, device=sums.device).unsqueeze(-1)).flatten()
    before = counts
    counts = counts.flatten().index_add(0, donors, -weights.flatten()).view(problems, k)
    sums = sums.view(-1, d).index_add(0, donors, -weighted.flatten(0, 1)).view(problems, k, d)
    # What rounding leaves of a donor that gave all it had is no cluster.
    emptied = counts <= before * 1e-12
    counts.masked_fill_(emptied, 0)
    sums.masked_fill_(emptied.unsqueeze(-1), 0)

    takers = empty.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[:, :m]
    counts.scatter_(-1, takers, weights.where(moved, counts.gather(-1, takers)))
    weighted = weighted.where(moved.unsqueeze(-1), gather_rows(sums, takers))
    sums.scatter_(1, takers.unsqueeze(-1).expand(-1, -1, d), weighted)
    return sums, counts


def _split(
    centroids: Tensor, sums: Tensor, counts: Tensor, stats: ClusterStats
) -> tuple[Tensor, Tensor]:
    """The i-th empty cluster takes half of the i-th heaviest; both move apart by 1 % of the
    root mean square distance, up in even and down in odd features."""
    k, d = sums.shape[1:]
    empty = counts == 0
    donors = counts.argsort(dim=-1, descending=True, stable=True)
    n_empty = empty.sum(-1, keepdim=True)
    n_splits = torch.minimum(n_empty, k - n_empty)
    splits = torch.arange(k, device=sums.device) < n_splits
    apart = 0.01 * (stats.inertia / (stats.counts.sum(-1) * d)).nan_to_num().sqrt()
    sign = 1.0 - 2.0 * (torch.arange(d, device=sums.device) % 2)
    step = apart.view(-1, 1, 1) * sign.to(sums.dtype)

    halved = torch.zeros_like(empty).scatter(-1, donors, splits)
    counts = counts.where(~halved, counts / 2)
    sums = sums.where(~halved.unsqueeze(-1), sums / 2 + counts.unsqueeze(-1) * step)
    rank = (empty.cumsum(-1) - 1).clamp(min=0)
    donor = donors.gather(-1, rank)
    takes = empty & (rank < n_splits)
    new_counts = counts.gather(-1, donor)
    new_sums = sums.gather(1, donor.unsqueeze(-1).expand_as(sums))
    new_sums = new_sums - 2 * new_counts.unsqueeze(-1) * step
    return new_sums.where(takes.unsqueeze(-1), sums), new_counts.where(takes, counts)
