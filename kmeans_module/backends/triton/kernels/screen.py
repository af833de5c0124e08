"""Which centroids can be the nearest of a row: products in half precision with a rigorous margin.

The score of a centroid is s = ½‖c‖² - x·c; of two centroids the nearer one has the lower score.
A product of half precision is off by at most

    e = ‖x - x̃‖·‖c‖ + ‖x‖·‖c - c̃‖ + ε·‖x‖·‖c‖

(Cauchy-Schwarz; residues are measured, ε is what adding up on tensor cores loses), and the sum
that decides is off by a share δ of itself. A centroid whose score exceeds that of the row's own
centroid by more than 2e + δ‖x - c‖² cannot win, and is left out; what is left is decided in
:mod:`kernels.decide`.
"""

import triton
import triton.language as tl

from kmeans_module.backends.triton.kernels.halves import (
    UP,
    WIDE,
    rounded_to_half,
    scale_of,
    unit_or_same,
)
from kmeans_module.backends.triton.kernels.order import CHANGING

NEVER = tl.constexpr(-1.0e30)
ALWAYS = tl.constexpr(3.0e38)
UNIT_ROUNDING = tl.constexpr(5.9604644775390625e-08)  # 2^-24
LEAST_ROOT = tl.constexpr(5.293955920339377e-23)  # 2^-74
# Keys of :func:`guess` hold the tile in the lowest bits.
NO_KEY = tl.constexpr(3.0e38)


@triton.jit
def half_rows(
    x, half, norms, residues, exponents, lengths, offset, reach,
    p, r, live, problem_stride, row_stride, feature_stride, n, d, pitch,
    features: tl.constexpr, unit: tl.constexpr, ready: tl.constexpr,
):  # fmt: skip
    """Rows (rows, features) of half precision, their norms and residues (rows,): those that are
    ready, or rounded here."""
    f = tl.arange(0, features)
    place = p.to(tl.int64) * n + r
    if ready:
        inside = live[:, None] & (f < pitch)[None, :]
        value = tl.load(half + place[:, None] * pitch + f[None, :], mask=inside, other=0.0)
        norm = tl.load(norms + place, mask=live, other=0.0)
        residue = tl.load(residues + place, mask=live, other=0.0)
        return value, norm, residue
    else:
        at = p.to(tl.int64) * problem_stride + r.to(tl.int64) * row_stride
        there = live[:, None] & (f < d)[None, :]
        value = tl.load(
            x + at[:, None] + f.to(tl.int64)[None, :] * feature_stride, mask=there, other=0
        ).to(tl.float32)
        value = unit_or_same(value, exponents, lengths, place, live, unit)
        origin = tl.load(offset + p.to(tl.int64) * d + f, mask=f < d, other=0.0)
        value = tl.where(there, (value - origin[None, :]) * scale_of(reach, p), 0.0)
        nearest = rounded_to_half(value)
        lost = value - nearest.to(tl.float32)
        norm = tl.sqrt(tl.sum(value * value, 1)) * UP
        residue = tl.sqrt(tl.sum(lost * lost, 1)) * UP
        return nearest, norm, residue


@triton.jit
def error_of(own, norm, residue, most, p, product_error):
    """e, what products of rows with centroids are off by at most; see :func:`threshold_of`."""
    farthest = tl.load(most + 2 * p).to(tl.float32, bitcast=True)
    rounding = tl.load(most + 2 * p + 1).to(tl.float32, bitcast=True)
    error = residue * farthest + norm * rounding
    # Tensor cores add the products to the score less the threshold, which is rounded with them.
    error += product_error * (norm * farthest + 0.5 * farthest * farthest + tl.abs(own))
    # Rows less the offset, half the squared norms and their difference are rounded, too.
    return error + 16 * UNIT_ROUNDING * farthest * (norm + farthest)


