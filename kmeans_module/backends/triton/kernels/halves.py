"""Rows and centroids as the tensor cores take them: half precision, and how much that loses."""

import triton
import triton.language as tl

from kmeans_module.backends.triton.kernels.order import (
    CHANGING,
    FEW_FEATURES,
    LANES,
    PART,
    at_unit_length,
    exponent_of,
    fused,
    scale_exponent,
    scaled,
    sum_of_lanes,
)

# The largest number of half precision, less a little; and the largest |score| that takes part.
MOST_OF_HALF = tl.constexpr(60000.0)
FAR = tl.constexpr(1.0e30)
# Norms beyond this are not screened: every centroid is a candidate.
WIDE = tl.constexpr(1.0e15)
# Norms are rounded up by this factor.
UP = tl.constexpr(1.0001)


@triton.jit(do_not_specialize=CHANGING)
def measure_lengths(
    x,  # rows
    exponents,  # *i32 (P, n), written
    lengths,  # *f32 (P, n), written: 0 for a zero row
    problem_stride,
    row_stride,
    feature_stride,
    n,
    d,
    rows: tl.constexpr,
):
    """What scales each row to unit length: a power of two, then the norm of what that leaves."""
    p = tl.program_id(1)
    r = tl.program_id(0) * rows + tl.arange(0, rows)
    live = r < n
    at = p.to(tl.int64) * problem_stride + r.to(tl.int64) * row_stride
    lane = tl.arange(0, LANES)
    largest = tl.zeros((rows,), tl.float32)
    for first in range(0, d, LANES):
        f = first + lane
        there = live[:, None] & (f < d)[None, :]
        place = at[:, None] + f.to(tl.int64)[None, :] * feature_stride
        value = tl.abs(tl.load(x + place, mask=there, other=0).to(tl.float32))
        largest = tl.maximum(largest, tl.max(value, 1))
    exponent = scale_exponent(largest)
    if d <= FEW_FEATURES:
        squares = tl.zeros((rows,), tl.float32)
        place = at
        for _ in range(d):
            value = tl.load(x + place, mask=live, other=0).to(tl.float32)
            place += feature_stride
            value = scaled(value, exponent)
            squares = fused(value, value, squares)
    else:
        lanes = tl.zeros((rows, LANES), tl.float32)
        for begin in range(0, d, PART):
            part = tl.zeros((rows, LANES), tl.float32)
            for first in range(begin, min(begin + PART, d), LANES):
                f = first + lane
                there = live[:, None] & (f < d)[None, :]
                place = at[:, None] + f.to(tl.int64)[None, :] * feature_stride
                value = tl.load(x + place, mask=there, other=0).to(tl.float32)
                value = scaled(value, exponent[:, None])
                part = fused(value, value, part)
            lanes = lanes + part
        squares = sum_of_lanes(lanes, rows)
    place = p.to(tl.int64) * n + r
    tl.store(exponents + place, exponent, mask=live)
    tl.store(lengths + place, tl.sqrt_rn(squares), mask=live)


@triton.jit
def unit_or_same(value, exponents, lengths, place, live, unit: tl.constexpr):
    """Values (rows, ·) of rows at their place, at unit length where that is asked for."""
    if unit:
        exponent = tl.load(exponents + place, mask=live, other=0)
        length = tl.load(lengths + place, mask=live, other=1.0)
        length = tl.where(length > 0, length, 1.0)
        value = at_unit_length(value, exponent[:, None], length[:, None])
    return value


