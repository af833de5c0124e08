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
from kmeans_module.backends.triton.kernels.order import exponent_of

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


@triton.jit
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


@triton.jit
def new_labels_of(
    best, new_labels, lengths, place, at_length, old, live, keyed: tl.constexpr, unit: tl.constexpr
):
    """Labels of rows after an E-step, and which rows count; keys become UNDECIDED again."""
    if keyed:
        undecided: tl.constexpr = 0x7FFFFFFFFFFFFFFF
        key = tl.load(best + place, mask=live, other=undecided)
        decided = key != undecided
        new = tl.where(decided, (key & 0xFFFFFFFF).to(tl.int32), old)
        cleared = tl.zeros_like(key) + undecided
        tl.store(best + place, cleared, mask=live & decided)
    else:
        new = tl.load(new_labels + place, mask=live, other=0)
    counted = live
    if unit:  # a zero row has label 0, and weighs nothing
        counted = live & (tl.load(lengths + at_length, mask=live, other=0.0) > 0)
        new = tl.where(counted, new, 0)
    return new, counted


@triton.jit
def weight_digits(
    weights, at_weight, count_exponents, p, counted, low_bits,
    rows: tl.constexpr, weighted: tl.constexpr,
):  # fmt: skip
    """Weights of rows, float64, and their h and l, int64."""
    if weighted:
        weight = tl.load(weights + at_weight, mask=counted, other=0.0)
        u = tl.load(count_exponents + p) + tl.zeros((rows,), tl.int32)
        high, low = digits_of(weight, u, low_bits)
    else:
        weight = tl.full((rows,), 1.0, tl.float64)
        high = tl.full((rows,), 1, tl.int64)
        low = tl.zeros((rows,), tl.int64)
    return weight, high, low


@triton.jit
def add_digits(totals, at, high, low, inside):
    """Add integers to both words of totals; the lower one where it is not 0."""
    tl.atomic_add(totals + at, high, mask=inside, sem="relaxed")
    tl.atomic_add(totals + at + 1, low, mask=inside & (low != 0), sem="relaxed")


@triton.jit
def move_rows(
    x,  # rows
    exponents,
    lengths,
    weights,  # *f64 (P, n) or (n,), where weighted
    labels,  # *i32 (P, n): of the last E-step, as they were added up; become the new ones
    best,  # *i64 (P, n): keys of :mod:`kernels.decide`, where keyed
    new_labels,  # *i32 (P, n), where not keyed
    active,  # *i8 (P,)
    sums,  # *i64 (P, k, d, 2)
    counts,  # *i64 (P, k, 2)
    unit_exponents,  # *i32 (P, d)
    count_exponents,  # *i32 (P,): u of the weights
    changed,  # *i64 (P,), raised
    problem_stride,
    row_stride,
    feature_stride,
    frame_stride,
    weight_stride,
    n,
    d,
    k,
    low_bits,  # u - v
    rows: tl.constexpr,
    features: tl.constexpr,
    first: tl.constexpr,  # whether all rows are added, and none is taken off
    keyed: tl.constexpr,
    weighted: tl.constexpr,
    unit: tl.constexpr,
):
    """Move the rows that have changed cluster from one sum to another."""
    p = tl.program_id(1)
    if tl.load(active + p) != 0:
        r = tl.program_id(0) * rows + tl.arange(0, rows)
        live = r < n
        frame = (p * frame_stride).to(tl.int64)
        place = p.to(tl.int64) * n + r
        at_length = frame * n + r
        old = tl.load(labels + place, mask=live, other=0)
        new, counted = new_labels_of(
            best, new_labels, lengths, place, at_length, old, live, keyed, unit
        )
        moves = live if first else live & (new != old)
        count = tl.sum(moves.to(tl.int64), 0)
        if count > 0:
            tl.atomic_add(changed + p, count, sem="relaxed")
            tl.store(labels + place, new, mask=moves)
            counted = counted & moves
            at_weight = p.to(tl.int64) * weight_stride + r
            weight, high_count, low_count = weight_digits(
                weights, at_weight, count_exponents, p, counted, low_bits, rows, weighted
            )
            of_counts = counts + p.to(tl.int64) * k * 2
            add_digits(of_counts, new.to(tl.int64) * 2, high_count, low_count, counted)
            if not first:
                add_digits(of_counts, old.to(tl.int64) * 2, -high_count, -low_count, counted)
            row = frame * problem_stride + r.to(tl.int64) * row_stride
            of_sums = sums + p.to(tl.int64) * k * d * 2
            for begin in range(0, d, features):
                f = begin + tl.arange(0, features)
                inside = counted[:, None] & (f < d)[None, :]
                at = row[:, None] + f.to(tl.int64)[None, :] * feature_stride
                value = tl.load(x + at, mask=inside, other=0).to(tl.float32)
                value = unit_or_same(value, exponents, lengths, at_length, counted, unit)
                wide = value.to(tl.float64)
                if weighted:
                    wide = wide * weight[:, None]
                u = tl.load(unit_exponents + p.to(tl.int64) * d + f, mask=f < d, other=0)
                high, low = digits_of(wide, u[None, :], low_bits)
                at_sum = (new.to(tl.int64)[:, None] * d + f[None, :]) * 2
                add_digits(of_sums, at_sum, high, low, inside)
                if not first:
                    at_sum = (old.to(tl.int64)[:, None] * d + f[None, :]) * 2
                    add_digits(of_sums, at_sum, -high, -low, inside)


