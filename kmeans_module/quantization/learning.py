"""How a codebook learns from one batch after another: pure functions.

Everything here is about P codebooks of the same size: rows (P, n, d), centroids (P, k, d).
With a process group the rows are this rank's, and the results are alike on all ranks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kmeans_module.backends import workspace
from kmeans_module.core.distances import unit_rows
from kmeans_module.core.fit import run
from kmeans_module.core.problem import Problem
from kmeans_module.core.seeding import initialize
from kmeans_module.core.statistics import ClusterStats, accumulator_dtype
from kmeans_module.quantization import decisions
from kmeans_module.quantization.samples import Numbering, numbering, own_seed, to_share
from kmeans_module.rows import Batch, HeldRows
from kmeans_module.rows.draws import HeldDraws
from kmeans_module.rows.ranks import ProcessGroup, all_sum, all_sum_stats

LLOYD_STEPS = 10
SLOWEST_DECAY = 0.99
REMEMBERED = 0.05  # of the samples that a codebook has seen
LEAST_REMEMBERED = 4  # samples, for each code
# k-means++ among fewer samples for each code has little to choose from; where samples times codes
# are more than COSTLY it takes seconds, as long as hundreds of training steps.
LITTLE_CHOICE, COSTLY = 2, 2**26


def weights_of(rows: Tensor, valid: Tensor | None) -> Tensor:
    """Sample weights (P, n): those that are given, or 1, and 0 for a row that does not count."""
    dtype = accumulator_dtype(rows.device)
    if valid is None:
        return torch.ones(rows.shape[:-1], device=rows.device, dtype=dtype)
    return valid.to(dtype)


def nearest(rows: Tensor, centroids: Tensor) -> Tensor:
    """Codes of the nearest centroids, (P, n) int64."""
    return workspace(rows, dtype=centroids.dtype, once=True).assign(centroids)[0]


def statistics(
    rows: Tensor, valid: Tensor | None, codes: Tensor | None, centroids: Tensor
) -> tuple[ClusterStats, Tensor]:
    """Sums and counts of the rows of each code; and the codes, the nearest where none are given.

    Args:
        rows: (P, n, d).
        valid: which rows count, (P, n) bool, or how much, floats; None for all alike.
        codes: (P, n), or None.
        centroids: (P, k, d).
    """
    problems, k, d = centroids.shape
    if not rows.shape[1]:  # of a rank that has run out of batches
        nothing = torch.empty((problems, 0), dtype=torch.int64, device=rows.device)
        return ClusterStats.nothing(problems, k, d, device=rows.device), nothing
    weight = None if valid is None else weights_of(rows, valid)
    space = workspace(rows, weight, dtype=centroids.dtype, once=True)
    if codes is None:
        if not decisions.decides_on_device(rows):
            return space.statistics(centroids, farthest=False), space.labels
        codes = space.assign(centroids)[0]  # an accelerator looks for NaN by other means
    return space.sums_of(codes, k), codes


def not_finite(rows: Tensor, valid: Tensor | None, stats: ClusterStats) -> Tensor:
    """Whether a row holds NaN or infinity, () bool.

    Args:
        rows: (P, n, d).
        valid: which rows count, (P, n) bool, or how much, floats.
        stats: of these rows, whose inertia is not finite where a row is not, or where it was not
            measured.
    """
    if decisions.decides_on_device(rows) and rows.numel():
        largest: Tensor = torch.linalg.vector_norm(rows, torch.inf)
        return ~(largest < torch.inf)
    # A finite inertia spares a pass over the rows. Rows of weight 0 may not show in it.
    if valid is None and rows.numel() and math.isfinite(float(stats.inertia.sum())):
        return torch.zeros((), dtype=torch.bool, device=rows.device)
    return ~rows.isfinite().all()


def is_weighted(valid: Tensor | None) -> bool:
    """Whether rows count by weights, not by a mask."""
    return valid is not None and valid.dtype != torch.bool


def rows_that_weigh(valid: Tensor | None, stats: ClusterStats) -> Tensor:
    """Rows of positive weight, (P,): the sum of the counts of rows that are not weighted."""
    if valid is None or not is_weighted(valid):
        return stats.counts.sum(dim=-1)
    return (valid > 0).sum(dim=-1).to(stats.counts)


def mean_weight(stats: ClusterStats, weighing: Tensor) -> Tensor:
    """Of the rows of positive weight, of which there are so many, (P,): (P, 1); exactly 1 for
    rows that are not weighted."""
    return (stats.counts.sum(dim=-1) / weighing.clamp(min=1)).unsqueeze(-1)


def of_all_ranks(
    stats: ClusterStats, flag: Tensor, n: int, valid: Tensor | None, group: ProcessGroup | None
) -> tuple[ClusterStats, Tensor, float | Tensor, Numbering]:
    """What a batch is over all ranks, in one collective.

    Args:
        stats: of the rows of this rank, n for each problem.
        flag: () bool.
        valid: which rows count, (P, n) bool, or how much, floats.

    Returns:
        Statistics of all rows; whether the flag is set on any rank; the mean weight of a row,
        (P, 1) or 1: thresholds in samples of a batch are multiples of it, so that no scale of the
        weights changes how a codebook learns; and a numbering of the rows.
    """
    if group is None:
        unit = mean_weight(stats, rows_that_weigh(valid, stats)) if is_weighted(valid) else 1.0
        return stats, flag, unit, Numbering(0, own_seed())
    # Codes without samples are revived, not relocated: the farthest samples need not travel.
    stats = ClusterStats(stats.sums, stats.counts, stats.inertia)
    flag = flag.to(stats.sums.dtype).view(1)
    also = [flag, rows_that_weigh(valid, stats), to_share(n, stats.counts, group)]
    stats, (total, weighing, shared) = all_sum_stats(stats, group, also=also)
    return stats, total.view(()) > 0, mean_weight(stats, weighing), numbering(shared, group)


def problem_of(rows: Tensor, n_clusters: int, metric: str) -> Problem:
    """What is asked for where codebooks start from rows (P, n, d)."""
    return Problem(
        n_clusters,
        rows.shape[-1],
        len(rows),
        metric=metric,
        dtype=rows.dtype,
        device=rows.device,
    )


def least_available(draws: HeldDraws, group: ProcessGroup | None) -> int:
    """Rows of positive weight over all ranks, of the problem that has fewest."""
    none = torch.zeros(draws.n_problems, dtype=torch.int64, device=draws.device)
    weighs = [(weight > 0).sum(dim=-1) for weight in draws.weights]
    return int(all_sum([sum(weighs, start=none)], group)[0].min())


def start(
    rows: Tensor,
    weight: Tensor,
    n_clusters: int,
    *,
    metric: str,
    generator: torch.Generator | None = None,
    group: ProcessGroup | None = None,
) -> tuple[Tensor, Tensor]:
    """A codebook of k-means++ and a few of Lloyd's steps.

    Where there are fewer samples than codes, each sample is a code, and the surplus codes
    repeat them with a count of 0. Many codes start from a uniform draw where there are fewer
    than two samples for each of them.

    Args:
        rows: (P, n, d).
        weight: of the rows, 0 for a row that does not count, (P, n).
        n_clusters: k.
        metric: "euclidean" or "cosine".
        generator: what is drawn from.
        group: the ranks that hold the rest of the rows.

    Returns:
        centroids (P, k, d), and counts (P, k) float64.
    """
    data = HeldRows([Batch(rows, weight)], n_problems=len(rows), group=group)
    draws = data.draws(problem_of(rows, n_clusters, metric), generator)
    available = least_available(draws, group)
    seeds = min(n_clusters, available)
    if not seeds:
        raise ValueError("no sample counts: there is nothing that a codebook can start from")
    problem = problem_of(rows, seeds, metric)
    search = data.search(problem)
    init = "k-means++" if worth_choosing(available, n_clusters) else "random"
    centroids = initialize(data, problem, init, generator=generator, search=search)
    outcome = run(data, search, problem, centroids, max_iter=LLOYD_STEPS)
    repeated = torch.arange(n_clusters, device=rows.device) % seeds
    counts = torch.nn.functional.pad(outcome.counts, (0, n_clusters - seeds))
    return outcome.centroids[:, repeated], counts


def worth_choosing(available: int, n_clusters: int) -> bool:
    """Whether k-means++ is to choose which of the available samples become codes."""
    if available < LITTLE_CHOICE * n_clusters and available * n_clusters > COSTLY:
        return False
    return available >= n_clusters


def smoothed(counts: Tensor, smoothing: float | Tensor) -> Tensor:
    """Counts (P, k) with Laplace smoothing, of the same sum: (n + ε) / (Σn + k ε) · Σn.

    Source: van den Oord, Vinyals & Kavukcuoglu, NeurIPS 2017, appendix A.1, as implemented by
    its authors.
    """
    total = counts.sum(dim=-1, keepdim=True)
    return (counts + smoothing) / (total + counts.shape[-1] * smoothing) * total


def growing_decay(counts: Tensor, batch: Tensor, weight: float | Tensor = 1.0) -> Tensor:
    """The decay γ of a memory that grows: short while a network is young, and its codes become
    useless within a few batches, long when it has settled, and noise has to be averaged away.

    The samples remembered, ΣN, become more by a twentieth of those of the batch, n, until γ is
    0.99: γ = 1 - 0.95 n / ΣN. They are 4 for each code at least, of which a code rarely gets none
    by chance: γ ≥ 1 - n / 4k.

    Args:
        counts: N before the batch, (P, k) float64.
        batch: samples of each code in the batch, (P, k) float64, some.
        weight: of a sample, on average, (P, 1) or a number.

    Returns:
        (P, 1) float64, from 0 to less than 1.
    """
    n = batch.sum(dim=-1, keepdim=True)
    growing = 1 - (1 - REMEMBERED) * n / counts.sum(dim=-1, keepdim=True)  # -inf where all are 0
    least = 1 - n / weight / (LEAST_REMEMBERED * counts.shape[-1])
    return growing.clamp(max=SLOWEST_DECAY).maximum(least).clamp(min=0)


def moving_average(
    centroids: Tensor,
    counts: Tensor,
    sums: Tensor,
    total: Tensor,
    *,
    decay: float | Tensor,
    smoothing: float | Tensor,
    metric: str = "euclidean",
) -> Tensor:
    """The M-step of a codebook: centroids that are the decayed mean of all batches so far.

    With the decay γ, the count N and the sum m of a code: N ← γN + n, m ← γm + Σx, c ← m / N̂
    where N̂ is smoothed. Counts are not scaled by 1 - γ: they are weights of samples.

    Args:
        centroids: (P, k, d).
        counts: N before the batch, (P, k) float64.
        sums: Σx of the batch, (P, k, d) float64.
        total: N after the batch, γN + n, (P, k) float64.
        decay: γ, from 0 to less than 1, a number or (P, 1).
        smoothing: ε, in weight of samples of a batch, a number or (P, 1).
        metric: "cosine" scales the centroids to unit length.

    Returns:
        centroids (P, k, d).
    """
    samples = smoothing / (1 - decay)
    masses = (smoothed(counts, samples) * decay).unsqueeze(-1)
    shares = smoothed(total, samples).unsqueeze(-1)
    mean = centroids.to(sums.dtype, copy=True).mul_(masses).add_(sums)
    mean = mean.div_(shares.where(shares > 0, 1.0))
    if metric == "cosine":
        heavy = (mean != 0).any(dim=-1, keepdim=True)
        mean = unit_rows(mean)
        shares = shares * heavy
    return mean.to(centroids.dtype).where(shares > 0, centroids)
