"""One iteration of Lloyd's algorithm without the host: statistics, decisions, and the M-step.

What a run knows between two passes is its book, float64 numbers of three parts:

    header              HEADER numbers, see below
    fields (FIELDS, P)  of each problem
    ring (L, P, 3)      of the last L passes: inertia, shift, and labels that moved

Everything here reads the number of the pass from the book, so that launches of all passes are
alike. Programs whose problem has stopped return at once.
"""

import triton
import triton.language as tl

from kmeans_module.backends.triton.kernels.totals import as_double

HEADER = tl.constexpr(8)
# Of the header: passes begun, problems that go on, what went wrong, whether the last pass is still
# to be written down, and whether it has an M-step.
PASSES = tl.constexpr(0)
GOING_ON = tl.constexpr(1)
ERROR = tl.constexpr(2)
OPEN = tl.constexpr(3)
MOVES = tl.constexpr(4)
NOT_FINITE = tl.constexpr(1.0)
EMPTY = tl.constexpr(2.0)

FIELDS = tl.constexpr(11)
N_ITER = tl.constexpr(0)
CONVERGED = tl.constexpr(1)
N_EMPTY = tl.constexpr(2)
INERTIA = tl.constexpr(3)
SHIFT = tl.constexpr(4)
FILLED = tl.constexpr(5)  # whether the last M-step filled an empty cluster
LIMIT = tl.constexpr(6)  # shift that counts as standing still
PHASE = tl.constexpr(7)  # in the last pass: 0 had stopped before, 1 stopped, 2 goes on
RESCUED = tl.constexpr(8)  # whether the inertia is that of the rows, since sums cancel
MOVED = tl.constexpr(9)  # labels
WEIGHT = tl.constexpr(10)  # of all rows

# Policies for empty clusters.
KEEP = tl.constexpr(0)
RELOCATE = tl.constexpr(1)
SPLIT = tl.constexpr(2)
RAISE = tl.constexpr(3)

# Numbers of a partial of :func:`sum_up`.
PARTS = tl.constexpr(4)
# An inertia that is a smaller share of the terms that it is the sum of is measured row by row.
LEAST_SHARE = tl.constexpr(1e-6)
# So is one of larger terms: a distance that overflows float32 has to show.
MOST_OF_SUMS = tl.constexpr(1e20)


@triton.jit
def field(book, name: tl.constexpr, p, n_problems):
    """Pointers to a field of problems."""
    return book + (HEADER + name * n_problems) + p


@triton.jit
def sum_of_parts(parts, p, live, n_parts, stride, problems: tl.constexpr, columns: tl.constexpr):
    """Sums over the partial results of each problem, in a fixed order, (problems,) f64."""
    total = tl.zeros((problems, columns), tl.float64)
    for first in range(0, n_parts, columns):
        q = first + tl.arange(0, columns)
        at = (p.to(tl.int64)[:, None] * n_parts + q[None, :]) * stride
        total += tl.load(parts + at, mask=live[:, None] & (q < n_parts)[None, :], other=0.0)
    return tl.sum(total, 1)


