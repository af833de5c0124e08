"""The distance that decides, and unit length for cosine, in the order of csrc/README.md.

Device functions that kernels call. Rows of any type are converted to float32; nothing here is
approximate, and nothing flushes denormal numbers.
"""

import triton
import triton.language as tl

# Up to so many features a distance is added up feature by feature.
FEW_FEATURES = tl.constexpr(8)
LANES = tl.constexpr(16)
# Features that are added up before they join the total.
PART = tl.constexpr(1024)


@triton.jit
def fused(a, b, c):
    """a * b + c with one rounding."""
    return tl.fma(a, b, c)


@triton.jit
def sum_of_lanes(lanes, rows: tl.constexpr):
    """(rows, 16) to (rows,): halves of the lanes are added until one is left."""
    low, high = tl.split(tl.permute(tl.reshape(lanes, (rows, 2, 8)), (0, 2, 1)))
    lanes = low + high
    low, high = tl.split(tl.permute(tl.reshape(lanes, (rows, 2, 4)), (0, 2, 1)))
    lanes = low + high
    low, high = tl.split(tl.permute(tl.reshape(lanes, (rows, 2, 2)), (0, 2, 1)))
    lanes = low + high
    low, high = tl.split(lanes)
    return low + high


@triton.jit
def exponent_of(value):
    """The exponent e of numbers above 0, 2^e <= value < 2^(e + 1), also of denormal ones."""
    small = value < 1.1754943508222875e-38
    bits = tl.where(small, value * 16777216.0, value).to(tl.int32, bitcast=True)
    return ((bits >> 23) & 255) - 127 - tl.where(small, 24, 0)


@triton.jit
def power_of_two(exponent):
    """2^exponent of exponents from -126 to 127, float32."""
    return ((exponent + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def scale_exponent(largest):
    """e of rows whose largest |x| is given: they are multiplied by 2^-e, which is no denormal."""
    field = (largest.to(tl.int32, bitcast=True) >> 23) & 255
    return tl.minimum(tl.maximum(field, 1), 253) - 127


@triton.jit
def scaled(value, exponent):
    """value * 2^-exponent, of exponents from -126 to 126."""
    return value * power_of_two(-exponent)


@triton.jit
def at_unit_length(value, exponent, length):
    """Features of rows whose exponent and length :func:`kernels.halves.measure_lengths` found."""
    return tl.div_rn(scaled(value, exponent), length)


@triton.jit
def written_distances(
    x,  # rows, of any type
    c,  # *f32 centroids
    row,  # (rows,) int64 offsets of the rows in x
    centroid,  # (rows,) int64 offsets of the centroids in c
    feature_stride,  # of x, in elements
    live,  # (rows,) bool: pairs that are measured
    exponent,  # (rows,) int32, where unit
    length,  # (rows,) f32, where unit
    d,
    rows: tl.constexpr,
    few: tl.constexpr,  # whether d is at most 8
    unit: tl.constexpr,  # whether rows are taken at unit length
):
    """Σ(x - c)² of pairs of a row and a centroid, (rows,) f32, with the bits of the CPU kernel."""
    if few:
        total = tl.zeros((rows,), tl.float32)
        at = row
        for f in range(d):
            value = tl.load(x + at, mask=live, other=0).to(tl.float32)
            at += feature_stride
            if unit:
                value = at_unit_length(value, exponent, length)
            difference = value - tl.load(c + centroid + f, mask=live, other=0.0)
            total = fused(difference, difference, total)
        return total
    else:
        lane = tl.arange(0, LANES)
        lanes = tl.zeros((rows, LANES), tl.float32)
        for begin in range(0, d, PART):
            part = tl.zeros((rows, LANES), tl.float32)
            for first in range(begin, min(begin + PART, d), LANES):
                f = first + lane
                there = live[:, None] & (f < d)[None, :]
                at = row[:, None] + f.to(tl.int64)[None, :] * feature_stride
                value = tl.load(x + at, mask=there, other=0).to(tl.float32)
                if unit:
                    value = at_unit_length(value, exponent[:, None], length[:, None])
                other = tl.load(c + centroid[:, None] + f[None, :], mask=there, other=0.0)
                difference = value - other
                part = fused(difference, difference, part)
            lanes = lanes + part
        return sum_of_lanes(lanes, rows)
