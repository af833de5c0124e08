"""Draws of k-means++ over integers: block sums, a search in them, and the choice that follows."""

import triton
import triton.language as tl

from kmeans_module.backends.triton.kernels.order import at_unit_length
from kmeans_module.backends.triton.kernels.totals import as_double

# Candidates of a round: as many columns as the tensor cores take at least.
CANDIDATES = tl.constexpr(16)
# 2^52: from there on float64 has no fractions.
WHOLE_ONLY = tl.constexpr(4503599627370496.0)
WHOLE_BITS = tl.constexpr(0x4330000000000000)


@triton.jit
def mass_of(near, weights, place, live, weighted: tl.constexpr):
    """Squared distances × weight, float64, 0 where not live."""
    mass = near.to(tl.float64)
    if weighted:
        mass = mass * tl.load(weights + place, mask=live, other=0.0)
    return tl.where(live, mass, 0.0)


@triton.jit
def integers(mass, largest_bits, bits):
    """What masses count as; see :class:`kmeans_module.core.scale.Scale`."""
    exponent = bits + 1022 - tl.maximum(largest_bits >> 52, 1)
    half = exponent >> 1
    scaled = (mass * as_double(half)) * as_double(exponent - half)
    scaled = tl.maximum(scaled, 1.0)
    scaled = tl.minimum(scaled, as_double(tl.zeros_like(exponent) + bits))
    scaled = tl.where(mass > 0, scaled, 0.0)
    return (scaled + WHOLE_ONLY).to(tl.int64, bitcast=True) - WHOLE_BITS


@triton.jit
def integers_of_rows(
    near, weights, most, most_weight, p, r, live, weight_stride, n, bits, weighted: tl.constexpr
):
    """Masses of rows as integers; their weights where all masses are 0."""
    largest = tl.load(most + p)
    shared = p.to(tl.int64) * weight_stride + r
    if largest == 0:
        largest = tl.load(most_weight + p)
        mass = mass_of(tl.where(live, 1.0, 0.0), weights, shared, live, weighted)
    else:
        distance = tl.load(near + p.to(tl.int64) * n + r, mask=live, other=0.0)
        mass = mass_of(distance, weights, shared, live, weighted)
    return integers(mass, largest, bits)


@triton.jit
def count_blocks(
    near,  # *f32 (P, n)
    weights,
    most,  # *i64 (P,): bits of the largest mass
    most_weight,  # *i64 (P,): bits of the largest weight
    blocks,  # *i64 (P, n_blocks), written
    weight_stride,
    n,
    n_blocks,
    bits,  # of an integer
    rows: tl.constexpr,  # of a block
    weighted: tl.constexpr,
):
    """Sums of blocks of masses, as integers."""
    p = tl.program_id(1)
    block = tl.program_id(0)
    r = block * rows + tl.arange(0, rows)
    counted = integers_of_rows(
        near, weights, most, most_weight, p, r, r < n, weight_stride, n, bits, weighted
    )
    tl.store(blocks + p.to(tl.int64) * n_blocks + block, tl.sum(counted, 0))


