"""Lloyd's algorithm on the device: passes are launched, and the host looks at them late."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kmeans_module.backends.triton import launch
from kmeans_module.backends.triton.kernels import lloyd, move, refill
from kmeans_module.core.late import Look
from kmeans_module.core.problem import Problem
from kmeans_module.core.statistics import MAX_FARTHEST

if TYPE_CHECKING:
    from kmeans_module.backends.triton.workspace import TritonWorkspace

log = logging.getLogger(__name__)

_HEADER, _FIELDS = lloyd.HEADER.value, lloyd.FIELDS.value
_POLICIES = {
    "keep": lloyd.KEEP.value,
    "relocate": lloyd.RELOCATE.value,
    "split": lloyd.SPLIT.value,
    "error": lloyd.RAISE.value,
}
_STORED = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
# Passes that are kept until the host looks, and the numbers that they may take.
_PASSES, _RING_NUMBERS, _COUNTS_NUMBERS = 64, 1 << 20, 1 << 22
# A pass of more products keeps the device busy for longer than its launches take.
_LAUNCHES_DOMINATE = 1 << 37
# Passes that have to be left for a recording of one to pay.
_RECORDING_PAYS = 4


class TritonLoop:
    """See :class:`kmeans_module.core.late.Loop`.

    Args:
        space: of the rows.
        problem: what is asked for.
        centroids: to start from, (P, k, d) float32, which the loop moves.
        first: whether the next E-step is the first one of these rows.
        threshold: shift that counts as standing still, (P,).
        max_iter: iterations at most.
        told: whether the counts of all passes are kept.
    """

    def __init__(
        self,
        space: TritonWorkspace,
        problem: Problem,
        centroids: Tensor,
        *,
        first: bool,
        threshold: Tensor,
        max_iter: int,
        told: bool,
    ) -> None:
        self.space = space
        self.device = space.device
        self.problem = problem
        self.told = told
        self.max_iter = min(max_iter, torch.iinfo(torch.int32).max)
        self.policy = _POLICIES[problem.empty_cluster]
        self._centroids = centroids
        self._first = first
        self._begun = self._looked = 0
        problems, k, d = self._centroids.shape
        device, self.n_problems, self.k = self.device, problems, k
        rows = space.rows
        self.capacity = max(1, min(_PASSES, _RING_NUMBERS // problems))
        if told:
            self.capacity = max(1, min(self.capacity, _COUNTS_NUMBERS // (problems * k)))
        size = _HEADER + _FIELDS * problems + self.capacity * problems * 3
        self._book = torch.zeros(size, dtype=torch.float64, device=device)
        self._header = self._book[:_HEADER]
        self._header[lloyd.GOING_ON.value].fill_(problems)
        self._fields = self._book[_HEADER : _HEADER + _FIELDS * problems].view(_FIELDS, problems)
        self._fields[lloyd.LIMIT.value].copy_(threshold)
        self._ring = self._book[_HEADER + _FIELDS * problems :].view(-1, problems, 3)

        def empty(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        self._active = torch.ones(problems, dtype=torch.int8, device=device)
        self._changed = torch.zeros(problems, dtype=torch.int64, device=device)
        self._features = min(launch.power_of_two(d), 64)
        self._clusters = min(launch.power_of_two(k), 1024 // self._features)
        self._programs = -(-k // self._clusters)
        self._single = problems == 1 and self._programs == 1
        self.counts = empty(problems, k)
        self._counts_ring = empty(self.capacity if told else 0, problems, k)
        self._parts = empty(problems, self._programs, lloyd.PARTS.value)
        self._shift_parts = empty(problems, self._programs)
        self._tile = 256 if rows.few else 128
        self._tiles = -(-rows.n // self._tile)
        # Programs go through tiles in turns: few return at once where no distance is wanted.
        self._row_programs = min(self._tiles, -(-4 * launch.processors(device) // problems))
        self._row_parts = empty(problems, self._row_programs)
        relocates, splits = problem.empty_cluster == "relocate", problem.empty_cluster == "split"
        self._m = m = min(k, MAX_FARTHEST)
        n_far = problems if relocates else 0
        self._distances = empty(n_far, rows.n, dtype=torch.float32)
        self._farthest = empty(n_far, self._tiles, dtype=torch.int64)
        self._far_rows, self._donors, self._takers = (
            empty(n_far, m, dtype=torch.int32) for _ in range(3)
        )
        self._far_weights = empty(n_far, m)
        self._ranks, self._heavy = (
            empty(problems if splits else 0, k, dtype=torch.int32) for _ in range(2)
        )
        # Where the device writes how many problems go on, and the host reads without a wait.
        if device.type == "cuda":
            self._told_of = torch.empty(1, dtype=torch.float64, device="cpu", pin_memory=True)
            self._left = self._told_of.numpy()
        else:
            self._left = np.empty(1)
            self._told_of = torch.from_numpy(self._left)
        self._left[0] = problems
        self._graph: torch.cuda.CUDAGraph | None = None
        self._records = device.type == "cuda" and self._small
        space.active, space.changed = self._active, self._changed

    @property
    def _small(self) -> bool:
        n, d = self.space.rows.n, self.space.rows.d
        return self.n_problems * n * self.k * d < _LAUNCHES_DOMINATE

    @property
    def centroids(self) -> Tensor:
        return self._centroids.to(self.problem.dtype)

    @property
    def inertia(self) -> Tensor:
        return self._fields[lloyd.INERTIA.value].clone()

    @property
    def n_iter(self) -> Tensor:
        return self._fields[lloyd.N_ITER.value].long()

    @property
    def converged(self) -> Tensor:
        return self._fields[lloyd.CONVERGED.value] != 0

    @launch.on_its_device
    def advance(self, passes: int) -> None:
        for i in range(passes):
            if not self._left[0]:
                return
            if self._records and self._begun > 1 and passes - i >= _RECORDING_PAYS:
                self._record()
            self.space.before_step(self._centroids, first=self._first)
            if self._graph is None:
                self._launch()
            else:
                self._graph.replay()
            self._begun += 1
            self._told_of.copy_(
                self._header[lloyd.GOING_ON.value : lloyd.GOING_ON.value + 1], non_blocking=True
            )

    @launch.on_its_device
    def look(self) -> Look:
        lloyd.settle[(1,)](
            self._book, self._shift_parts, self._row_parts, self.n_problems, self._programs,
            self._row_programs, self.capacity, **self._blocks, num_warps=4,
        )  # fmt: skip
        book = np.empty(len(self._book))
        torch.from_numpy(book).copy_(self._book.cpu())
        problems = self.n_problems
        passes = int(book[lloyd.PASSES.value])
        fields = book[_HEADER : _HEADER + _FIELDS * problems].reshape(_FIELDS, problems)
        ring = book[_HEADER + _FIELDS * problems :].reshape(-1, problems, 3)
        slots = [number % self.capacity for number in range(self._looked, passes)]
        self._looked = passes
        error = book[lloyd.ERROR.value]
        return Look(
            done=not book[lloyd.GOING_ON.value],
            nonfinite=error == lloyd.NOT_FINITE.value,
            empty=error == lloyd.EMPTY.value,
            some_empty=bool(np.count_nonzero(fields[lloyd.N_EMPTY.value])),
            n_iter=int(fields[lloyd.N_ITER.value].max()),
            numbers=ring[slots],
            inertia=_slots(self._ring, slots)[..., 0],
            counts=_slots(self._counts_ring, slots) if self.told else None,
        )

    def close(self) -> None:
        self.space.active = torch.ones_like(self._active)
        self.space.changed = torch.zeros_like(self._changed)
        self._graph = None

    @property
    def _blocks(self) -> dict[str, int]:
        """Problems, and partial results of each, that one program looks at together."""
        problems = min(launch.power_of_two(self.n_problems), 64)
        return {"problems": problems, "columns": 1024 // problems}

    def _record(self) -> None:
        """Record the launches of a pass, to be replayed with one call; where that fails, each
        pass is launched anew."""
        self._records = False
        if torch.cuda.is_current_stream_capturing():
            return
        here = torch.cuda.current_stream(self.device)
        aside = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        aside.wait_stream(here)
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.stream(aside):
                graph.capture_begin(capture_error_mode="thread_local")
                try:
                    self._launch()
                finally:
                    graph.capture_end()
            self._graph = graph
        except RuntimeError as error:
            log.debug("iterations are launched one by one: %s", error)
        here.wait_stream(aside)

    def _launch(self) -> None:
        """One pass: the E-step, what it found, and the M-step."""
        space, rows, problems = self.space, self.space.rows, self.n_problems
        space.step(self._centroids, first=self._first)
        self._first = False
        totals, unit, d = space.totals, rows.unit, rows.d
        sums = totals.integers
        policy = self.policy
        judged = (
            self._changed, totals.squares, self._shift_parts, self._row_parts, problems,
        )  # fmt: skip
        sizes = (self._programs, self._row_programs, self.capacity, self.max_iter)
        columns = self._blocks["columns"]
        lloyd.sum_up[(self._programs, problems)](
            self._book, self._active, *sums, self._centroids, rows.offset, self.counts,
            self._counts_ring, self._parts, *judged, *sizes, rows.frame_stride, self.k, d,
            totals.low_bits,
            clusters=self._clusters, features=self._features, told=self.told, single=self._single,
            policy=policy, unit=unit, columns=columns, num_warps=4,
        )  # fmt: skip
        if not self._single:
            lloyd.judge[(1,)](
                self._book, self._active, self._parts, *judged, self._programs, *sizes,
                policy=policy, unit=unit, **self._blocks, num_warps=4,
            )  # fmt: skip
        data = rows.x, rows.exponents, rows.lengths
        weights, weighted = totals.weights, totals.weighted
        strides = (*rows.strides, rows.frame_stride, totals.weight_stride)
        refill.measure_rows[(self._row_programs, problems)](
            self._book, *data, weights, self._centroids, space.codes, self._distances,
            self._farthest, self._row_parts, *strides, problems, rows.n, d, self.k, self._tiles,
            rows=self._tile, policy=policy, few=rows.few, weighted=weighted, unit=unit,
            num_warps=4,
        )  # fmt: skip
        found = self._far_rows, self._far_weights, self._donors, self._takers
        if policy == lloyd.RELOCATE.value:
            refill.find_farthest[(problems,)](
                self._book, *data, weights, self._centroids, space.codes, self._distances,
                self._farthest, self.counts, *found, *strides, problems, rows.n, d, self.k,
                self._tiles, self._m, torch.finfo(self.problem.dtype).eps,
                rows=self._tile, block=1024, weighted=weighted, unit=unit, num_warps=4,
            )  # fmt: skip
        elif policy == lloyd.SPLIT.value:
            size = 32
            refill.rank_clusters[(-(-self.k // size), problems)](
                self._book, self.counts, self._ranks, self._heavy, problems, self.k,
                clusters=size, block=128, num_warps=4,
            )  # fmt: skip
        move.move[(self._programs, problems)](
            self._book, sums[0], sums[2], self.counts, self._centroids, self._shift_parts,
            self._row_parts, *data, *found, self._ranks, self._heavy, *rows.strides,
            rows.frame_stride, problems, self._row_programs, rows.n, d, self.k, self._m,
            totals.low_bits,
            clusters=self._clusters, features=self._features, columns=columns, policy=policy,
            half=_STORED[self.problem.dtype], unit=unit, num_warps=4,
        )  # fmt: skip


def _slots(ring: Tensor, slots: list[int]) -> Tensor:
    """Copies of the slots of a ring, (T, ...); slots follow each other, from the last to 0."""
    if not slots:
        return ring[:0]
    first, size = slots[0], len(slots)
    last = min(size, len(ring) - first)
    return torch.cat([ring[first : first + last], ring[: size - last]])