@triton.jit(do_not_specialize=CHANGING)
def find_frame(
    x,  # rows
    exponents,
    lengths,
    offset,  # *f32 (P, d), written: the mean of a sample of the rows
    reach,  # *i32 (P,), raised: bits of the largest |x - offset| in the sample
    problem_stride,
    row_stride,
    feature_stride,
    n,
    d,
    step,  # rows from one of the sample to the next
    sample: tl.constexpr,
    features: tl.constexpr,
    unit: tl.constexpr,
):
    """The offset that rows and centroids lose before they are rounded, and how far rows reach."""
    p = tl.program_id(1)
    f = tl.program_id(0) * features + tl.arange(0, features)
    i = tl.arange(0, sample)
    r = i.to(tl.int64) * step
    live = r < n
    there = live[:, None] & (f < d)[None, :]
    at = p.to(tl.int64) * problem_stride + r * row_stride
    value = tl.load(
        x + at[:, None] + f.to(tl.int64)[None, :] * feature_stride, mask=there, other=0
    ).to(tl.float32)
    value = unit_or_same(value, exponents, lengths, p.to(tl.int64) * n + r, live, unit)
    count = tl.sum(live.to(tl.int32), 0).to(tl.float32)
    mean = tl.sum(tl.where(there, value, 0.0) / count, 0)
    mean = tl.where(tl.abs(mean) < 3.0e38, mean, 0.0)
    tl.store(offset + p.to(tl.int64) * d + f, mean, mask=f < d)
    apart = tl.where(there, tl.abs(value - mean[None, :]), 0.0)
    largest = tl.max(tl.max(apart, 1), 0)
    tl.atomic_max(reach + p, largest.to(tl.int32, bitcast=True), sem="relaxed")