@triton.jit
def move_among_few(
    x,
    exponents,
    lengths,
    weights,
    labels,
    best,
    new_labels,
    active,
    sums,
    counts,
    unit_exponents,
    count_exponents,
    changed,
    problem_stride,
    row_stride,
    feature_stride,
    frame_stride,
    weight_stride,
    n,
    d,
    k,
    low_bits,
    per_program,  # rows of a program, a multiple of rows
    rows: tl.constexpr,
    features: tl.constexpr,  # at least d
    first: tl.constexpr,
    keyed: tl.constexpr,
    weighted: tl.constexpr,
    unit: tl.constexpr,
):
    """As :func:`move_rows`, for few clusters, whose sums all rows would wait for: what a cluster
    gains or loses is added up over some rows before it travels."""
    p = tl.program_id(1)
    if tl.load(active + p) != 0:
        frame = (p * frame_stride).to(tl.int64)
        f = tl.arange(0, features)
        u = tl.load(unit_exponents + p.to(tl.int64) * d + f, mask=f < d, other=0)
        begin = tl.program_id(0).to(tl.int64) * per_program
        total_moves = tl.zeros((rows,), tl.int64)
        for start in range(0, per_program, rows):
            r = begin + start + tl.arange(0, rows)
            live = r < n
            place = p.to(tl.int64) * n + r
            at_length = frame * n + r
            old = tl.load(labels + place, mask=live, other=0)
            new, counted = new_labels_of(
                best, new_labels, lengths, place, at_length, old, live, keyed, unit
            )
            moves = live if first else live & (new != old)
            total_moves += moves.to(tl.int64)
            if tl.max(moves.to(tl.int32), 0) > 0:
                tl.store(labels + place, new, mask=moves)
                counted = counted & moves
                at_weight = p.to(tl.int64) * weight_stride + r
                weight, high_count, low_count = weight_digits(
                    weights, at_weight, count_exponents, p, counted, low_bits, rows, weighted
                )
                inside = counted[:, None] & (f < d)[None, :]
                at = (frame * problem_stride + r * row_stride)[:, None]
                value = tl.load(
                    x + at + f.to(tl.int64)[None, :] * feature_stride, mask=inside, other=0
                ).to(tl.float32)
                value = unit_or_same(value, exponents, lengths, at_length, counted, unit)
                wide = value.to(tl.float64)
                if weighted:
                    wide = wide * weight[:, None]
                high, low = digits_of(wide, u[None, :], low_bits)
                some_low = tl.max(tl.max((low != 0).to(tl.int32), 1), 0)
                for j in range(k):
                    sign = (counted & (new == j)).to(tl.int64)
                    if not first:
                        sign -= (counted & (old == j)).to(tl.int64)
                    if tl.max((sign != 0).to(tl.int32), 0) > 0:
                        at_count = counts + (p.to(tl.int64) * k + j) * 2
                        tl.atomic_add(at_count, tl.sum(sign * high_count, 0), sem="relaxed")
                        if weighted:
                            gain = tl.sum(sign * low_count, 0)
                            tl.atomic_add(at_count + 1, gain, sem="relaxed")
                        at_sum = sums + ((p.to(tl.int64) * k + j) * d + f) * 2
                        gain = tl.sum(sign[:, None] * high, 0)
                        tl.atomic_add(at_sum, gain, mask=f < d, sem="relaxed")
                        if some_low > 0:
                            gain = tl.sum(sign[:, None] * low, 0)
                            tl.atomic_add(at_sum + 1, gain, mask=f < d, sem="relaxed")
        tl.atomic_add(changed + p, tl.sum(total_moves, 0), sem="relaxed")


@triton.jit
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


@triton.jit
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


@triton.jit
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


@triton.jit
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
