"""Screening, as in :mod:`kernels.screen`, of rows with too many features for one tile: some at a
time, of rows that are ready in half precision."""

import triton
import triton.language as tl

from kmeans_module.backends.triton.kernels.halves import scale_of
from kmeans_module.backends.triton.kernels.order import CHANGING
from kmeans_module.backends.triton.kernels.screen import (
    NEVER,
    NO_KEY,
    note_candidates,
    threshold_of,
)


@triton.jit(do_not_specialize=CHANGING)
def find_thresholds(
    half,  # *f16 (P, n, pitch)
    norms,
    residues,
    reach,
    centroids,
    scores,
    most,
    labels,
    active,
    thresholds,  # *f32 (P, n), written
    half_stride,  # between the rows of a problem and the next, in elements
    row_stride,  # between two rows of half, in elements
    frame_stride,
    n,
    d,
    places,
    pitch,
    product_error,
    sum_error,
    rows: tl.constexpr,
    features: tl.constexpr,
):
    """Thresholds of rows that are ready, for :func:`sift_in_chunks`."""
    p = tl.program_id(1)
    if tl.load(active + p) != 0:
        r = tl.program_id(0) * rows + tl.arange(0, rows)
        live = r < n
        frame = p * frame_stride
        first = p.to(tl.int64) * places
        label = tl.load(labels + p.to(tl.int64) * n + r, mask=live, other=0)
        own = tl.load(scores + first + label, mask=live, other=0.0)
        at = frame.to(tl.int64) * half_stride + r.to(tl.int64) * row_stride
        for begin in range(0, d, features):
            f = begin + tl.arange(0, features)
            there = live[:, None] & (f < d)[None, :]
            row = tl.load(half + at[:, None] + f[None, :], mask=there, other=0.0)
            at_own = (first + label)[:, None] * pitch + f[None, :]
            c = tl.load(centroids + at_own, mask=there, other=0.0)
            own += tl.sum(row.to(tl.float32) * c.to(tl.float32), 1)
        place = frame.to(tl.int64) * n + r
        norm = tl.load(norms + place, mask=live, other=0.0)
        residue = tl.load(residues + place, mask=live, other=0.0)
        threshold = threshold_of(
            own, norm, residue, most, scale_of(reach, frame), p, d, product_error, sum_error
        )
        tl.store(thresholds + p.to(tl.int64) * n + r, threshold, mask=live)


@triton.jit
def chunk_of(
    source, described, first, at_row, begin, live, stride, pitch,
    rows: tl.constexpr, features: tl.constexpr, described_tiles: tl.constexpr,
):  # fmt: skip
    """Features begin to begin + features of rows, (rows, features) of half precision.

    Rows are pitch features long, a multiple of 16: by that the compiler knows that 16 bytes come
    at once, without which nothing is copied ahead into shared memory.
    """
    if described_tiles:
        return described.load([at_row, begin])
    else:
        f = begin + tl.arange(0, features)
        place = (first + tl.arange(0, rows))[:, None] * stride + f[None, :]
        return tl.load(source + place, mask=live[:, None] & (f < pitch)[None, :], other=0.0)