@triton.jit(do_not_specialize=["n_problems", "n_shift_parts", "n_row_parts", "capacity"])
def settle(
    book,
    shift_parts,  # *f64 (P, n_shift_parts): of :func:`move`
    row_parts,  # *f64 (P, n_row_parts): of :func:`measure_rows`
    n_problems,
    n_shift_parts,
    n_row_parts,
    capacity,  # L
    problems: tl.constexpr,
    columns: tl.constexpr,
):
    """Write down what the last pass has found; one program for all problems."""
    if tl.load(book + OPEN) != 0:
        passes = tl.load(book + PASSES).to(tl.int64)
        moves = tl.zeros((problems,), tl.float64) + tl.load(book + MOVES) != 0
        ring = book + (HEADER + FIELDS * n_problems)
        ring += ((passes - 1) % capacity) * n_problems * 3
        total = tl.zeros((problems,), tl.float64)
        for first in range(0, n_problems, problems):
            p = first + tl.arange(0, problems)
            live = p < n_problems
            phase = tl.load(field(book, PHASE, p, n_problems), mask=live, other=0.0)
            shift = tl.load(field(book, SHIFT, p, n_problems), mask=live, other=0.0)
            new = sum_of_parts(
                shift_parts, p, live & (phase > 0) & moves, n_shift_parts, 1, problems, columns
            )
            shift = tl.where(phase > 0, new, shift)
            tl.store(field(book, SHIFT, p, n_problems), shift, mask=live)
            inertia = tl.load(field(book, INERTIA, p, n_problems), mask=live, other=0.0)
            by_rows = live & (phase > 0)
            rescued = tl.load(field(book, RESCUED, p, n_problems), mask=by_rows, other=0.0) != 0
            measured = sum_of_parts(row_parts, p, rescued, n_row_parts, 1, problems, columns)
            inertia = tl.where(rescued, measured, inertia)
            tl.store(field(book, INERTIA, p, n_problems), inertia, mask=live)
            total += inertia
            moved = tl.load(field(book, MOVED, p, n_problems), mask=live, other=0.0)
            tl.store(ring + 3 * p, inertia, mask=live)
            tl.store(ring + 3 * p + 1, tl.where(moves, shift, 0.0), mask=live)
            tl.store(ring + 3 * p + 2, moved, mask=live)
        tl.debug_barrier()
        tl.store(book + OPEN, 0.0)
        # Neither NaN nor infinity.
        if (tl.abs(tl.sum(total, 0)) < float("inf")) == 0:
            tl.store(book + ERROR, NOT_FINITE)
            tl.store(book + GOING_ON, 0.0)
        tl.debug_barrier()


