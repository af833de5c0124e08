"""The nearest of the candidates, by the distance that decides; ties go to the lowest index."""

import triton
import triton.language as tl

from kmeans_module.backends.triton.kernels.order import CHANGING, written_distances

# What a row has that nothing was decided for: the largest int64.
UNDECIDED = tl.constexpr(0x7FFFFFFFFFFFFFFF)


@triton.jit
def unit_of_rows(exponents, lengths, place, live, unit: tl.constexpr):
    """Exponent and length of rows (rows,), for :func:`written_distances`."""
    exponent = tl.zeros_like(place).to(tl.int32)
    length = tl.zeros_like(place).to(tl.float32) + 1.0
    if unit:
        exponent = tl.load(exponents + place, mask=live, other=0)
        length = tl.load(lengths + place, mask=live, other=1.0)
        length = tl.where(length > 0, length, 1.0)
    return exponent, length


@triton.jit
def key_of(distance, label):
    """A number whose order is that of distances, then of labels; distances are at least 0."""
    return (distance.to(tl.int32, bitcast=True).to(tl.int64) << 32) | label.to(tl.int64)


@triton.jit(do_not_specialize=CHANGING)
def decide(
    x,  # rows
    exponents,
    lengths,
    c,  # *f32 (P, k, d)
    labels,  # *i32 (P, n)
    entries,  # *i32 (P, capacity, 2): rows with candidates, and the first tile of their segment
    n_entries,  # *i32 (P,)
    masks,  # *i32 (P, capacity, columns)
    best,  # *i64 (P, n), lowered: keys
    order,  # where listed: see kernels.tiles
    index_of,
    tiles_listed,
    list_lengths,
    problem_stride,
    row_stride,
    feature_stride,
    frame_stride,
    n,
    d,
    k,
    tiles,
    capacity,
    block,  # rows of a list
    pairs: tl.constexpr,  # entries that are decided together
    columns: tl.constexpr,
    segment_tiles: tl.constexpr,
    unit: tl.constexpr,
    listed: tl.constexpr,  # whether entries are places of rows, and tiles those of a list
):
    """Distances of the candidates of each entry and of the row's own centroid."""
    p = tl.program_id(1)
    total = tl.load(n_entries + p)
    entries += 2 * p.to(tl.int64) * capacity
    masks += p.to(tl.int64) * capacity * columns
    frame = (p * frame_stride).to(tl.int64)
    lane = tl.arange(0, columns)
    for start in range(tl.program_id(0) * pairs, total, tl.num_programs(0) * pairs):
        e = start + tl.arange(0, pairs)
        live = e < total
        r = tl.load(entries + 2 * e, mask=live, other=0)
        segment = tl.load(entries + 2 * e + 1, mask=live, other=0)
        if listed:
            number = p.to(tl.int64) * tl.cdiv(n, block) + r // block
            r = tl.load(order + p.to(tl.int64) * n + r, mask=live, other=0)
            tiles_of_list = tl.load(list_lengths + number, mask=live, other=1)
            last = tl.minimum(segment + segment_tiles, tiles_of_list) - 1
        else:
            last = tl.minimum(segment + segment_tiles, tiles) - 1
        mask = tl.load(
            masks + e.to(tl.int64)[:, None] * columns + lane[None, :],
            mask=live[:, None], other=0,
        )  # fmt: skip
        place = p.to(tl.int64) * n + r
        row = frame * problem_stride + r.to(tl.int64) * row_stride
        exponent, length = unit_of_rows(exponents, lengths, frame * n + r, live, unit)
        label = tl.load(labels + place, mask=live, other=0)
        least = written_distances(
            x, c, row, (p.to(tl.int64) * k + label) * d, feature_stride, live, exponent, length,
            d, pairs, False, unit,
        )  # fmt: skip
        left = tl.max(tl.max((mask != 0).to(tl.int32), 1), 0)
        while left > 0:
            # Of each row the lowest bit in its lowest column.
            column = tl.min(tl.where(mask != 0, lane[None, :], columns), 1)
            there = column < columns
            here = lane[None, :] == column[:, None]
            word = tl.sum(tl.where(here, mask, 0), 1)
            low = word & (0 - word)
            as_float = low.to(tl.uint32, bitcast=True).to(tl.float32)
            bit = ((as_float.to(tl.int32, bitcast=True) >> 23) & 255) - 127
            if listed:
                at_list = tiles_listed + number * tiles + (last - bit)
                tile = tl.load(at_list, mask=there, other=0).to(tl.int32)
                at_place = p.to(tl.int64) * tiles * columns + tile * columns + column
                j = tl.load(index_of + at_place, mask=there, other=0)
            else:
                j = tl.where(there, (last - bit) * columns + column, 0)
            there = there & (j < k)
            distance = written_distances(
                x, c, row, (p.to(tl.int64) * k + j) * d, feature_stride, there, exponent, length,
                d, pairs, False, unit,
            )  # fmt: skip
            wins = there & ((distance < least) | ((distance == least) & (j < label)))
            least = tl.where(wins, distance, least)
            label = tl.where(wins, j, label)
            mask = tl.where(here, mask ^ low[:, None], mask)
            left = tl.max(tl.max((mask != 0).to(tl.int32), 1), 0)
        tl.atomic_min(best + place, key_of(least, label), mask=live, sem="relaxed")


