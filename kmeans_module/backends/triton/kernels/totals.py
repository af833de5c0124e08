"""Sums of clusters in integers: whatever the order in which rows are added, the same bits.

A number x of a feature, |x| < 2^E, of n rows is h·2^u + l·2^v with

    u = E + digits(n) - 52,      h = round(x / 2^u),
    v = u - 52 + digits(n),      l = round((x - h·2^u) / 2^v)

where digits(n) is the least e with n < 2^e. Sums of n such h, and of l, keep within 53 bits, so
that Σh·2^u + Σl·2^v is Σx rounded once: exactly, where no bit of x is below 2^v, and within
n·2^(v - 1) in any case. l is 0 for most numbers, and then costs nothing.
"""

import triton
import triton.language as tl

from kmeans_module.backends.triton.kernels.halves import unit_or_same
from kmeans_module.backends.triton.kernels.order import CHANGING, exponent_of

# Adding and subtracting it rounds numbers below 2^51 to integers.
INTEGERS_ONLY = tl.constexpr(6755399441055744.0)
ORDERED_LOW = tl.constexpr(0x7FFFFFFF)


@triton.jit
def ordered(value):
    """Integers in the order of floats; NaN is beyond infinity."""
    bits = value.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ ORDERED_LOW, bits)


@triton.jit
def rounded(value):
    """Nearest integers of float64 numbers below 2^51, float64."""
    return (value + INTEGERS_ONLY) - INTEGERS_ONLY


