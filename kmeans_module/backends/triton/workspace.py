"""Repeated E-steps on the same rows by the Triton kernels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kmeans_module.backends.triton import launch
from kmeans_module.backends.triton.kernels import decide, few
from kmeans_module.backends.triton.rows import DeviceRows
from kmeans_module.backends.triton.screening import Screening
from kmeans_module.backends.triton.seeding import CANDIDATES, DeviceRounds, Measure, Weights
from kmeans_module.backends.triton.tiles import TilesLeftOut
from kmeans_module.backends.triton.totals import Totals
from kmeans_module.core.statistics import (
    MAX_FARTHEST,
    ClusterStats,
    EStep,
    Farthest,
    gather_rows,
    no_farthest,
    space_rows,
)

if TYPE_CHECKING:
    from kmeans_module.backends.triton.loop import TritonLoop
    from kmeans_module.core.problem import Problem


class TritonWorkspace:
    """See :class:`kmeans_module.backends.Workspace`.

    Args:
        x: rows of float32, half precision or integers up to 2^24, (n, d) or (P, n, d).
        sample_weight: (n,) or (P, n); None for weight 1.
        metric: "euclidean" or "cosine".
        once: whether one E-step is all.

    Attributes:
        rows: as the kernels read them.
        codes: labels of the last E-step, (P, n) int32.
        active: problems that an E-step looks at, (P,) int8.
    """

    together = True

    changed: Tensor
    codes: Tensor
    active: Tensor

    def __init__(
        self,
        x: Tensor,
        sample_weight: Tensor | None = None,
        *,
        metric: str = "euclidean",
        once: bool = False,
    ) -> None:
        self.x = x
        self.sample_weight = sample_weight
        self.metric = metric
        self.device = x.device
        self.once = once
        with launch.current(x.device):
            self.rows = DeviceRows(x, unit=metric == "cosine", keep=not once)
        self._size: tuple[int, ...] = ()
        self.screening: Screening | None = None
        self._steps = 0
        self._labels: Tensor | None = None

    @property
    def left_out(self) -> TilesLeftOut | None:
        """Where tiles of centroids are left out; None where that does not pay."""
        return None if self.screening is None else self.screening.left_out

    @property
    def labels(self) -> Tensor:
        """Labels of the last E-step, (P, n) int64."""
        if self._labels is None:
            self._labels = self.codes.long()
        return self._labels

    @launch.on_its_device
    def assign(self, centroids: Tensor) -> tuple[Tensor, Tensor | bool]:
        centroids = self._ready(centroids)
        self._start(centroids)
        if self.screening is None:
            self._assign_few(centroids, self.codes)
            labels = self.codes.long()
        else:
            self.screening.run(centroids, first=True)
            labels = self.screening.apply_decisions()
        self._size, self._labels = (), labels  # sums are not of these labels
        if self.device.type == "cuda":
            return labels, True  # a look at the distances would make the host wait
        return labels, self.measure(centroids).isfinite().all()

    @launch.on_its_device
    def statistics(
        self, centroids: Tensor, *, start: int = 0, farthest: bool = True
    ) -> ClusterStats:
        centroids = self._ready(centroids)
        self.update(centroids)
        stats = self.totals.read(centroids)
        if not farthest:
            return stats
        return self._with_farthest(stats, self.measure(centroids), start)

    @launch.on_its_device
    def e_step(self, centroids: Tensor, *, start: int = 0) -> EStep:
        centroids = self._ready(centroids)
        self.update(centroids)
        distances = self.measure(centroids)
        weighted = distances.double()
        if self.sample_weight is not None:
            weighted = weighted * self.sample_weight
        if self.metric == "cosine":
            weighted = weighted * (self.rows.lengths > 0)
        stats = replace(self.totals.read(centroids), inertia=weighted.sum(dim=-1))
        return EStep(self.labels, distances, self._with_farthest(stats, distances, start))

    @launch.on_its_device
    def rounds(
        self, center: Tensor, numbers: Tensor, drawn_by: Tensor | None
    ) -> DeviceRounds | None:
        if numbers.shape[-1] != CANDIDATES:
            return None
        return DeviceRounds(self, self._ready(center), numbers, drawn_by)

    @launch.on_its_device
    def loop(
        self,
        problem: Problem,
        centroids: Tensor,
        *,
        threshold: Tensor,
        max_iter: int,
        told: bool,
    ) -> TritonLoop:
        """Lloyd's algorithm on the device; see :class:`kmeans_module.core.late.Loops`."""
        from kmeans_module.backends.triton.loop import TritonLoop

        centroids = self._ready(centroids).clone()
        return TritonLoop(
            self, problem, centroids, first=self._start(centroids), threshold=threshold,
            max_iter=max_iter, told=told,
        )  # fmt: skip

    @launch.on_its_device
    def sums_of(self, labels: Tensor, k: int) -> ClusterStats:
        if labels is not self._labels:  # which codes are, too
            self.codes = labels.to(torch.int32)
        self._size, self._labels = (), None
        self.changed = torch.zeros(len(labels), dtype=torch.int64, device=self.device)
        self.active = torch.ones_like(self.changed, dtype=torch.int8)
        totals = Totals(self, len(labels), k)
        totals.take(self, first=True, given=True)
        sums, counts = totals.read_sums()
        return ClusterStats(sums, counts, torch.full_like(counts[:, 0], torch.nan))

    @launch.on_its_device
    def potentials(self, nearest: Tensor, candidates: Tensor) -> Tensor:
        problems = len(candidates)
        measure = Measure(self, problems, Weights(self.weights(problems), self.rows.n, self.device))
        found = []
        for some in torch.split(self._ready(candidates), CANDIDATES, dim=1):
            missing = CANDIDATES - some.shape[1]
            filled = torch.cat([some, some[:, :1].expand(-1, missing, -1)], dim=1)
            measure.candidates(filled.contiguous(), nearest.contiguous())
            found.append(measure.partial.sum(dim=1)[:, : some.shape[1]])
        return torch.cat(found, dim=1)

    @launch.on_its_device
    def lower(self, nearest: Tensor, center: Tensor) -> None:
        problems = len(center)
        numbers = torch.zeros(problems, dtype=torch.int32, device=self.device)
        most = torch.zeros(problems, dtype=torch.int64, device=self.device)
        none = Weights(None, self.rows.n, self.device)
        measure = Measure(self, problems, none)
        measure.lower(nearest, self._ready(center), numbers, numbers, most, none, every=True)

    @launch.on_its_device
    def before_step(self, centroids: Tensor, *, first: bool) -> None:
        """What the next E-step needs, and cannot be recorded in a graph; waits for nothing."""
        self._steps = 0 if first else self._steps + 1
        if self.left_out is not None:
            self.left_out.before_step(self._steps, centroids)

    @launch.on_its_device
    def update(self, centroids: Tensor) -> None:
        """Labels of the nearest centroids (P, k, d), and the sums of their clusters."""
        first = self._start(centroids)
        self.before_step(centroids, first=first)
        self.changed = torch.zeros(len(centroids), dtype=torch.int64, device=self.device)
        self.step(centroids, first=first)

    def step(self, centroids: Tensor, *, first: bool) -> None:
        """The E-step of the problems that are active, which takes no new memory but the first
        time: what moved is added to ``changed``."""
        if self.screening is None:
            self._assign_few(centroids, self.next_codes)
        else:
            self.screening.run(centroids, first=first)
        self.totals.take(self, first=first or self.totals.sums is None)
        self._labels = None

    def _ready(self, centroids: Tensor) -> Tensor:
        """Centroids (P, k, d) as the kernels read them."""
        if centroids.shape[-1] != self.rows.d:
            raise ValueError(f"rows have {self.rows.d} features, centroids {centroids.shape[-1]}")
        if torch.promote_types(centroids.dtype, torch.float32) != torch.float32:
            raise TypeError(f"rows are searched in torch.float32, centroids are {centroids.dtype}")
        return centroids.to(torch.float32).contiguous()

    def _start(self, centroids: Tensor) -> bool:
        """Get ready for E-steps with another number of centroids; whether this is the first."""
        problems, k, _ = centroids.shape
        if self._size == (problems, k):
            return False
        if problems > launch.MOST_PROBLEMS:
            raise ValueError(f"a device takes {launch.MOST_PROBLEMS} problems; got {problems}")
        self._size = (problems, k)
        n, device = self.rows.n, self.device
        self.codes = torch.zeros((problems, n), dtype=torch.int32, device=device)
        self.active = torch.ones(problems, dtype=torch.int8, device=device)
        self.totals = Totals(self, problems, k)
        if self.rows.few:
            self.next_codes = torch.empty_like(self.codes)
        else:
            self.screening = Screening(self, problems, k)
        return True

    def _assign_few(self, centroids: Tensor, codes: Tensor) -> None:
        rows = self.rows
        problems, k, d = centroids.shape
        size = 128
        columns = min(4, launch.power_of_two(k))
        few.assign_few[(-(-rows.n // size), problems)](
            rows.x, rows.exponents, rows.lengths, centroids, self.active, codes, *rows.strides,
            rows.frame_stride, rows.n, k, d=d, rows=size, columns=columns, unit=rows.unit,
            num_warps=4,
        )  # fmt: skip

    def measure(self, centroids: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Distance of each row to the centroid of its label, (P, n)."""
        problems, k, d = centroids.shape
        rows, size = self.rows, 32 if not self.rows.few else 256
        distances = torch.empty(self.codes.shape, dtype=torch.float32, device=self.device)
        wanted = torch.ones_like(self.active) if wanted is None else wanted
        decide.measure[(-(-rows.n // size), problems)](
            rows.x, rows.exponents, rows.lengths, centroids, self.codes, wanted, distances,
            *rows.strides, rows.frame_stride, rows.n, d, k,
            rows=size, few=rows.few, unit=rows.unit, num_warps=4,
        )  # fmt: skip
        return distances

    def _with_farthest(self, stats: ClusterStats, distances: Tensor, start: int) -> ClusterStats:
        """The farthest samples, sought in any case: who knows whether one is empty."""
        problems, k, d = stats.sums.shape
        m, n = min(k, MAX_FARTHEST), self.rows.n
        weights = self.weights(problems)
        key = distances if weights is None else distances.where(weights > 0, -1.0)
        # Of equal distances the lowest row comes first: keys are all unlike.
        bits = key.view(torch.int32).long() << 32
        bits = bits | (n - 1 - torch.arange(n, device=self.device))
        order = n - 1 - (bits.topk(min(m, n), dim=-1).values & 0xFFFFFFFF)
        rows = self._rows_at(order)
        ones = torch.ones(order.shape, dtype=torch.float64, device=self.device)
        found = no_farthest(self.labels[:, :0], distances[:, :0], n_features=d, m=m) + Farthest(
            key.gather(-1, order),
            rows,
            self.labels.gather(-1, order),
            ones if weights is None else weights.expand_as(key).gather(-1, order),
            order + start,
        )
        return replace(stats, farthest=found)

    def weights(self, problems: int) -> Tensor | None:
        """Weights (1 or P, n); under the cosine metric zero rows weigh nothing."""
        weights = self.sample_weight
        if weights is not None:
            weights = weights.to(torch.float64).view(-1, self.rows.n)
        if self.metric == "cosine":
            nonzero = (self.rows.lengths > 0).double()
            weights = nonzero if weights is None else weights * nonzero
        return weights

    def _rows_at(self, index: Tensor) -> Tensor:
        """Rows (P, m, d) at index (P, m), in the space of the metric."""
        if self.x.ndim == 3:
            rows = gather_rows(self.x, index)
        else:
            rows = self.x.index_select(0, index.flatten()).view(*index.shape, -1)
        return space_rows(rows, slice(None), metric=self.metric, dtype=torch.float32)
