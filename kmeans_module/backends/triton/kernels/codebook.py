"""A codebook's step: what a batch teaches, and how revived codes follow their samples.

What kmeans_module.quantization does in torch on other devices, in few launches. All arithmetic of
counts and means is in float64; sums are added up in a fixed order.
"""

import triton
import triton.language as tl

# Of splitmix64, as signed numbers; see kmeans_module.rows.keyed.
_GAMMA = tl.constexpr(-7046029254386353131)
_FIRST = tl.constexpr(-4658895280553007687)
_SECOND = tl.constexpr(-7723592293110705685)
NEVER = tl.constexpr(0x7FFFFFFFFFFFFFFF)
# Bits of 0.95 and 0.99, float64.
_FORGOTTEN = tl.constexpr(0x3FEE666666666666)
_SLOWEST = tl.constexpr(0x3FEFAE147AE147AE)


@triton.jit
def double(bits):
    """The float64 number of these bits: scalars of kernels are float32."""
    return tl.cast(bits, tl.int64).to(tl.float64, bitcast=True)


@triton.jit
def hashed(numbers):
    """64 bits that look random for each of the int64 numbers."""
    mixed = numbers * _GAMMA
    mixed = (mixed ^ ((mixed >> 30) & 0x3FFFFFFFF)) * _FIRST
    mixed = (mixed ^ ((mixed >> 27) & 0x1FFFFFFFFF)) * _SECOND
    return mixed ^ ((mixed >> 31) & 0x1FFFFFFFF)


@triton.jit(do_not_specialize=["before", "seed"])
def look(
    x,  # *f32 (P, n, d)
    valid,  # *u8 (P, n), where masked
    steps,  # *i64 (P,)
    numbers,  # *i64 (2,): before and seed, where they are shared
    found,  # *i64 (2,), raised: rows that are not finite, of any problem; n - the first of them
    keys,  # *i64 (P, n), written, where draws
    problem_stride, row_stride, feature_stride,
    mask_problem_stride, mask_row_stride,
    problems, n, d,
    before,  # rows before the first
    seed,
    of_step, of_problem,
    rows: tl.constexpr,
    features: tl.constexpr,
    draws: tl.constexpr,
    masked: tl.constexpr,
    shared: tl.constexpr,
):  # fmt: skip
    """Which rows hold NaN or infinity; and keys, see kmeans_module.quantization.samples."""
    r = tl.program_id(0) * rows + tl.arange(0, rows)
    bad = tl.zeros((rows,), tl.int32)
    for problem in range(problems):
        p = tl.cast(problem, tl.int64)
        row = p * problem_stride + r.to(tl.int64) * row_stride
        for first in range(0, d, features):
            f = first + tl.arange(0, features)
            inside = (r < n)[:, None] & (f < d)[None, :]
            at = row[:, None] + f.to(tl.int64)[None, :] * feature_stride
            value = tl.load(x + at, mask=inside, other=0.0)
            usual = tl.abs(value) < float("inf")
            bad = tl.maximum(bad, tl.max(tl.where(usual, 0, 1), 1))
        if draws:
            stream = tl.load(steps + p) * tl.cast(of_step, tl.int64)
            stream += p * tl.cast(of_problem, tl.int64)
            if shared:
                stream += tl.load(numbers) + tl.load(numbers + 1)
            else:
                stream += tl.cast(before, tl.int64) + tl.cast(seed, tl.int64)
            key = hashed(stream + r)
            if masked:
                at_mask = p * mask_problem_stride + r.to(tl.int64) * mask_row_stride
                counts = tl.load(valid + at_mask, mask=r < n, other=0)
                key = tl.where(counts != 0, key, NEVER)
            tl.store(keys + p * n + r, key, mask=r < n)
    count = tl.sum(bad, 0)
    if count > 0:
        tl.atomic_add(found, count.to(tl.int64), sem="relaxed")
        left = tl.max(tl.where(bad > 0, n - r, 0), 0)
        tl.atomic_max(found + 1, left.to(tl.int64), sem="relaxed")


