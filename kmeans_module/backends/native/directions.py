"""Few directions of space that tell of most centroids that they are not the nearest.

Coordinates along p orthonormal directions, and the norm of what the directions leave out, bound
the distance of a row and a centroid from below (Cauchy and Schwarz). A search discards centroids by
the bound (csrc/kernel/many/coordinates-inl.h) and measures all features for the survivors only. The
leading principal directions of the rows discard most. How many of them pay depends on the data:
numbers of directions are tried on a sample. Whatever the directions are, the search is exact.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kmeans_module.backends.native.interface import LANES, MEASURED_FEATURES

# Rows on which directions are tried; of them, rows whose survivors are counted.
SAMPLE = 1024
_TRIED = 128
# Numbers of directions that are tried. With the norm of the rest, a row has a multiple of 16
# numbers (km_project in csrc/abi/native.h).
_NUMBERS = tuple(LANES * panels - 1 for panels in (1, 2, 4, 6, 8, 12, 16))
# Below so many products of features (n k d), finding directions costs more than they save.
_WORTHWHILE = 1 << 27


class Directions(NamedTuple):
    """Directions along which a search bounds distances before it measures all features.

    Attributes:
        basis: orthonormal directions, the leading ones first, (p, d) float32.
        center: the origin of the coordinates, (d,) float32.
    """

    basis: Tensor
    center: Tensor


def worthwhile(n: int, k: int, d: int, *, once: bool = False) -> bool:
    """Whether directions can pay for n rows and k centroids of d features.

    Args:
        n: rows; a search that happens once has to be larger, since coordinates serve once.
        k: centroids.
        d: features; the kernel bounds distances of seeding above MEASURED_FEATURES only.
        once: whether the rows are searched a single time.
    """
    least = (16 if once else 4) * SAMPLE
    return k >= 32 and d > MEASURED_FEATURES and n >= least and n * k * d >= _WORTHWHILE


def find_directions(
    rows: Tensor, centroids: Tensor, *, most: int, once: bool = False
) -> Directions | None:
    """The number of directions with which a search costs least; None where a search by all
    features costs less.

    Args:
        rows: a sample of the rows, (m, d).
        centroids: (k, d).
        most: directions, at most.
        once: whether the rows are searched a single time, so that their coordinates have to
            pay at once; else the coordinates are kept, and centroids become means of the rows.
    """
    rows = rows.to(torch.float32)
    center = rows.mean(dim=0)
    rows, centroids = rows - center, centroids.to(torch.float32) - center
    k, d = centroids.shape
    basis = _principal(rows, min(most, len(rows), d, _NUMBERS[-1]))
    if not basis.isfinite().all():
        return None
    survivors = _survivors(rows, centroids, basis)
    if not once:  # centroids that are means leave other survivors than the given ones
        later = _survivors(rows, _moved(rows, centroids), basis)
        survivors = {p: (number + later[p]) / 2 for p, number in survivors.items()}
    best, cheapest = 0, 0.9 * (_scores(k, d) + _distances(1, d))
    for p, number in survivors.items():
        # The products of a row with the directions; kept ones serve about ten searches.
        coordinates = 0.07 * d * p * (1.0 if once else 0.1)
        cost = _scores(k, p + 1) + _distances(number, d) + coordinates
        if cost < cheapest:
            best, cheapest = p, cost
    return Directions(basis[:best].contiguous(), center) if best else None


def find_directions_for_seeding(rows: Tensor, *, n_candidates: int, most: int) -> Directions | None:
    """The number of directions with which the potentials of candidates cost least; None where
    potentials by all features cost less.

    Args:
        rows: a sample of the rows, (m, d).
        n_candidates: candidates of a round of k-means++, which are measured together.
        most: directions, at most.
    """
    rows = rows.to(torch.float32)
    center = rows.mean(dim=0)
    rows = rows - center
    d = rows.shape[1]
    basis = _principal(rows, min(most, len(rows), d, _NUMBERS[-1]))
    if not basis.isfinite().all():
        return None
    # A round in the middle of seeding, played on the sample: one quarter of the rows are the
    # centers so far, one quarter the candidates, each as probable as k-means++ draws it, by its
    # squared distance to the nearest center. A candidate matters to a row that is nearer to the
    # candidate than to the nearest center.
    centers, candidates, rows = rows[::4], rows[1::4], rows[2::4]
    nearest = torch.cdist(candidates, centers).amin(dim=1).square()
    probability = nearest / nearest.sum().clamp(min=torch.finfo().tiny)
    reach = torch.cdist(rows, centers).amin(dim=1, keepdim=True).square()

    def cost(numbers: int, share: float) -> float:
        """Cycles of a row with so many numbers, where a share of the candidates survives."""
        read = 0.5 * numbers  # each round reads coordinates from memory, and rows of survivors
        return _scores(n_candidates, numbers) + read + n_candidates * share * (200 + 0.3 * d)

    best, cheapest = 0, 0.9 * cost(d, 1 / len(centers))
    for p, share in _survivors(rows, candidates, basis, reach=reach, weight=probability).items():
        cycles = cost(p + 1, share)
        if cycles < cheapest:
            best, cheapest = p, cycles
    return Directions(basis[:best].contiguous(), center) if best else None


def _survivors(
    rows: Tensor,
    centroids: Tensor,
    basis: Tensor,
    *,
    reach: Tensor | None = None,
    weight: Tensor | None = None,
) -> dict[int, float]:
    """How many centroids survive the bound, on average over the rows, by number of directions.

    Args:
        rows: (m, d).
        centroids: (k, d).
        basis: orthonormal directions, (p, d).
        reach: squared distance within which a centroid matters to a row, (m, 1); by default the
            squared distance to the nearest centroid.
        weight: how much the survival of a centroid counts, (k,); by default 1.
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
        of_rows, of_centroids = row_coordinates[:, :p], coordinates[:, :p]
        # Norms of what the directions leave out; a product of two rests is at most theirs.
        row_rest = (row_norms - of_rows.square().sum(dim=1, keepdim=True)).clamp(min=0).sqrt()
        rest = (norms - of_centroids.square().sum(dim=1)).clamp(min=0).sqrt()
        bounds = row_norms + norms - 2 * (of_rows @ of_centroids.T + row_rest * rest)
        survivors[p] = float(((bounds <= reach).float() @ weight).mean())
    return survivors


