"""How a codebook learns from one batch after another: pure functions.

Everything here is about P codebooks of the same size: rows (P, n, d), centroids (P, k, d).
With a process group the rows are this rank's, and all ranks find the same.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kmeans_module.backends import prepare, unit_rows
from kmeans_module.core.lloyd import lloyd
from kmeans_module.core.seeding import kmeans_plus_plus, random
from kmeans_module.rows.batch import Batch
from kmeans_module.rows.ranks import ProcessGroup, all_gather, rank
from kmeans_module.rows.sharded import Rows

LLOYD_STEPS = 10
BATCHES_TO_LIVE = 8  # of a revived code, without samples


class CodebookState(NamedTuple):
    """The tensors that a training step changes, in place.

    Attributes:
        centroids: (P, k, d).
        counts: (P, k) float64.
        n_iter: (P,) int64.
        initialized: () bool.
        next_centroids: (P, k, d), what the next update brings.
        next_counts: (P, k) float64.
        moves: which codes the next update moves, (P, k) bool.
        skipped: batches that were not finite, () int64.
    """

    centroids: Tensor
    counts: Tensor
    n_iter: Tensor
    initialized: Tensor
    next_centroids: Tensor
    next_counts: Tensor
    moves: Tensor
    skipped: Tensor


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
    repeat them with a count of 0.

    Args:
        rows: (P, n, d).
        weight: 1, or 0 for a row that does not count, (P, n).
        n_clusters: k.
        metric: "euclidean" or "cosine".
        generator: what is drawn from.
        group: the ranks that hold the rest of the rows.

    Returns:
        centroids (P, k, d), and counts (P, k) float64.
    """
    problems, n = rows.shape[:2]
    sizes = all_gather(torch.tensor([n], device=rows.device), group)
    first = int(sizes[: rank(group)].sum())
    data = Rows(
        [Batch(rows, weight, start=first)], n_problems=problems, metric=metric, like=rows,
        generator=generator, group=group,
    )  # fmt: skip
    weights = [data.weight(i) for i in range(len(data.batches))]
    seeds = min(n_clusters, int(data.total([(w > 0).to(data.dtype) for w in weights]).min()))
    if not seeds:
        raise ValueError("no sample counts: there is nothing that a codebook can start from")
    find = kmeans_plus_plus if seeds == n_clusters else random
    centroids = find(data, seeds).to(rows.dtype)
    if metric == "cosine":
        centroids = unit_rows(centroids)
    found = lloyd(
        prepare(rows, weight, metric=metric), centroids, max_iter=LLOYD_STEPS, metric=metric,
        process_group=group, start=first,
    )  # fmt: skip
    repeated = torch.arange(n_clusters, device=rows.device) % seeds
    counts = torch.nn.functional.pad(found.counts, (0, n_clusters - seeds))
    return found.centroids[:, repeated], counts


def smoothed(counts: Tensor, smoothing: float) -> Tensor:
    """Counts (P, k) with Laplace smoothing, of the same sum: (n + ε) / (Σn + k ε) · Σn.

    Source: van den Oord, Vinyals & Kavukcuoglu, NeurIPS 2017, appendix A.1, as implemented by
    its authors.
    """
    total = counts.sum(dim=-1, keepdim=True)
    return (counts + smoothing) / (total + counts.shape[-1] * smoothing) * total


def moving_average(
    centroids: Tensor,
    counts: Tensor,
    sums: Tensor,
    new_counts: Tensor,
    *,
    decay: float,
    smoothing: float,
    metric: str = "euclidean",
) -> tuple[Tensor, Tensor]:
    """The M-step of a codebook: the decayed mean of all batches so far.

    With the decay γ, the count N and the sum m of a code: N ← γN + n, m ← γm + Σx, c ← m / N̂
    where N̂ is smoothed. Counts are not scaled by 1 - γ: they are weights of samples.

    Args:
        centroids: (P, k, d).
        counts: (P, k) float64.
        sums, new_counts: of the batch, (P, k, d) and (P, k) float64.
        decay: γ, from 0 to less than 1.
        smoothing: ε, in samples of a batch.
        metric: "cosine" scales the centroids to unit length.

    Returns:
        centroids and counts.
    """
    smoothing = smoothing / (1 - decay)
    masses = smoothed(counts, smoothing).unsqueeze(-1)
    total = decay * counts + new_counts
    shares = smoothed(total, smoothing).unsqueeze(-1)
    mean = (decay * centroids.to(sums.dtype) * masses + sums) / shares.where(shares > 0, 1.0)
    if metric == "cosine":
        heavy = (mean != 0).any(dim=-1, keepdim=True)
        mean = unit_rows(mean)
        shares = shares * heavy
    return mean.where(shares > 0, centroids.to(sums.dtype)).to(centroids.dtype), total


def least_counts(counts: Tensor, *, decay: float, threshold: float | None) -> Tensor:
    """Counts below which a code is dead, (P, 1).

    Args:
        counts: decayed, (P, k).
        decay: γ.
        threshold: samples of a batch, on average; None for a tenth of an even share.
    """
    if threshold is None:
        return counts.mean(dim=-1, keepdim=True) / 10
    return counts.new_full((len(counts), 1), threshold / (1 - decay))


def revive(
    rows: Tensor,
    weight: Tensor,
    centroids: Tensor,
    counts: Tensor,
    least: Tensor,
    *,
    decay: float,
    metric: str,
    generator: torch.Generator | None = None,
    group: ProcessGroup | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Dead codes move to random samples of the batch.

    They get a count on which they outlive a few batches without samples, an even share of the
    other codes at most: light enough to move, not so light that they die at once.

    Args:
        rows: (P, n, d).
        weight: (P, n).
        centroids, counts: (P, k, d) and (P, k).
        least: counts below which a code is dead, (P, 1).
        decay: γ.
        metric: "euclidean" or "cosine".
        generator: what is drawn from.
        group: the ranks that hold the rest of the rows.

    Returns:
        centroids, counts, and which codes were revived, (P, k) bool: as many as there are
        samples to revive them by.
    """
    dead = counts < least
    sizes = all_gather(torch.tensor([rows.shape[1]], device=rows.device), group)
    first = int(sizes[: rank(group)].sum())
    data = Rows(
        [Batch(rows, weight, start=first)], n_problems=len(rows), metric=metric, like=rows,
        generator=generator, group=group,
    )  # fmt: skip
    weights = [data.weight(i) for i in range(len(data.batches))]
    available = int(data.total([(w > 0).to(data.dtype) for w in weights]).min())
    place = dead.cumsum(dim=-1) - 1
    revived = dead & (place < available)
    most = int(revived.sum(dim=-1).max())
    if not most:
        return centroids, counts, revived
    samples = random(data, most).to(centroids.dtype)
    index = place.clamp(0, most - 1).unsqueeze(-1).expand(*place.shape, rows.shape[-1])
    chosen = revived.unsqueeze(-1)
    centroids = samples.gather(1, index).where(chosen, centroids)
    alive = (~dead).sum(dim=-1, keepdim=True).clamp(min=1)
    share = (counts * ~dead).sum(dim=-1, keepdim=True) / alive
    share = share.where(share > 0, 1.0)
    if decay > 0:
        share = share.minimum(least / decay**BATCHES_TO_LIVE)
    return centroids, share.where(revived, counts), revived
