"""Sums of clusters in integers, which only rows that change their label move."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kmeans_module.backends.triton import launch
from kmeans_module.backends.triton.kernels import regroup, totals
from kmeans_module.core.statistics import ClusterStats

if TYPE_CHECKING:
    from kmeans_module.backends.triton.workspace import TritonWorkspace

# Up to so many sums all rows are added up cluster by cluster before they travel.
_FEW_SUMS = 1024
_FEW_CLUSTERS = 64
# An inertia that is a smaller share of the terms that it is the sum of is measured row by row.
LEAST_SHARE = 1e-6
# So is one of larger terms: a distance that overflows float32 has to show.
MOST_OF_SUMS = 1e20


class Totals:
    """Sums, counts and inertia of the clusters of P problems; see :mod:`kernels.totals`.

    Args:
        space: whose rows are added up.
        problems: P.
        k: clusters of each.

    Attributes:
        sums: (P, k, d, 2) int64, upper and lower digits.
        counts: (P, k, 2) int64.
        units: u of each feature, (P, d) int32.
        count_units: u of the weights, (P,) int32.
        low_bits: u - v, the same for all.
    """

    def __init__(self, space: TritonWorkspace, problems: int, k: int) -> None:
        self.space, self.problems, self.k = space, problems, k
        self.sums: Tensor | None = None

    def _start(self) -> None:
        rows, device = self.space.rows, self.space.device
        problems, k, d = self.problems, self.k, rows.d
        digits = int(rows.n).bit_length()
        self.low_bits = 52 - digits
        self.sums = torch.zeros((problems, k, d, 2), dtype=torch.int64, device=device)
        self.counts = torch.zeros((problems, k, 2), dtype=torch.int64, device=device)
        self.units = torch.empty((problems, d), dtype=torch.int32, device=device)
        self.count_units = torch.empty(problems, dtype=torch.int32, device=device)
        weights = self.space.sample_weight
        self.weighted = weights is not None
        if weights is None:
            self.weights = torch.empty(0, dtype=torch.float64, device=device)
            self.weight_stride = 0
            exponents = torch.zeros(problems, dtype=torch.int32, device=device)
        else:
            self.weights = weights.to(torch.float64).contiguous()
            self.weight_stride = rows.n if weights.ndim == 2 else 0
            largest = self.weights.view(-1, rows.n).amax(dim=-1)
            exponents = torch.frexp(largest).exponent.expand(problems).contiguous()
        low, high = (self.units, self.units) if rows.unit else rows.extents
        features = min(64, launch.power_of_two(d))
        totals.find_units[(-(-d // features), problems)](
            low, high, exponents, self.units, self.count_units, rows.frame_stride, d, digits,
            features=features, unit=rows.unit, num_warps=1,
        )  # fmt: skip
        if not self.weighted:
            self.count_units.zero_()
        self._squares: Tensor | None = None

    def take(self, space: TritonWorkspace, *, first: bool, given: bool = False) -> None:
        """Add up all rows, or move those that the last E-step gave another label.

        Args:
            space: whose labels are ``codes``.
            first: whether all rows are added.
            given: whether these labels are the new ones, whatever an E-step decided.
        """
        if first or self.sums is None:
            self._start()
        rows = space.rows
        keyed = space.screening is not None and not given
        best = space.codes if space.screening is None else space.screening.best
        options = {
            "first": first, "keyed": keyed, "weighted": self.weighted, "unit": rows.unit,
            "num_warps": 4,
        }  # fmt: skip
        arguments = (
            *self._rows, space.codes, best,
            space.next_codes if rows.few and not given else space.codes, space.active, self.sums,
            self.counts, self.units, self.count_units, space.changed, *self._strides, rows.n,
            rows.d, self.k, self.low_bits,
        )  # fmt: skip
        if self.k <= _FEW_CLUSTERS and self.k * rows.d <= _FEW_SUMS:
            programs, per_program = rows.parts
            features = launch.power_of_two(rows.d)
            regroup.move_among_few[(programs, self.problems)](
                *arguments, per_program,
                rows=min(256, 4096 // features), features=features, **options,
            )  # fmt: skip
            return
        size = 16 if rows.d > 16 else 128
        # At 128 features a program needs nearly all registers there are.
        regroup.move_rows[(-(-rows.n // size), self.problems)](
            *arguments, rows=size, features=min(launch.power_of_two(rows.d), 64), **options
        )

    @property
    def _rows(self) -> tuple[Tensor, ...]:
        rows = self.space.rows
        return rows.x, rows.exponents, rows.lengths, self.weights

    @property
    def _strides(self) -> tuple[int, ...]:
        rows = self.space.rows
        return (*rows.strides, rows.frame_stride, self.weight_stride)

    @property
    def integers(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sums, counts, and the exponents of their units."""
        assert self.sums is not None
        return self.sums, self.counts, self.units, self.count_units

    @property
    def squares(self) -> Tensor:
        """Σ w ‖x - offset‖² of all rows, (P,) float64."""
        if self._squares is None:
            self._squares = self._add_squares()
        return self._squares

    def read(self, centroids: Tensor) -> ClusterStats:
        """Sums, counts and the inertia of the centroids (P, k, d) of the last E-step."""
        sums, counts = self.read_sums()
        return ClusterStats(sums, counts, self.inertia(centroids, sums, counts))

    def read_sums(self) -> tuple[Tensor, Tensor]:
        """Sums (P, k, d) and counts (P, k), float64."""
        assert self.sums is not None
        problems, k, d = self.problems, self.k, self.space.rows.d
        sums = torch.empty((problems, k, d), dtype=torch.float64, device=self.space.device)
        counts = torch.empty((problems, k), dtype=torch.float64, device=self.space.device)
        size = 1024
        totals.read_totals[(-(-k * d // size), problems)](
            self.sums, self.units, sums, k * d, d, self.low_bits, numbers=size, num_warps=4
        )
        totals.read_totals[(-(-k // size), problems)](
            self.counts, self.count_units, counts, k, 1, self.low_bits, numbers=size, num_warps=4
        )
        return sums, counts

    def inertia(self, centroids: Tensor, sums: Tensor, counts: Tensor) -> Tensor:
        """Σ w (x - c)², (P,) float64: from the sums, or row by row where that would cancel."""
        rows, (problems, k, d) = self.space.rows, centroids.shape
        size, features = 16, min(launch.power_of_two(d), 64)
        programs = -(-k // size)
        partial = torch.empty((problems, programs, 2), dtype=torch.float64, device=rows.device)
        totals.add_inertia[(programs, problems)](
            sums, counts, centroids, rows.offset, partial, rows.frame_stride, k, d,
            centroids=size, features=features, num_warps=4,
        )  # fmt: skip
        value, scale = partial.sum(dim=1).unbind(-1)
        value, scale = value + self.squares, scale + self.squares
        cancels = ~((value >= LEAST_SHARE * scale) & (scale < MOST_OF_SUMS))  # NaN does, too
        measured = self._measured(centroids, cancels)
        return measured.where(cancels, value / 2 if rows.unit else value)

    def _add_squares(self) -> Tensor:
        rows = self.space.rows
        programs, per_program = rows.parts
        partial = torch.empty((self.problems, programs), dtype=torch.float64, device=rows.device)
        features = min(launch.power_of_two(rows.d), 64)
        totals.add_squares[(programs, self.problems)](
            *self._rows, rows.offset, partial, *self._strides, rows.n, rows.d, per_program,
            rows=min(256, 4096 // features), features=features, weighted=self.weighted,
            unit=rows.unit, num_warps=4,
        )  # fmt: skip
        return partial.sum(dim=-1)

    def _measured(self, centroids: Tensor, wanted: Tensor) -> Tensor:
        """Inertia of the problems that are wanted, (P,), row by row."""
        distances = self.space.measure(centroids, wanted.to(torch.int8)).double()
        weights = self.space.weights(self.problems)
        if weights is not None:
            distances = distances * weights
        return distances.sum(dim=-1)
