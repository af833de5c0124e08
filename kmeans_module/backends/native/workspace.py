"""Repeated E-steps, and seeding, on the same rows by the C++ kernel."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from kmeans_module.backends.native.calls import kernel_centroids, refuse_modes, rows_structs
from kmeans_module.backends.native.interface import ResultStruct, RowsStruct
from kmeans_module.backends.native.library import address, aligned, loaded, packed
from kmeans_module.backends.native.memory import BeyondFloat32Error, Memory
from kmeans_module.backends.native.row_directions import RowDirections
from kmeans_module.core.distances import declared_dtype
from kmeans_module.core.guard import version_of
from kmeans_module.core.statistics import (
    MAX_FARTHEST,
    ClusterStats,
    EStep,
    find_farthest,
    rows_and_weights,
    stats_of_labels,
)

_Result = TypeVar("_Result")

# Below so many rows, sorting them into boxes costs more than the boxes save.
_LEAST_ROWS_TO_SORT = 4096


def has_empty(counts: Tensor) -> bool:
    """Whether a cluster weighs nothing."""
    return bool(np.count_nonzero(counts.numpy()) < counts.numel())


class NativeWorkspace:
    """See :class:`kmeans_module.backends.Workspace`.

    Args:
        x: rows of floats, integers or bool on the CPU, (n, d) or (P, n, d).
        sample_weight: (n,) or (P, n); None for weight 1.
        metric: "euclidean" or "cosine".
        dtype: of the centroids; None for that of x, or float32.
        once: whether a single E-step follows, so that nothing is worth keeping.

    Attributes:
        dtype: the type that distances are computed in; becomes float64 with the first E-step of
            rows that hold integers beyond 2^24.
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
        once: bool = False,
    ) -> None:
        self.x = aligned(x)
        self.dtype = declared_dtype(x, x.dtype if dtype is None else dtype)
        self.metric = metric
        if sample_weight is not None:
            sample_weight = packed(sample_weight.to(torch.float64))
        self.sample_weight = sample_weight
        self.memories: list[Memory] = []
        self._once = once
        self._library = loaded()
        self._beyond = ctypes.c_int32()
        self._rows = self._structs(sample_weight)
        self._seeding_weight: Tensor | None = None
        self._labels_version = 0
        self._k = 0
        self._uses_directions = self._remembers = False
        self._directions = RowDirections(x, metric=metric)
        self._results: list[ResultStruct] = []

    def assign(self, centroids: Tensor) -> tuple[Tensor, Tensor | bool]:
        refuse_modes()
        return self._in_dtype(self._assign, centroids)

    def _assign(self, centroids: Tensor) -> tuple[Tensor, Tensor]:
        problems, n = len(centroids), self.x.shape[-2]
        labels = torch.empty((problems, n), dtype=torch.int64, device="cpu")
        inertia = torch.empty(problems, dtype=torch.float64, device="cpu")
        changed = torch.empty(problems, dtype=torch.int64, device="cpu")
        centroids = self._ready(centroids)
        uses_directions = self._directions.pay(centroids.shape[1], once=True)
        for p in range(problems):
            memory = None
            if uses_directions:
                memory = Memory()
                self._directions.for_search(memory, p, centroids[p], once=True)
            result = ResultStruct(
                address(labels, p), inertia=address(inertia, p), changed=address(changed, p)
            )
            self._call(
                "km_e_step", self._of(self._rows, p), address(centroids, p), centroids.shape[1],
                result, memory and memory.handle,
            )  # fmt: skip
        return labels, inertia.isfinite().all()

    def e_step(self, centroids: Tensor, *, start: int = 0) -> EStep:
        refuse_modes()
        stats, distances = self._in_dtype(self._search, centroids, True)
        assert distances is not None
        if has_empty(stats.counts):
            stats = self._with_farthest(stats, distances, start)
        return EStep(self.labels, distances, stats)

    def statistics(
        self, centroids: Tensor, *, start: int = 0, farthest: bool = True
    ) -> ClusterStats:
        refuse_modes()
        stats, _ = self._in_dtype(self._search, centroids, False)
        if farthest and has_empty(stats.counts):
            stats = self._with_farthest(stats, self._label_distances(centroids), start)
        return stats

    def _with_farthest(self, stats: ClusterStats, distances: Tensor, start: int) -> ClusterStats:
        """Statistics with the samples to fill the empty clusters with, at distances (P, n)."""
        problems, k, d = stats.sums.shape
        farthest = find_farthest(
            lambda part: rows_and_weights(
                self.x, self.sample_weight, part, metric=self.metric, dtype=self.dtype,
                problems=problems,
            ),
            self.labels, distances, n_features=d, m=min(k, MAX_FARTHEST), start=start,
        )  # fmt: skip
        return ClusterStats(stats.sums, stats.counts, stats.inertia, farthest)

    def _label_distances(self, centroids: Tensor) -> Tensor:
        """Of each row to the centroid of its label, (P, n): the bits that an E-step writes, which
        left them out since it does without most of them."""
        distances = torch.empty(self.labels.shape, dtype=self.dtype, device="cpu")
        centroids = self._ready(centroids)
        for p in range(len(centroids)):
            self._call(
                "km_label_distances", self._of(self._rows, p), address(centroids, p),
                centroids.shape[1], address(self.labels, p), address(distances, p),
            )  # fmt: skip
        return distances

    def _in_dtype(self, call: Callable[..., _Result], *arguments: object) -> _Result:
        """What a call returns, which is repeated in float64 where float32 cannot hold the rows."""
        try:
            return call(*arguments)
        except BeyondFloat32Error:
            self.dtype = torch.float64
            self._rows, self.memories, self._k = self._structs(self.sample_weight), [], 0
            self.__dict__.pop("_seeding_rows", None)
            return call(*arguments)

    def _search(self, centroids: Tensor, measures: bool) -> tuple[ClusterStats, Tensor | None]:
        """An E-step that leaves its labels in the workspace.

        Args:
            centroids: (P, k, d).
            measures: whether to return distances (P, n); without, bounds may spare most of them.
        """
        problems, k, d = centroids.shape
        distances = None
        if measures:
            distances = torch.empty((problems, self.x.shape[-2]), dtype=self.dtype, device="cpu")
        # Labels of the last call are the guesses of this one, unless a caller wrote into them.
        warm = len(self.memories) == problems and self._k == k
        warm = warm and self._labels_version == version_of(self.labels)
        if not warm:
            self._start(problems, k)
        sums = torch.empty((problems, k, d), dtype=torch.float64, device="cpu")
        counts = torch.empty((problems, k), dtype=torch.float64, device="cpu")
        inertia = torch.empty(problems, dtype=torch.float64, device="cpu")
        self.changed = torch.empty(problems, dtype=torch.int64, device="cpu")
        centroids = self._ready(centroids)
        pointers = sums.data_ptr(), counts.data_ptr(), inertia.data_ptr(), self.changed.data_ptr()
        for p, memory in enumerate(self.memories):
            if self._uses_directions:
                self._directions.for_search(memory, p, centroids[p], once=self._once)
            result = self._results[p]
            result.distances = 0 if distances is None else address(distances, p)
            result.sums = pointers[0] + 8 * p * k * d
            result.counts = pointers[1] + 8 * p * k
            result.inertia = pointers[2] + 8 * p
            result.changed = pointers[3] + 8 * p
            result.warm = warm
            remembers = self._remembers and not (self._once and memory.directions is None)
            self._call(
                "km_e_step",
                self._of(self._rows, p),
                address(centroids, p),
                k,
                result,
                memory.handle if remembers else None,
            )
        return ClusterStats(sums, counts, inertia), distances

    def _start(self, problems: int, k: int) -> None:
        """Get ready for E-steps with another number of centroids."""
        self._memories(problems)
        self._k = k
        n = self.x.shape[-2]
        self._remembers = keeps = self._keeps(problems)
        self._uses_directions = keeps and (
            self._directions.pay(k, once=self._once) or any(m.directions for m in self.memories)
        )
        self.labels = torch.empty((problems, n), dtype=torch.int64, device="cpu")
        self._labels_version = version_of(self.labels)
        self._results = [ResultStruct(address(self.labels, p)) for p in range(problems)]

    def _ready(self, centroids: Tensor) -> Tensor:
        return kernel_centroids(centroids, self.x.shape[-1], self.dtype)

    def _keeps(self, problems: int) -> bool:
        """Whether coordinates and bounds of rows are kept. Together they may take half as much
        memory as the rows, of each problem: too much where several problems share rows."""
        return problems == 1 or self.x.ndim == 3

    def _memories(self, problems: int) -> list[Memory]:
        if len(self.memories) != problems:
            keep = self._keeps(problems) and not self._once
            sort = keep and self.x.shape[-2] >= _LEAST_ROWS_TO_SORT
            self.memories = [Memory(keep=keep, sort=sort) for _ in range(problems)]
            self._k = 0
        return self.memories

    @cached_property
    def _seeding_rows(self) -> list[RowsStruct]:
        """The rows with the weights of seeding: under the cosine metric zero rows weigh 0."""
        if self.metric != "cosine":
            return self._rows
        weight = (self.x != 0).any(dim=-1).to(torch.float64)
        if self.sample_weight is not None:
            weight = weight * self.sample_weight
        self._seeding_weight = packed(weight)  # kept alive for the pointers to it
        return self._structs(self._seeding_weight)

    def rounds(self, center: Tensor, numbers: Tensor, drawn_by: Tensor | None) -> None:
        return None

    def sums_of(self, labels: Tensor, k: int) -> ClusterStats:
        return stats_of_labels(self.x, self.sample_weight, labels, k, metric=self.metric)

    def potentials(self, nearest: Tensor, candidates: Tensor) -> Tensor:
        refuse_modes()
        self._check_nearest(nearest)
        potential = torch.empty(candidates.shape[:2], dtype=torch.float64, device="cpu")
        candidates = self._ready(candidates)
        uses_directions = self._directions.pay_for_seeding and self._keeps(len(candidates))
        for p, memory in enumerate(self._memories(len(candidates))):
            if uses_directions or memory.directions is not None:
                self._directions.for_seeding(memory, p, candidates[p])
            self._call(
                "km_potentials", self._of(self._seeding_rows, p), address(nearest, p),
                address(candidates, p), candidates.shape[1], memory.knows(nearest),
                address(potential, p), memory.handle,
            )  # fmt: skip
            memory.note(nearest)
        return potential

    def lower(self, nearest: Tensor, center: Tensor) -> None:
        refuse_modes()
        self._check_nearest(nearest)
        center = self._ready(center)
        for p, memory in enumerate(self._memories(len(nearest))):
            self._call(
                "km_lower", self._of(self._seeding_rows, p), address(nearest, p),
                address(center, p), memory.knows(nearest), memory.handle,
            )  # fmt: skip
            memory.note(nearest)

    def _structs(self, weight: Tensor | None) -> list[RowsStruct]:
        return rows_structs(self.x, weight, self.metric, self.dtype, self._beyond)

    def _of(self, structs: list[RowsStruct], p: int) -> RowsStruct:
        return structs[p] if len(structs) > 1 else structs[0]

    def _check_nearest(self, nearest: Tensor) -> None:
        """Refuse distances to the nearest center that the kernel cannot write into."""
        if nearest.dtype != self.dtype or nearest.shape[1:] != self.x.shape[-2:-1]:
            raise TypeError(
                f"distances should be {self.dtype} for {self.x.shape[-2]} rows; got "
                f"{nearest.dtype} of shape {tuple(nearest.shape)}"
            )

    def _call(self, function: str, *arguments: object) -> None:
        if getattr(self._library, function)(*arguments, torch.get_num_threads()):
            raise MemoryError(f"no memory for the statistics of {tuple(self.x.shape)} rows")
        if self._beyond.value:
            self._beyond.value = 0
            raise BeyondFloat32Error
