"""Codes that get no samples move to where there are some: pure functions, as in learning."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kmeans_module.core.distances import unit_rows
from kmeans_module.core.statistics import gather_rows
from kmeans_module.quantization.decisions import may_be
from kmeans_module.quantization.samples import Samples

BATCHES_TO_LIVE = 8  # of a revived code, without samples
SAMPLES_TO_MISS = 4  # or until a code with an even share would have had so many
REACH = 0.5  # of a revived code, in the spread of the codebook
LEAST_WAY = 1 / 32  # of a revived code to its sample


def least_counts(
    counts: Tensor, *, decay: float | Tensor, threshold: float | Tensor | None
) -> Tensor:
    """Counts below which a code is dead, (P, 1).

    Args:
        counts: decayed, (P, k).
        decay: γ, a number or (P, 1).
        threshold: weight of samples of a batch, on average, a number or (P, 1); None for a tenth
            of an even share.
    """
    if threshold is None:
        return counts.mean(dim=-1, keepdim=True) / 10
    return counts.new_ones((len(counts), 1)) * threshold / (1 - decay)


def batches_to_live(n: Tensor, n_clusters: int) -> Tensor:
    """Batches that a revived code outlives without samples: 8, or where codes are many, as many as
    bring 4 samples to each on average. Before, it is chance that a code gets none.

    Args:
        n: samples of a batch, (P, 1).
        n_clusters: k.
    """
    return (SAMPLES_TO_MISS * n_clusters / n).clamp(min=BATCHES_TO_LIVE)


def revive(
    samples: Samples,
    centroids: Tensor,
    counts: Tensor,
    least: Tensor,
    *,
    decay: float | Tensor,
    lives: float | Tensor = BATCHES_TO_LIVE,
) -> tuple[Tensor, Tensor, Tensor]:
    """Dead codes get the first samples that are known, which they :func:`follow`.

    A revived code gets a count on which it outlives a few batches without samples, an even
    share of the other codes at most: light enough to move, not so light that it dies at once.

    Args:
        samples: of the batch, m for each problem.
        centroids, counts: (P, k, d) and (P, k).
        least: counts below which a code is dead, (P, 1).
        decay: γ, a number or (P, 1).
        lives: of :func:`batches_to_live`, a number or (P, 1).

    Returns:
        centroids; counts, of the same sum; and 1 + the code of the sample of each code that was
        revived, (P, k) int64, or 0: as many are as there are samples to revive them by.
    """
    dead = counts < least
    if not samples.rows.shape[1]:
        return centroids, counts, torch.zeros_like(dead, dtype=torch.int64)
    place, known = dead.cumsum(dim=-1), samples.known.cumsum(dim=-1)
    revived = dead & (place <= known[:, -1:])
    # The first place where so many samples are known.
    index = torch.searchsorted(known, place).clamp(max=known.shape[-1] - 1)
    drawn = gather_rows(samples.rows, index).to(centroids.dtype)
    centroids = drawn.where(revived.unsqueeze(-1), centroids)
    leaders = (samples.codes.gather(-1, index) + 1) * revived
    alive = (~dead).sum(dim=-1, keepdim=True).clamp(min=1)
    share = (counts * ~dead).sum(dim=-1, keepdim=True) / alive
    share = share.where(share > 0, 1.0)
    share = torch.minimum(share, least / decay**lives)  # no limit where γ is 0
    given = share.where(revived, counts)
    # A memory that grows with what it holds would grow by revivals, too.
    given = given * (counts.sum(dim=-1, keepdim=True) / given.sum(dim=-1, keepdim=True))
    return centroids, given, leaders


def follow(samples: Tensor, leaders: Tensor, centroids: Tensor, *, metric: str) -> Tensor:
    """Revived codes move towards their samples, each from the code that its sample had.

    A code moves by half the spread of the codebook at most, or by a 32nd of its way, if that is
    more. Where vectors have run away from their codes, as those of a young encoder do from a
    codebook that learns by gradient, samples lie where the decoder has never been, and its
    error leaps. Codes that follow in small steps take the decoder along. The spread is the root
    of the mean squared distance of the codes from their mean; where it is 0, nothing limits a
    move.

    Args:
        samples: of the codes that are revived, (P, k, d); the others do not count.
        leaders: 1 + the code from which each of them comes, (P, k) int64; 0 of the others.
        centroids: before they move, (P, k, d).
        metric: "euclidean" or "cosine".

    Returns:
        centroids (P, k, d), of the dtype of the samples.
    """
    centroids = centroids.to(samples.dtype)  # those that learn by gradient may be of half precision
    revived = leaders > 0
    if not may_be(revived.any()):
        return centroids
    start = gather_rows(centroids, (leaders - 1).clamp(min=0))
    length: Tensor = torch.linalg.vector_norm(samples - start, dim=-1, keepdim=True)
    spread = centroids.var(dim=1, correction=0).sum(dim=-1).sqrt().view(-1, 1, 1)
    spread = spread.masked_fill(spread == 0, math.inf)
    share = (REACH * spread / length).clamp(LEAST_WAY, 1)
    reached = start.lerp(samples, share)
    if metric == "cosine":
        reached = unit_rows(reached).where(share < 1, samples)
    return reached.where(revived.unsqueeze(-1), centroids)
