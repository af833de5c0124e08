"""The nearest centroids by screening in half precision, for more than 8 features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kmeans_module.backends.triton import launch
from kmeans_module.backends.triton.kernels import chunks, decide, halves, screen
from kmeans_module.backends.triton.tiles import TilesLeftOut, worthwhile

if TYPE_CHECKING:
    from kmeans_module.backends.triton.workspace import TritonWorkspace

_MASK_BYTES = 128 << 20


class Screening:
    """Memory and launches of the screening of P problems; see :mod:`kernels.screen`.

    Args:
        space: whose rows are screened.
        problems: P.
        k: centroids of each.

    Attributes:
        sizes: of tiles.
        places: of centroids, whole tiles of them.
        half: minus the centroids in half precision, (P, places, ·).
        scores: half their squared norms, (P, places).
        best: keys of what was decided, (P, n) int64; see :mod:`kernels.decide`.
        chunk: rows that are sifted by one launch.
        capacity: entries that a chunk may need.
        counters: of the centroids the largest norm and residue, then of each chunk the number of
            entries: of each problem, int32.
        left_out: where tiles are left out; None where that does not pay.
    """

    def __init__(self, space: TritonWorkspace, problems: int, k: int) -> None:
        self.space, self.problems, self.k = space, problems, k
        rows, device = space.rows, space.device
        n = rows.n
        sizes = self.sizes = launch.tiles_for(device, rows.d, k)
        self.places = -(-k // sizes.columns) * sizes.columns
        shape = (problems, self.places)
        self.half = torch.empty((*shape, rows.pitch), dtype=torch.float16, device=device)
        self.scores = torch.empty(shape, dtype=torch.float32, device=device)
        undecided = decide.UNDECIDED.value
        self.best = torch.full((problems, n), undecided, dtype=torch.int64, device=device)
        n_tiles = self.places // sizes.columns
        self._tile_bits = (1 << (n_tiles - 1).bit_length()) - 1
        segments = -(-n_tiles // launch.SEGMENT)
        of_row = problems * segments * (4 * sizes.columns + 8)
        chunk = max(1, _MASK_BYTES // of_row // sizes.rows) * sizes.rows
        self.chunk = min(chunk, -(-n // sizes.rows) * sizes.rows)
        self.capacity = self.chunk * segments

        def integers(count: int) -> Tensor:
            return torch.empty(count, dtype=torch.int32, device=device)

        self.counters = integers(problems * (2 + -(-n // self.chunk)))
        self.entries = integers(2 * problems * self.capacity)
        self.masks = integers(problems * self.capacity * sizes.columns)
        if not rows.whole:
            self._thresholds = torch.empty((problems, n), dtype=torch.float32, device=device)
        self.described = self._described_rows = self.half
        if sizes.described:
            self._describe()
        worth = not space.once and rows.whole and worthwhile(n, k, rows.d, sizes)
        self.left_out = TilesLeftOut(space, self) if worth else None

    @property
    def entries_of(self) -> Tensor:
        """The number of entries of each chunk, (chunks, P)."""
        return self.counters[2 * self.problems :].view(-1, self.problems)

    def _describe(self) -> None:
        tiles, rows = self.sizes, self.space.rows
        flat = self.half.view(-1, rows.pitch)
        self.described = launch.described(flat, [tiles.columns, tiles.features])
        if not rows.whole:
            flat = rows.half if rows.half.ndim == 2 else rows.half.flatten(0, 1)
            self._described_rows = launch.described(flat, [tiles.rows, tiles.features])

    def _halve_centroids(self, centroids: Tensor) -> None:
        problems, k, d = centroids.shape
        rows = self.space.rows
        self.counters.zero_()
        size, features = 16, min(launch.power_of_two(rows.pitch), 128)
        halves.halve_centroids[(-(-self.places // size), problems)](
            centroids, rows.offset, rows.reach, self.half, self.scores, self.counters,
            self.space.active, self.space.active, centroids, self.counters,
            rows.frame_stride, k, d, self.places, rows.pitch, self.sizes.columns,
            centroids=size, features=features, placed=False, num_warps=4,
        )  # fmt: skip

    def run(self, centroids: Tensor, *, first: bool) -> None:
        """Leave for each row, in best, the nearest of the candidates, where it has any."""
        if self.left_out is not None:
            self.left_out.screen(centroids, first=first)
            return
        self._halve_centroids(centroids)
        if first:
            self.guess(centroids)
        problems, entries_of = self.problems, self.entries_of
        none = (self.counters,) * 4
        for i in range(len(entries_of)):
            self._sift(i * self.chunk, entries_of[i], problems)
            self.decide(centroids, entries_of[i], none, listed=False)

    def decide(
        self, centroids: Tensor, n_entries: Tensor, lists: tuple[Tensor, ...], *, listed: bool
    ) -> None:
        """Decide among the candidates of the entries that a sift wrote down.

        Args:
            centroids: (P, k, d).
            n_entries: of each problem, (P,).
            lists: of the tiles of each block, see :class:`TilesLeftOut`, where listed.
            listed: whether entries are of tiles on these lists.
        """
        problems, k, d = centroids.shape
        space, rows, tiles, pairs = self.space, self.space.rows, self.sizes, 16
        most = min(-(-self.capacity // pairs), 16 * launch.processors(space.device))
        decide.decide[(most, problems)](
            rows.x, rows.exponents, rows.lengths, centroids, space.codes, self.entries,
            n_entries, self.masks, self.best, *lists, *rows.strides, rows.frame_stride, rows.n, d,
            k, self.places // tiles.columns, self.capacity, tiles.rows,
            pairs=pairs, columns=tiles.columns, segment_tiles=launch.SEGMENT, unit=rows.unit,
            listed=listed, num_warps=4,
        )  # fmt: skip

    def guess(self, centroids: Tensor) -> None:
        """Give rows labels of about the nearest centroids (P, k, d)."""
        problems, k, d = centroids.shape
        rows, tiles = self.space.rows, self.sizes
        grid = (-(-rows.n // tiles.rows), problems)
        options = {
            "rows": tiles.rows, "features": tiles.features, "columns": tiles.columns,
            "stages": tiles.stages, "num_warps": tiles.warps,
        }  # fmt: skip
        if rows.whole:
            screen.guess[grid](
                rows.x, rows.half, rows.norms, rows.residues, rows.exponents, rows.lengths,
                rows.offset, rows.reach, self.half, self.scores, self.space.codes, *rows.strides,
                rows.frame_stride, rows.n, d, k, self.places, rows.pitch, self._tile_bits,
                unit=rows.unit, ready=rows.ready, **options,
            )  # fmt: skip
            return
        chunks.guess_in_chunks[grid](
            rows.half, self._described_rows, self.half, self.described, self.scores,
            self.space.codes, *rows.half_strides, rows.frame_stride, rows.n, d, k, self.places,
            rows.pitch, self._tile_bits, described_tiles=tiles.described, **options,
        )  # fmt: skip

    def _sift(self, first_row: int, n_entries: Tensor, problems: int) -> None:
        space, rows, tiles = self.space, self.space.rows, self.sizes
        size = min(self.chunk, rows.n - first_row)
        grid = (-(-size // tiles.rows), problems)
        errors = launch.errors(space.device, rows.d)
        options = {
            "rows": tiles.rows, "features": tiles.features, "columns": tiles.columns,
            "segment_tiles": launch.SEGMENT, "stages": tiles.stages, "num_warps": tiles.warps,
            "described_tiles": tiles.described,
        }  # fmt: skip
        if rows.whole:
            screen.sift[grid](
                rows.x, rows.half, rows.norms, rows.residues, rows.exponents, rows.lengths,
                rows.offset, rows.reach, self.half, self.described, self.scores,
                self.counters, space.codes, space.active, self.entries, n_entries, self.masks,
                *rows.strides, rows.frame_stride, first_row, size, rows.n, rows.d, self.places,
                rows.pitch, self.capacity, *errors, unit=rows.unit, ready=rows.ready, **options,
            )  # fmt: skip
            return
        if first_row == 0:
            size_of = 32
            chunks.find_thresholds[(-(-rows.n // size_of), problems)](
                rows.half, rows.norms, rows.residues, rows.reach, self.half, self.scores,
                self.counters, space.codes, space.active, self._thresholds, *rows.half_strides,
                rows.frame_stride, rows.n, rows.d, self.places, rows.pitch, *errors,
                rows=size_of, features=64, num_warps=4,
            )  # fmt: skip
        chunks.sift_in_chunks[grid](
            rows.half, self._described_rows, self.half, self.described, self.scores,
            space.codes, self._thresholds, space.active, self.entries, n_entries, self.masks,
            *rows.half_strides, rows.frame_stride, first_row, size, rows.n, rows.d, self.places,
            rows.pitch, self.capacity, **options,
        )  # fmt: skip

    def apply_decisions(self) -> Tensor:
        """Give rows the labels that were decided; labels (P, n) int64."""
        space, rows, size = self.space, self.space.rows, 1024
        labels = torch.empty(space.codes.shape, dtype=torch.int64, device=space.device)
        decide.take_decisions[(-(-rows.n // size), len(labels))](
            rows.exponents, rows.lengths, space.codes, self.best, labels, rows.frame_stride,
            rows.n, rows=size, unit=rows.unit, num_warps=4,
        )  # fmt: skip
        return labels
