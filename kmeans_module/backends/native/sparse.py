"""Repeated E-steps, and seeding, on the same sparse rows by the C++ kernel."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from kmeans_module.backends.native.calls import (
    kernel_centroids,
    refuse_modes,
    sparse_struct,
    unit_rows,
)
from kmeans_module.backends.native.interface import ResultStruct, SparseStruct
from kmeans_module.backends.native.library import address, loaded, packed
from kmeans_module.backends.sparse import sparse_farthest, sparse_stats_of_labels, sparse_weights
from kmeans_module.core.distances import compute_dtype
from kmeans_module.core.guard import version_of
from kmeans_module.core.sparse import with_numbers
from kmeans_module.core.statistics import ClusterStats, EStep


class NativeSparseWorkspace:
    """See :class:`kmeans_module.backends.Workspace`.

    Labels and distances are those of the whole rows, bit for bit. The inertia of
    :meth:`statistics`, and distances of seeding, are those of products in float64.

    Args:
        x: sparse rows on the CPU, (n, d).
        sample_weight: (n,) or (P, n); None for weight 1.
        metric: "euclidean" or "cosine".
        dtype: of the centroids; None for that of x, or float32.
    """

    together = False

    changed: Tensor
    labels: Tensor

    def __init__(
        self,
        x: Tensor,
        sample_weight: Tensor | None = None,
        *,
        metric: str = "euclidean",
        dtype: torch.dtype | None = None,
    ) -> None:
        self.x = x
        self.metric = metric
        self.dtype = compute_dtype(x, x.dtype if dtype is None else dtype)
        if sample_weight is not None:
            sample_weight = packed(sample_weight.to(torch.float64))
        self.sample_weight = sample_weight
        self.n, self.d = x.shape
        # As the kernel reads them: a copy only of what is of another type.
        self._starts = packed(x.crow_indices().to(torch.int64))
        self._columns = packed(x.col_indices().to(torch.int32))
        self._values = packed(x.values().to(self.dtype))
        if metric == "cosine":
            unit = torch.empty_like(self._values)
            self._call("km_sparse_unit", self._struct(None), unit.data_ptr())
            self._values = unit
        several = sample_weight is not None and sample_weight.ndim == 2
        weights = list(sample_weight) if several else [sample_weight]  # type: ignore[arg-type]
        self._structs = [self._struct(weight) for weight in weights]
        self._known: tuple[int, int, int] | None = None  # problems, k and version of the labels

    def _struct(self, weight: Tensor | None) -> SparseStruct:
        return sparse_struct(self._starts, self._columns, self._values, weight, self.d, self.metric)

    @cached_property
    def _rows(self) -> Tensor:
        """The rows in the space of the metric."""
        return with_numbers(self.x, self._values)

    def _weights(self, problems: int) -> Tensor:
        return sparse_weights(self._rows, self.sample_weight, metric=self.metric, problems=problems)

    def assign(self, centroids: Tensor) -> tuple[Tensor, Tensor | bool]:
        refuse_modes()
        labels = torch.empty((len(centroids), self.n), dtype=torch.int64, device="cpu")
        inertia = self._search(centroids, labels, warm=False)[1]
        return labels, inertia.isfinite().all()

    def e_step(self, centroids: Tensor, *, start: int = 0) -> EStep:
        distances = torch.empty((len(centroids), self.n), dtype=self.dtype, device="cpu")
        stats = self._step(centroids, distances)
        if bool((stats.counts == 0).any()):
            stats = self._with_farthest(stats, distances, start)
        return EStep(self.labels, distances, stats)

    def statistics(
        self, centroids: Tensor, *, start: int = 0, farthest: bool = True
    ) -> ClusterStats:
        stats = self._step(centroids, None)
        if farthest and bool((stats.counts == 0).any()):
            stats = self._with_farthest(stats, self._label_distances(centroids), start)
        return stats

    def _with_farthest(self, stats: ClusterStats, distances: Tensor, start: int) -> ClusterStats:
        """Statistics with the samples to fill the empty clusters with, at distances (P, n)."""
        problems, k = stats.counts.shape
        farthest = sparse_farthest(
            self.x, self._weights(problems), self.labels, distances, k, metric=self.metric,
            start=start,
        )  # fmt: skip
        return ClusterStats(stats.sums, stats.counts, stats.inertia, farthest)

    def _label_distances(self, centroids: Tensor) -> Tensor:
        """Of each row to the centroid of its label, (P, n): the bits that an E-step writes."""
        distances = torch.empty(self.labels.shape, dtype=self.dtype, device="cpu")
        centroids = kernel_centroids(centroids, self.d, self.dtype)
        for p in range(len(centroids)):
            self._call(
                "km_sparse_label_distances", self._of(p), address(centroids, p),
                centroids.shape[1], address(self.labels, p), address(distances, p),
            )  # fmt: skip
        return distances

    def _step(self, centroids: Tensor, distances: Tensor | None) -> ClusterStats:
        """An E-step that leaves its labels in the workspace."""
        refuse_modes()
        problems, k, d = centroids.shape
        warm = self._known is not None and self._known == (problems, k, version_of(self.labels))
        if not warm:
            self.labels = torch.empty((problems, self.n), dtype=torch.int64, device="cpu")
            self._known = problems, k, version_of(self.labels)
        sums = torch.empty((problems, k, d), dtype=torch.float64, device="cpu")
        counts = torch.empty((problems, k), dtype=torch.float64, device="cpu")
        self.changed, inertia = self._search(
            centroids, self.labels, warm=warm, distances=distances, sums=sums, counts=counts
        )
        return ClusterStats(sums, counts, inertia)

    def _search(
        self, centroids: Tensor, labels: Tensor, *, warm: bool, **results: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Labels that changed, and inertia, (P,); the rest goes where results say."""
        inertia = torch.empty(len(centroids), dtype=torch.float64, device="cpu")
        changed = torch.empty(len(centroids), dtype=torch.int64, device="cpu")
        centroids = kernel_centroids(centroids, self.d, self.dtype)
        for p in range(len(centroids)):
            pointers = {
                name: address(result, p) for name, result in results.items() if result is not None
            }
            result = ResultStruct(
                address(labels, p), inertia=address(inertia, p), changed=address(changed, p),
                warm=warm, **pointers,
            )  # fmt: skip
            self._call(
                "km_sparse_e_step", self._of(p), address(centroids, p), centroids.shape[1], result
            )
        return changed, inertia

    def distances(self, centroids: Tensor) -> Tensor:
        """Squared distances (n, k) to centroids (k, d), or 1 - cos: by products in float64."""
        refuse_modes()
        centroids = kernel_centroids(centroids, self.d, self.dtype)
        if self.metric == "cosine":
            centroids = unit_rows(centroids)
        distances = torch.empty((self.n, len(centroids)), dtype=self.dtype, device="cpu")
        self._call(
            "km_sparse_distances", self._of(0), centroids.data_ptr(), len(centroids),
            distances.data_ptr(),
        )  # fmt: skip
        return distances

    def rounds(self, center: Tensor, numbers: Tensor, drawn_by: Tensor | None) -> None:
        return None

    def sums_of(self, labels: Tensor, k: int) -> ClusterStats:
        return sparse_stats_of_labels(self._rows, self._weights(len(labels)), labels, k)

    def potentials(self, nearest: Tensor, candidates: Tensor) -> Tensor:
        refuse_modes()
        potential = torch.empty(candidates.shape[:2], dtype=torch.float64, device="cpu")
        candidates = kernel_centroids(candidates, self.d, self.dtype)
        nearest = packed(nearest.to(self.dtype))
        for p in range(len(candidates)):
            self._call(
                "km_sparse_potentials", self._of(p), address(nearest, p), address(candidates, p),
                candidates.shape[1], address(potential, p),
            )  # fmt: skip
        return potential

    def lower(self, nearest: Tensor, center: Tensor) -> None:
        refuse_modes()
        center = kernel_centroids(center, self.d, self.dtype)
        lowered = packed(nearest.to(self.dtype))
        for p in range(len(lowered)):
            self._call("km_sparse_lower", self._of(p), address(lowered, p), address(center, p))
        if lowered is not nearest:
            nearest.copy_(lowered)

    def _of(self, p: int) -> SparseStruct:
        return self._structs[p] if len(self._structs) > 1 else self._structs[0]

    def _call(self, function: str, *arguments: object) -> None:
        if getattr(loaded(), function)(*arguments, torch.get_num_threads()):
            raise MemoryError(f"no memory for sparse rows {(self.n, self.d)}")
