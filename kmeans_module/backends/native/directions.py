"""Few directions along which most centroids can be told to be farther than the nearest.

A search that knows the leading principal directions of the rows discards centroids by a bound
on the distance (see csrc/kernel/many/block-inl.h). How many directions pay depends on the data:
they are tried on a sample. Directions only save time; whatever they are, the search is exact.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SAMPLE = 1024
_TRIED = 128
# With the norm of what they leave out, a multiple of 16 numbers.
_NUMBERS = (15, 31, 63, 95, 127, 191, 255)
# Below so many products of features, finding directions costs more than they save.
_WORTHWHILE = 1 << 27


class Directions(NamedTuple):
    """What a search measures along before it measures all features.

    Attributes:
        basis: orthonormal directions, the leading ones first, (p, d) float32.
        center: the origin, (d,) float32.
    """

    basis: Tensor
    center: Tensor


def worthwhile(n: int, k: int, d: int, *, once: bool = False) -> bool:
    """Whether a search for directions can pay on n rows, which are searched once or often."""
    least = (16 if once else 4) * SAMPLE
    return k >= 32 and d >= 24 and n >= least and n * k * d >= _WORTHWHILE


def find_directions(
    rows: Tensor, centroids: Tensor, *, most: int, once: bool = False
) -> Directions | None:
    """The directions with which a search costs least; None where all features cost less.

    Args:
        rows: a sample of the rows, (m, d).
        centroids: (k, d).
        most: how many directions there may be.
        once: whether the rows are searched a single time, so that their coordinates have to
            pay at once; else the centroids are taken to become means of the rows.
    """
    rows = rows.to(torch.float32)
    center = rows.mean(dim=0)
    rows, centroids = rows - center, centroids.to(torch.float32) - center
    k, d = centroids.shape
    basis = _principal(rows, min(most, len(rows), d, _NUMBERS[-1]))
    if not basis.isfinite().all():
        return None
    survivors = _survivors(rows, centroids, basis)
    if not once:  # at first the centroids are those given, later means
        later = _survivors(rows, _moved(rows, centroids), basis)
        survivors = {p: (number + later[p]) / 2 for p, number in survivors.items()}
    best, cheapest = 0, 0.9 * (_scores(k, d) + _distances(1, d))
    for p, number in survivors.items():
        along = 0.07 * d * p * (1.0 if once else 0.1)
        cost = _scores(k, p + 1) + _distances(number, d) + along
        if cost < cheapest:
            best, cheapest = p, cost
    return Directions(basis[:best].contiguous(), center) if best else None


def find_directions_for_seeding(rows: Tensor, *, n_candidates: int, most: int) -> Directions | None:
    """The directions with which potentials of candidates cost least; None for all features.

    Args:
        rows: a sample of the rows, (m, d).
        n_candidates: how many are measured together, again and again.
        most: how many directions there may be.
    """
    rows = rows.to(torch.float32)
    center = rows.mean(dim=0)
    rows = rows - center
    d = rows.shape[1]
    basis = _principal(rows, min(most, len(rows), d, _NUMBERS[-1]))
    if not basis.isfinite().all():
        return None
    # As in the midst of seeding: candidates come by their squared distance to the nearest centre.
    centers, candidates, rows = rows[::4], rows[1::4], rows[2::4]
    nearest = torch.cdist(candidates, centers).amin(dim=1).square()
    weight = nearest / nearest.sum().clamp(min=torch.finfo().tiny)
    reach = torch.cdist(rows, centers).amin(dim=1, keepdim=True).square()

    def cost(numbers: int, share: float) -> float:
        read = 0.5 * numbers  # coordinates come from memory every time, as rows do that are near
        return _scores(n_candidates, numbers) + read + n_candidates * share * (200 + 0.3 * d)

    best, cheapest = 0, 0.9 * cost(d, 1 / len(centers))
    for p, share in _survivors(rows, candidates, basis, reach=reach, weight=weight).items():
        if (found := cost(p + 1, share)) < cheapest:
            best, cheapest = p, found
    return Directions(basis[:best].contiguous(), center) if best else None


def _survivors(
    rows: Tensor,
    centroids: Tensor,
    basis: Tensor,
    *,
    reach: Tensor | None = None,
    weight: Tensor | None = None,
) -> dict[int, float]:
    """How many centroids the bound of the first directions leaves a row, for numbers of them.

    Args:
        rows: (m, d).
        centroids: (k, d).
        basis: orthonormal directions, (p, d).
        reach: squared distance within which a centroid matters to a row, (m, 1); by default that
            of the nearest.
        weight: what a centroid counts for, (k,); by default 1.
    """
    every = max(1, len(rows) // _TRIED)
    rows, reach = rows[::every], None if reach is None else reach[::every]
    row_norms = rows.square().sum(dim=1, keepdim=True)
    norms = centroids.square().sum(dim=1)
    if reach is None:
        distances = torch.addmm(row_norms + norms, rows, centroids.T, alpha=-2)
        reach = distances.amin(dim=1, keepdim=True)
    if weight is None:
        weight = torch.ones_like(norms)
    row_coordinates, coordinates = rows @ basis.T, centroids @ basis.T
    survivors = {}
    for p in _NUMBERS:
        if p > len(basis):
            break
        part, parts = row_coordinates[:, :p], coordinates[:, :p]
        row_rest = (row_norms - part.square().sum(dim=1, keepdim=True)).clamp(min=0).sqrt()
        rest = (norms - parts.square().sum(dim=1)).clamp(min=0).sqrt()
        bounds = row_norms + norms - 2 * (part @ parts.T + row_rest * rest)
        survivors[p] = float(((bounds <= reach).float() @ weight).mean())
    return survivors


def _moved(rows: Tensor, centroids: Tensor) -> Tensor:
    """The centroids after one iteration on the sample."""
    labels = torch.addmm(centroids.square().sum(dim=1), rows, centroids.T, alpha=-2).argmin(dim=1)
    counts = torch.bincount(labels, minlength=len(centroids)) + 1
    return centroids.index_add(0, labels, rows) / counts.unsqueeze(1)


def _scores(k: int, width: int) -> float:
    """Processor cycles of the scores of a row with all centroids, about."""
    return k * (0.026 * width + 1.7)


def _distances(number: float, d: int) -> float:
    """Of distances of a row that are measured along all features."""
    return number * (0.3 * d + 50)


def _principal(rows: Tensor, p: int) -> Tensor:
    """About the p leading principal directions of centered rows (m, d): (p, d), by a few
    subspace iterations (Halko, Martinsson & Tropp, SIAM Review 2011, section 4.5)."""
    start = rows[:: len(rows) // p][:p].T
    basis = torch.linalg.qr(start).Q
    for _ in range(2):
        basis = torch.linalg.qr(rows.T @ (rows @ basis)).Q
    seen = rows @ basis
    order = torch.linalg.eigh(seen.T @ seen).eigenvectors.flip(-1)
    principal: Tensor = (basis @ order).T
    return principal
