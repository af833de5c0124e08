"""Rounds of k-means++: distances to candidates and to the last center.

A round is five launches, none of which needs a number of the host: :func:`lower_rows`,
:func:`kernels.draws.count_blocks`, :func:`kernels.draws.draw_candidates`,
:func:`measure_candidates`, :func:`kernels.draws.choose_center`.
"""

import triton
import triton.language as tl

from kmeans_module.backends.triton.kernels.decide import unit_of_rows
from kmeans_module.backends.triton.kernels.draws import CANDIDATES, mass_of
from kmeans_module.backends.triton.kernels.halves import (
    UP,
    rounded_to_half,
    scale_of,
    unit_or_same,
)
from kmeans_module.backends.triton.kernels.order import (
    at_unit_length,
    fused,
    written_distances,
)


@triton.jit
def lower_rows(
    x,  # rows
    exponents,
    lengths,
    centers,  # *f32 (P, k, d)
    rounds,  # *i32 (P,): number of the last center
    best,  # *i32 (P,): which of the last candidates it was
    reached,  # *i16 (P, n): to which of the candidates a row is nearer, a bit each
    near,  # *f32 (P, n), lowered
    weights,  # *f64 (P, n) or (1, n), where weighted
    most,  # *i64 (P,), raised: bits of the largest mass
    problem_stride,
    row_stride,
    feature_stride,
    frame_stride,
    weight_stride,  # between problems: 0 where they share the weights
    n,
    d,
    k,
    rows: tl.constexpr,
    few: tl.constexpr,
    unit: tl.constexpr,
    weighted: tl.constexpr,
    every: tl.constexpr,  # whether all rows are measured; else only in the first round
):
    """Squared distances to the nearest center, lowered by those to the last one."""
    p = tl.program_id(1)
    r = tl.program_id(0) * rows + tl.arange(0, rows)
    live = r < n
    place = p.to(tl.int64) * n + r
    number = tl.load(rounds + p)
    before = tl.load(near + place, mask=live, other=0.0)
    measured = live
    if not every:
        bits = tl.load(reached + place, mask=live, other=0).to(tl.int32)
        # All of them in the first round.
        wanted = ((bits >> tl.load(best + p)) & 1) | tl.where(number == 0, 1, 0)
        measured = live & (wanted != 0)
    if tl.max(measured.to(tl.int32), 0) > 0:
        frame = (p * frame_stride).to(tl.int64)
        exponent, length = unit_of_rows(exponents, lengths, frame * n + r, measured, unit)
        center = (p.to(tl.int64) * k + number) * d + tl.zeros_like(place)
        distance = written_distances(
            x, centers, frame * problem_stride + r.to(tl.int64) * row_stride, center,
            feature_stride, measured, exponent, length, d, rows, few, unit,
        )  # fmt: skip
        lowered = tl.where(measured & (distance < before), distance, before)
        tl.debug_barrier()  # few rows are held by several warps
        tl.store(near + place, lowered, mask=measured)
        before = lowered
    shared = p.to(tl.int64) * weight_stride + r
    mass = tl.max(mass_of(before, weights, shared, live, weighted), 0)
    tl.atomic_max(most + p, mass.to(tl.int64, bitcast=True), sem="relaxed")


@triton.jit
def lowered_by_few(
    x, exponents, lengths, candidates, row, near, live, place, feature_stride,
    d: tl.constexpr, rows: tl.constexpr, unit: tl.constexpr,
):  # fmt: skip
    """What each of the candidates lowers the distances to, (rows, 16); and to which a row is
    nearer, a bit each, (rows,)."""
    j = tl.arange(0, CANDIDATES)
    exponent, length = unit_of_rows(exponents, lengths, place, live, unit)
    distance = tl.zeros((rows, CANDIDATES), tl.float32)
    for f in tl.static_range(d):
        value = tl.load(x + row, mask=live, other=0).to(tl.float32)
        row += feature_stride
        if unit:
            value = at_unit_length(value, exponent, length)
        difference = value[:, None] - tl.load(candidates + j * d + f)[None, :]
        distance = fused(difference, difference, distance)
    nearer = distance < near[:, None]
    bits = tl.sum(tl.where(nearer, (1 << j)[None, :], 0), 1)
    return tl.where(nearer, distance, near[:, None]), bits


