"""The nearest centroids of samples, several of each."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Neighbors(NamedTuple):
    """The m nearest centroids of each sample, the nearest first; ties go to the lowest index.

    Attributes:
        distances: squared Euclidean distances, or 1 - cos, (*, m).
        labels: numbers of the centroids, (*, m) int64.
    """

    distances: Tensor
    labels: Tensor

    def reshape(self, *shape: int) -> Neighbors:
        """The same with other leading dimensions, (*shape, m)."""
        m = self.labels.shape[-1]
        return Neighbors(self.distances.reshape(*shape, m), self.labels.reshape(*shape, m))


def ranked(distances: Tensor, labels: Tensor, m: int) -> Neighbors:
    """The m nearest of candidates.

    Args:
        distances: of the candidates, (..., c); NaN counts as infinite.
        labels: their numbers, (..., c), ascending.
        m: how many, at most c.
    """
    distances = distances.where(distances < float("inf"), float("inf"))
    order = distances.sort(dim=-1, stable=True).indices[..., :m]
    return Neighbors(distances.gather(-1, order), labels.gather(-1, order))


def of_unit_rows(neighbors: Neighbors, rows: Tensor) -> Neighbors:
    """Distances 1 - cos in place of those of rows (..., d) at length 1; a zero row is at distance 1
    from all centroids, of which the first ones are its nearest."""
    distances, labels = neighbors
    some = (rows != 0).any(dim=-1, keepdim=True)
    first = labels.new_ones(labels.shape[-1]).cumsum(dim=0) - 1
    return Neighbors((distances / 2).where(some, 1.0), labels.where(some, first))