@triton.jit(
    do_not_specialize=[
        "n_problems",
        "n_parts",
        "n_shift_parts",
        "n_row_parts",
        "capacity",
        "max_iter",
    ]
)
def judge(
    book,
    active,  # *i8 (P,): problems that go on
    parts,  # *f64 (P, n_parts, PARTS): of :func:`sum_up`
    changed,  # *i64 (P,): labels that moved; 0 afterwards
    squares,  # *f64 (P,): Σ w ‖x - offset‖²
    shift_parts,
    row_parts,
    n_problems,
    n_parts,
    n_shift_parts,
    n_row_parts,
    capacity,
    max_iter,
    policy: tl.constexpr,
    unit: tl.constexpr,
    problems: tl.constexpr,
    columns: tl.constexpr,
):
    """See which problems stop, as core.lloyd.Lloyd.end_pass does; one program for all of them."""
    settle(
        book, shift_parts, row_parts, n_problems, n_shift_parts, n_row_parts, capacity, problems,
        columns,
    )  # fmt: skip
    if tl.load(book + GOING_ON) > 0:
        begun = tl.load(book + PASSES)
        passes = tl.zeros((problems,), tl.float64) + begun
        going_on = tl.zeros((problems,), tl.int32)
        raising = tl.zeros((problems,), tl.int32)
        for first in range(0, n_problems, problems):
            p = first + tl.arange(0, problems)
            live = p < n_problems
            searched = live & (tl.load(active + p, mask=live, other=0) != 0)
            inertia = tl.load(squares + p, mask=searched, other=0.0)
            size = inertia
            inertia += sum_of_parts(parts, p, searched, n_parts, PARTS, problems, columns)
            size += sum_of_parts(parts + 1, p, searched, n_parts, PARTS, problems, columns)
            empty = sum_of_parts(parts + 2, p, searched, n_parts, PARTS, problems, columns)
            weight = sum_of_parts(parts + 3, p, searched, n_parts, PARTS, problems, columns)
            # Also where it is NaN, or distances of single rows may be beyond float32.
            rescued = ((inertia >= LEAST_SHARE * size) & (size < MOST_OF_SUMS)) == 0
            if unit:
                inertia = inertia * 0.5
            tl.store(field(book, INERTIA, p, n_problems), inertia, mask=searched)
            tl.store(field(book, RESCUED, p, n_problems), rescued.to(tl.float64), mask=searched)
            tl.store(field(book, N_EMPTY, p, n_problems), empty, mask=searched)
            tl.store(field(book, WEIGHT, p, n_problems), weight, mask=searched)
            moved = tl.load(changed + p, mask=searched, other=0).to(tl.float64)
            shown = tl.where(passes == 0, float("nan"), moved)
            tl.store(field(book, MOVED, p, n_problems), tl.where(searched, shown, 0.0), mask=live)
            shift = tl.load(field(book, SHIFT, p, n_problems), mask=live, other=0.0)
            limit = tl.load(field(book, LIMIT, p, n_problems), mask=live, other=0.0)
            still = searched & (shift <= limit) & (passes > 0)
            filled = tl.load(field(book, FILLED, p, n_problems), mask=live, other=0.0) != 0
            unmoved = searched & (moved == 0) & (filled == 0) & (passes > 0)
            stops = still | unmoved
            iterations = tl.where(still, passes, tl.minimum(passes + 1, max_iter))
            tl.store(field(book, N_ITER, p, n_problems), iterations, mask=searched)
            tl.store(field(book, CONVERGED, p, n_problems), stops.to(tl.float64), mask=searched)
            goes_on = searched & (stops == 0)
            phase = tl.where(goes_on, 2.0, tl.where(searched, 1.0, 0.0))
            tl.store(field(book, PHASE, p, n_problems), phase, mask=live)
            filled = (empty > 0).to(tl.float64)
            if policy == KEEP:
                filled = tl.zeros((problems,), tl.float64)
            # Few problems are held by several warps: all have read before one writes.
            tl.debug_barrier()
            tl.store(changed + p, tl.zeros((problems,), tl.int64), mask=live)
            tl.store(field(book, FILLED, p, n_problems), filled, mask=searched)
            tl.store(active + p, goes_on.to(tl.int8), mask=live)
            going_on += goes_on.to(tl.int32)
            raising += (searched & (empty > 0)).to(tl.int32)
        left = tl.sum(going_on, 0)
        stop = tl.where(begun < max_iter, 0, 1)
        if policy == RAISE:
            n_raising = tl.sum(raising, 0)
            tl.store(book + ERROR, EMPTY, mask=n_raising > 0)
            stop += n_raising
        left = tl.where(stop > 0, 0, left)
        tl.store(book + PASSES, begun + 1)
        tl.store(book + OPEN, 1.0)
        tl.store(book + MOVES, tl.where(left > 0, 1.0, 0.0))
        tl.debug_barrier()
        tl.store(book + GOING_ON, left.to(tl.float64))
        if left == 0:
            for first in range(0, n_problems, problems):
                p = first + tl.arange(0, problems)
                tl.store(active + p, tl.zeros((problems,), tl.int8), mask=p < n_problems)


@triton.jit
def read_sums(
    totals,  # *i64 (P, k, d, 2)
    unit_exponents,  # *i32 (P, d)
    p, j, f, live, k, d, low_bits,
):  # fmt: skip
    """Sums of clusters j, features f, as float64, rounded once."""
    u = tl.load(unit_exponents + p.to(tl.int64) * d + f, mask=f < d, other=0)
    at = (p.to(tl.int64) * k + j.to(tl.int64))[:, None] * d + f[None, :]
    inside = live[:, None] & (f < d)[None, :]
    high = tl.load(totals + 2 * at, mask=inside, other=0).to(tl.float64)
    low = tl.load(totals + 2 * at + 1, mask=inside, other=0).to(tl.float64)
    return high * as_double(u)[None, :] + low * as_double(u - low_bits)[None, :]


