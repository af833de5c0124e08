"""The E-step in C++ (csrc/): exact, for rows of float32 or float64 on the CPU.

Whatever is discarded on the way, one fixed-order sum of (x - c)² decides, so that for given
centroids a label depends on the row alone: not on batch, rank, thread or earlier calls.
"""

from __future__ import annotations

import ctypes
import logging
import os
import weakref
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path

import torch
from torch import Tensor

from kmeans_module.backends.native.directions import (
    SAMPLE,
    Directions,
    find_directions,
    find_directions_for_seeding,
    worthwhile,
)
from kmeans_module.backends.reference import (
    ReferenceWorkspace,
    compute_dtype,
    full_precision,
    unit_rows,
)
from kmeans_module.core.statistics import (
    MAX_FARTHEST,
    ClusterStats,
    EStep,
    find_farthest,
)

log = logging.getLogger(__name__)

_IMPORTED_BY = os.getpid()

# So many rows or more are sorted, where they have few features.
_SORTED = 4096
# Centres that seeding is taken to end with.
_SEEDING = 512

LIBRARY = Path(__file__).with_name("kmeans_native.so")
# A tracing compiler cannot load the library: it has to know beforehand.
INSTALLED = LIBRARY.is_file()


class _Rows(ctypes.Structure):
    _fields_ = (
        ("x", ctypes.c_void_p),
        ("n", ctypes.c_int64),
        ("d", ctypes.c_int64),
        ("row_stride", ctypes.c_int64),
        ("column_stride", ctypes.c_int64),
        ("weights", ctypes.c_void_p),
        ("is_double", ctypes.c_int32),
        ("cosine", ctypes.c_int32),
    )


