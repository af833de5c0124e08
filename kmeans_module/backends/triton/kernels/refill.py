"""Empty clusters: distances of all rows where they are needed, the farthest rows, and the heaviest
clusters, as core.empty_clusters finds them."""

import triton
import triton.language as tl

from kmeans_module.backends.triton.kernels.decide import unit_of_rows
from kmeans_module.backends.triton.kernels.lloyd import (
    MOVES,
    N_EMPTY,
    PHASE,
    RELOCATE,
    RESCUED,
    field,
)
from kmeans_module.backends.triton.kernels.order import at_unit_length, written_distances

# Keys of rows: the bits of the distance, then how many rows come after. No row:
NO_ROW = tl.constexpr(-1)
LAST = tl.constexpr(0x7FFFFFFF)
NO_CLUSTER = tl.constexpr(0x7FFFFFFF)


@triton.jit
def refills(book, p, n_problems):
    """Whether an M-step follows for a problem that has an empty cluster."""
    searched = tl.load(field(book, PHASE, p, n_problems)) > 0
    moves = tl.load(book + MOVES) != 0
    return searched & moves & (tl.load(field(book, N_EMPTY, p, n_problems)) > 0)


@triton.jit
def key_of_rows(distance, weight, r, live):
    """Keys whose order is that of distances, then of rows from the last to the first."""
    bits = distance.to(tl.int32, bitcast=True).to(tl.int64)
    key = (bits << 32) | (r ^ LAST).to(tl.int64)
    return tl.where(live & (weight > 0), key, NO_ROW)


@triton.jit
def weight_of_rows(
    weights, lengths, p, frame, r, live, weight_stride, n,
    weighted: tl.constexpr, unit: tl.constexpr,
):  # fmt: skip
    """Weights of rows, f64; under the cosine metric zero rows weigh nothing."""
    weight = tl.where(live, 1.0, 0.0).to(tl.float64)
    if weighted:
        weight = tl.load(weights + p.to(tl.int64) * weight_stride + r, mask=live, other=0.0)
    if unit:
        length = tl.load(lengths + frame * n + r, mask=live, other=0.0)
        weight = tl.where(length > 0, weight, 0.0)
    return weight


@triton.jit(do_not_specialize=["frame_stride", "weight_stride", "n_problems", "tiles"])
def measure_rows(
    book,
    x,
    exponents,
    lengths,
    weights,  # *f64 (P, n) or (n,), where weighted
    c,  # *f32 (P, k, d)
    labels,  # *i32 (P, n)
    distances,  # *f32 (P, n), written where relocating
    farthest,  # *i64 (P, tiles), written where relocating: largest key of each tile of rows
    row_parts,  # *f64 (P, programs), written: Σ w (x - c)² of the rows of each program
    problem_stride,
    row_stride,
    feature_stride,
    frame_stride,
    weight_stride,
    n_problems,
    n,
    d,
    k,
    tiles,
    rows: tl.constexpr,
    policy: tl.constexpr,
    few: tl.constexpr,
    weighted: tl.constexpr,
    unit: tl.constexpr,
):
    """Distances of all rows, of problems whose inertia needs them or that seek the farthest."""
    p = tl.program_id(1)
    wanted = tl.load(field(book, RESCUED, p, n_problems)) != 0
    wanted = wanted & (tl.load(field(book, PHASE, p, n_problems)) > 0)
    if policy == RELOCATE:
        wanted = wanted | refills(book, p, n_problems)
    if wanted:
        frame = (p * frame_stride).to(tl.int64)
        total = tl.zeros((rows,), tl.float64)
        for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
            r = tile * rows + tl.arange(0, rows)
            live = r < n
            place = p.to(tl.int64) * n + r
            label = tl.load(labels + place, mask=live, other=0)
            exponent, length = unit_of_rows(exponents, lengths, frame * n + r, live, unit)
            distance = written_distances(
                x, c, frame * problem_stride + r.to(tl.int64) * row_stride,
                (p.to(tl.int64) * k + label) * d, feature_stride, live, exponent, length,
                d, rows, few, unit,
            )  # fmt: skip
            if unit:
                distance = distance * 0.5
            weight = weight_of_rows(
                weights, lengths, p, frame, r, live, weight_stride, n, weighted, unit
            )
            total += tl.where(weight > 0, weight * distance.to(tl.float64), 0.0)
            if policy == RELOCATE:
                tl.store(distances + place, distance, mask=live)
                key = tl.max(key_of_rows(distance, weight, r, live), 0)
                tl.store(farthest + p.to(tl.int64) * tiles + tile, key)
        part = row_parts + p.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
        tl.store(part, tl.sum(total, 0))