def _moved(rows: Tensor, centroids: Tensor) -> Tensor:
    """The centroids after one iteration on the sample."""
    labels = torch.addmm(centroids.square().sum(dim=1), rows, centroids.T, alpha=-2).argmin(dim=1)
    counts = torch.bincount(labels, minlength=len(centroids)) + 1
    return centroids.index_add(0, labels, rows) / counts.unsqueeze(1)


# A search has two cost models, since two decisions are taken. This one chooses the number of
# directions, once, before the first search, from survivors on a sample, in cycles of a processor
# with wide vectors. csrc/kernel/many/costs-inl.h chooses the way through a block of rows in the
# middle of a search, from what the last search saw, in cycles of the instruction set that runs.
# Either changes speed only.
def _scores(k: int, width: int) -> float:
    """Processor cycles of the scores of a row with k centroids, by width numbers each."""
    return k * (0.026 * width + 1.7)


def _distances(number: float, d: int) -> float:
    """Processor cycles of a number of distances of a row, by all features."""
    return number * (0.3 * d + 50)


def _principal(rows: Tensor, p: int) -> Tensor:
    """The p leading principal directions of centered rows (m, d), approximately: (p, d), by two
    subspace iterations (Halko, Martinsson & Tropp, SIAM Review 2011, section 4.5)."""
    start = rows[:: len(rows) // p][:p].T
    basis = torch.linalg.qr(start).Q
    for _ in range(2):
        basis = torch.linalg.qr(rows.T @ (rows @ basis)).Q
    coordinates = rows @ basis
    order = torch.linalg.eigh(coordinates.T @ coordinates).eigenvectors.flip(-1)
    principal: Tensor = (basis @ order).T
    return principal
