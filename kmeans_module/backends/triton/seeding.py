"""k-means++ on a device: the host launches its rounds and waits for none of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kmeans_module.backends.triton import launch
from kmeans_module.backends.triton.kernels import draws, halves
from kmeans_module.backends.triton.kernels import seeding as kernels
from kmeans_module.core.scale import Scale
from kmeans_module.core.seeding import ROUNDING

if TYPE_CHECKING:
    from kmeans_module.backends.triton.workspace import TritonWorkspace

CANDIDATES: int = draws.CANDIDATES.value
_BLOCK = 1024
_PROGRAMS = 4  # for each processor
_ROWS, _FEATURES, _ROWS_OF_FEW_FEATURES = 128, 32, 256  # of a tile
_ROWS_TO_HALVE = 64  # where they are rounded on the way, which takes registers


@launch.on_device_of_first
def unit_rows(x: Tensor) -> Tensor:
    """Rows (..., d) of float32 at unit length, as distances take them."""
    flat = x.reshape(-1, x.shape[-1]).contiguous()
    n, d = flat.shape
    exponents = torch.empty(n, dtype=torch.int32, device=x.device)
    lengths = torch.empty(n, dtype=torch.float32, device=x.device)
    out = torch.empty_like(flat)
    if not n:
        return out.view(x.shape)
    size = 32
    halves.measure_lengths[(-(-n // size), 1)](
        flat, exponents, lengths, 0, d, 1, n, d, rows=size, num_warps=4
    )
    halves.scale_rows[(-(-n // size),)](
        flat, exponents, lengths, out, n, d,
        rows=size, features=min(128, launch.power_of_two(d)), num_warps=4,
    )  # fmt: skip
    return out.view(x.shape)


class Weights:
    """Weights (1 or P, n) as the kernels read them; None for weight 1.

    Attributes:
        numbers: float64, contiguous.
        stride: between problems, 0 where they share the weights.
        given: whether there are any.
    """

    def __init__(self, weights: Tensor | None, n: int, device: torch.device) -> None:
        self.given = weights is not None
        if weights is None:
            self.numbers = torch.empty(0, dtype=torch.float64, device=device)
            self.stride = 0
            return
        shared = weights.ndim < 2 or len(weights) == 1 or weights.stride(0) == 0
        weights = weights[0] if shared and weights.ndim == 2 else weights
        self.numbers = weights.to(torch.float64).contiguous()
        self.stride = 0 if shared else n


class Measure:
    """Distances of rows to candidates and to centers.

    Args:
        space: whose rows they are.
        problems: P.
        weights: of the potentials.

    Attributes:
        reached: to which of the last candidates a row is nearer, a bit each, (P, n) int16.
    """

    def __init__(self, space: TritonWorkspace, problems: int, weights: Weights) -> None:
        rows = self.rows = space.rows
        self.problems, self.weights = problems, weights
        self.reached = torch.empty((problems, rows.n), dtype=torch.int16, device=rows.device)
        self._size = _ROWS if rows.ready or rows.few else _ROWS_TO_HALVE
        tiles = -(-rows.n // self._size)
        programs = min(tiles, _PROGRAMS * launch.processors(rows.device))
        self.partial = torch.empty(
            (problems, programs, CANDIDATES), dtype=torch.float64, device=rows.device
        )
        self._features = min(_FEATURES, launch.power_of_two(rows.d, 16))

    def candidates(self, candidates: Tensor, near: Tensor) -> None:
        """Potentials of candidates (P, 16, d) by programs, and which rows they reach."""
        rows = self.rows
        kernels.measure_candidates[(self.partial.shape[1], self.problems)](
            rows.x, rows.half, rows.residues, rows.exponents, rows.lengths, rows.offset,
            rows.reach, candidates, near, self.weights.numbers, self.reached, self.partial,
            *rows.strides, *rows.half_strides, rows.frame_stride, self.weights.stride,
            rows.n, rows.d, rows.pitch, *launch.errors(rows.device, rows.d),
            rows=self._size, features=self._features, few=rows.d if rows.few else 0,
            unit=rows.unit, ready=rows.ready, weighted=self.weights.given,
            num_warps=4, num_stages=2,
        )  # fmt: skip

    def lower(
        self,
        near: Tensor,
        centers: Tensor,
        numbers: Tensor,
        best: Tensor,
        most: Tensor,
        weights: Weights,
        *,
        every: bool = False,
    ) -> None:
        """Lower near (P, n) by the distances to one of the centers (P, k, d), and raise most
        (P,) to the largest mass; every: whether all rows are measured in any round."""
        rows, size = self.rows, _ROWS_OF_FEW_FEATURES if self.rows.few else _ROWS
        kernels.lower_rows[(-(-rows.n // size), self.problems)](
            rows.x, rows.exponents, rows.lengths, centers, numbers, best, self.reached, near,
            weights.numbers, most, *rows.strides, rows.frame_stride, weights.stride, rows.n,
            rows.d, centers.shape[1],
            rows=size, few=rows.few, unit=rows.unit, weighted=weights.given, every=every,
            num_warps=4,
        )  # fmt: skip


class DeviceRounds:
    """See :class:`kmeans_module.core.rows.Rounds`. All that changes from round to round is on the
    device.

    Args:
        space: whose rows they are.
        center: the first one, (P, 1, d).
        numbers: in [0, 1) that decide the draws of each round, (rounds, P, 16) float64.
        drawn_by: weights by which rows are drawn, (P, n); None for weight 1.
    """

    def __init__(
        self, space: TritonWorkspace, center: Tensor, numbers: Tensor, drawn_by: Tensor | None
    ) -> None:
        problems, _, d = center.shape
        rows, device = space.rows, center.device
        self._rows, self.device = rows, device
        self.centers = torch.empty(
            (problems, len(numbers) + 1, d), dtype=torch.float32, device=device
        )
        self.centers[:, :1] = center
        self._numbers = numbers.contiguous()
        self._drawn_by = Weights(drawn_by, rows.n, device)
        self._measure = Measure(space, problems, Weights(space.weights(problems), rows.n, device))
        self.near = torch.full((problems, rows.n), torch.inf, dtype=torch.float32, device=device)
        self._candidates = torch.empty(
            (problems, CANDIDATES, d), dtype=torch.float32, device=device
        )
        self._n_blocks = -(-rows.n // _BLOCK)
        self._blocks = torch.empty((problems, self._n_blocks), dtype=torch.int64, device=device)
        self._number = torch.zeros(problems, dtype=torch.int32, device=device)
        self._best = torch.zeros(problems, dtype=torch.int32, device=device)
        self._most = torch.zeros(problems, dtype=torch.int64, device=device)
        largest = torch.ones(problems, dtype=torch.float64, device=device)
        if drawn_by is not None:
            largest = drawn_by.amax(dim=-1).double().expand(problems).contiguous()
        self._most_weight = largest.view(torch.int64)
        self._bits = Scale.of(largest, rows.n).bits
        self._rounding = torch.full((1,), ROUNDING, dtype=torch.float64, device=device)

    @launch.on_its_device
    def lower(self) -> None:
        self._measure.lower(
            self.near, self.centers, self._number, self._best, self._most, self._drawn_by
        )

    @launch.on_its_device
    def draw(self) -> None:
        rows, weights = self._rows, self._drawn_by
        problems = len(self.near)
        draws.count_blocks[(self._n_blocks, problems)](
            self.near, weights.numbers, self._most, self._most_weight, self._blocks,
            weights.stride, rows.n, self._n_blocks, self._bits,
            rows=_BLOCK, weighted=weights.given, num_warps=4,
        )  # fmt: skip
        draws.draw_candidates[(CANDIDATES, problems)](
            rows.x, rows.exponents, rows.lengths, self.near, weights.numbers, self._most,
            self._most_weight, self._blocks, self._numbers, self._number, self._candidates,
            *rows.strides, rows.frame_stride, weights.stride, rows.n, rows.d, self._n_blocks,
            self._bits, rows=_BLOCK, together=min(1024, launch.power_of_two(self._n_blocks, 2)),
            features=min(256, launch.power_of_two(rows.d)), unit=rows.unit,
            weighted=weights.given, num_warps=4,
        )  # fmt: skip

    @launch.on_its_device
    def choose(self) -> None:
        self._measure.candidates(self._candidates, self.near)
        partial = self._measure.partial
        draws.choose_center[(len(partial),)](
            self._candidates, partial, self.centers, self._number, self._best, self._most,
            self._rounding, partial.shape[1], self._rows.d, self.centers.shape[1],
            together=min(128, launch.power_of_two(partial.shape[1])),
            features=min(256, launch.power_of_two(self._rows.d)), num_warps=4,
        )  # fmt: skip
