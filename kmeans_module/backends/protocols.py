"""What is asked of a backend, and of the rows that it got ready for repeated E-steps."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from kmeans_module.core.neighbors import Neighbors
from kmeans_module.core.rows import Rounds
from kmeans_module.core.scale import Scale
from kmeans_module.core.statistics import ClusterStats, EStep


class Workspace(Protocol):
    """E-steps, and seeding, on fixed rows; P independent problems in one call.

    Attributes:
        labels: of the last E-step, (P, n) int64; the next one may overwrite them.
        changed: labels that differ from those of the E-step before, (P,); n after the first.
        together: whether problems on the same rows take less time, or less memory for each, in
            one call than one after the other.
    """

    changed: Tensor
    together: bool

    @property
    def labels(self) -> Tensor: ...

    def assign(self, centroids: Tensor) -> tuple[Tensor, Tensor | bool]:
        """Labels (P, n) alone, and whether every row had a finite distance, ()."""

    def e_step(self, centroids: Tensor, *, start: int = 0) -> EStep:
        """Assign every row to the nearest of the centroids (P, k, d) and sum up the clusters.

        The next call may overwrite labels and distances.
        """

    def statistics(
        self, centroids: Tensor, *, start: int = 0, farthest: bool = True
    ) -> ClusterStats:
        """:meth:`e_step` for a loop that needs no distances: it may be faster.

        Without ``farthest`` those samples are not sought either, where a cluster is empty.
        """

    def rounds(self, center: Tensor, numbers: Tensor, drawn_by: Tensor | None) -> Rounds | None:
        """For seeding: k-means++ in rounds that never wait for the host; None where those of the
        caller, by the two methods below, are as good.

        Args:
            center: the first one, (P, 1, d).
            numbers: in [0, 1) that decide the draws, (rounds, P, m).
            drawn_by: weights by which rows are drawn, (P, n); None for weight 1.
        """

    def sums_of(self, labels: Tensor, k: int) -> ClusterStats:
        """Sums and counts of the k clusters of given labels (P, n), wherever centroids are; the
        inertia is NaN. An E-step after it may start afresh."""

    def potentials(self, nearest: Tensor, candidates: Tensor) -> Tensor:
        """For seeding: what nearest (P, n) would sum up to with each candidate (P, m, d)."""

    def lower(self, nearest: Tensor, center: Tensor) -> None:
        """For seeding: lower the distances nearest (P, n) by those to a center (P, 1, d)."""


class Backend(Protocol):
    """One way to compute; what it cannot serve it says in words.

    Attributes:
        name: as in KMEANS_KERNEL.
        device: the type of device whose tensors it serves, or "any device".
        operations: those that are its own; the others it leaves to torch.
    """

    name: str
    device: str
    operations: tuple[str, ...]

    def missing(self) -> str | None:
        """Why it can serve nothing on this machine; None where it can."""

    def serves(self, device: torch.device) -> bool:
        """Whether it reads tensors on such a device."""

    def obstacle(
        self, x: Tensor, dtype: torch.dtype | None = None, operation: str = "e_step"
    ) -> str | None:
        """Why it does not take such rows; None where it does.

        Args:
            x: rows (n, d) or (P, n, d); numbers (P, n) for "sums".
            dtype: of the centroids; None for that of the rows.
            operation: "e_step" (and seeding), "codebook" (steps of quantizers), "unit", "beam",
                "search", "sums" or "moments".
        """

    def workspace(
        self,
        x: Tensor,
        sample_weight: Tensor | None,
        *,
        metric: str,
        dtype: torch.dtype | None = None,
        once: bool,
    ) -> Workspace:
        """See :func:`workspace`."""

    def beam_search(self, x: Tensor, codebooks: Tensor, *, beam_size: int) -> tuple[Tensor, Tensor]:
        """See :func:`beam_search`."""

    def search(self, x: Tensor, centroids: Tensor, m: int, *, metric: str) -> Neighbors:
        """See :func:`search`."""

    def unit_rows(self, x: Tensor) -> Tensor:
        """See :func:`unit_rows`."""

    def sparse_distances(self, x: Tensor, centroids: Tensor, *, metric: str) -> Tensor:
        """See :func:`sparse_distances`."""

    def draw(self, mass: Tensor, size: int, numbers: Tensor) -> tuple[Tensor, bool]:
        """Columns (P, m) of mass (P, n), none negative, drawn in proportion to it; and whether no
        problem lacks mass, for which True stands where the answer would keep the host waiting.

        It goes by sums of blocks of ``size``; numbers (P, m) float64 in [0, 1) decide.
        """

    def block_sums(self, mass: Tensor, size: int, scale: Scale) -> Tensor:
        """Sums of consecutive blocks, each of ``size``, of (P, n) numbers that a scale makes
        integers of: (P, n_blocks) int64."""

    def search_sums(
        self, mass: Tensor, size: int, scale: Scale, blocks: Tensor, target: Tensor
    ) -> Tensor:
        """Where the cumulative sum of these integers exceeds the targets (P, m): (P, m) indices;
        beyond the total, the last one of a number that is not 0."""

    def moments(
        self, x: Tensor, sample_weight: Tensor | None, center: Tensor | None, *, metric: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Extent and sums of the features of rows (n, d) or (P, n, d), all float64.

        Args:
            x: rows.
            sample_weight: (n,) or (P, n), or None; rows of weight 0 do not count in sums.
            center: (P, d) or (1, d), or None.
            metric: "cosine" for sums of rows scaled to length 1.

        Returns:
            smallest and largest value of each feature (d,), without a center; and the sums
            (P, d) or (1, d) of the values or, about a center, of squared differences, which are
            not finite where a value is not.
        """
