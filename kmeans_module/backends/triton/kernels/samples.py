"""Samples that codes are revived by: keys of rows, and which rows equal none before them.

What kmeans_module.quantization.samples does in torch on other devices.
"""

import triton
import triton.language as tl

# Of splitmix64, as signed numbers; see kmeans_module.rows.keyed.
_GAMMA = tl.constexpr(-7046029254386353131)
_FIRST = tl.constexpr(-4658895280553007687)
_SECOND = tl.constexpr(-7723592293110705685)
NEVER = tl.constexpr(0x7FFFFFFFFFFFFFFF)


@triton.jit
def hashed(numbers):
    """64 bits that look random for each of the int64 numbers."""
    mixed = numbers * _GAMMA
    mixed = (mixed ^ ((mixed >> 30) & 0x3FFFFFFFF)) * _FIRST
    mixed = (mixed ^ ((mixed >> 27) & 0x1FFFFFFFFF)) * _SECOND
    return mixed ^ ((mixed >> 31) & 0x1FFFFFFFF)


@triton.jit(do_not_specialize=["before", "seed"])
def look(
    x,  # *f32 (P, n, d)
    valid,  # *u8 (P, n), where masked
    steps,  # *i64 (P,)
    numbers,  # *i64 (2,): before and seed, where they are shared
    found,  # *i64 (2,), raised: rows that are not finite, of any problem; n - the first of them
    keys,  # *i64 (P, n), written, where draws
    problem_stride, row_stride, feature_stride,
    mask_problem_stride, mask_row_stride,
    problems, n, d,
    before,  # rows before the first
    seed,
    of_step, of_problem,
    rows: tl.constexpr,
    features: tl.constexpr,
    draws: tl.constexpr,
    masked: tl.constexpr,
    shared: tl.constexpr,
):  # fmt: skip
    """Which rows hold NaN or infinity; and keys, see kmeans_module.quantization.samples."""
    r = tl.program_id(0) * rows + tl.arange(0, rows)
    bad = tl.zeros((rows,), tl.int32)
    for problem in range(problems):
        p = tl.cast(problem, tl.int64)
        row = p * problem_stride + r.to(tl.int64) * row_stride
        for first in range(0, d, features):
            f = first + tl.arange(0, features)
            inside = (r < n)[:, None] & (f < d)[None, :]
            at = row[:, None] + f.to(tl.int64)[None, :] * feature_stride
            value = tl.load(x + at, mask=inside, other=0.0)
            usual = tl.abs(value) < float("inf")
            bad = tl.maximum(bad, tl.max(tl.where(usual, 0, 1), 1))
        if draws:
            stream = tl.load(steps + p) * tl.cast(of_step, tl.int64)
            stream += p * tl.cast(of_problem, tl.int64)
            if shared:
                stream += tl.load(numbers) + tl.load(numbers + 1)
            else:
                stream += tl.cast(before, tl.int64) + tl.cast(seed, tl.int64)
            key = hashed(stream + r)
            if masked:
                at_mask = p * mask_problem_stride + r.to(tl.int64) * mask_row_stride
                counts = tl.load(valid + at_mask, mask=r < n, other=0)
                key = tl.where(counts != 0, key, NEVER)
            tl.store(keys + p * n + r, key, mask=r < n)
    count = tl.sum(bad, 0)
    if count > 0:
        tl.atomic_add(found, count.to(tl.int64), sem="relaxed")
        left = tl.max(tl.where(bad > 0, n - r, 0), 0)
        tl.atomic_max(found + 1, left.to(tl.int64), sem="relaxed")


@triton.jit
def number_rows(drawn, first_row, r, m, d, rows: tl.constexpr, features: tl.constexpr):
    """Numbers for the values of rows r of (m, d), equal rows have the same; and which are not 0."""
    total = tl.zeros((rows,), tl.int64)
    nonzero = tl.zeros((rows,), tl.int32)
    for first in range(0, d, features):
        f = first + tl.arange(0, features)
        inside = (r < m)[:, None] & (f < d)[None, :]
        at = (first_row + r)[:, None] * d + f[None, :]
        value = tl.load(drawn + at, mask=inside, other=0.0)
        some = value != 0  # -0 is 0
        bits = tl.where(some, value, 0.0).to(tl.int32, bitcast=True).to(tl.int64)
        total += tl.sum(bits * hashed(f.to(tl.int64) + 1)[None, :], 1)
        nonzero = tl.maximum(nonzero, tl.max(some.to(tl.int32), 1))
    return total, nonzero


@triton.jit
def find_known(
    drawn,  # *f32 (P, m, d)
    keys,  # *i64 (P, m): NEVER where there is no sample
    known,  # *i8 (P, m), written
    m,
    d,
    rows: tl.constexpr,
    others: tl.constexpr,
    features: tl.constexpr,
    unit: tl.constexpr,  # whether rows that are 0 are no samples
):
    """Which rows are samples that equal none before them."""
    p = tl.program_id(1).to(tl.int64)
    begin = tl.program_id(0) * rows
    r = begin + tl.arange(0, rows)
    own, nonzero = number_rows(drawn, p * m, r, m, d, rows, features)
    twice = tl.zeros((rows,), tl.int32)
    for first in range(0, begin + rows, others):
        j = first + tl.arange(0, others)
        other, _ = number_rows(drawn, p * m, j, m, d, others, features)
        there = tl.load(keys + p * m + j, mask=j < m, other=NEVER) != NEVER
        same = (own[:, None] == other[None, :]) & (j[None, :] < r[:, None]) & there[None, :]
        twice = tl.maximum(twice, tl.max(same.to(tl.int32), 1))
    key = tl.load(keys + p * m + r, mask=r < m, other=NEVER)
    is_known = (key != NEVER) & (twice == 0)
    if unit:
        is_known = is_known & (nonzero > 0)
    tl.store(known + p * m + r, is_known.to(tl.int8), mask=r < m)


@triton.jit
def far_first(
    drawn,  # *f32 (P, m, d)
    codes,  # *i64 (P, m): of the samples
    known,  # *i8 (P, m)
    centroids,  # *f32 (P, k, d)
    order,  # *i32 (P, rivals * groups), written
    m, k, d, groups,
    rows: tl.constexpr,  # a multiple of rivals
    features: tl.constexpr,
    rivals: tl.constexpr,
):  # fmt: skip
    """The order in which codes take samples; see kmeans_module.quantization.samples."""
    p = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * rows + tl.arange(0, rows)
    is_known = tl.load(known + p * m + i, mask=i < m, other=0) > 0
    code = tl.load(codes + p * m + i, mask=is_known, other=0)
    away = tl.zeros((rows,), tl.float64)
    for first in range(0, d, features):
        f = first + tl.arange(0, features)
        inside = is_known[:, None] & (f < d)[None, :]
        row = tl.load(drawn + (p * m + i)[:, None] * d + f[None, :], mask=inside, other=0.0)
        at = (p * k + code)[:, None] * d + f[None, :]
        apart = row.to(tl.float64) - tl.load(centroids + at, mask=inside, other=0.0).to(tl.float64)
        away += tl.sum(apart * apart, 1)
    away = tl.where(is_known, away, -1.0)
    farther = (away[None, :] > away[:, None]) | (
        (away[None, :] == away[:, None]) & (i[None, :] < i[:, None])
    )
    rival = (i // rivals)[None, :] == (i // rivals)[:, None]
    place = tl.sum((rival & farther).to(tl.int32), 1)
    group = i // rivals
    tl.store(order + p * rivals * groups + place * groups + group, i, mask=group < groups)