@triton.jit
def number_rows(drawn, first_row, r, m, d, rows: tl.constexpr, features: tl.constexpr):
    """Numbers for the values of rows r of (m, d), equal rows have the same; and which are not 0."""
    total = tl.zeros((rows,), tl.int64)
    nonzero = tl.zeros((rows,), tl.int32)
    for first in range(0, d, features):
        f = first + tl.arange(0, features)
        inside = (r < m)[:, None] & (f < d)[None, :]
        at = (first_row + r)[:, None] * d + f[None, :]
        value = tl.load(drawn + at, mask=inside, other=0.0)
        some = value != 0  # -0 is 0
        bits = tl.where(some, value, 0.0).to(tl.int32, bitcast=True).to(tl.int64)
        total += tl.sum(bits * hashed(f.to(tl.int64) + 1)[None, :], 1)
        nonzero = tl.maximum(nonzero, tl.max(some.to(tl.int32), 1))
    return total, nonzero


@triton.jit
def find_known(
    drawn,  # *f32 (P, m, d)
    keys,  # *i64 (P, m): NEVER where there is no sample
    known,  # *i8 (P, m), written
    m,
    d,
    rows: tl.constexpr,
    others: tl.constexpr,
    features: tl.constexpr,
    unit: tl.constexpr,  # whether rows that are 0 are no samples
):
    """Which rows are samples that equal none before them."""
    p = tl.program_id(1).to(tl.int64)
    begin = tl.program_id(0) * rows
    r = begin + tl.arange(0, rows)
    own, nonzero = number_rows(drawn, p * m, r, m, d, rows, features)
    twice = tl.zeros((rows,), tl.int32)
    for first in range(0, begin + rows, others):
        j = first + tl.arange(0, others)
        other, _ = number_rows(drawn, p * m, j, m, d, others, features)
        there = tl.load(keys + p * m + j, mask=j < m, other=NEVER) != NEVER
        same = (own[:, None] == other[None, :]) & (j[None, :] < r[:, None]) & there[None, :]
        twice = tl.maximum(twice, tl.max(same.to(tl.int32), 1))
    key = tl.load(keys + p * m + r, mask=r < m, other=NEVER)
    is_known = (key != NEVER) & (twice == 0)
    if unit:
        is_known = is_known & (nonzero > 0)
    tl.store(known + p * m + r, is_known.to(tl.int8), mask=r < m)


