"""Rows that change cluster move from one sum to another; see :mod:`kernels.totals`."""

import triton
import triton.language as tl

from kmeans_module.backends.triton.kernels.halves import unit_or_same
from kmeans_module.backends.triton.kernels.order import CHANGING
from kmeans_module.backends.triton.kernels.totals import digits_of


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
    else:
        new = tl.load(new_labels + place, mask=live, other=0)
    # Few rows are held by several warps: all have read before one writes.
    tl.debug_barrier()
    if keyed:
        cleared = tl.zeros_like(key) + undecided
        tl.store(best + place, cleared, mask=live & decided)
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


@triton.jit(do_not_specialize=CHANGING)
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


@triton.jit(do_not_specialize=CHANGING)
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
