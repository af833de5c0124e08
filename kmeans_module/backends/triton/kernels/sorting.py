"""What E-steps over tiles do next, and the rows in an order in which a cluster lies together."""

import triton
import triton.language as tl

# What a problem does: looks at all tiles; has numbers of a few blocks, to see whether they pay;
# has numbers of all blocks.
OFF = tl.constexpr(0)
PROBING = tl.constexpr(1)
ON = tl.constexpr(2)
# One block of so many is looked at to see whether numbers pay.
PROBE = tl.constexpr(16)
# Shares of the tiles, of 1,024: up to which numbers begin to pay; up to which they are made (one
# costs 0.45 times a look at a tile); from which they pay no more; and what is looked at, all in
# all, before rows are sorted anew (which, with all numbers made anew, costs 1.5 plain E-steps).
BEGINS = tl.constexpr(704)
MAKES = tl.constexpr(704)
ENDS = tl.constexpr(832)
SPENT = tl.constexpr(2048)
# Rows are sorted anew only where one of so many has left its cluster: one alone makes its whole
# block look at the tiles around it.
AWAY = tl.constexpr(256)
# Of the state of a problem: E-steps, mode, when the next probe is due, what has been looked at
# since the last sort, whether rows were sorted for this E-step.
STATE = tl.constexpr(5)


@triton.jit
def next_state(state, tallies, tiles, block):
    """What this E-step does: numbers of the state, from those of the last and what it looked at.

    Args:
        state: *i32 (5,) of a problem.
        tallies: *i64 (3,): tiles on the lists, blocks that have lists, rows away from home.
        tiles: of the centroids.
        block: rows of a block.
    """
    step = tl.load(state) + 1
    mode = tl.load(state + 1)
    due = tl.load(state + 2)
    spent = tl.load(state + 3)
    listed = tl.load(tallies)
    blocks = tl.load(tallies + 1)
    away = tl.load(tallies + 2)
    share = (listed * 1024 // tl.maximum(blocks * tiles, 1)).to(tl.int32)
    spent = tl.where(mode == ON, spent + share, 0)
    ends = (mode == ON) & (share > ENDS)
    renews = (mode == ON) & (share <= ENDS) & (spent >= SPENT) & (away * AWAY >= blocks * block)
    known = (mode == PROBING) & (blocks > 0)
    begins = known & (share <= BEGINS)
    fails = known & (share > BEGINS)
    probes = (mode == OFF) & (step >= due)
    sorts = renews | begins | probes
    due = tl.where(ends, step + 2, due)
    due = tl.where(probes, step + tl.maximum(3, step), due)
    mode = tl.where(ends | fails, OFF, mode)
    mode = tl.where(begins, ON, mode)
    mode = tl.where(probes, PROBING, mode)
    spent = tl.where(sorts, 0, spent)
    return step, mode, due, spent, sorts


@triton.jit
def count_rows(
    labels,  # *i32 (P, n)
    place_of,  # *i32 (P, k)
    active,  # *i8 (P,)
    state,  # *i32 (P, 5)
    tallies,  # *i64 (P, 3)
    counts,  # *i32 (P, places), raised
    n,
    k,
    places,
    tiles,
    block,
    rows: tl.constexpr,
):
    """Where rows are sorted: how many have their centroid at each place."""
    p = tl.program_id(1)
    if tl.load(active + p) != 0:
        _, _, _, _, sorts = next_state(state + p * STATE, tallies + p * 3, tiles, block)
        if sorts:
            r = tl.program_id(0) * rows + tl.arange(0, rows)
            label = tl.load(labels + p.to(tl.int64) * n + r, mask=r < n, other=0)
            at = tl.load(place_of + p.to(tl.int64) * k + label, mask=r < n, other=0)
            tl.atomic_add(counts + p.to(tl.int64) * places + at, 1, mask=r < n, sem="relaxed")


@triton.jit
def begin_step(
    active,
    state,  # *i32 (P, 5), becomes that of this E-step
    tallies,  # *i64 (P, 3), become 0
    counts,  # *i32 (P, places), become 0
    starts,  # *i32 (P, places), written: rows at the places before
    places,
    tiles,
    block,
    numbers: tl.constexpr,
):
    """What this E-step does, and where the rows of each place begin."""
    p = tl.program_id(0)
    if tl.load(active + p) != 0:
        own = state + p * STATE
        step, mode, due, spent, sorts = next_state(own, tallies + p * 3, tiles, block)
        tl.debug_barrier()
        tl.store(own, step)
        tl.store(own + 1, mode)
        tl.store(own + 2, due)
        tl.store(own + 3, spent)
        tl.store(own + 4, sorts.to(tl.int32))
        tally = tl.arange(0, 4)
        tl.store(tallies + p * 3 + tally, tl.zeros_like(tally).to(tl.int64), mask=tally < 3)
        if sorts:
            total = step * 0
            for first in range(0, places, numbers):
                i = first + tl.arange(0, numbers)
                at = p.to(tl.int64) * places + i
                count = tl.load(counts + at, mask=i < places, other=0)
                tl.store(starts + at, total + tl.cumsum(count, 0) - count, mask=i < places)
                tl.store(counts + at, tl.zeros_like(count), mask=i < places)
                total += tl.sum(count, 0)


@triton.jit
def sort_rows(
    labels,  # *i32 (P, n)
    place_of,  # *i32 (P, k)
    active,
    state,
    starts,  # *i32 (P, places), raised
    order,  # *i32 (P, n), written: rows in their order
    homes,  # *i32 (P, n), written: places of their centroids
    n,
    k,
    places,
    rows: tl.constexpr,
):
    """Where rows are sorted: those of a place one after the other, in any order."""
    p = tl.program_id(1)
    if (tl.load(active + p) != 0) & (tl.load(state + p * STATE + 4) != 0):
        r = tl.program_id(0) * rows + tl.arange(0, rows)
        live = r < n
        first = p.to(tl.int64) * n
        label = tl.load(labels + first + r, mask=live, other=0)
        at = tl.load(place_of + p.to(tl.int64) * k + label, mask=live, other=0)
        to = tl.atomic_add(starts + p.to(tl.int64) * places + at, 1, mask=live, sem="relaxed")
        tl.store(order + first + to, r, mask=live)
        tl.store(homes + first + to, at, mask=live)