@triton.jit
def weigh(
    counts,  # *f64 (P, k): before the batch
    batch,  # *f64 (P, k): samples of each code in the batch
    known,  # *i8 (P, m): samples that codes may be revived by
    bad,  # *u8 (): whether a row of some rank is not finite
    found,  # *i64 (2,): of look, on this rank
    next_counts,  # *f64 (P, k), written, as is what follows
    places,  # *i32 (P, k): the number of the sample of a code that is revived, from 1; else 0
    nth,  # *i32 (P, m): where the samples with these numbers are
    facts,  # *f64 (P, 4): decay, Σ counts before and after, and 1 if the batch counts
    recorded,  # *u8 ()
    skipped,  # *i64 ()
    refused,  # *i64 (3,)
    k,
    m,
    n,
    decay,  # bits of a float64, where not growing
    threshold,  # bits of a float64, where not even
    size: tl.constexpr,
    growing: tl.constexpr,
    even: tl.constexpr,  # whether codes are dead below a tenth of an even share
    revives: tl.constexpr,
    skips: tl.constexpr,
):
    """Counts after a batch, and which codes are revived."""
    p = tl.program_id(0).to(tl.int64)
    at = p * k
    of_batch = tl.zeros((size,), tl.float64)
    before = tl.zeros((size,), tl.float64)
    for first in range(0, k, size):
        j = first + tl.arange(0, size)
        of_batch += tl.load(batch + at + j, mask=j < k, other=0.0)
        before += tl.load(counts + at + j, mask=j < k, other=0.0)
    samples = tl.sum(of_batch, 0)
    mass = tl.sum(before, 0)
    is_bad = tl.load(bad) != 0
    accepted = tl.where((samples > 0) & (is_bad == 0), 1, 0)
    if p == 0:
        tl.store(recorded, accepted.to(tl.uint8))
        if is_bad:
            if skips:
                tl.store(skipped, tl.load(skipped) + 1)
            else:
                tl.store(refused, tl.full((), 1, tl.int64))
                tl.store(refused + 1, tl.load(found))
                tl.store(refused + 2, n - tl.load(found + 1))
    counted = (accepted + tl.zeros((size,), tl.int32)) > 0
    gamma = double(decay)
    if growing:
        gamma = 1 - double(_FORGOTTEN) * samples / mass
        gamma = tl.minimum(gamma, double(_SLOWEST))
        gamma = tl.maximum(gamma, 1 - samples / (4 * k))
        gamma = tl.maximum(gamma, 0.0)
    after = tl.zeros((size,), tl.float64)
    for first in range(0, k, size):
        j = first + tl.arange(0, size)
        own = gamma * tl.load(counts + at + j, mask=j < k, other=0.0)
        after += own + tl.load(batch + at + j, mask=j < k, other=0.0)
    total = tl.sum(after, 0)
    tl.store(facts + 4 * p, gamma)
    tl.store(facts + 4 * p + 1, mass)
    tl.store(facts + 4 * p + 2, total)
    tl.store(facts + 4 * p + 3, tl.where(accepted > 0, 1.0, 0.0))
    available = 0
    least = tl.full((), 0.0, tl.float64)
    share = least
    factor = least + 1.0
    if revives:
        for first in range(0, m, size):
            i = first + tl.arange(0, size)
            is_known = tl.load(known + p * m + i, mask=i < m, other=0).to(tl.int32)
            number = available + tl.cumsum(is_known, 0)
            tl.store(nth + p * m + number - 1, i, mask=is_known > 0)
            available += tl.sum(is_known, 0)
        least = total / k / 10 if even else double(threshold) / (1 - gamma)
        alive = 0
        of_alive = tl.zeros((size,), tl.float64)
        for first in range(0, k, size):
            j = first + tl.arange(0, size)
            own = gamma * tl.load(counts + at + j, mask=j < k, other=0.0)
            own += tl.load(batch + at + j, mask=j < k, other=0.0)
            lives = (j < k) & (own >= least)
            alive += tl.sum(lives.to(tl.int32), 0)
            of_alive += tl.where(lives, own, 0.0)
        share = tl.sum(of_alive, 0) / tl.maximum(alive, 1)
        share = tl.where(share > 0, share, 1.0)
        power = gamma * gamma
        power = power * power
        share = tl.minimum(share, least / (power * power))
        dead = 0
        given = tl.zeros((size,), tl.float64)
        for first in range(0, k, size):
            j = first + tl.arange(0, size)
            own = gamma * tl.load(counts + at + j, mask=j < k, other=0.0)
            own += tl.load(batch + at + j, mask=j < k, other=0.0)
            dies = ((j < k) & (own < least)).to(tl.int32)
            place = dead + tl.cumsum(dies, 0)
            revived = (dies > 0) & (place <= available) & counted
            tl.store(places + at + j, tl.where(revived, place, 0), mask=j < k)
            given += tl.where(j < k, tl.where(revived, share, own), 0.0)
            dead += tl.sum(dies, 0)
        factor = total / tl.sum(given, 0)
    dead = 0
    for first in range(0, k, size):
        j = first + tl.arange(0, size)
        own = gamma * tl.load(counts + at + j, mask=j < k, other=0.0)
        own += tl.load(batch + at + j, mask=j < k, other=0.0)
        if revives:
            dies = ((j < k) & (own < least)).to(tl.int32)
            place = dead + tl.cumsum(dies, 0)
            own = tl.where((dies > 0) & (place <= available), share, own) * factor
            dead += tl.sum(dies, 0)
        tl.store(next_counts + at + j, own, mask=(j < k) & counted)


@triton.jit
def smoothed(count, total, k, epsilon):
    """See kmeans_module.quantization.learning."""
    return (count + epsilon) / (total + k * epsilon) * total


