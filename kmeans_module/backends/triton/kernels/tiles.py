"""Tiles of centroids that cannot win are left out, without a product.

Rows are taken in an order in which those of a cluster lie together, in blocks; centroids lie in
places where neighbors are alike, in tiles. Of each block and tile one number is kept: by how much
every centroid of the tile is farther than the own one, for all rows of the block, as distances.
An E-step takes off how far the centroids of the tile have moved and how much the own distances
of the block have grown; where something is left, no centroid of the tile can win.

Distances are those of rows with one more feature, which no centroid has: what the norm of a row
was rounded up by. So the norm cancels in differences, and moves of centroids bound the rest. A
row's own distance is taken together with the margin of :func:`kernels.screen.threshold_of`, so
that a tile is left out only where the sum that decides, with all its rounding, would agree.
Upper bounds are rounded up, lower ones down. A tile with a row's own centroid never is left out.
"""

import triton
import triton.language as tl

from kmeans_module.backends.triton.kernels.halves import scale_of
from kmeans_module.backends.triton.kernels.screen import (
    ALWAYS,
    NEVER,
    UNIT_ROUNDING,
    error_of,
    half_rows,
    note_candidates,
    threshold_of,
)
from kmeans_module.backends.triton.kernels.sorting import MAKES, ON, PROBE, PROBING, STATE

UPWARD = tl.constexpr(1.000001)
DOWNWARD = tl.constexpr(0.999999)
NO_REACH = tl.constexpr(1.0e30)


@triton.jit
def reaches_of(threshold, error, norm, live):
    """Upper bounds of the own distances, and what makes a lower bound of a centroid's squared
    distance of twice its score less the threshold."""
    squared = 2 * (threshold - error) + norm * norm
    rounding = 4 * UNIT_ROUNDING * (norm * norm + 2 * tl.abs(threshold))
    reach = tl.sqrt(tl.maximum(squared + rounding, 0.0)) * UPWARD
    usual = live & (threshold < ALWAYS) & (reach < NO_REACH)
    return tl.where(usual, reach, NO_REACH), squared - rounding, usual


@triton.jit
def list_tiles(
    left,  # *f32 (tiles,): the numbers of a block
    moves,  # *f32 (tiles,): how far centroids have moved
    listed,  # *i16 (tiles,), written: tiles to look at
    positions,  # *i16 (tiles,), written: where on the list a tile would be
    grown,  # by how much the own distances have grown at most
    tiles,
    uses,  # whether the block has numbers, or gets some
    fresh,  # whether it has none yet
    width: tl.constexpr,
):
    """Take off what has moved, and write down the tiles to look at; how many they are."""
    count = tiles * 0
    written = tl.where(uses, tiles, 0)
    read = tl.where(fresh == 0, written, 0)
    for first in range(0, tiles, width):
        t = first + tl.arange(0, width)
        inside = t < tiles
        number = tl.load(left + t, mask=t < read, other=NEVER)
        moved = tl.load(moves + t, mask=t < read, other=0.0)
        rounding = 4 * UNIT_ROUNDING * (tl.abs(number) + moved + tl.abs(grown))
        number = number - moved - grown - rounding
        # What is not a number is looked at.
        needed = inside & ((number > 0) == 0)
        position = count + tl.cumsum(needed.to(tl.int32), 0) - 1
        tl.store(listed + position, t.to(tl.int16), mask=needed)
        tl.store(positions + t, position.to(tl.int16), mask=inside)
        tl.debug_barrier()  # few numbers are held by several warps
        tl.store(left + t, number, mask=t < written)
        count += tl.sum(needed.to(tl.int32), 0)
    return count


@triton.jit
def begin_block(
    left, moves, listed, positions, counts, reaches, homes, state, tallies,
    place, at, live, reach, block, tiles,
    rows: tl.constexpr, width: tl.constexpr,
):  # fmt: skip
    """The list of tiles of a block: how many, and whether those that are looked at get numbers.

    Args:
        left, moves, listed, positions: see :func:`list_tiles`, of the block.
        counts: where the length of the list is written.
        reaches: *f32 (n,) of the problem: upper bounds of the own distances; become the new ones.
        homes: *i32 (n,) of the problem.
        state, tallies: of the problem.
        place: of the rows in their order, (rows,).
        at: places of their own centroids.
        reach: their upper bounds, NO_REACH where there is none.
        block: its number.
    """
    mode = tl.load(state + 1)
    fresh = tl.load(state + 4)
    uses = (mode == ON) | ((mode == PROBING) & (block % PROBE == 0))
    before = tl.load(reaches + place, mask=live, other=0.0)
    grown = tl.max(tl.where(live, reach - before, -NO_REACH), 0)
    tl.store(reaches + place, reach, mask=live)
    count = list_tiles(left, moves, listed, positions, grown, tiles, uses, fresh, width)
    tl.store(counts, count)
    if uses & (fresh == 0):
        home = tl.load(homes + place, mask=live, other=0)
        away = tl.sum((live & (home != at)).to(tl.int32), 0)
        tl.atomic_add(tallies, count.to(tl.int64), sem="relaxed")
        tl.atomic_add(tallies + 1, tl.full((), 1, tl.int64), sem="relaxed")
        tl.atomic_add(tallies + 2, away.to(tl.int64), sem="relaxed")
    # The list is read by all threads.
    tl.debug_barrier()
    return count, uses & ((fresh != 0) | (count * 1024 <= tiles * MAKES))