@triton.jit(do_not_specialize=["frame_stride", "weight_stride", "n_problems", "tiles", "m"])
def find_farthest(
    book,
    x,
    exponents,
    lengths,
    weights,
    c,
    labels,
    distances,
    farthest,  # *i64 (P, tiles): of measure_rows; what is found is taken off
    counts,  # *f64 (P, k)
    far_rows,  # *i32 (P, m), written: the row that the i-th empty cluster becomes; -1 for none
    far_weights,  # *f64 (P, m), written
    donors,  # *i32 (P, m), written: the clusters that these rows leave
    takers,  # *i32 (P, m), written: the empty clusters
    problem_stride,
    row_stride,
    feature_stride,
    frame_stride,
    weight_stride,
    n_problems,
    n,
    d,
    k,
    tiles,
    m,
    epsilon,  # of the dtype that centroids are stored in
    rows: tl.constexpr,  # of a tile
    block: tl.constexpr,  # keys, or clusters, or features, that are looked at together
    weighted: tl.constexpr,
    unit: tl.constexpr,
):
    """The i-th empty cluster becomes the i-th farthest row, unless that is its centroid already;
    one program for each problem."""
    p = tl.program_id(0)
    if refills(book, p, n_problems):
        frame = (p * frame_stride).to(tl.int64)
        n_far = tl.minimum(tl.load(field(book, N_EMPTY, p, n_problems)).to(tl.int32), m)
        keys = farthest + p.to(tl.int64) * tiles
        taker = tl.full((), -1, tl.int32)
        lane = tl.arange(0, block)
        for i in range(n_far):
            most = tl.full((block,), NO_ROW, tl.int64)
            for first in range(0, tiles, block):
                at = first + lane
                most = tl.maximum(most, tl.load(keys + at, mask=at < tiles, other=NO_ROW))
            key = tl.max(most, 0)
            found = key >= 0
            row = tl.where(found, (key & LAST).to(tl.int32) ^ LAST, 0)
            # What is left of its tile.
            tile = row // rows
            r = tile * rows + tl.arange(0, rows)
            live = r < n
            distance = tl.load(distances + p.to(tl.int64) * n + r, mask=live, other=0.0)
            weight = weight_of_rows(
                weights, lengths, p, frame, r, live, weight_stride, n, weighted, unit
            )
            others = key_of_rows(distance, weight, r, live)
            others = tl.where(others < key, others, NO_ROW)
            tl.debug_barrier()
            tl.store(keys + tile, tl.max(others, 0), mask=found)
            tl.debug_barrier()
            own = tl.sum(tl.where(r == row, weight, 0.0), 0)
            apart = tl.max(tl.where(r == row, distance, 0.0), 0)
            donor = tl.load(labels + p.to(tl.int64) * n + row)
            count = tl.load(counts + p.to(tl.int64) * k + donor)
            rounding = count * 2.220446049250313e-16 + 4 * epsilon
            gains = tl.zeros((block,), tl.int32)
            at_row = frame * problem_stride + row.to(tl.int64) * row_stride
            at_centroid = (p.to(tl.int64) * k + donor) * d
            for first in range(0, d, block):
                f = first + lane
                at = at_row + f.to(tl.int64) * feature_stride
                value = tl.load(x + at, mask=f < d, other=0).to(tl.float32)
                if unit:
                    place = frame * n + row
                    length = tl.load(lengths + place)
                    length = tl.where(length > 0, length, 1.0) + tl.zeros_like(value)
                    value = at_unit_length(value, tl.load(exponents + place) + f * 0, length)
                wide = value.to(tl.float64)
                centroid = tl.load(c + at_centroid + f, mask=f < d, other=0.0).to(tl.float64)
                differs = tl.abs(wide - centroid) > rounding * tl.abs(wide)
                gains = gains | (differs & (f < d)).to(tl.int32)
            moves = found & (apart > 0) & (own > 0) & (tl.max(gains, 0) > 0)
            # The next empty cluster.
            next_taker = tl.full((), NO_CLUSTER, tl.int32)
            first = (taker + 1) // block * block
            while (next_taker == NO_CLUSTER) & (first < k):
                j = first + lane
                its = tl.load(counts + p.to(tl.int64) * k + j, mask=j < k, other=1.0)
                next_taker = tl.min(tl.where((its == 0) & (j > taker), j, NO_CLUSTER), 0)
                first += block
            taker = next_taker
            tl.store(far_rows + p * m + i, tl.where(moves, row, -1))
            tl.store(far_weights + p * m + i, own)
            tl.store(donors + p * m + i, donor)
            tl.store(takers + p * m + i, taker)


@triton.jit(do_not_specialize=["n_problems"])
def rank_clusters(
    book,
    counts,  # *f64 (P, k)
    ranks,  # *i32 (P, k), written: of empty clusters by index, of the others from the heaviest on
    heavy,  # *i32 (P, k), written: the cluster of each rank of those that are not empty
    n_problems,
    k,
    clusters: tl.constexpr,
    block: tl.constexpr,
):
    """Which clusters are split for which empty ones: the i-th heaviest for the i-th empty."""
    p = tl.program_id(1)
    if refills(book, p, n_problems):
        j = tl.program_id(0) * clusters + tl.arange(0, clusters)
        row = counts + p.to(tl.int64) * k
        count = tl.load(row + j, mask=j < k, other=-1.0)
        rank = tl.zeros((clusters,), tl.int32)
        for first in range(0, k, block):
            i = first + tl.arange(0, block)
            other = tl.load(row + i, mask=i < k, other=-1.0)[None, :]
            before = (other == count[:, None]) & (i[None, :] < j[:, None])
            heavier = (other > count[:, None]) & (count > 0)[:, None]
            rank += tl.sum((before | heavier).to(tl.int32), 1)
        tl.store(ranks + p.to(tl.int64) * k + j, rank, mask=j < k)
        tl.store(heavy + p.to(tl.int64) * k + rank, j, mask=(j < k) & (count > 0))
