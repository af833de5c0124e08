"""How codebooks take over what a batch taught: revived codes follow their samples.

What kmeans_module.quantization.revival does in torch on other devices.
"""

import triton
import triton.language as tl


@triton.jit
def base_of(centroids, next_centroids, leader, at, inside, averages: tl.constexpr):
    """Where codes are before those that are revived move: (rows, features)."""
    value = tl.load(centroids + at, mask=inside, other=0.0)
    if averages:
        new = tl.load(next_centroids + at, mask=inside, other=0.0)
        value = tl.where((leader > 0)[:, None], value, new)
    return value


@triton.jit
def add_spread(
    centroids, next_centroids,  # *f32 (P, k, d)
    leaders,  # *i64 (P, k)
    recorded,  # *u8 ()
    partial,  # *f64 (P, programs, d + 1), written: Σ of each feature, and Σ of squares
    k, d,
    per_program,  # codes of a program, a multiple of rows
    rows: tl.constexpr,
    features: tl.constexpr,
    averages: tl.constexpr,
):  # fmt: skip
    """Sums of the codes less the first one, which say how far they spread."""
    if tl.load(recorded) != 0:
        p = tl.program_id(1).to(tl.int64)
        out = (p * tl.num_programs(0) + tl.program_id(0)) * (d + 1)
        squares = tl.zeros((features,), tl.float64)
        zero = tl.zeros((1,), tl.int32)
        of_first = tl.load(leaders + p * k + zero)
        for first in range(0, d, features):
            f = first + tl.arange(0, features)
            at_first = (p * k + zero).to(tl.int64)[:, None] * d + f[None, :]
            origin = base_of(
                centroids, next_centroids, of_first, at_first, (f < d)[None, :], averages
            ).to(tl.float64)
            total = tl.zeros((features,), tl.float64)
            for start in range(0, per_program, rows):
                j = tl.program_id(0) * per_program + start + tl.arange(0, rows)
                live = j < k
                leader = tl.load(leaders + p * k + j, mask=live, other=0)
                inside = live[:, None] & (f < d)[None, :]
                at = (p * k + j)[:, None] * d + f[None, :]
                value = base_of(centroids, next_centroids, leader, at, inside, averages)
                apart = tl.where(inside, value.to(tl.float64) - origin, 0.0)
                total += tl.sum(apart, 0)
                squares += tl.sum(apart * apart, 0)
            tl.store(partial + out + f, total, mask=f < d)
        tl.store(partial + out + d, tl.sum(squares, 0))


@triton.jit
def follow(
    centroids, next_centroids,  # *f32 (P, k, d)
    leaders,  # *i64 (P, k)
    recorded,  # *u8 ()
    partial,  # *f64 (P, programs, d + 1)
    moved,  # *f32 (P, k, d), written
    counts,  # *f64 (P, k), written where recorded
    next_counts,  # *f64 (P, k)
    k, d, programs,
    rows: tl.constexpr,
    features: tl.constexpr,
    averages: tl.constexpr,
    unit: tl.constexpr,
):  # fmt: skip
    """Codebooks after an update; see kmeans_module.quantization.revival."""
    p = tl.program_id(1).to(tl.int64)
    j = tl.program_id(0) * rows + tl.arange(0, rows)
    live = j < k
    row = (p * k + j) * d
    if tl.load(recorded) == 0:
        for first in range(0, d, features):
            f = first + tl.arange(0, features)
            inside = live[:, None] & (f < d)[None, :]
            at = row[:, None] + f[None, :]
            tl.store(moved + at, tl.load(centroids + at, mask=inside, other=0.0), mask=inside)
    else:
        own = tl.load(next_counts + p * k + j, mask=live, other=0.0)
        tl.store(counts + p * k + j, own, mask=live)
        leader = tl.load(leaders + p * k + j, mask=live, other=0)
        revived = leader > 0
        lead = tl.where(revived, leader - 1, 0)
        of_lead = tl.load(leaders + p * k + lead, mask=revived, other=0)
        from_row = (p * k + lead) * d
        length = tl.zeros((rows,), tl.float32)
        share = tl.zeros((rows,), tl.float32) + 1.0
        some = tl.max(revived.to(tl.int32), 0)
        if some > 0:
            squares = tl.full((), 0.0, tl.float64)
            means = tl.zeros((features,), tl.float64)
            for i in range(programs):
                squares += tl.load(partial + (p * programs + i) * (d + 1) + d)
            for first in range(0, d, features):
                f = first + tl.arange(0, features)
                total = tl.zeros((features,), tl.float64)
                for i in range(programs):
                    at_sum = (p * programs + i) * (d + 1) + f
                    total += tl.load(partial + at_sum, mask=f < d, other=0.0)
                means += total * total / k
                inside = revived[:, None] & (f < d)[None, :]
                start = base_of(
                    centroids, next_centroids, of_lead, from_row[:, None] + f[None, :], inside,
                    averages,
                )  # fmt: skip
                target = tl.load(next_centroids + row[:, None] + f[None, :], mask=inside, other=0.0)
                way = target - start
                length += tl.sum(way * way, 1)
            variance = (squares - tl.sum(means, 0)) / k
            spread = tl.sqrt(tl.maximum(variance, 0.0)).to(tl.float32)
            spread = tl.where(spread > 0, spread, float("inf"))
            length = tl.sqrt_rn(length)
            share = tl.div_rn(0.5 * spread + tl.zeros_like(length), length)
            share = tl.where(length > 0, tl.minimum(tl.maximum(share, 0.03125), 1.0), 1.0)
        largest = tl.zeros((rows,), tl.float32)
        norm = tl.zeros((rows,), tl.float32)
        if unit:
            if some > 0:
                for first in range(0, d, features):
                    f = first + tl.arange(0, features)
                    inside = revived[:, None] & (f < d)[None, :]
                    start = base_of(
                        centroids, next_centroids, of_lead, from_row[:, None] + f[None, :],
                        inside, averages,
                    )  # fmt: skip
                    at = row[:, None] + f[None, :]
                    target = tl.load(next_centroids + at, mask=inside, other=0.0)
                    reached = start + share[:, None] * (target - start)
                    norm += tl.sum(reached * reached, 1)
                norm = tl.sqrt_rn(norm)
            largest = tl.where((norm > 0) & (share < 1), norm, 1.0)
        for first in range(0, d, features):
            f = first + tl.arange(0, features)
            inside = live[:, None] & (f < d)[None, :]
            at = row[:, None] + f[None, :]
            value = base_of(centroids, next_centroids, leader, at, inside, averages)
            there = inside & revived[:, None]
            start = base_of(
                centroids, next_centroids, of_lead, from_row[:, None] + f[None, :], there, averages
            )
            target = tl.load(next_centroids + at, mask=there, other=0.0)
            way = target - start
            near = start + share[:, None] * way
            far = target - (1.0 - share)[:, None] * way
            reached = tl.where((share < 0.5)[:, None], near, far)
            if unit:
                divided = tl.div_rn(reached, largest[:, None] + tl.zeros_like(reached))
                reached = tl.where((share < 1)[:, None], divided, reached)
            tl.store(moved + at, tl.where(revived[:, None], reached, value), mask=inside)
