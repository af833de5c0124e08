"""The E-step in C++ (csrc/): exact, for rows of float32 or float64 on the CPU.

A distance is one fixed-order sum of (x - c)², whatever batch, rank or thread a row is in, so
that for given centroids a label depends on the row alone.
"""

from __future__ import annotations

import ctypes
import logging
import os
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from kmeans_module.kernels.reference import ReferenceWorkspace, compute_dtype
from kmeans_module.kernels.statistics import (
    MAX_FARTHEST,
    ClusterStats,
    EStep,
    find_farthest,
)

log = logging.getLogger(__name__)

LIBRARY = Path(__file__).with_name("kmeans_native.so")


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
    found.km_e_step.argtypes = (rows, pointer, integer, result, threads)
    found.km_lower.argtypes = (rows, pointer, pointer, threads)
    found.km_potentials.argtypes = (rows, pointer, pointer, integer, pointer, threads)
    found.km_use_instruction_set.argtypes = (ctypes.c_char_p,)
    return found


def serves(x: Tensor) -> bool:
    """Whether the native kernel takes such rows; not where the environment variable
    KMEANS_KERNEL is "reference"."""
    return (
        x.device.type == "cpu"
        and os.environ.get("KMEANS_KERNEL") != "reference"
        and x.dtype in (torch.float32, torch.float64)
        and not torch.compiler.is_compiling()
        and library() is not None
    )


class NativeWorkspace(ReferenceWorkspace):
    """The E-step of the C++ kernel; the reference where precisions are mixed."""

    def assign(self, centroids: Tensor) -> tuple[Tensor, Tensor]:
        if compute_dtype(self.x, centroids) != self.x.dtype:
            return super().assign(centroids)
        problems, n = len(centroids), self.x.shape[-2]
        labels = torch.empty((problems, n), dtype=torch.int64)
        inertia = torch.empty(problems, dtype=torch.float64)
        for p in range(problems):
            self._run(p, centroids[p], _Result(labels[p].data_ptr(), inertia=_address(inertia, p)))
        return labels, inertia.isfinite().all()

    def e_step(self, centroids: Tensor, *, start: int = 0) -> EStep:
        if compute_dtype(self.x, centroids) != self.x.dtype:
            return super().e_step(centroids, start=start)
        problems, k, d = centroids.shape
        n = self.x.shape[-2]
        labels = torch.empty((problems, n), dtype=torch.int64)
        distances = torch.empty((problems, n), dtype=self.x.dtype)
        sums = torch.empty((problems, k, d), dtype=torch.float64)
        counts = torch.empty((problems, k), dtype=torch.float64)
        inertia = torch.empty(problems, dtype=torch.float64)
        for p in range(problems):
            result = _Result(
                *(_address(part, p) for part in (labels, distances, sums, counts, inertia))
            )
            self._run(p, centroids[p], result)
        farthest = None
        if (counts == 0).any():
            farthest = find_farthest(
                lambda part: self._rows_and_weights(part, self.x.dtype, problems), labels,
                distances, n_features=d, m=min(k, MAX_FARTHEST), start=start,
            )  # fmt: skip
        return EStep(labels, distances, ClusterStats(sums, counts, inertia, farthest))

    def potentials(self, nearest: Tensor, candidates: Tensor, weight: Tensor | None) -> Tensor:
        if nearest.dtype != self.x.dtype:
            return super().potentials(nearest, candidates, weight)
        potential = torch.empty(candidates.shape[:2], dtype=torch.float64)
        for p, points in enumerate(candidates):
            near = nearest[p].contiguous()
            points = points.to(self.x.dtype).contiguous()
            self._call(
                "km_potentials", p, weight, near.data_ptr(), points.data_ptr(), len(points),
                _address(potential, p),
            )  # fmt: skip
        return potential

    def lower(self, nearest: Tensor, center: Tensor) -> None:
        if nearest.dtype != self.x.dtype or not nearest.is_contiguous():
            super().lower(nearest, center)
            return
        for p in range(len(nearest)):
            point = center[p].to(self.x.dtype).contiguous()
            self._call("km_lower", p, None, _address(nearest, p), point.data_ptr())

    def _run(self, p: int, centroids: Tensor, result: _Result) -> None:
        centroids = centroids.to(self.x.dtype).contiguous()
        self._call("km_e_step", p, self.sample_weight, centroids.data_ptr(), len(centroids), result)

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


def _address(tensor: Tensor, p: int) -> int:
    return tensor[p].data_ptr()
