"""What an M-step needs of given labels, and what they tell of each label."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor

from kmeans_module.core.statistics import ClusterStats


@dataclass(frozen=True)
class LabelStats(ClusterStats):
    """Statistics of given labels: :class:`ClusterStats`, and squared distances by label.

    Those of disjoint samples add up with ``+``, where distances are to the same centroids.

    Attributes:
        sums, counts, inertia, farthest: see :class:`ClusterStats`.
        inertias: weighted sum of the squared distances of each label, (P, k) float64.
    """

    inertias: Tensor = field(kw_only=True)

    @property
    def means(self) -> Tensor:
        """Weighted mean of the samples of each label, (P, k, d) float64; 0 where there are none."""
        return self.sums / self._weights.unsqueeze(-1)

    @property
    def mean_distances(self) -> Tensor:
        """Weighted mean of the squared distances of each label, (P, k) float64; 0 where there are
        no samples."""
        return self.inertias / self._weights

    @property
    def _weights(self) -> Tensor:
        return self.counts.where(self.counts > 0, 1.0)

    def __add__(self, other: ClusterStats) -> ClusterStats:
        total = super().__add__(other)
        if not isinstance(other, LabelStats):
            return total
        return LabelStats(
            total.sums, total.counts, total.inertia, total.farthest,
            inertias=self.inertias + other.inertias,
        )  # fmt: skip

    def reshape(self, batch_shape: tuple[int, ...]) -> LabelStats:
        flat = super().reshape(batch_shape)
        inertias = self.inertias.reshape(flat.counts.shape)
        return replace(
            self, sums=flat.sums, counts=flat.counts, inertia=flat.inertia, farthest=flat.farthest,
            inertias=inertias,
        )  # fmt: skip