@triton.jit
def scale_of(reach, p):
    """The power of two by which what the sample reaches comes to about 2^10: rows that reach 64
    times as far still are numbers of half precision."""
    largest = tl.load(reach + p).to(tl.float32, bitcast=True)
    usual = (largest > 1.0e-37) & (largest < 1.0e37)
    exponent = 10 - exponent_of(tl.where(usual, largest, 1.0))
    exponent = tl.minimum(tl.maximum(exponent, -120), 120)
    return ((exponent + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def rounded_to_half(value):
    """float16; numbers out of its range become its largest, which the residue then shows."""
    return tl.minimum(tl.maximum(value, -MOST_OF_HALF), MOST_OF_HALF).to(tl.float16)


@triton.jit(do_not_specialize=CHANGING)
def halve_rows(
    x,  # rows
    exponents,
    lengths,
    offset,  # *f32 (P, d)
    reach,  # *i32 (P,)
    half,  # *f16 (P, n, pitch), written
    norms,  # *f32 (P, n), written: of the rows less the offset, scaled; rounded up
    residues,  # *f32 (P, n), written: norms of what rounding took; rounded up
    problem_stride,
    row_stride,
    feature_stride,
    n,
    d,
    pitch,
    rows: tl.constexpr,
    features: tl.constexpr,
    unit: tl.constexpr,
    copies: tl.constexpr,  # whether half is written; else norms and residues alone
):
    """Rows less the offset, scaled, in half precision, filled up by zeros."""
    p = tl.program_id(1)
    r = tl.program_id(0) * rows + tl.arange(0, rows)
    live = r < n
    at = p.to(tl.int64) * problem_stride + r.to(tl.int64) * row_stride
    place = p.to(tl.int64) * n + r
    scale = scale_of(reach, p)
    squares = tl.zeros((rows,), tl.float32)
    lost = tl.zeros((rows,), tl.float32)
    for first in range(0, pitch, features):
        f = first + tl.arange(0, features)
        there = live[:, None] & (f < d)[None, :]
        value = tl.load(
            x + at[:, None] + f.to(tl.int64)[None, :] * feature_stride, mask=there, other=0
        ).to(tl.float32)
        value = unit_or_same(value, exponents, lengths, place, live, unit)
        origin = tl.load(offset + p.to(tl.int64) * d + f, mask=f < d, other=0.0)
        value = tl.where(there, (value - origin[None, :]) * scale, 0.0)
        nearest = rounded_to_half(value)
        residue = value - nearest.to(tl.float32)
        squares += tl.sum(value * value, 1)
        lost += tl.sum(residue * residue, 1)
        if copies:
            inside = live[:, None] & (f < pitch)[None, :]
            tl.store(half + place[:, None] * pitch + f[None, :], nearest, mask=inside)
    tl.store(norms + place, tl.sqrt(squares) * UP, mask=live)
    tl.store(residues + place, tl.sqrt(lost) * UP, mask=live)


@triton.jit(do_not_specialize=CHANGING)
def halve_centroids(
    c,  # *f32 (P, k, d)
    offset,  # *f32 (P, d) or (1, d)
    reach,  # *i32 (P,) or (1,)
    half,  # *f16 (P, places, pitch), written: minus the centroids
    scores,  # *f32 (P, places), written: half the squared norm
    most,  # *i32 (P, 2), raised: bits of the largest norm and residue; rounded up
    active,  # *i8 (P,)
    index_of,  # *i32 (P, places), where placed: the centroid of each place, k and more: none
    last,  # *f32 (P, k, d), where placed: centroids of the last E-step; become these
    moves,  # *i32 (P, tiles), where placed, raised: bits of how far centroids moved; rounded up
    frame_stride,  # 0 where the problems share the rows, else 1
    k,
    d,
    places,
    pitch,
    columns,  # places of a tile, a multiple of centroids
    centroids: tl.constexpr,
    features: tl.constexpr,
    placed: tl.constexpr,
):
    """Centroids less the offset of the rows, scaled alike, negated, in half precision.

    Places without a centroid, up to a whole number of tiles, lie too far away to win.
    """
    p = tl.program_id(1)
    frame = p * frame_stride
    j = tl.program_id(0) * centroids + tl.arange(0, centroids)
    place = p.to(tl.int64) * places + j
    filled = j < places
    if placed:
        # A problem that is finished is not looked at: its numbers stay those of its last E-step.
        looks = tl.load(active + p) != 0
        j = tl.load(index_of + place, mask=filled, other=k)
        moved = tl.zeros((centroids,), tl.float32)
    live = j < k
    scale = scale_of(reach, frame)
    squares = tl.zeros((centroids,), tl.float32)
    lost = tl.zeros((centroids,), tl.float32)
    at = (p.to(tl.int64) * k + j) * d
    for first in range(0, pitch, features):
        f = first + tl.arange(0, features)
        there = live[:, None] & (f < d)[None, :]
        value = tl.load(c + at[:, None] + f[None, :], mask=there, other=0.0)
        if placed:
            apart = (
                value - tl.load(last + at[:, None] + f[None, :], mask=there, other=0.0)
            ) * scale
            moved += tl.sum(apart * apart, 1)
            tl.debug_barrier()
            if looks:
                tl.store(last + at[:, None] + f[None, :], value, mask=there)
        origin = tl.load(offset + frame.to(tl.int64) * d + f, mask=f < d, other=0.0)
        value = tl.where(there, (value - origin[None, :]) * scale, 0.0)
        nearest = rounded_to_half(value)
        residue = value - nearest.to(tl.float32)
        squares += tl.sum(value * value, 1)
        lost += tl.sum(residue * residue, 1)
        inside = filled[:, None] & (f < pitch)[None, :]
        tl.store(half + place[:, None] * pitch + f[None, :], -nearest, mask=inside)
    score = tl.where(live, tl.minimum(0.5 * squares, FAR), FAR)
    tl.store(scores + place, score, mask=filled)
    norm = tl.max(tl.where(live, tl.minimum(tl.sqrt(squares) * UP, FAR), 0.0), 0)
    residue = tl.max(tl.where(live, tl.minimum(tl.sqrt(lost) * UP, FAR), 0.0), 0)
    tl.atomic_max(most + 2 * p, norm.to(tl.int32, bitcast=True), sem="relaxed")
    tl.atomic_max(most + 2 * p + 1, residue.to(tl.int32, bitcast=True), sem="relaxed")
    if placed:
        # Squares may underflow; what is not a number has moved as far as can be.
        move = tl.sqrt(moved) * UP + 1.0e-15
        move = tl.max(tl.where(live, tl.where(move < FAR, move, FAR), 0.0), 0)
        tile = tl.program_id(0) * centroids // columns
        at_tile = p.to(tl.int64) * (places // columns) + tile
        tl.atomic_max(moves + at_tile, move.to(tl.int32, bitcast=True), sem="relaxed")


@triton.jit
def scale_rows(
    x,  # *f32 (n, d)
    exponents,  # *i32 (n,)
    lengths,  # *f32 (n,)
    out,  # *f32 (n, d), written
    n,
    d,
    rows: tl.constexpr,
    features: tl.constexpr,
):
    """Rows at unit length, as distances take them."""
    r = (tl.program_id(0) * rows + tl.arange(0, rows)).to(tl.int64)
    live = r < n
    for first in range(0, d, features):
        f = first + tl.arange(0, features)
        there = live[:, None] & (f < d)[None, :]
        at = r[:, None] * d + f[None, :]
        value = tl.load(x + at, mask=there, other=0.0)
        tl.store(out + at, unit_or_same(value, exponents, lengths, r, live, True), mask=there)
