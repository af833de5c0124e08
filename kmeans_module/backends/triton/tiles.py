"""Repeated E-steps that leave out tiles of centroids which cannot win; see :mod:`kernels.tiles`.

Nothing here waits for the device: it takes all decisions itself, from the share of the tiles that
it looked at, and none changes a result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kmeans_module.backends.triton import launch
from kmeans_module.backends.triton.kernels import halves, sorting, tiles
from kmeans_module.core.distances import full_precision

if TYPE_CHECKING:
    from kmeans_module.backends.triton.screening import Screening
    from kmeans_module.backends.triton.workspace import TritonWorkspace

# Products of features in a plain E-step (0.9 ms on an H200) from which the order of centroids
# (0.3 ms, once), a few sorts of the rows (0.06 ms each) and launches cost little of 25 of them.
LEAST_WORK = 200_000_000_000
_LEAST_TILES = 4
_LEAST_BLOCKS = 4
_MOST_TILES = 1 << 15  # lists are int16
_WIDTH = 128  # tiles whose numbers are read at once
_POWER_STEPS = 2
# The E-step before which centroids are put in order: the first that has means of clusters.
_ORDERED = 1


def worthwhile(n: int, k: int, d: int, sizes: launch.Tiles) -> bool:
    """Whether a plain E-step takes long enough, and the numbers of all blocks and tiles fit in."""
    n_blocks, n_tiles = -(-n // sizes.rows), -(-k // sizes.columns)
    return (
        n * k * d >= LEAST_WORK
        and n_blocks >= _LEAST_BLOCKS
        and _LEAST_TILES <= n_tiles < _MOST_TILES
        and n_blocks * n_tiles <= 2 * (n + k * d)
    )


@torch.no_grad()
def similar(centroids: Tensor, columns: int) -> Tensor:
    """An order of centroids in which runs of some columns are alike.

    Halves along about the principal direction, again and again.

    Args:
        centroids: (P, k, d).
        columns: of a run.

    Returns:
        (P, columns·2^levels) indices; those from k up, which come last, stand for nothing.
    """
    with full_precision(centroids.device):
        return _similar(centroids, columns)


def _similar(centroids: Tensor, columns: int) -> Tensor:
    problems, k, d = centroids.shape
    levels = (-(-k // columns) - 1).bit_length()
    size = columns << levels
    points = torch.zeros((problems, size, d), dtype=torch.float32, device=centroids.device)
    points[:, :k] = centroids.nan_to_num(0.0, 0.0, 0.0)
    points /= points.abs().amax(dim=(1, 2), keepdim=True).clamp(min=1e-30)
    order = torch.arange(size, device=centroids.device).expand(problems, size)
    for level in range(levels):
        part = order.reshape(problems << level, size >> level)
        z = points.view(problems << level, size >> level, d)
        there = (part < k).unsqueeze(-1)
        count = there.sum(dim=1, keepdim=True).clamp(min=1)
        z = (z - z.sum(dim=1, keepdim=True) / count) * there
        z = z / z.abs().amax(dim=(1, 2), keepdim=True).clamp(min=1e-30)
        farthest = z.square().sum(dim=-1).argmax(dim=-1)
        direction = z.gather(1, farthest.view(-1, 1, 1).expand(-1, 1, d)).mT
        for _ in range(_POWER_STEPS):
            direction = z.mT @ (z @ direction)
        along = (z @ direction).nan_to_num(0.0).where(there, torch.inf).squeeze(-1)
        to = along.argsort(dim=-1)
        order = part.gather(1, to)
        points = points.view(z.shape).gather(1, to.unsqueeze(-1).expand_as(z))
    return order.reshape(problems, size)


class TilesLeftOut:
    """E-steps of P problems over the tiles that are not left out.

    All memory stays where it is, and each E-step launches the same kernels, so that E-steps can be
    captured in a graph.

    Args:
        space: whose rows are screened.
        screening: of P problems of k centroids.

    Attributes:
        order: rows as they are taken, (P, n) int32.
        index_of: centroid at each place, (P, places) int32; k or more where there is none.
        place_of: of each centroid, (P, k) int32.
        left: by how much the centroids of a tile are farther than the own ones of a block,
            (P, blocks, tiles).
        counts: tiles that each block looked at in the last E-step, (P, blocks) int32.
        state: (P, 5) int32, see :data:`kernels.sorting.STATE`.
    """

    def __init__(self, space: TritonWorkspace, screening: Screening) -> None:
        self.space, self.screening = space, screening
        problems, k = self.problems, self.k = screening.problems, screening.k
        rows, device = space.rows, space.device
        sizes, self.places = screening.sizes, screening.places
        self.tiles, self.blocks = self.places // sizes.columns, -(-rows.n // sizes.rows)

        def new(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros((problems, *shape), dtype=dtype, device=device)

        self.order, self.homes = new(rows.n), new(rows.n)
        self.index_of, self.place_of = new(self.places), new(k)
        self.at_place, self.starts = new(self.places), new(self.places)
        self.last = new(k, rows.d, dtype=torch.float32)
        self.moves = new(self.tiles, dtype=torch.float32)
        self.reaches = new(rows.n, dtype=torch.float32)
        self.left = new(self.blocks, self.tiles, dtype=torch.float32)
        self.listed = new(self.blocks, self.tiles, dtype=torch.int16)
        self.positions = torch.zeros_like(self.listed)
        self.counts = new(self.blocks)
        self.state = new(int(sorting.STATE.value))
        self.tallies = new(3, dtype=torch.int64)
        self.restart()

    def restart(self) -> None:
        """Rows and centroids in the order in which they come, and no number."""
        self.order.copy_(torch.arange(self.space.rows.n, device=self.space.device))
        self._place(torch.arange(self.places, device=self.space.device).expand_as(self.index_of))
        self._reset(-1, _ORDERED)

    def before_step(self, number: int, centroids: Tensor) -> None:
        """What an E-step needs that is not in a graph.

        Args:
            number: of E-steps since the first one of these clusterings.
            centroids: of the E-step that comes, (P, k, d).
        """
        if number == _ORDERED:
            self._place(similar(centroids, self.screening.sizes.columns))
            self._reset(number - 1, number)

    def _place(self, order: Tensor) -> None:
        self.index_of.copy_(order[:, : self.places])
        places = torch.arange(order.shape[1], device=order.device).expand_as(order)
        self.place_of.copy_(torch.empty_like(order).scatter_(1, order, places)[:, : self.k])

    def _reset(self, step: int, due: int) -> None:
        self.state.zero_()
        self.state[:, 0].fill_(step)
        self.state[:, 2].fill_(due)
        self.tallies.zero_()

    def screen(self, centroids: Tensor, *, first: bool) -> None:
        """As :meth:`Screening.run`.

        Args:
            centroids: (P, k, d).
            first: whether the labels that there are mean nothing.
        """
        if first:
            self.restart()
        self._halve_centroids(centroids)
        if first:
            self.screening.guess(centroids)
        self._begin()
        entries_of = self.screening.entries_of
        for i in range(len(entries_of)):
            self._sift(i * self.screening.chunk, entries_of[i])
            self._decide(centroids, entries_of[i])

    def _halve_centroids(self, centroids: Tensor) -> None:
        space, screening, rows = self.space, self.screening, self.space.rows
        sizes = screening.sizes
        screening.counters.zero_()
        self.moves.zero_()
        size, features = 16, min(launch.power_of_two(rows.pitch), 128)
        halves.halve_centroids[(-(-self.places // size), self.problems)](
            centroids, rows.offset, rows.reach, screening.half, screening.scores,
            screening.counters, space.active, self.index_of, self.last,
            self.moves.view(torch.int32), rows.frame_stride, self.k, rows.d, self.places,
            rows.pitch, sizes.columns, centroids=size, features=features, placed=True, num_warps=4,
        )  # fmt: skip

    def _begin(self) -> None:
        """Let the device decide what this E-step does, and sort the rows where it does."""
        space, n, size = self.space, self.space.rows.n, 1024
        grid, block = (-(-n // size), self.problems), self.screening.sizes.rows
        sorting.count_rows[grid](
            space.codes, self.place_of, space.active, self.state, self.tallies, self.at_place,
            n, self.k, self.places, self.tiles, block, rows=size, num_warps=4,
        )  # fmt: skip
        sorting.begin_step[(self.problems,)](
            space.active, self.state, self.tallies, self.at_place, self.starts,
            self.places, self.tiles, block, numbers=1024, num_warps=4,
        )  # fmt: skip
        sorting.sort_rows[grid](
            space.codes, self.place_of, space.active, self.state, self.starts, self.order,
            self.homes, n, self.k, self.places, rows=size, num_warps=4,
        )  # fmt: skip

    def _sift(self, first_row: int, n_entries: Tensor) -> None:
        space, screening, rows = self.space, self.screening, self.space.rows
        sizes = screening.sizes
        size = min(screening.chunk, rows.n - first_row)
        tiles.sift_listed[(-(-size // sizes.rows), self.problems)](
            rows.x, rows.half, rows.norms, rows.residues, rows.exponents, rows.lengths,
            rows.offset, rows.reach, screening.half, screening.described, screening.scores,
            screening.counters, space.codes, space.active, self.order, self.homes, self.place_of,
            self.reaches, self.left, self.moves, self.listed, self.positions, self.counts,
            self.state, self.tallies, screening.entries, n_entries, screening.masks, *rows.strides,
            rows.frame_stride, first_row, size, rows.n, rows.d, self.k, self.places, rows.pitch,
            screening.capacity, *launch.errors(space.device, rows.d),
            rows=sizes.rows, features=sizes.features, columns=sizes.columns,
            segment_tiles=launch.SEGMENT, width=min(_WIDTH, launch.power_of_two(self.tiles)),
            stages=sizes.stages, unit=rows.unit, ready=rows.ready,
            described_tiles=sizes.described, num_warps=sizes.warps,
        )  # fmt: skip

    def _decide(self, centroids: Tensor, n_entries: Tensor) -> None:
        self.screening.decide(
            centroids, n_entries,
            (self.order, self.index_of, self.listed, self.counts), listed=True,
        )  # fmt: skip
