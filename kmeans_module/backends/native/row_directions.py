"""Directions along which the kernel bounds distances of the rows of a workspace."""

from __future__ import annotations

import logging
from collections.abc import Callable

from torch import Tensor

from kmeans_module.backends.native.directions import (
    SAMPLE,
    Directions,
    find_directions,
    find_directions_for_seeding,
    worthwhile,
)
from kmeans_module.backends.native.memory import Memory
from kmeans_module.core.distances import full_precision, unit_rows

log = logging.getLogger(__name__)

# Whether directions pay for seeding depends on how many centers seeding will find, which a
# workspace is not told: it assumes this number.
_ASSUMED_CENTERS = 512


class RowDirections:
    """Gives the memory of each problem directions of its rows, where that pays.

    Args:
        x: the rows, (n, d) or (P, n, d).
        metric: "euclidean" or "cosine".

    Attributes:
        pay_for_seeding: whether seeding is to be given directions.
    """

    def __init__(self, x: Tensor, *, metric: str) -> None:
        self.x = x
        self.metric = metric
        self.pay_for_seeding = worthwhile(x.shape[-2], _ASSUMED_CENTERS, x.shape[-1])

    def pay(self, n_clusters: int, *, once: bool) -> bool:
        """Whether searches, or a single one, can win from directions."""
        return worthwhile(self.x.shape[-2], n_clusters, self.x.shape[-1], once=once)

    def for_search(self, memory: Memory, p: int, centroids: Tensor, *, once: bool) -> None:
        """Directions to discard centroids by.

        Args:
            memory: of problem p.
            p: problem.
            centroids: (k, d), of the type that distances are computed in.
            once: whether a single search is all.
        """
        d = self.x.shape[-1]
        # 2 bytes a coordinate: those that are kept take at most a quarter of the memory of the
        # rows, and leave another quarter to bounds.
        most = d - 1 if once else d * centroids.dtype.itemsize // 8 - 1
        self._use(
            memory, p, "a search", self.pay(len(centroids), once=once), centroids,
            lambda rows: find_directions(rows, centroids, most=most, once=once),
        )  # fmt: skip

    def for_seeding(self, memory: Memory, p: int, candidates: Tensor) -> None:
        """Directions to discard candidates (m, d) by; each round reads the coordinates again."""
        most = self.x.shape[-1] * candidates.dtype.itemsize // 4 - 1
        self._use(
            memory, p, "seeding", self.pay_for_seeding, candidates,
            lambda rows: find_directions_for_seeding(rows, n_candidates=len(candidates), most=most),
        )  # fmt: skip

    def _use(
        self, memory: Memory, p: int, purpose: str, pays: bool, like: Tensor,
        find: Callable[[Tensor], Directions | None],
    ) -> None:  # fmt: skip
        """Use the directions of a purpose, "a search" or "seeding", from here on.

        Where they pay and are not known they are found, on a sample of the rows of the dtype of
        `like`.
        """
        if pays and purpose not in memory.directions_for:
            # Under autocast directions would not be orthonormal to float32, and bounds wrong.
            with full_precision(self.x.device):
                leading = memory.directions_for[purpose] = find(self._sample(p, like))
            number = f"{len(leading.basis)} directions of" if leading else "all"
            log.debug("bounds of %s from %s %d features", purpose, number, self.x.shape[-1])
        memory.use(memory.directions_for.get(purpose), n_features=self.x.shape[-1])

    def _sample(self, p: int, like: Tensor) -> Tensor:
        x = self.x if self.x.ndim == 2 else self.x[p]
        sample = x[:: len(x) // SAMPLE][:SAMPLE].to(like.dtype)
        return unit_rows(sample) if self.metric == "cosine" else sample