@triton.jit
def as_double(exponent):
    """2^exponent, float64."""
    return ((exponent.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)


@triton.jit(do_not_specialize=CHANGING)
def find_extents(
    x,  # rows
    low,  # *i32 (P, d), lowered: ordered(least value)
    high,  # *i32 (P, d), raised: ordered(largest value)
    problem_stride,
    row_stride,
    feature_stride,
    n,
    d,
    per_program,  # rows of a program, a multiple of rows
    rows: tl.constexpr,
    features: tl.constexpr,
):
    """Least and largest value of each feature."""
    p = tl.program_id(2)
    f = tl.program_id(1) * features + tl.arange(0, features)
    least = tl.full((features,), float("inf"), tl.float32)
    most = tl.full((features,), float("-inf"), tl.float32)
    bad = tl.zeros((features,), tl.int32)
    begin = tl.program_id(0).to(tl.int64) * per_program
    columns = f.to(tl.int64)[None, :] * feature_stride
    for first in range(0, per_program, rows):
        r = begin + first + tl.arange(0, rows)
        there = (r < n)[:, None] & (f < d)[None, :]
        at = p.to(tl.int64) * problem_stride + r * row_stride
        value = tl.load(x + at[:, None] + columns, mask=there, other=0).to(tl.float32)
        bad = tl.maximum(bad, tl.max((there & (value != value)).to(tl.int32), 0))
        least = tl.minimum(least, tl.min(tl.where(there, value, float("inf")), 0))
        most = tl.maximum(most, tl.max(tl.where(there, value, float("-inf")), 0))
    place = p.to(tl.int64) * d + f
    # A feature that holds NaN reaches beyond infinity on both sides.
    least_code = tl.where(bad > 0, -ORDERED_LOW, ordered(least))
    most_code = tl.where(bad > 0, ORDERED_LOW, ordered(most))
    tl.atomic_min(low + place, least_code, mask=f < d, sem="relaxed")
    tl.atomic_max(high + place, most_code, mask=f < d, sem="relaxed")


@triton.jit
def digits_of(value, unit_exponent, low_bits):
    """h and l of float64 values, int64."""
    multiples = value * as_double(-unit_exponent)
    high = rounded(multiples)
    low = rounded((multiples - high) * as_double(low_bits + tl.zeros_like(unit_exponent)))
    return high.to(tl.int64), low.to(tl.int64)


@triton.jit(do_not_specialize=CHANGING)
def read_totals(
    totals,  # *i64 (P, k, d, 2)
    unit_exponents,  # *i32 (P, d)
    out,  # *f64 (P, k, d), written
    size,  # k·d
    d,
    low_bits,
    numbers: tl.constexpr,
):
    """Sums as float64, rounded once."""
    p = tl.program_id(1)
    i = tl.program_id(0).to(tl.int64) * numbers + tl.arange(0, numbers)
    live = i < size
    at = p.to(tl.int64) * size + i
    u = tl.load(unit_exponents + p.to(tl.int64) * d + i % d, mask=live, other=0)
    high = tl.load(totals + 2 * at, mask=live, other=0).to(tl.float64)
    low = tl.load(totals + 2 * at + 1, mask=live, other=0).to(tl.float64)
    value = high * as_double(u) + low * as_double(u - low_bits)
    tl.store(out + at, value, mask=live)


@triton.jit(do_not_specialize=CHANGING)
def add_squares(
    x,
    exponents,
    lengths,
    weights,
    offset,  # *f32 (P, d)
    partial,  # *f64 (P, programs), written
    problem_stride,
    row_stride,
    feature_stride,
    frame_stride,
    weight_stride,
    n,
    d,
    per_program,
    rows: tl.constexpr,
    features: tl.constexpr,
    weighted: tl.constexpr,
    unit: tl.constexpr,
):
    """Σ w ‖x - offset‖² of the rows of each program, in float64."""
    p = tl.program_id(1)
    frame = (p * frame_stride).to(tl.int64)
    begin = tl.program_id(0).to(tl.int64) * per_program
    total = tl.zeros((rows,), tl.float64)
    for start in range(0, per_program, rows):
        r = begin + start + tl.arange(0, rows)
        live = r < n
        if unit:
            live = live & (tl.load(lengths + frame * n + r, mask=live, other=0.0) > 0)
        row = frame * problem_stride + r * row_stride
        squares = tl.zeros((rows,), tl.float64)
        for first in range(0, d, features):
            f = first + tl.arange(0, features)
            inside = live[:, None] & (f < d)[None, :]
            at = row[:, None] + f.to(tl.int64)[None, :] * feature_stride
            value = tl.load(x + at, mask=inside, other=0).to(tl.float32)
            value = unit_or_same(value, exponents, lengths, frame * n + r, live, unit)
            origin = tl.load(offset + frame * d + f, mask=f < d, other=0.0)
            apart = value.to(tl.float64) - origin.to(tl.float64)[None, :]
            squares += tl.sum(tl.where(inside, apart * apart, 0.0), 1)
        if weighted:
            at_weight = p.to(tl.int64) * weight_stride + r
            squares = squares * tl.load(weights + at_weight, mask=live, other=0.0)
        total += squares
    at = p.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    tl.store(partial + at, tl.sum(total, 0))


@triton.jit(do_not_specialize=CHANGING)
def add_inertia(
    totals,  # *f64 (P, k, d): sums
    counts,  # *f64 (P, k)
    c,  # *f32 (P, k, d)
    offset,  # *f32 (P, d)
    partial,  # *f64 (P, programs, 2), written: the terms added up, and their sizes
    frame_stride,
    k,
    d,
    centroids: tl.constexpr,
    features: tl.constexpr,
):
    """Σ_c of count·‖c - o‖² - 2 (c - o)·(sum - count·o): with the squares of the rows, inertia."""
    p = tl.program_id(1)
    frame = (p * frame_stride).to(tl.int64)
    j = tl.program_id(0) * centroids + tl.arange(0, centroids)
    count = tl.load(counts + p.to(tl.int64) * k + j, mask=j < k, other=0.0)
    value = tl.zeros((centroids,), tl.float64)
    size = tl.zeros((centroids,), tl.float64)
    row = (p.to(tl.int64) * k + j) * d
    for first in range(0, d, features):
        f = first + tl.arange(0, features)
        inside = (j < k)[:, None] & (f < d)[None, :] & (count > 0)[:, None]
        origin = tl.load(offset + frame * d + f, mask=f < d, other=0.0).to(tl.float64)[None, :]
        at = row[:, None] + f[None, :]
        apart = tl.load(c + at, mask=inside, other=0.0).to(tl.float64) - origin
        apart = tl.where(inside, apart, 0.0)
        its = tl.load(totals + at, mask=inside, other=0.0) - count[:, None] * origin
        value += tl.sum(apart * (count[:, None] * apart - 2 * its), 1)
        term = count[:, None] * (tl.abs(apart) + 2 * tl.abs(origin)) + 2 * tl.abs(its)
        size += tl.sum(tl.abs(apart) * term, 1)
    at = (p.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * 2
    tl.store(partial + at, tl.sum(value, 0))
    tl.store(partial + at + 1, tl.sum(size, 0))


@triton.jit
def value_of(code):
    """The float32 whose :func:`ordered` integer this is."""
    return tl.where(code < 0, code ^ ORDERED_LOW, code).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=CHANGING)
def find_units(
    low,  # *i32 (frames, d): of find_extents
    high,  # *i32 (frames, d)
    weight_exponents,  # *i32 (P,): the least e with every weight below 2^e; 0 for weight 1
    unit_exponents,  # *i32 (P, d), written
    count_exponents,  # *i32 (P,), written
    frame_stride,
    d,
    digits,  # of n
    features: tl.constexpr,
    unit: tl.constexpr,
):
    """u of each feature and of the weights."""
    p = tl.program_id(1)
    f = tl.program_id(0) * features + tl.arange(0, features)
    of_weights = tl.load(weight_exponents + p)
    exponent = tl.full((features,), 1, tl.int32)
    if not unit:
        at = (p * frame_stride).to(tl.int64) * d + f
        least = tl.abs(value_of(tl.load(low + at, mask=f < d, other=0)))
        most = tl.abs(value_of(tl.load(high + at, mask=f < d, other=0)))
        largest = tl.maximum(least, most)
        usual = (largest > 0) & (largest < float("inf"))
        exponent = tl.where(usual, exponent_of(tl.where(usual, largest, 1.0)) + 1, 1)
    u = exponent + of_weights + digits - 52
    tl.store(unit_exponents + p.to(tl.int64) * d + f, u, mask=f < d)
    tl.store(count_exponents + p, of_weights + digits - 52)