@triton.jit
def may_be_nearer(
    x, half, residues, exponents, lengths, offset, reach, candidates, near,
    frame, r, live, problem_stride, row_stride, feature_stride,
    half_stride, half_row_stride, n, d, pitch, product_error, sum_error,
    rows: tl.constexpr, features: tl.constexpr, unit: tl.constexpr, ready: tl.constexpr,
):  # fmt: skip
    """Candidates that may be nearer to a row than the nearest center, a bit each, (rows,).

    Rounded to half precision, rows and candidates move by their residues, so that what lies
    farther apart than the reach to the nearest center and both residues is no nearer.
    """
    j = tl.arange(0, CANDIDATES)
    place = frame * n + r
    at = frame * problem_stride + r.to(tl.int64) * row_stride
    half_at = frame * half_stride + r.to(tl.int64) * half_row_stride
    scale = scale_of(reach, frame)
    product = tl.zeros((rows, CANDIDATES), tl.float32)
    row_squares = tl.zeros((rows,), tl.float32)
    row_lost = tl.zeros((rows,), tl.float32)
    squares = tl.zeros((CANDIDATES,), tl.float32)
    lost = tl.zeros((CANDIDATES,), tl.float32)
    for first in range(0, pitch, features):
        f = first + tl.arange(0, features)
        origin = tl.load(offset + frame * d + f, mask=f < d, other=0.0)
        other = tl.load(candidates + j[:, None] * d + f[None, :], mask=(f < d)[None, :], other=0.0)
        other = tl.where((f < d)[None, :], (other - origin[None, :]) * scale, 0.0)
        candidate = rounded_to_half(other)
        kept = candidate.to(tl.float32)
        squares += tl.sum(kept * kept, 1)
        lost += tl.sum((other - kept) * (other - kept), 1)
        if ready:
            inside = live[:, None] & (f < pitch)[None, :]
            row = tl.load(half + half_at[:, None] + f[None, :], mask=inside, other=0.0)
        else:
            there = live[:, None] & (f < d)[None, :]
            value = tl.load(
                x + at[:, None] + f.to(tl.int64)[None, :] * feature_stride, mask=there, other=0
            ).to(tl.float32)
            value = unit_or_same(value, exponents, lengths, place, live, unit)
            value = tl.where(there, (value - origin[None, :]) * scale, 0.0)
            row = rounded_to_half(value)
            rest = value - row.to(tl.float32)
            row_lost += tl.sum(rest * rest, 1)
        wide = row.to(tl.float32)
        row_squares += tl.sum(wide * wide, 1)
        product = tl.dot(row, tl.trans(candidate), product)
    residue = tl.sqrt(row_lost) * UP
    if ready:
        residue = tl.load(residues + place, mask=live, other=0.0)
    both = row_squares[:, None] + squares[None, :]
    apart = both - 2 * product - 4 * product_error * both
    limit = tl.sqrt(near * scale * scale) * UP + residue + 1.0e-15
    limit = limit[:, None] + (tl.sqrt(lost) * UP)[None, :]
    limit = limit * limit * (1.0 + 4 * sum_error)
    # NaN and what has overflown may be nearer, too.
    nearer = ~((apart > limit) & (limit < 1.0e38)) & live[:, None]
    return tl.sum(tl.where(nearer, (1 << j)[None, :], 0), 1)


@triton.jit
def measure_candidates(
    x, half, residues, exponents, lengths, offset, reach,  # rows; see :mod:`kernels.halves`
    candidates,  # *f32 (P, 16, d)
    near,  # *f32 (P, n)
    weights,  # *f64 (P, n) or (1, n), where weighted
    reached,  # *i16 (P, n), written: which of the candidates are nearer, a bit each
    partial,  # *f64 (P, programs, 16), written: potentials of the rows of a program
    problem_stride, row_stride, feature_stride, half_stride, half_row_stride, frame_stride,
    weight_stride, n, d, pitch,
    product_error,  # what tensor cores lose in adding up
    sum_error,  # what the sum that decides loses
    rows: tl.constexpr,
    features: tl.constexpr,
    few: tl.constexpr,  # d where it is at most 8, else 0
    unit: tl.constexpr,
    ready: tl.constexpr,
    weighted: tl.constexpr,
):  # fmt: skip
    """Potentials: the sums of what each candidate lowers the distances to."""
    p = tl.program_id(1)
    frame = (p * frame_stride).to(tl.int64)
    j = tl.arange(0, CANDIDATES)
    candidates += p.to(tl.int64) * CANDIDATES * d
    potential = tl.zeros((CANDIDATES,), tl.float64)
    for start in range(tl.program_id(0) * rows, n, tl.num_programs(0) * rows):
        r = start + tl.arange(0, rows)
        live = r < n
        place = p.to(tl.int64) * n + r
        distance = tl.load(near + place, mask=live, other=0.0)
        row = frame * problem_stride + r.to(tl.int64) * row_stride
        if few > 0:
            lowered, bits = lowered_by_few(
                x, exponents, lengths, candidates, row, distance, live, frame * n + r,
                feature_stride, few, rows, unit,
            )  # fmt: skip
        else:
            lowered = tl.zeros((rows, CANDIDATES), tl.float32) + distance[:, None]
            left = may_be_nearer(
                x, half, residues, exponents, lengths, offset, reach, candidates, distance,
                frame, r, live, problem_stride, row_stride, feature_stride,
                half_stride, half_row_stride, n, d, pitch, product_error, sum_error,
                rows, features, unit, ready,
            )  # fmt: skip
            bits = tl.zeros((rows,), tl.int32)
            exponent, length = unit_of_rows(exponents, lengths, frame * n + r, live, unit)
            while tl.max(left, 0) > 0:
                low = left & (0 - left)
                as_float = low.to(tl.float32).to(tl.int32, bitcast=True)
                candidate = tl.where(left > 0, (as_float >> 23) - 127, 0)
                measured = written_distances(
                    x, candidates, row, candidate.to(tl.int64) * d, feature_stride, left > 0,
                    exponent, length, d, rows, False, unit,
                )  # fmt: skip
                nearer = (left > 0) & (measured < distance)
                here = (j[None, :] == candidate[:, None]) & nearer[:, None]
                lowered = tl.where(here, measured[:, None], lowered)
                bits = tl.where(nearer, bits | low, bits)
                left = left ^ low
        tl.store(reached + place, bits.to(tl.int16), mask=live)
        terms = tl.where(live[:, None], lowered, 0.0).to(tl.float64)
        if weighted:
            shared = p.to(tl.int64) * weight_stride + r
            terms = terms * tl.load(weights + shared, mask=live, other=0.0)[:, None]
        potential += tl.sum(terms, 0)
    at = (p.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * CANDIDATES
    tl.store(partial + at + j, potential)
