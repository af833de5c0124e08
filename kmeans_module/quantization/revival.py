"""Codes that get no samples move to where there are some: pure functions, as in learning."""

from __future__ import annotations

import torch
from torch import Tensor

from kmeans_module.core.distances import unit_rows
from kmeans_module.quantization.learning import least_available, nearest, problem_of
from kmeans_module.rows import Batch, HeldRows
from kmeans_module.rows.ranks import ProcessGroup

BATCHES_TO_LIVE = 8  # of a revived code, without samples
REACH = 0.5  # of a revived code, in the spread of the codebook
LEAST_WAY = 1 / 32  # of a revived code to its sample


def least_counts(counts: Tensor, *, decay: float | Tensor, threshold: float | None) -> Tensor:
    """Counts below which a code is dead, (P, 1).

    Args:
        counts: decayed, (P, k).
        decay: γ, a number or (P, 1).
        threshold: samples of a batch, on average; None for a tenth of an even share.
    """
    if threshold is None:
        return counts.mean(dim=-1, keepdim=True) / 10
    return counts.new_ones((len(counts), 1)) * threshold / (1 - decay)


def revive(
    rows: Tensor,
    weight: Tensor,
    centroids: Tensor,
    counts: Tensor,
    least: Tensor,
    *,
    decay: float | Tensor,
    metric: str,
    generator: torch.Generator | None = None,
    group: ProcessGroup | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Dead codes get random samples of the batch, which they :func:`follow`.

    A revived code gets a count on which it outlives a few batches without samples, an even
    share of the other codes at most: light enough to move, not so light that it dies at once.

    Args:
        rows: (P, n, d).
        weight: (P, n).
        centroids, counts: (P, k, d) and (P, k).
        least: counts below which a code is dead, (P, 1).
        decay: γ, a number or (P, 1).
        metric: "euclidean" or "cosine".
        generator: what is drawn from.
        group: the ranks that hold the rest of the rows.

    Returns:
        centroids; counts, of the same sum; and which codes were revived, (P, k) bool: as many
        as there are samples to revive them by.
    """
    dead = counts < least
    data = HeldRows([Batch(rows, weight)], n_problems=len(rows), group=group)
    draws = data.draws(problem_of(rows, counts.shape[-1], metric), generator)
    place = dead.cumsum(dim=-1) - 1
    revived = dead & (place < least_available(draws, group))
    most = int(revived.sum(dim=-1).max())
    if not most:
        return centroids, counts, revived
    samples = draws.distinct(most).to(centroids.dtype)
    index = place.clamp(0, most - 1).unsqueeze(-1).expand(*place.shape, rows.shape[-1])
    centroids = samples.gather(1, index).where(revived.unsqueeze(-1), centroids)
    alive = (~dead).sum(dim=-1, keepdim=True).clamp(min=1)
    share = (counts * ~dead).sum(dim=-1, keepdim=True) / alive
    share = share.where(share > 0, 1.0)
    gamma = torch.as_tensor(decay, dtype=counts.dtype, device=counts.device)
    share = torch.minimum(share, least / gamma.pow(BATCHES_TO_LIVE))  # no limit where γ is 0
    given = share.where(revived, counts)
    # A memory that grows with what it holds would grow by revivals, too.
    given = given * (counts.sum(dim=-1, keepdim=True) / given.sum(dim=-1, keepdim=True))
    return centroids, given, revived


def follow(samples: Tensor, revived: Tensor, centroids: Tensor, *, metric: str) -> Tensor:
    """Revived codes move towards their samples, each from the code that is nearest to its sample.

    A code moves by half the spread of the codebook at most, or by a 32nd of its way, if that is
    more. Where vectors have run away from their codes, as those of a young encoder do from a
    codebook that learns by gradient, samples lie where the decoder has never been, and its
    error leaps. Codes that follow in small steps take the decoder along. The spread is the root
    of the mean squared distance of the codes from their mean; where it is 0, nothing limits a
    move.

    Args:
        samples: of the codes that are revived, (P, k, d); the others do not count.
        revived: which codes are, (P, k) bool.
        centroids: before they move, (P, k, d).
        metric: "euclidean" or "cosine".

    Returns:
        centroids (P, k, d), of the dtype of the samples.
    """
    centroids = centroids.to(samples.dtype)  # those that learn by gradient may be of half precision
    most = int(revived.sum(dim=-1).max())
    if not most:
        return centroids
    codes = revived.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[:, :most]
    index = codes.unsqueeze(-1).expand(-1, -1, samples.shape[-1])
    targets = samples.gather(1, index)
    start = centroids.gather(1, nearest(targets, centroids).unsqueeze(-1).expand_as(index))
    way = targets - start
    length: Tensor = torch.linalg.vector_norm(way, dim=-1, keepdim=True)
    spread = centroids.var(dim=1, correction=0).sum(dim=-1).sqrt().view(-1, 1, 1)
    share = REACH * spread / length.where(length > 0, 1.0)
    reached = start + way * share.clamp(min=LEAST_WAY)
    if metric == "cosine":
        reached = unit_rows(reached)
    moved = centroids.scatter(1, index, reached.where((share < 1) & (spread > 0), targets))
    return moved.where(revived.unsqueeze(-1), centroids)
