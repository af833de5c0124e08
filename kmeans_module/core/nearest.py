r"""The nearest centroid in plain torch: products discard, one Σ(x - c)² decides.

The score ½‖c - o‖² - (x - o)·(c - o) differs from ½‖x - c‖² by a constant of the row, so both
have the same least centroid. What rounding takes of it is at most

.. math:: E = g\,(\tfrac12\|c - o\|^2 + \|x - o\|\,\|c - o\|), \qquad g = (d + 8)\,\epsilon

(Higham, Accuracy and Stability of Numerical Algorithms, section 3.1: γ_d of an inner product).
A centroid is discarded where its score - E exceeds the least score + E. One far centroid or one
far row makes E large and loses no label: more centroids remain to be measured.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kmeans_module.core import distances
from kmeans_module.core.distances import full_precision, squared_norms
from kmeans_module.core.guard import for_onnx
from kmeans_module.core.statistics import gather_rows

# Of a graph that is fixed: numbers of a row's direct distances to all centroids, and how many
# centroids are measured where these are more.
_FIXED_ELEMENTS, _FIXED_CANDIDATES = 1 << 12, 16


class Screened(NamedTuple):
    """Bounds of the scores of rows, as products give them.

    Attributes:
        lower: lower bounds of the scores, (P, m, k).
        least: the least lower bound of each row, (P, m).
        labels: the centroid of that bound, (P, m).
        limit: upper bound of the least score, (P, m); centroids with a lower bound above it are
            not nearest.
    """

    lower: Tensor
    least: Tensor
    labels: Tensor
    limit: Tensor


class Screen:
    """The search for the nearest of given centroids.

    Args:
        centroids: (P, k, d), of the dtype to compute in.
    """

    def __init__(self, centroids: Tensor) -> None:
        self.centroids = centroids
        self.offset = distances.central(centroids)
        centered = centroids - self.offset
        d = centroids.shape[-1]
        info = torch.finfo(centroids.dtype)
        self.margin = 1.125 * (d + 8) * info.eps  # the eighth is for rounding of the bound itself
        self.underflow = 4 * (d + 8) * info.tiny
        self.half_norms = centered.square().sum(-1) / 2
        self.norms = (2 * self.half_norms).sqrt()
        # One more feature makes the product less E; up to a multiple of 4 it costs nothing.
        self.padding = -(d + 1) % 4
        self.factors = self._joined(centered, self.norms.unsqueeze(-1)).transpose(1, 2)
        self.bias = (self.half_norms * (1 - self.margin)).unsqueeze(1)

    @property
    def fixed_width(self) -> int:
        """Numbers of a row in :meth:`decide_in_a_fixed_graph`."""
        k, d = self.centroids.shape[1:]
        return k * d if self._measures_all else k + _FIXED_CANDIDATES * d

    @property
    def _measures_all(self) -> bool:
        k, d = self.centroids.shape[1:]
        return k * d <= _FIXED_ELEMENTS or k <= _FIXED_CANDIDATES

    def _joined(self, centered: Tensor, feature: Tensor) -> Tensor:
        nothing = centered.new_zeros((*centered.shape[:-1], self.padding))
        return torch.cat([centered, feature, nothing], dim=-1)

    def screen(self, rows: Tensor) -> Screened:
        """Bounds of the scores of rows (m, d) or (P, m, d)."""
        centered = rows - self.offset
        norms = torch.linalg.vector_norm(centered, dim=-1)
        factors = self._joined(centered, (norms * self.margin).unsqueeze(-1))
        with full_precision(rows.device):
            lower = torch.baddbmm(self.bias, factors, self.factors, alpha=-1)
        least, labels = lower.min(dim=-1)
        error = self.half_norms.gather(-1, labels) + norms * self.norms.gather(-1, labels)
        return Screened(lower, least, labels, least + 2 * self.margin * error + self.underflow)

    def guess(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Labels (P, m), whether another centroid might be the nearest (P, m), and whether all
        scores are finite ()."""
        lower, least, labels, limit = self.screen(rows)
        second = lower.scatter_(-1, labels.unsqueeze(-1), torch.inf).amin(dim=-1)
        return labels, second <= limit, least.isfinite().all()

    def decide(self, rows: Tensor) -> Tensor:
        """Labels (P, m) of rows (P, m, d): Σ(x - c)² of all centroids that are not discarded,
        ties to the lowest index."""
        lower, _, _, limit = self.screen(rows)
        problem, row, cluster = (lower <= limit.unsqueeze(-1)).nonzero(as_tuple=True)
        measured = lower.fill_(torch.inf)
        kind = "cpu" if rows.device.type == "cpu" else "accelerator"
        size = max(1, distances.CHUNK_ELEMENTS[kind] // (4 * rows.shape[-1]))
        for first in range(0, len(row), size):
            pairs = tuple(index[first : first + size] for index in (problem, row, cluster))
            difference = rows[pairs[:2]] - self.centroids[pairs[0], pairs[2]]
            measured[pairs] = squared_norms(difference)
        return measured.argmin(dim=-1)

    def decide_in_a_fixed_graph(self, rows: Tensor) -> Tensor:
        """Labels (P, m) of rows (m, d) or (P, m, d) for code that is recorded: the same centroids
        are measured whatever the numbers. All of them, or where these would be many numbers the
        16 of least score.
        """
        d = rows.shape[-1]
        rows = rows.unsqueeze(-2)
        if self._measures_all:
            return _nearest_of(rows, self.centroids.unsqueeze(1)).squeeze(-1)
        lower = self.screen(rows.squeeze(-2)).lower
        nearby = lower.topk(_FIXED_CANDIDATES, dim=-1, largest=False).indices.sort(dim=-1).values
        centroids = gather_rows(self.centroids, nearby.flatten(1)).view(*nearby.shape, d)
        return nearby.gather(-1, _nearest_of(rows, centroids)).squeeze(-1)


def _nearest_of(rows: Tensor, centroids: Tensor) -> Tensor:
    """Indices (P, m, 1) of the nearest of centroids (P, m or 1, k, d) to rows (..., m, 1, d)."""
    nearest = squared_norms(rows - centroids).argmin(dim=-1, keepdim=True)
    if not for_onnx():
        return nearest
    # Runtimes add up in an order that depends on the place in memory: of equal centroids, whose
    # distances rounding may tell apart, the first one is looked for.
    k, d = centroids.shape[-2:]
    centroids = centroids.expand(*nearest.shape[:-1], k, d)
    index = nearest.unsqueeze(-1).expand(*nearest.shape, d)
    others = (centroids != centroids.gather(-2, index)).any(dim=-1)
    return others.to(torch.int32).argmin(dim=-1, keepdim=True)