@triton.jit(do_not_specialize=CHANGING)
def take_decisions(
    exponents,  # of the rows, where unit
    lengths,
    labels,  # *i32 (P, n): those that were guessed become those that were decided
    best,  # *i64 (P, n): keys, which become UNDECIDED again
    out,  # *i64 (P, n), written
    frame_stride,
    n,
    rows: tl.constexpr,
    unit: tl.constexpr,
):
    """Labels of all rows, as int64; under the cosine metric zero rows have label 0."""
    p = tl.program_id(1)
    r = tl.program_id(0) * rows + tl.arange(0, rows)
    live = r < n
    place = p.to(tl.int64) * n + r
    key = tl.load(best + place, mask=live, other=UNDECIDED)
    label = tl.load(labels + place, mask=live, other=0)
    label = tl.where(key == UNDECIDED, label, (key & 0xFFFFFFFF).to(tl.int32))
    if unit:
        length = tl.load(lengths + (p * frame_stride).to(tl.int64) * n + r, mask=live, other=1.0)
        label = tl.where(length > 0, label, 0)
    tl.debug_barrier()
    tl.store(labels + place, label, mask=live)
    tl.store(out + place, label.to(tl.int64), mask=live)
    tl.store(best + place, tl.full((rows,), UNDECIDED, tl.int64), mask=live)


@triton.jit(do_not_specialize=CHANGING)
def measure(
    x,  # rows
    exponents,
    lengths,
    c,  # *f32 (P, k, d)
    labels,  # *i32 (P, n)
    wanted,  # *i8 (P,): problems that are measured
    distances,  # *f32 (P, n), written
    problem_stride,
    row_stride,
    feature_stride,
    frame_stride,
    n,
    d,
    k,
    rows: tl.constexpr,
    few: tl.constexpr,
    unit: tl.constexpr,
):
    """Distance of each row to its centroid; under the cosine metric 1 - cos, 1 for zero rows."""
    p = tl.program_id(1)
    if tl.load(wanted + p) != 0:
        r = tl.program_id(0) * rows + tl.arange(0, rows)
        live = r < n
        place = p.to(tl.int64) * n + r
        frame = (p * frame_stride).to(tl.int64)
        label = tl.load(labels + place, mask=live, other=0)
        exponent, length = unit_of_rows(exponents, lengths, frame * n + r, live, unit)
        distance = written_distances(
            x, c, frame * problem_stride + r.to(tl.int64) * row_stride,
            (p.to(tl.int64) * k + label) * d, feature_stride, live, exponent, length,
            d, rows, few, unit,
        )  # fmt: skip
        if unit:
            zero = tl.load(lengths + frame * n + r, mask=live, other=1.0) == 0
            distance = tl.where(zero, 1.0, distance * 0.5)
        tl.store(distances + place, distance, mask=live)