@triton.jit
def learn(
    centroids,  # *f32 (P, k, d)
    counts,  # *f64 (P, k): before the batch
    batch,  # *f64 (P, k): samples of each code in the batch
    sums,  # *f64 (P, k, d): of these samples
    drawn,  # *f32 (P, m, d): samples
    codes,  # *i64 (P, m): of the samples
    places, nth, facts,  # of weigh
    next_centroids,  # *f32 (P, k, d), written
    leaders,  # *i64 (P, k), written
    k, d, m,
    smoothing,  # bits of a float64
    rows: tl.constexpr,
    features: tl.constexpr,
    averages: tl.constexpr,
    revives: tl.constexpr,
    unit: tl.constexpr,
):  # fmt: skip
    """Centroids after a batch: moving averages, or samples where a code is revived."""
    p = tl.program_id(1).to(tl.int64)
    if tl.load(facts + 4 * p + 3) != 0:
        gamma = tl.load(facts + 4 * p)
        before = tl.load(facts + 4 * p + 1)
        after = tl.load(facts + 4 * p + 2)
        j = tl.program_id(0) * rows + tl.arange(0, rows)
        live = j < k
        own = tl.load(counts + p * k + j, mask=live, other=0.0)
        total = gamma * own + tl.load(batch + p * k + j, mask=live, other=0.0)
        epsilon = double(smoothing) / (1 - gamma)
        mass = smoothed(own, before, k, epsilon) * gamma
        share = smoothed(total, after, k, epsilon)
        divisor = tl.where(share > 0, share, 1.0)
        place = tl.zeros((rows,), tl.int32)
        slot = tl.zeros((rows,), tl.int32)
        if revives:
            place = tl.load(places + p * k + j, mask=live, other=0)
            slot = tl.load(nth + p * m + place - 1, mask=place > 0, other=0)
            code = tl.load(codes + p * m + slot, mask=place > 0, other=-1)
            tl.store(leaders + p * k + j, code + 1, mask=live)
        row = (p * k + j) * d
        largest = tl.zeros((rows,), tl.float64)
        length = tl.zeros((rows,), tl.float64)
        if unit and averages:
            for first in range(0, d, features):
                f = first + tl.arange(0, features)
                inside = live[:, None] & (f < d)[None, :]
                c = tl.load(centroids + row[:, None] + f[None, :], mask=inside, other=0.0)
                s = tl.load(sums + row[:, None] + f[None, :], mask=inside, other=0.0)
                mean = (c.to(tl.float64) * mass[:, None] + s) / divisor[:, None]
                largest = tl.maximum(largest, tl.max(tl.abs(mean), 1))
            share = tl.where(largest > 0, share, 0.0)
            largest = tl.where(largest > 0, largest, 1.0)
            for first in range(0, d, features):
                f = first + tl.arange(0, features)
                inside = live[:, None] & (f < d)[None, :]
                c = tl.load(centroids + row[:, None] + f[None, :], mask=inside, other=0.0)
                s = tl.load(sums + row[:, None] + f[None, :], mask=inside, other=0.0)
                mean = (c.to(tl.float64) * mass[:, None] + s) / divisor[:, None]
                mean = mean / largest[:, None]
                length += tl.sum(mean * mean, 1)
            length = tl.sqrt(length)
            length = tl.where(length > 0, length, 1.0)
        for first in range(0, d, features):
            f = first + tl.arange(0, features)
            inside = live[:, None] & (f < d)[None, :]
            at = row[:, None] + f[None, :]
            c = tl.load(centroids + at, mask=inside, other=0.0)
            value = c
            if averages:
                s = tl.load(sums + at, mask=inside, other=0.0)
                mean = (c.to(tl.float64) * mass[:, None] + s) / divisor[:, None]
                if unit:
                    mean = mean / largest[:, None] / length[:, None]
                value = tl.where((share > 0)[:, None], mean.to(tl.float32), c)
            if revives:
                of_sample = (p * m + slot)[:, None] * d + f[None, :]
                there = inside & (place > 0)[:, None]
                sample = tl.load(drawn + of_sample, mask=there, other=0.0)
                value = tl.where((place > 0)[:, None], sample, value)
            tl.store(next_centroids + at, value, mask=inside)


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