@triton.jit(do_not_specialize=CHANGING)
def guess_in_chunks(
    half,  # *f16 (P, n, ·)
    described_rows,
    centroids,
    described,
    scores,
    labels,  # *i32 (P, n), written
    half_stride, row_stride, frame_stride,
    n, d, k, places, pitch, tile_bits,
    rows: tl.constexpr,
    features: tl.constexpr,
    columns: tl.constexpr,
    stages: tl.constexpr,
    described_tiles: tl.constexpr,
):  # fmt: skip
    """As :func:`guess`, for rows that are ready, some features at a time."""
    p = tl.program_id(1)
    r = tl.program_id(0) * rows + tl.arange(0, rows)
    live = r < n
    frame = p * frame_stride
    first = p.to(tl.int64) * places
    chunks = tl.cdiv(pitch, features)
    least = tl.full((rows, columns), NO_KEY, tl.float32)
    sums = tl.zeros((rows, columns), tl.float32)
    there = tl.arange(0, columns) >= 0
    row_base = half + frame.to(tl.int64) * half_stride
    for step in tl.range(0, (places // columns) * chunks, num_stages=stages):
        tile = step // chunks
        begin = (step % chunks) * features
        row = chunk_of(
            row_base, described_rows, tl.program_id(0).to(tl.int64) * rows,
            frame * n + tl.program_id(0) * rows, begin, live, row_stride, pitch,
            rows, features, described_tiles,
        )  # fmt: skip
        c = chunk_of(
            centroids, described, first + tile * columns, p * places + tile * columns, begin,
            there, pitch, pitch, columns, features, described_tiles,
        )  # fmt: skip
        sums = tl.dot(row, tl.trans(c), sums)
        if step % chunks == chunks - 1:
            at_column = first + tile * columns + tl.arange(0, columns)
            score = sums + tl.load(scores + at_column)[None, :]
            key = (score.to(tl.int32, bitcast=True) & ~tile_bits) | tile
            least = tl.minimum(least, key.to(tl.float32, bitcast=True))
            sums = tl.zeros((rows, columns), tl.float32)
    best = tl.min(least, 1)
    column = tl.argmin(least, 1)
    tile = best.to(tl.int32, bitcast=True) & tile_bits
    label = tl.minimum(tl.maximum(tile * columns + column, 0), k - 1)
    tl.store(labels + p.to(tl.int64) * n + r, label, mask=live)


@triton.jit(do_not_specialize=CHANGING)
def sift_in_chunks(
    half,  # *f16 (P, n, ·)
    described_rows,  # the same by a descriptor of (P * n, d), where described_tiles
    centroids,
    described,
    scores,
    labels,
    thresholds,  # *f32 (P, n)
    active,
    entries,
    n_entries,
    masks,
    half_stride, row_stride, frame_stride,
    first_row, n_rows,
    n, d, places, pitch, capacity,
    rows: tl.constexpr,
    features: tl.constexpr,
    columns: tl.constexpr,
    segment_tiles: tl.constexpr,
    stages: tl.constexpr,
    described_tiles: tl.constexpr,
):  # fmt: skip
    """As :func:`sift`, some features at a time."""
    p = tl.program_id(1)
    if tl.load(active + p) != 0:
        local = tl.program_id(0) * rows + tl.arange(0, rows)
        r = first_row + local
        live = (local < n_rows) & (r < n)
        frame = p * frame_stride
        first = p.to(tl.int64) * places
        label = tl.load(labels + p.to(tl.int64) * n + r, mask=live, other=0)
        threshold = tl.load(thresholds + p.to(tl.int64) * n + r, mask=live, other=NEVER)
        chunks = tl.cdiv(pitch, features)
        tiles = places // columns
        there = tl.arange(0, columns) >= 0
        row_base = half + frame.to(tl.int64) * half_stride
        block = first_row + tl.program_id(0) * rows
        for segment in range(0, tiles, segment_tiles):
            end = tl.minimum(segment + segment_tiles, tiles)
            mask = tl.zeros((rows, columns), tl.int32)
            sums = tl.zeros((rows, columns), tl.float32)
            for step in tl.range(0, (end - segment) * chunks, num_stages=stages):
                tile = segment + step // chunks
                begin = (step % chunks) * features
                row = chunk_of(
                    row_base, described_rows, block.to(tl.int64), frame * n + block, begin, live,
                    row_stride, pitch, rows, features, described_tiles,
                )  # fmt: skip
                c = chunk_of(
                    centroids, described, first + tile * columns, p * places + tile * columns,
                    begin, there, pitch, pitch, columns, features, described_tiles,
                )  # fmt: skip
                sums = tl.dot(row, tl.trans(c), sums)
                if step % chunks == chunks - 1:
                    at_column = first + tile * columns + tl.arange(0, columns)
                    start = tl.load(scores + at_column)[None, :] - threshold[:, None]
                    result = sums + start
                    mask = (mask << 1) | (result.to(tl.uint32, bitcast=True) >> 31).to(tl.int32)
                    sums = tl.zeros((rows, columns), tl.float32)
            note_candidates(
                mask, r, live, label, segment, end,
                entries + 2 * p.to(tl.int64) * capacity, n_entries + p,
                masks + p.to(tl.int64) * capacity * columns, label // columns, rows, columns,
            )  # fmt: skip
