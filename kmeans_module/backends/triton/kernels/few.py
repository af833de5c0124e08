"""The E-step for up to 8 features: every distance is computed, feature by feature."""

import triton
import triton.language as tl

from kmeans_module.backends.triton.kernels.order import CHANGING, at_unit_length, fused

NO_LABEL = tl.constexpr(0x7FFFFFFF)


@triton.jit(do_not_specialize=CHANGING)
def assign_few(
    x,  # rows
    exponents,
    lengths,
    c,  # *f32 (P, k, d)
    active,  # *i8 (P,)
    labels,  # *i32 (P, n), written
    problem_stride,
    row_stride,
    feature_stride,
    frame_stride,
    n,
    k,
    d: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
    unit: tl.constexpr,
):
    """Labels of the nearest centroids; of equally near ones the lowest."""
    p = tl.program_id(1)
    if tl.load(active + p) != 0:
        r = tl.program_id(0) * rows + tl.arange(0, rows)
        live = r < n
        frame = (p * frame_stride).to(tl.int64)
        at = frame * problem_stride + r.to(tl.int64) * row_stride
        if unit:
            exponent = tl.load(exponents + frame * n + r, mask=live, other=0)
            length = tl.load(lengths + frame * n + r, mask=live, other=1.0)
            nonzero = length > 0
            length = tl.where(nonzero, length, 1.0)
        least = tl.full((rows, columns), float("inf"), tl.float32)
        label = tl.zeros((rows, columns), tl.int32)
        centroids = c + p.to(tl.int64) * k * d
        for first in range(0, k, columns):
            j = first + tl.arange(0, columns)
            total = tl.zeros((rows, columns), tl.float32)
            place = at
            for f in tl.static_range(d):
                value = tl.load(x + place, mask=live, other=0).to(tl.float32)
                place += feature_stride
                if unit:
                    value = at_unit_length(value, exponent, length)
                other = tl.load(centroids + j.to(tl.int64) * d + f, mask=j < k, other=0.0)
                difference = value[:, None] - other[None, :]
                total = fused(difference, difference, total)
            wins = (total < least) & (j < k)[None, :]
            least = tl.where(wins, total, least)
            label = tl.where(wins, j[None, :], label)
        nearest = tl.min(least, 1)
        lowest = tl.min(tl.where(least == nearest[:, None], label, NO_LABEL), 1)
        # Rows whose distances are all infinite or NaN have label 0.
        lowest = tl.where(nearest < float("inf"), lowest, 0)
        if unit:
            lowest = tl.where(nonzero, lowest, 0)
        tl.store(labels + p.to(tl.int64) * n + r, lowest, mask=live)