@triton.jit
def draw_candidates(
    x,
    exponents,
    lengths,
    near,
    weights,
    most,
    most_weight,
    blocks,  # *i64 (P, n_blocks)
    numbers,  # *f64 (rounds, P, 16), in [0, 1)
    rounds,  # *i32 (P,)
    candidates,  # *f32 (P, 16, d), written: rows in the space of the metric
    problem_stride,
    row_stride,
    feature_stride,
    frame_stride,
    weight_stride,
    n,
    d,
    n_blocks,
    bits,
    rows: tl.constexpr,  # of a block
    together: tl.constexpr,  # blocks that are added up at once
    features: tl.constexpr,
    unit: tl.constexpr,
    weighted: tl.constexpr,
):
    """A row in proportion to its mass: where the cumulative sum exceeds the target."""
    c = tl.program_id(0)
    p = tl.program_id(1)
    blocks += p.to(tl.int64) * n_blocks
    b = tl.arange(0, together)
    total = tl.sum(tl.load(blocks + b, mask=b < n_blocks, other=0), 0)
    for first in range(together, n_blocks, together):
        total += tl.sum(tl.load(blocks + first + b, mask=first + b < n_blocks, other=0), 0)
    which = (tl.load(rounds + p).to(tl.int64) * tl.num_programs(1) + p) * CANDIDATES + c
    target = (tl.load(numbers + which) * total.to(tl.float64)).to(tl.int64)
    target = tl.maximum(tl.minimum(target, total - 1), 0)
    # The blocks whose cumulative sum does not exceed the target come before.
    block = tl.zeros_like(c)
    before = tl.zeros_like(total)
    passed = tl.zeros_like(total)
    for first in range(0, n_blocks, together):
        sums = tl.load(blocks + first + b, mask=first + b < n_blocks, other=0)
        ends = passed + tl.cumsum(sums, 0)
        low = (ends <= target) & (first + b < n_blocks)
        block += tl.sum(low.to(tl.int32), 0)
        before += tl.sum(tl.where(low, sums, 0), 0)
        passed += tl.sum(sums, 0)
    block = tl.minimum(block, n_blocks - 1)
    i = block * rows + tl.arange(0, rows)
    counted = integers_of_rows(
        near, weights, most, most_weight, p, i, i < n, weight_stride, n, bits, weighted
    )
    ends = before + tl.cumsum(counted, 0)
    row = block * rows + tl.sum((ends <= target).to(tl.int32), 0)
    row = tl.minimum(row, n - 1).to(tl.int64)
    frame = (p * frame_stride).to(tl.int64)
    for first in range(0, d, features):
        f = first + tl.arange(0, features)
        at = frame * problem_stride + row * row_stride + f.to(tl.int64) * feature_stride
        value = tl.load(x + at, mask=f < d, other=0).to(tl.float32)
        if unit:
            length = tl.load(lengths + frame * n + row)
            length = tl.where(length > 0, length, 1.0)
            value = at_unit_length(value, tl.load(exponents + frame * n + row), length)
        tl.store(candidates + (p.to(tl.int64) * CANDIDATES + c) * d + f, value, mask=f < d)


@triton.jit
def choose_center(
    candidates,  # *f32 (P, 16, d)
    partial,  # *f64 (P, programs, 16)
    centers,  # *f32 (P, k, d): the next one is written
    rounds,  # *i32 (P,): becomes that of the next center
    best,  # *i32 (P,), written
    most,  # *i64 (P,): becomes 0
    rounding,  # potentials that differ by less, relatively, are taken for equal
    n_partial,
    d,
    k,
    together: tl.constexpr,
    features: tl.constexpr,
):
    """The first candidate whose potential is least but for rounding becomes a center."""
    p = tl.program_id(0)
    j = tl.arange(0, CANDIDATES)
    potential = tl.zeros((CANDIDATES,), tl.float64)
    for first in range(0, n_partial, together):
        i = first + tl.arange(0, together)
        at = (p.to(tl.int64) * n_partial + i)[:, None] * CANDIDATES + j[None, :]
        potential += tl.sum(tl.load(partial + at, mask=(i < n_partial)[:, None], other=0.0), 0)
    limit = tl.min(potential, 0) * (1.0 + tl.load(rounding))
    chosen = tl.min(tl.where(potential <= limit, j, CANDIDATES), 0)
    chosen = tl.where(chosen < CANDIDATES, chosen, 0)
    number = tl.load(rounds + p) + 1
    for first in range(0, d, features):
        f = first + tl.arange(0, features)
        at = (p.to(tl.int64) * CANDIDATES + chosen) * d + f
        value = tl.load(candidates + at, mask=f < d, other=0.0)
        tl.store(centers + (p.to(tl.int64) * k + number) * d + f, value, mask=f < d)
    tl.debug_barrier()  # all warps have read the number of the round
    tl.store(best + p, chosen)
    tl.store(rounds + p, number)
    tl.store(most + p, tl.zeros((), tl.int64))