@triton.jit(
    do_not_specialize=[
        "n_problems",
        "n_shift_parts",
        "n_row_parts",
        "capacity",
        "max_iter",
        "frame_stride",
        "low_bits",
    ]
)
def sum_up(
    book,
    active,
    totals,  # *i64 (P, k, d, 2)
    integer_counts,  # *i64 (P, k, 2)
    unit_exponents,  # *i32 (P, d)
    count_exponents,  # *i32 (P,)
    c,  # *f32 (P, k, d): centroids of the E-step
    offset,  # *f32 (F, d)
    counts,  # *f64 (P, k), written
    counts_ring,  # *f64 (L, P, k), written, where told
    parts,  # *f64 (P, programs, PARTS), written: Σ count·‖c - o‖² - 2 (c - o)·(sum - count·o),
    #         which with the squares of the rows is the inertia; the size of its terms; the number
    #         of empty clusters; and the weight of all
    changed,  # the rest: of judge, where single
    squares, shift_parts, row_parts,
    n_problems, n_shift_parts, n_row_parts, capacity, max_iter,
    frame_stride,
    k,
    d,
    low_bits,
    clusters: tl.constexpr,
    features: tl.constexpr,
    told: tl.constexpr,  # whether the counts of all passes are kept
    single: tl.constexpr,  # whether this program is the only one
    policy: tl.constexpr,
    unit: tl.constexpr,
    columns: tl.constexpr,
):  # fmt: skip
    """Counts of the clusters, and the terms of the inertia."""
    p = tl.program_id(1)
    j = tl.program_id(0) * clusters + tl.arange(0, clusters)
    live = j < k
    going_on = tl.load(book + GOING_ON) > 0
    searched = going_on & (tl.load(active + p) != 0)
    at_count = p.to(tl.int64) * k + j
    if searched:
        u = tl.load(count_exponents + p)
        frame = (p * frame_stride).to(tl.int64)
        high = tl.load(integer_counts + 2 * at_count, mask=live, other=0).to(tl.float64)
        low = tl.load(integer_counts + 2 * at_count + 1, mask=live, other=0).to(tl.float64)
        count = high * as_double(u) + low * as_double(u - low_bits)
        tl.store(counts + at_count, count, mask=live)
        value = tl.zeros((clusters,), tl.float64)
        size = tl.zeros((clusters,), tl.float64)
        there = live & (count > 0)
        for first in range(0, d, features):
            f = first + tl.arange(0, features)
            inside = there[:, None] & (f < d)[None, :]
            origin = tl.load(offset + frame * d + f, mask=f < d, other=0.0).to(tl.float64)[None, :]
            at = at_count[:, None] * d + f[None, :]
            apart = tl.load(c + at, mask=inside, other=0.0).to(tl.float64) - origin
            apart = tl.where(inside, apart, 0.0)
            its = read_sums(totals, unit_exponents, p, j, f, there, k, d, low_bits)
            its = its - count[:, None] * origin
            value += tl.sum(apart * (count[:, None] * apart - 2 * its), 1)
            term = count[:, None] * (tl.abs(apart) + 2 * tl.abs(origin)) + 2 * tl.abs(its)
            size += tl.sum(tl.abs(apart) * term, 1)
        empty = (live & (count == 0)).to(tl.float64)
        part = parts + (p.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * PARTS
        tl.store(part, tl.sum(value, 0))
        tl.store(part + 1, tl.sum(size, 0))
        tl.store(part + 2, tl.sum(empty, 0))
        tl.store(part + 3, tl.sum(count, 0))
        tl.debug_barrier()
    if told:  # noqa: SIM102 (known when this is compiled)
        if going_on:
            slot = tl.load(book + PASSES).to(tl.int64) % capacity
            count = tl.load(counts + at_count, mask=live, other=0.0)
            tl.store(counts_ring + slot * n_problems * k + at_count, count, mask=live)
    if single:
        tl.debug_barrier()
        judge(
            book, active, parts, changed, squares, shift_parts, row_parts, n_problems, 1,
            n_shift_parts, n_row_parts, capacity, max_iter, policy, unit, 1, columns,
        )  # fmt: skip