class _Result(ctypes.Structure):
    _fields_ = (
        ("labels", ctypes.c_void_p),
        ("distances", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("counts", ctypes.c_void_p),
        ("inertia", ctypes.c_void_p),
        ("changed", ctypes.c_void_p),
        ("warm", ctypes.c_int32),
    )


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None, said once in the log, where there are none."""
    try:
        found = ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        log.warning("no native kernel, the slower torch path serves: %s", error)
        return None
    rows, pointer, integer = ctypes.POINTER(_Rows), ctypes.c_void_p, ctypes.c_int64
    result, threads = ctypes.POINTER(_Result), ctypes.c_int
    found.km_open.argtypes, found.km_open.restype = (threads, threads), pointer
    found.km_close.argtypes = (pointer,)
    found.km_project.argtypes = (pointer, pointer, pointer, integer, integer)
    found.km_block_sums.argtypes = (pointer, threads, integer, integer, pointer, threads)
    found.km_share_visited.argtypes = (pointer,)
    found.km_share_visited.restype = ctypes.c_double
    found.km_e_step.argtypes = (rows, pointer, integer, result, pointer, threads)
    found.km_lower.argtypes = (rows, pointer, pointer, threads, pointer, threads)
    found.km_potentials.argtypes = (
        rows, pointer, pointer, integer, threads, pointer, pointer, threads,
    )  # fmt: skip
    found.km_spread.argtypes = (rows, pointer, pointer, pointer, pointer, threads)
    found.km_beam_search.argtypes = (
        pointer, integer, integer, pointer, integer, integer, integer, pointer, pointer, threads,
    )  # fmt: skip
    found.km_search_sums.argtypes = (
        pointer, threads, integer, integer, pointer, pointer, integer, pointer,
    )  # fmt: skip
    found.km_use_instruction_set.argtypes = (ctypes.c_char_p,)
    found.km_forked.restype = None
    if os.getpid() != _IMPORTED_BY:
        found.km_forked()
    return found


def serves(x: Tensor) -> bool:
    """Whether the native kernel takes such rows; see :func:`obstacle`."""
    return not obstacle(x)


def obstacle(x: Tensor) -> str:
    """Why the native kernel does not take such rows; "" where it does."""
    if x.device.type != "cpu":
        return f"x is on {x.device.type}"
    if asked := os.environ.get("KMEANS_KERNEL"):
        if asked not in ("reference", "native"):
            raise ValueError(f"KMEANS_KERNEL should be reference or native; got {asked}")
        if asked == "reference":
            return "KMEANS_KERNEL=reference"
    if x.dtype not in (torch.float32, torch.float64):
        return f"x is {x.dtype}"
    if torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export():
        return "ONNX knows torch's operators alone"
    if not (INSTALLED if torch.compiler.is_compiling() else library()):
        return "there is no native kernel"
    return ""


class _Memory:
    """What the C++ kernel keeps of the rows of one problem, freed with this object."""

    def __init__(self, *, keep: bool = False, sort: bool = False) -> None:
        native = library()
        assert native is not None
        self.handle = native.km_open(keep, sort)
        if not self.handle:
            raise MemoryError("no memory for a workspace")
        # Directions by purpose, and those that the handle has.
        self.found: dict[str, Directions | None] = {}
        self.directions: Directions | None = None
        # Distances to the nearest centre as the last call left them, and their version.
        self.nearest: tuple[weakref.ref[Tensor], int] | None = None
        weakref.finalize(self, native.km_close, self.handle)

    def knows(self, nearest: Tensor) -> bool:
        """Whether these are the distances of the last call, unchanged since."""
        if self.nearest is None:
            return False
        reference, version = self.nearest
        return reference() is nearest and version == _version(nearest)

    def note(self, nearest: Tensor) -> None:
        self.nearest = weakref.ref(nearest), _version(nearest)

    def __reduce__(self) -> str:
        raise TypeError("a workspace belongs to its rows in this process; prepare another one")


class NativeWorkspace(ReferenceWorkspace):
    """The E-step of the C++ kernel; the reference where precisions are mixed."""

    together = False

    def __init__(
        self,
        x: Tensor,
        sample_weight: Tensor | None = None,
        *,
        metric: str = "euclidean",
        once: bool = False,
    ) -> None:
        super().__init__(x, sample_weight, metric=metric)
        self._once = once
        self._memory: list[_Memory] = []
        self._labels = torch.empty((0, 0), dtype=torch.int64)
        self._labels_version = 0
        self._distances = torch.empty((0, 0), dtype=x.dtype)
        self._k = 0
        self._said = False

    def _mixes(self, centroids: Tensor) -> bool:
        """Whether rows and centroids meet in a precision that is not the rows'; said once."""
        mixes = compute_dtype(self.x, centroids) != self.x.dtype
        if mixes and not self._said:
            log.debug(
                "E-steps by the torch reference after all: x is %s, centroids are %s",
                self.x.dtype, centroids.dtype,
            )  # fmt: skip
            self._said = True
        return mixes

    def assign(self, centroids: Tensor) -> tuple[Tensor, Tensor | bool]:
        if self._mixes(centroids):
            return super().assign(centroids)
        problems, n = len(centroids), self.x.shape[-2]
        labels = torch.empty((problems, n), dtype=torch.int64)
        inertia = torch.empty(problems, dtype=torch.float64)
        changed = torch.empty(problems, dtype=torch.int64)
        for p in range(problems):
            memory = _Memory()
            self._find_directions(memory, p, centroids[p], once=True)
            result = _Result(
                _address(labels, p), inertia=_address(inertia, p), changed=_address(changed, p)
            )
            self._run(p, centroids[p], result, memory)
        return labels, inertia.isfinite().all()

    def e_step(self, centroids: Tensor, *, start: int = 0, distances: bool = True) -> EStep:
        if self._mixes(centroids):
            return super().e_step(centroids, start=start)
        problems, k, d = centroids.shape
        n = self.x.shape[-2]
        warm = len(self._memory) == problems and self._k == k
        warm = warm and self._labels_version == _version(self._labels)  # nobody wrote into them
        memories = self._memories(problems)
        if not warm:
            self._k = k
            self._labels = torch.empty((problems, n), dtype=torch.int64)
            self._labels_version = _version(self._labels)
            self._distances = torch.empty((problems, 0), dtype=self.x.dtype)
        if distances and self._distances.shape[1] != n:
            self._distances = torch.empty((problems, n), dtype=self.x.dtype)
        sums = torch.empty((problems, k, d), dtype=torch.float64)
        counts = torch.empty((problems, k), dtype=torch.float64)
        inertia = torch.empty(problems, dtype=torch.float64)
        changed = torch.empty(problems, dtype=torch.int64)
        measured = self._distances if distances else self._distances[:, :0]
        parts = (self._labels, measured, sums, counts, inertia, changed)
        keeps = self._keeps(problems)
        for p, memory in enumerate(memories):
            if keeps:
                self._find_directions(memory, p, centroids[p], once=self._once)
            result = _Result(*(_address(part, p) for part in parts), warm)
            remembers = keeps and not (self._once and memory.directions is None)
            self._run(p, centroids[p], result, memory if remembers else None)
        farthest = None
        if (counts == 0).any():
            if not distances:
                step = self.e_step(centroids, start=start)
                self.changed = changed
                return step
            farthest = find_farthest(
                lambda part: self._rows_and_weights(part, self.x.dtype, problems), self._labels,
                self._distances, n_features=d, m=min(k, MAX_FARTHEST), start=start,
            )  # fmt: skip
        self.changed = changed
        return EStep(self._labels, measured, ClusterStats(sums, counts, inertia, farthest))

    def _keeps(self, problems: int) -> bool:
        """Whether coordinates and bounds are kept: together they may take half as much memory as
        the rows, so not for several problems on the same ones."""
        return problems == 1 or self.x.ndim == 3

    def _memories(self, problems: int) -> list[_Memory]:
        if len(self._memory) != problems:
            keep = self._keeps(problems) and not self._once
            sort = keep and self.x.shape[-2] >= _SORTED
            self._memory = [_Memory(keep=keep, sort=sort) for _ in range(problems)]
            self._k = 0
        return self._memory

    def _find_directions(
        self, memory: _Memory, p: int, centroids: Tensor, *, once: bool = False
    ) -> None:
        """Make the search of problem p cheaper, if that can be; it stays exact."""
        n, d = self.x.shape[-2:]
        # Coordinates that are kept take a quarter of the memory of the rows, and leave bounds some.
        most = d - 1 if once else d * self.x.element_size() // 8 - 1
        self._measure_along(
            memory, p, "a search", worthwhile(n, *centroids.shape, once=once),
            lambda rows: find_directions(rows, centroids, most=most, once=once),
        )  # fmt: skip

    def _find_directions_for_seeding(self, memory: _Memory, p: int, n_candidates: int) -> None:
        """The same for potentials, where the coordinates are read again in each round."""
        n, d = self.x.shape[-2:]
        most = d * self.x.element_size() // 4 - 1
        self._measure_along(
            memory, p, "seeding", worthwhile(n, _SEEDING, d),
            lambda rows: find_directions_for_seeding(rows, n_candidates=n_candidates, most=most),
        )  # fmt: skip

    def _measure_along(
        self, memory: _Memory, p: int, purpose: str, pays: bool,
        find: Callable[[Tensor], Directions | None],
    ) -> None:  # fmt: skip
        """Use the directions for a purpose, found on a sample of the rows where that pays."""
        if pays and purpose not in memory.found:
            # Directions that are not orthonormal, as autocast makes them, would give wrong bounds.
            with full_precision(self.x.device):
                found = memory.found[purpose] = find(self._sample(p))
            number = f"{len(found.basis)} directions of" if found else "all"
            log.debug("bounds of %s from %s %d features", purpose, number, self.x.shape[-1])
        directions = memory.found.get(purpose)
        if directions is memory.directions:
            return
        memory.directions = directions
        basis, center = directions or (torch.empty(0, self.x.shape[-1]), torch.empty(0))
        if self._library.km_project(
            memory.handle, basis.data_ptr(), center.data_ptr(), *basis.shape
        ):
            raise MemoryError("no memory for directions")

    def _sample(self, p: int) -> Tensor:
        x = self.x if self.x.ndim == 2 else self.x[p]
        sample = x[:: len(x) // SAMPLE][:SAMPLE]
        return unit_rows(sample) if self.metric == "cosine" else sample

    @cached_property
    def _seeding_weight(self) -> Tensor | None:
        """Weights of the rows, (n,) or (P, n); of zero rows 0 under the cosine metric."""
        if self.metric != "cosine":
            return self.sample_weight
        weighty = (self.x != 0).any(dim=-1)
        return weighty if self.sample_weight is None else weighty * self.sample_weight

    @property
    def _library(self) -> ctypes.CDLL:
        found = library()
        assert found is not None
        return found

    def potentials(self, nearest: Tensor, candidates: Tensor) -> Tensor:
        if nearest.dtype != self.x.dtype:
            return super().potentials(nearest, candidates)
        potential = torch.empty(candidates.shape[:2], dtype=torch.float64)
        for p, memory in enumerate(self._memories(len(candidates))):
            if self._keeps(len(candidates)):
                self._find_directions_for_seeding(memory, p, candidates.shape[1])
            near = nearest[p].contiguous()
            points = candidates[p].to(self.x.dtype).contiguous()
            self._call(
                "km_potentials", p, self._seeding_weight, near.data_ptr(), points.data_ptr(),
                len(points), memory.knows(nearest), _address(potential, p), memory.handle,
            )  # fmt: skip
            memory.note(nearest)
        return potential

    def lower(self, nearest: Tensor, center: Tensor) -> None:
        if nearest.dtype != self.x.dtype or not nearest.is_contiguous():
            super().lower(nearest, center)
            return
        for p, memory in enumerate(self._memories(len(nearest))):
            point = center[p].to(self.x.dtype).contiguous()
            self._call(
                "km_lower", p, self._seeding_weight, _address(nearest, p), point.data_ptr(),
                memory.knows(nearest), memory.handle,
            )  # fmt: skip
            memory.note(nearest)

    def _run(self, p: int, centroids: Tensor, result: _Result, memory: _Memory | None) -> None:
        centroids = centroids.to(self.x.dtype).contiguous()
        self._call(
            "km_e_step", p, self.sample_weight, centroids.data_ptr(), len(centroids), result,
            memory and memory.handle,
        )  # fmt: skip

    def _call(self, function: str, p: int, weight: Tensor | None, *arguments: object) -> None:
        """Call a function of the library on the rows of problem p."""
        x = self.x if self.x.ndim == 2 else self.x[p]
        if weight is not None:
            weight = (weight if weight.ndim == 1 else weight[p]).to(torch.float64).contiguous()
        rows = _Rows(
            x.data_ptr(), *x.shape, *x.stride(), None if weight is None else weight.data_ptr(),
            x.dtype == torch.float64, self.metric == "cosine",
        )  # fmt: skip
        if getattr(library(), function)(rows, *arguments, torch.get_num_threads()):
            raise MemoryError(f"no memory for the statistics of {tuple(x.shape)} rows")


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _address(tensor: Tensor, p: int) -> int:
    """Where the numbers of problem p are; 0 where there are none."""
    first = tensor.data_ptr()
    return first and first + p * tensor.stride(0) * tensor.element_size()


def block_sums(values: Tensor, size: int) -> Tensor:
    """Sums of consecutive blocks of contiguous values (P, n), of so many each, the last one short:
    (P, n_blocks) float64."""
    problems, n = values.shape
    sums = torch.empty((problems, -(-n // size)), dtype=torch.float64)
    native = library()
    assert native is not None
    for p in range(problems):
        if native.km_block_sums(
            _address(values, p), values.dtype == torch.float64, n, size, _address(sums, p),
            torch.get_num_threads(),
        ):  # fmt: skip
            raise MemoryError(f"no memory for the sums of {n} values")
    return sums


def search_sums(values: Tensor, size: int, sums: Tensor, targets: Tensor) -> Tensor:
    """Where the cumulative sums of contiguous values (P, n), whose block sums these are, exceed
    the targets (P, m): (P, m) int64."""
    positions = torch.empty(targets.shape, dtype=torch.int64)
    sums, targets = sums.contiguous(), targets.to(torch.float64).contiguous()
    native = library()
    assert native is not None
    for p in range(len(values)):
        if native.km_search_sums(
            _address(values, p), values.dtype == torch.float64, values.shape[1], size,
            _address(sums, p), _address(targets, p), targets.shape[1], _address(positions, p),
        ):  # fmt: skip
            raise MemoryError(f"no memory to search {values.shape[1]} values")
    return positions


def spread(
    x: Tensor, weight: Tensor | None, center: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Extent and sums of the features of rows (n, d) that the kernel serves.

    Args:
        x: rows.
        weight: (n,) or None; rows of weight 0 do not count in sums.
        center: (d,) float64, or None.

    Returns:
        smallest (d,), largest (d,), and the sum of the values or, about a center, of squared
        differences (d,); all float64. The sum is not finite where a value is not.
    """
    low, high, sums = torch.empty((3, x.shape[1]), dtype=torch.float64)
    if weight is not None:
        weight = weight.to(torch.float64).contiguous()
    center = None if center is None else center.contiguous()
    rows = _Rows(
        x.data_ptr(), *x.shape, *x.stride(), None if weight is None else weight.data_ptr(),
        x.dtype == torch.float64, False,
    )  # fmt: skip
    native = library()
    assert native is not None
    if native.km_spread(
        rows, None if center is None else center.data_ptr(), low.data_ptr(), high.data_ptr(),
        sums.data_ptr(), torch.get_num_threads(),
    ):  # fmt: skip
        raise MemoryError(f"no memory to survey {tuple(x.shape)} rows")
    return low, high, sums
