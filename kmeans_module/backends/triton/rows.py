"""Rows as the kernels read them: strides, unit length, half precision, extents."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from kmeans_module.backends.triton import launch
from kmeans_module.backends.triton.kernels import halves, totals
from kmeans_module.backends.triton.kernels.order import FEW_FEATURES

_SAMPLE = 128
# Bits of 1,024, which is taken as it is: a scale of 1.
_AS_IT_IS = 0x44800000
_LEAST, _MOST = torch.iinfo(torch.int32).min, torch.iinfo(torch.int32).max
_PROGRAMS = 4  # for each processor


class DeviceRows:
    """Rows on a device, in the space of the metric; they stay what they are.

    Args:
        x: (n, d) or (F, n, d), F frames of rows, of any strides.
        unit: whether rows are taken at unit length.
        keep: whether a copy in half precision pays.

    Attributes:
        frames: F.
        strides: of problems, rows and features, in elements; then the stride between frames, for
            kernels of P problems: 0 where all share the rows.
    """

    def __init__(self, x: Tensor, *, unit: bool, keep: bool) -> None:
        self.x = x.view(torch.uint8) if x.dtype == torch.bool else x
        self.unit = unit
        self.n, self.d = x.shape[-2:]
        self.device = x.device
        several = x.ndim == 3
        self.frames = len(x) if several else 1
        self.strides = (x.stride(0) if several else 0, x.stride(-2), x.stride(-1))
        self.frame_stride = int(several)
        self.few = self.d <= FEW_FEATURES.value
        self.whole = self.d <= launch.WHOLE
        none = torch.empty(0, dtype=torch.int32, device=x.device)
        self.exponents, self.lengths = none, none.view(torch.float32)
        if unit:
            self._measure_lengths()
        self.half = self.norms = self.residues = none.view(torch.float32)
        self.offset, self.reach = self.half, none
        self.ready = False
        self.pitch = -(-self.d // 16) * 16
        self.half_strides = (self.n * self.pitch, self.pitch)
        self._find_frame()
        if not self.few:
            self._halve(keep)

    def _grid(self, rows: int) -> tuple[int, int]:
        return (-(-self.n // rows), self.frames)

    def _measure_lengths(self) -> None:
        shape = (self.frames, self.n)
        self.exponents = torch.empty(shape, dtype=torch.int32, device=self.device)
        self.lengths = torch.empty(shape, dtype=torch.float32, device=self.device)
        rows = 64
        halves.measure_lengths[self._grid(rows)](
            self.x, self.exponents, self.lengths, *self.strides, self.n, self.d,
            rows=rows, num_warps=4,
        )  # fmt: skip

    @property
    def _as_it_is(self) -> bool:
        """Whether the rows themselves are what the tensor cores take, in chunks of features."""
        problem, row, feature = self.strides
        return (
            not self.whole
            and not self.unit
            and self.x.dtype == torch.float16
            and self.d == self.pitch
            and feature == 1
            and row % 8 == 0
            and row >= self.d
            and (self.frames == 1 or problem == self.n * row)
            and self.x.data_ptr() % 16 == 0
        )

    def _find_frame(self) -> None:
        self.offset = torch.zeros((self.frames, self.d), dtype=torch.float32, device=self.device)
        if self._as_it_is:
            self.reach = torch.full(
                (self.frames,), _AS_IT_IS, dtype=torch.int32, device=self.device
            )
            return
        self.reach = torch.zeros(self.frames, dtype=torch.int32, device=self.device)
        features = 32
        halves.find_frame[(-(-self.d // features), self.frames)](
            self.x, self.exponents, self.lengths, self.offset, self.reach, *self.strides,
            self.n, self.d, max(1, self.n // _SAMPLE),
            sample=_SAMPLE, features=features, unit=self.unit, num_warps=4,
        )  # fmt: skip

    def _halve(self, keep: bool) -> None:
        """Round the rows to half precision, where that pays; else each E-step does."""
        copies = not self._as_it_is
        # Rows of half precision are as quickly rounded again as read.
        keep = keep and self.x.element_size() > 2
        if self.whole and not keep:
            return
        self.ready = True
        if copies:
            self.half = torch.empty(
                (self.frames, self.n, self.pitch), dtype=torch.float16, device=self.device
            )
        else:
            self.half = self.x
            self.half_strides = (self.strides[0], self.strides[1])
        shape = (self.frames, self.n)
        self.norms = torch.empty(shape, dtype=torch.float32, device=self.device)
        self.residues = torch.empty(shape, dtype=torch.float32, device=self.device)
        rows, features = 32, min(launch.power_of_two(self.pitch), 128)
        halves.halve_rows[self._grid(rows)](
            self.x, self.exponents, self.lengths, self.offset, self.reach, self.half, self.norms,
            self.residues, *self.strides, self.n, self.d, self.pitch,
            rows=rows, features=features, unit=self.unit, copies=copies, num_warps=4,
        )  # fmt: skip

    @cached_property
    def parts(self) -> tuple[int, int]:
        """How many programs go through all rows, and how many rows each of them takes."""
        most = _PROGRAMS * launch.processors(self.device)
        per_program = -(-self.n // most)
        per_program = max(256, -(-per_program // 256) * 256)
        return -(-self.n // per_program), per_program

    @cached_property
    def extents(self) -> tuple[Tensor, Tensor]:
        """Least and largest value of each feature, (F, d) int32 in the order of floats."""
        shape = (self.frames, self.d)
        low = torch.full(shape, _MOST, dtype=torch.int32, device=self.device)
        high = torch.full(shape, _LEAST, dtype=torch.int32, device=self.device)
        programs, per_program = self.parts
        features = min(64, launch.power_of_two(self.d))
        totals.find_extents[(programs, -(-self.d // features), self.frames)](
            self.x, low, high, *self.strides, self.n, self.d, per_program,
            rows=min(256, 4096 // features), features=features, num_warps=4,
        )  # fmt: skip
        return low, high