@triton.jit
def number_of(result, lowest, reach, usual, live):
    """By how much a tile's centroids are farther than the own ones of all rows, at least.

    Args:
        result: scores less thresholds, (rows, columns).
        lowest, reach, usual: of :func:`reaches_of`.
    """
    nearest = tl.min(result, 1)
    distance = tl.sqrt(tl.maximum(lowest + 2 * nearest, 0.0)) * DOWNWARD
    apart = tl.where(usual, distance - reach, NEVER)
    return tl.min(tl.where(live, apart, ALWAYS), 0)


@triton.jit
def sift_listed(
    x, half, norms, residues, exponents, lengths, offset, reach_of_rows,  # see half_rows
    centroids,  # *f16 (P, places, pitch): minus the centroids
    described,  # the same by a descriptor of (P * places, pitch), where described_tiles
    scores,  # *f32 (P, places)
    most,  # *i32 (P, 2)
    labels,  # *i32 (P, n)
    active,  # *i8 (P,)
    order, homes, place_of, reaches,  # *i32 (P, n), (P, n), (P, k), *f32 (P, n)
    left, moves, listed, positions, counts,  # (P, blocks, tiles), but (P, tiles) and (P, blocks)
    state, tallies,
    entries,  # *i32 (·, 2), written: places of rows and first positions of segments
    n_entries,  # *i32 (P,), raised
    masks,  # *i32 (·, columns), written
    problem_stride, row_stride, feature_stride, frame_stride,
    first_row, n_rows,  # of this launch
    n, d, k, places, pitch, capacity,
    product_error,
    sum_error,
    rows: tl.constexpr,
    features: tl.constexpr,
    columns: tl.constexpr,
    segment_tiles: tl.constexpr,
    width: tl.constexpr,
    stages: tl.constexpr,
    unit: tl.constexpr,
    ready: tl.constexpr,
    described_tiles: tl.constexpr,
):  # fmt: skip
    """As :func:`kernels.screen.sift`, over the tiles that are not left out.

    Bit b of column c of a mask stands for the centroid at place c of tile listed[end - 1 - b].
    """
    p = tl.program_id(1)
    if tl.load(active + p) != 0:
        local = tl.program_id(0) * rows + tl.arange(0, rows)
        place = first_row + local
        live = (local < n_rows) & (place < n)
        of_rows = p.to(tl.int64) * n
        r = tl.load(order + of_rows + place, mask=live, other=0)
        f = tl.arange(0, features)
        frame = p * frame_stride
        row, norm, residue = half_rows(
            x, half, norms, residues, exponents, lengths, offset, reach_of_rows,
            frame, r, live, problem_stride, row_stride, feature_stride, n, d, pitch,
            features, unit, ready,
        )  # fmt: skip
        first = p.to(tl.int64) * places
        label = tl.load(labels + of_rows + r, mask=live, other=0)
        at = tl.load(place_of + p.to(tl.int64) * k + label, mask=live, other=0)
        inside = (f < pitch)[None, :] & live[:, None]
        own_centroid = tl.load(
            centroids + (first + at)[:, None] * pitch + f[None, :], mask=inside, other=0.0
        ).to(tl.float32)
        own = tl.load(scores + first + at, mask=live, other=0.0)
        own += tl.sum(row.to(tl.float32) * own_centroid, 1)
        error = error_of(own, norm, residue, most, p, product_error)
        threshold = threshold_of(
            own, norm, residue, most, scale_of(reach_of_rows, frame), p, d, product_error,
            sum_error,
        )  # fmt: skip
        reach, lowest, usual = reaches_of(threshold, error, norm, live)
        threshold = tl.where(live, threshold, NEVER)
        tiles = places // columns
        block = first_row // rows + tl.program_id(0)
        number = p.to(tl.int64) * tl.cdiv(n, rows) + block
        table = left + number * tiles
        tiles_listed = listed + number * tiles
        count, makes = begin_block(
            table, moves + p.to(tl.int64) * tiles, tiles_listed, positions + number * tiles,
            counts + number, reaches + of_rows, homes + of_rows, state + p * STATE, tallies + p * 3,
            place, at, live, reach, block, tiles, rows, width,
        )  # fmt: skip
        own_position = tl.load(positions + number * tiles + at // columns).to(tl.int32)
        for segment in range(0, count, segment_tiles):
            end = tl.minimum(segment + segment_tiles, count)
            mask = tl.zeros((rows, columns), tl.int32)
            for i in tl.range(segment, end, num_stages=stages):
                tile = tl.load(tiles_listed + i).to(tl.int32)
                if described_tiles:
                    c = described.load([p * places + tile * columns, 0])
                else:
                    j = first + tile * columns + tl.arange(0, columns)
                    c = tl.load(
                        centroids + j[:, None] * pitch + f[None, :],
                        mask=(f < pitch)[None, :] & (j >= 0)[:, None], other=0.0,
                    )  # fmt: skip
                at_column = first + tile * columns + tl.arange(0, columns)
                start = tl.load(scores + at_column)[None, :] - threshold[:, None]
                result = tl.dot(row, tl.trans(c), start)
                mask = (mask << 1) | (result.to(tl.uint32, bitcast=True) >> 31).to(tl.int32)
                if makes:
                    tl.store(table + tile, number_of(result, lowest, reach, usual, live))
            note_candidates(
                mask, place, live, at, segment, end,
                entries + 2 * p.to(tl.int64) * capacity, n_entries + p,
                masks + p.to(tl.int64) * capacity * columns, own_position, rows, columns,
            )  # fmt: skip
