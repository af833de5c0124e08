"""The M-step, as core.m_step makes it, with weight for empty clusters."""

import triton
import triton.language as tl

from kmeans_module.backends.triton.kernels.lloyd import (
    INERTIA,
    MOVES,
    N_EMPTY,
    PHASE,
    RELOCATE,
    RESCUED,
    SPLIT,
    WEIGHT,
    field,
    read_sums,
    sum_of_parts,
)
from kmeans_module.backends.triton.kernels.order import at_unit_length
from kmeans_module.backends.triton.kernels.refill import NO_CLUSTER


@triton.jit
def mean_after_refill(
    totals, unit_exponents, x, exponents, lengths, far_rows, far_weights, donors, takers,
    p, j, f, live, count, source, n_far, m, frame, problem_stride, row_stride, feature_stride,
    n, k, d, low_bits, apart, splits, takes,
    policy: tl.constexpr, unit: tl.constexpr,
):  # fmt: skip
    """Means of clusters j, features f, after weight was given to empty ones; 0 without weight."""
    sums = read_sums(totals, unit_exponents, p, source, f, live, k, d, low_bits)
    if policy == RELOCATE:
        for i in range(n_far):
            row = tl.load(far_rows + p * m + i)
            if row >= 0:
                at = frame * problem_stride + row.to(tl.int64) * row_stride
                value = tl.load(x + at + f.to(tl.int64) * feature_stride, mask=f < d, other=0)
                value = value.to(tl.float32)
                if unit:
                    length = tl.load(lengths + frame * n + row) + tl.zeros_like(value)
                    exponent = tl.load(exponents + frame * n + row) + f * 0
                    value = at_unit_length(value, exponent, length)
                weighted = value.to(tl.float64) * tl.load(far_weights + p * m + i)
                given = j == tl.load(donors + p * m + i)
                sums = tl.where(given[:, None], sums - weighted[None, :], sums)
                taken = j == tl.load(takers + p * m + i)
                sums = tl.where(taken[:, None], weighted[None, :], sums)
    if policy == SPLIT:
        step = tl.where(f < d, tl.where(f % 2 == 0, apart, -apart), 0.0)[None, :]
        halved = sums * 0.5 + count[:, None] * step
        sums = tl.where((splits | takes)[:, None], halved, sums)
        sums = tl.where(takes[:, None], sums - 2 * count[:, None] * step, sums)
    weighs = count > 0
    return tl.where(weighs[:, None], sums / tl.where(weighs, count, 1.0)[:, None], 0.0)


@triton.jit
def stored(value, half: tl.constexpr):
    """float64 rounded to the dtype of the centroids: float32, float16 or bfloat16; as float32."""
    value = value.to(tl.float32)
    if half == 1:
        value = value.to(tl.float16).to(tl.float32)
    if half == 2:
        value = value.to(tl.bfloat16).to(tl.float32)
    return value