@triton.jit
def threshold_of(own, norm, residue, most, scale, p, d, product_error, sum_error):
    """The score that a centroid must stay below to be looked at.

    Args:
        own: score of the row's own centroid, (rows,).
        norm, residue: of the rows.
        most: bits of the largest norm and residue of the centroids, (P, 2).
        scale: by which rows and centroids were multiplied.
        product_error: ε, what tensor cores lose in adding up.
        sum_error: δ, what the sum that decides loses.
    """
    farthest = tl.load(most + 2 * p).to(tl.float32, bitcast=True)
    error = error_of(own, norm, residue, most, p, product_error)
    squared = tl.maximum(2 * (own + error) + norm * norm, 0.0)
    threshold = own + 2 * error + sum_error * squared
    # Squares below the least denormal number vanish from the sum that decides.
    least = scale * LEAST_ROOT
    threshold += d * least * least
    threshold += tl.abs(threshold) * 4 * UNIT_ROUNDING + 1.0e-30
    usual = (tl.maximum(norm, farthest) < WIDE) & (threshold < ALWAYS)
    return tl.where(usual, threshold, ALWAYS)


@triton.jit(do_not_specialize=CHANGING)
def guess(
    x, half, norms, residues, exponents, lengths, offset, reach,  # rows, see half_rows
    centroids,  # *f16 (P, places, pitch): minus the centroids
    scores,  # *f32 (P, places)
    labels,  # *i32 (P, n), written
    problem_stride, row_stride, feature_stride, frame_stride,
    n, d, k, places, pitch,
    tile_bits,  # the lowest bits of a score, which hold the number of its tile
    rows: tl.constexpr,
    features: tl.constexpr,
    columns: tl.constexpr,
    stages: tl.constexpr,
    unit: tl.constexpr,
    ready: tl.constexpr,
):  # fmt: skip
    """Labels of about the nearest centroids, to begin with: any label serves, good ones faster."""
    p = tl.program_id(1)
    r = tl.program_id(0) * rows + tl.arange(0, rows)
    live = r < n
    f = tl.arange(0, features)
    frame = p * frame_stride
    row, _, _ = half_rows(
        x, half, norms, residues, exponents, lengths, offset, reach,
        frame, r, live, problem_stride, row_stride, feature_stride, n, d, pitch,
        features, unit, ready,
    )  # fmt: skip
    first = p.to(tl.int64) * places
    least = tl.full((rows, columns), NO_KEY, tl.float32)
    for tile in tl.range(0, places // columns, num_stages=stages):
        j = first + tile * columns + tl.arange(0, columns)
        inside = (f < pitch)[None, :] & (j >= 0)[:, None]
        c = tl.load(centroids + j[:, None] * pitch + f[None, :], mask=inside, other=0.0)
        score = tl.dot(row, tl.trans(c)) + tl.load(scores + j)[None, :]
        key = (score.to(tl.int32, bitcast=True) & ~tile_bits) | tile
        least = tl.minimum(least, key.to(tl.float32, bitcast=True))
    best = tl.min(least, 1)
    column = tl.argmin(least, 1)
    tile = best.to(tl.int32, bitcast=True) & tile_bits
    label = tl.minimum(tl.maximum(tile * columns + column, 0), k - 1)
    tl.store(labels + p.to(tl.int64) * n + r, label, mask=live)


@triton.jit
def note_candidates(
    mask, r, live, label, segment, end, entries, n_entries, masks, tile_of_label,
    rows: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    """Write down the rows that have a candidate beside their own centroid, and the candidates.

    Bit b of column c of a mask stands for centroid c of tile end - 1 - b.
    """
    c = tl.arange(0, columns)
    inside = (tile_of_label >= segment) & (tile_of_label < end)
    bit = tl.where(inside, end - 1 - tile_of_label, 0)
    own = (c[None, :] == (label % columns)[:, None]) & inside[:, None]
    mask = tl.where(own, mask & ~(1 << bit)[:, None], mask)
    some = (tl.max((mask != 0).to(tl.int32), 1) > 0) & live
    count = tl.sum(some.to(tl.int32), 0)
    if count > 0:
        base = tl.atomic_add(n_entries, count, sem="relaxed")
        e = base + tl.cumsum(some.to(tl.int32), 0) - 1
        tl.store(entries + 2 * e, r, mask=some)
        tl.store(entries + 2 * e + 1, tl.zeros_like(r) + segment, mask=some)
        at = e.to(tl.int64)[:, None] * columns + c[None, :]
        tl.store(masks + at, mask, mask=some[:, None])


@triton.jit(do_not_specialize=CHANGING)
def sift(
    x, half, norms, residues, exponents, lengths, offset, reach,  # rows, see half_rows
    centroids,  # *f16 (P, places, pitch): minus the centroids
    described,  # the same by a descriptor of (P * places, pitch), where described_tiles
    scores,  # *f32 (P, places)
    most,  # *i32 (P, 2)
    labels,  # *i32 (P, n)
    active,  # *i8 (P,): problems that are not finished
    entries,  # *i32 (·, 2), written: row and segment
    n_entries,  # *i32 (P,), raised
    masks,  # *i32 (·, columns), written
    problem_stride, row_stride, feature_stride, frame_stride,
    first_row, n_rows,  # of this launch
    n, d, places, pitch, capacity,  # entries of a problem
    product_error,
    sum_error,
    rows: tl.constexpr,
    features: tl.constexpr,
    columns: tl.constexpr,
    segment_tiles: tl.constexpr,
    stages: tl.constexpr,
    unit: tl.constexpr,
    ready: tl.constexpr,
    described_tiles: tl.constexpr,
):  # fmt: skip
    """Candidates of rows whose features fit into one tile.

    The product starts from score - threshold, so that the sign bit of the result says that a
    centroid can win; sign bits are shifted into masks, one for each column of the tiles.
    """
    p = tl.program_id(1)
    if tl.load(active + p) != 0:
        local = tl.program_id(0) * rows + tl.arange(0, rows)
        r = first_row + local
        live = (local < n_rows) & (r < n)
        f = tl.arange(0, features)
        frame = p * frame_stride
        row, norm, residue = half_rows(
            x, half, norms, residues, exponents, lengths, offset, reach,
            frame, r, live, problem_stride, row_stride, feature_stride, n, d, pitch,
            features, unit, ready,
        )  # fmt: skip
        first = p.to(tl.int64) * places
        label = tl.load(labels + p.to(tl.int64) * n + r, mask=live, other=0)
        inside = (f < pitch)[None, :] & live[:, None]
        at = (first + label)[:, None] * pitch + f[None, :]
        own_centroid = tl.load(centroids + at, mask=inside, other=0.0).to(tl.float32)
        own = tl.load(scores + first + label, mask=live, other=0.0)
        own += tl.sum(row.to(tl.float32) * own_centroid, 1)
        threshold = threshold_of(
            own, norm, residue, most, scale_of(reach, frame), p, d, product_error, sum_error
        )
        threshold = tl.where(live, threshold, NEVER)
        tiles = places // columns
        for segment in range(0, tiles, segment_tiles):
            end = tl.minimum(segment + segment_tiles, tiles)
            mask = tl.zeros((rows, columns), tl.int32)
            for tile in tl.range(segment, end, num_stages=stages):
                if described_tiles:
                    c = described.load([p * places + tile * columns, 0])
                else:
                    j = first + tile * columns + tl.arange(0, columns)
                    c = tl.load(
                        centroids + j[:, None] * pitch + f[None, :],
                        mask=(f < pitch)[None, :] & (j >= 0)[:, None], other=0.0,
                    )  # fmt: skip
                at_column = first + tile * columns + tl.arange(0, columns)
                start = tl.load(scores + at_column)[None, :] - threshold[:, None]
                result = tl.dot(row, tl.trans(c), start)
                mask = (mask << 1) | (result.to(tl.uint32, bitcast=True) >> 31).to(tl.int32)
            note_candidates(
                mask, r, live, label, segment, end,
                entries + 2 * p.to(tl.int64) * capacity, n_entries + p,
                masks + p.to(tl.int64) * capacity * columns, label // columns, rows, columns,
            )  # fmt: skip
