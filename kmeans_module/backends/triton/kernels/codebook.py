"""What a batch teaches a codebook: counts, means, and which codes are revived.

What kmeans_module.quantization does in torch on other devices, in few launches. All arithmetic of
counts and means is in float64; sums are added up in a fixed order.
"""

import triton
import triton.language as tl

# Bits of 0.95 and 0.99, float64.
_FORGOTTEN = tl.constexpr(0x3FEE666666666666)
_SLOWEST = tl.constexpr(0x3FEFAE147AE147AE)


@triton.jit
def double(bits):
    """The float64 number of these bits: scalars of kernels are float32."""
    return tl.cast(bits, tl.int64).to(tl.float64, bitcast=True)


@triton.jit
def weigh(
    counts,  # *f64 (P, k): before the batch
    batch,  # *f64 (P, k): samples of each code in the batch
    known,  # *i8 (P, m): samples that codes may be revived by
    order,  # *i32 (P, places_of): of far_first
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
    places_of,
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
        for first in range(0, places_of, size):
            i = first + tl.arange(0, size)
            at_place = tl.load(order + p * places_of + i, mask=i < places_of, other=m)
            is_known = tl.load(known + p * m + at_place, mask=at_place < m, other=0).to(tl.int32)
            number = available + tl.cumsum(is_known, 0)
            tl.store(nth + p * m + number - 1, at_place, mask=is_known > 0)
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
        power = power * power
        lives = 4.0 * k / samples
        power = tl.where(lives > 8, tl.exp(lives * tl.log(gamma)), power)
        share = tl.minimum(share, least / power)
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