@triton.jit(do_not_specialize=["frame_stride", "n_problems", "n_row_parts", "m", "low_bits"])
def move(
    book,
    totals,  # *i64 (P, k, d, 2)
    unit_exponents,  # *i32 (P, d)
    counts,  # *f64 (P, k)
    c,  # *f32 (P, k, d): moved, of problems that go on
    shift_parts,  # *f64 (P, programs), written: Σ‖c_new - c_old‖²
    row_parts,  # *f64 (P, n_row_parts)
    x,
    exponents,
    lengths,
    far_rows,
    far_weights,
    donors,
    takers,
    ranks,
    heavy,
    problem_stride,
    row_stride,
    feature_stride,
    frame_stride,
    n_problems,
    n_row_parts,
    n,
    d,
    k,
    m,
    low_bits,
    clusters: tl.constexpr,
    features: tl.constexpr,
    columns: tl.constexpr,
    policy: tl.constexpr,
    half: tl.constexpr,
    unit: tl.constexpr,
):
    """The M-step of a few clusters."""
    p = tl.program_id(1)
    phase = tl.load(field(book, PHASE, p, n_problems))
    if (phase > 0) & (tl.load(book + MOVES) != 0):
        frame = (p * frame_stride).to(tl.int64)
        j = tl.program_id(0) * clusters + tl.arange(0, clusters)
        live = j < k
        before = tl.load(counts + p.to(tl.int64) * k + j, mask=live, other=0.0)
        count = before
        source = j
        splits = j < 0
        takes = j < 0
        apart = tl.zeros((), tl.float64)
        n_empty = tl.load(field(book, N_EMPTY, p, n_problems)).to(tl.int32)
        n_far = tl.minimum(n_empty, m)
        if policy == RELOCATE:
            for i in range(n_far):
                found = tl.load(far_rows + p * m + i) >= 0
                given = j == tl.where(found, tl.load(donors + p * m + i), -1)
                count = tl.where(given, count - tl.load(far_weights + p * m + i), count)
            # What rounding leaves of a donor that gave all it had is no cluster.
            count = tl.where(count <= before * 1e-12, 0.0, count)
            for i in range(n_far):
                found = tl.load(far_rows + p * m + i) >= 0
                taken = j == tl.where(found, tl.load(takers + p * m + i), -1)
                count = tl.where(taken, tl.load(far_weights + p * m + i), count)
        if policy == SPLIT:  # noqa: SIM102 (known when this is compiled)
            if n_empty > 0:
                n_splits = tl.minimum(n_empty, k - n_empty)
                rank = tl.load(ranks + p.to(tl.int64) * k + j, mask=live, other=NO_CLUSTER)
                splits = (before > 0) & (rank < n_splits)
                takes = live & (before == 0) & (rank < n_splits)
                donor = tl.load(heavy + p.to(tl.int64) * k + rank, mask=takes, other=0)
                source = tl.where(takes, donor, j)
                of_source = tl.load(counts + p.to(tl.int64) * k + source, mask=live, other=0.0)
                count = tl.where(splits | takes, of_source * 0.5, before)
                inertia = tl.load(field(book, INERTIA, p, n_problems))
                if tl.load(field(book, RESCUED, p, n_problems)) != 0:
                    one = p + tl.arange(0, 1)
                    measured = sum_of_parts(row_parts, one, one >= 0, n_row_parts, 1, 1, columns)
                    inertia = tl.sum(measured, 0)
                mean = inertia / (tl.load(field(book, WEIGHT, p, n_problems)) * d)
                mean = tl.where(mean == mean, mean, 0.0)
                apart = 0.01 * tl.sqrt(mean)
        weighs = count > 0
        scale = tl.full((clusters,), 1.0, tl.float64)
        norm = tl.full((clusters,), 1.0, tl.float64)
        if unit:
            largest = tl.zeros((clusters,), tl.float64)
            for first in range(0, d, features):
                f = first + tl.arange(0, features)
                new = mean_after_refill(
                    totals, unit_exponents, x, exponents, lengths, far_rows, far_weights, donors,
                    takers, p, j, f, live, count, source, n_far, m, frame, problem_stride,
                    row_stride, feature_stride, n, k, d, low_bits, apart, splits, takes, policy,
                    unit,
                )  # fmt: skip
                largest = tl.maximum(largest, tl.max(tl.abs(new), 1))
            weighs = weighs & (largest > 0)
            scale = tl.where(largest > 0, largest, 1.0)
            squares = tl.zeros((clusters,), tl.float64)
            for first in range(0, d, features):
                f = first + tl.arange(0, features)
                new = mean_after_refill(
                    totals, unit_exponents, x, exponents, lengths, far_rows, far_weights, donors,
                    takers, p, j, f, live, count, source, n_far, m, frame, problem_stride,
                    row_stride, feature_stride, n, k, d, low_bits, apart, splits, takes, policy,
                    unit,
                )  # fmt: skip
                new = new / scale[:, None]
                squares += tl.sum(new * new, 1)
            norm = tl.where(squares > 0, tl.sqrt(squares), 1.0)
        shift = tl.zeros((clusters,), tl.float64)
        goes_on = tl.zeros((clusters,), tl.float64) + phase > 1
        for first in range(0, d, features):
            f = first + tl.arange(0, features)
            inside = live[:, None] & (f < d)[None, :]
            new = mean_after_refill(
                totals, unit_exponents, x, exponents, lengths, far_rows, far_weights, donors,
                takers, p, j, f, live, count, source, n_far, m, frame, problem_stride, row_stride,
                feature_stride, n, k, d, low_bits, apart, splits, takes, policy, unit,
            )  # fmt: skip
            if unit:
                new = (new / scale[:, None]) / norm[:, None]
            at = (p.to(tl.int64) * k + j)[:, None] * d + f[None, :]
            old = tl.load(c + at, mask=inside, other=0.0)
            moved = tl.where(weighs[:, None], stored(new, half), old)
            step = tl.where(inside, moved.to(tl.float64) - old.to(tl.float64), 0.0)
            shift += tl.sum(step * step, 1)
            tl.debug_barrier()  # few numbers are held by several warps
            tl.store(c + at, moved, mask=inside & goes_on[:, None])
        part = shift_parts + p.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
        tl.store(part, tl.sum(shift, 0))
