"""Where the centroids start: inits are functions of :class:`~kmeans_module.core.rows.Draws`.

``random`` takes distinct rows, ``k-means++`` spreads the centers by squared distance (Arthur
& Vassilvitskii, SODA 2007, greedy as in their section 5), ``k-means||`` does so in a few passes
for data in batches (Bahmani et al., VLDB 2012). All of them draw rows in proportion to
``sample_weight``, and draw the same whatever batches and ranks hold the rows.

A further init is a function (draws, n_clusters, told=None) -> (P, k, d) and an entry of INITS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from kmeans_module.core.distances import unit_rows
from kmeans_module.core.generators import Generators
from kmeans_module.core.problem import Problem
from kmeans_module.core.rows import Draws, HeldDraws, Rows, Search
from kmeans_module.core.statistics import accumulator_dtype
from kmeans_module.core.words import shown

InitFunction = Callable[[Tensor, int, "torch.Generator | None"], Tensor]
# Hears how far seeding is, (done, total): a count begins with 0 and ends with total. On a device
# that works behind the host's back it hears of what the host has asked for.
Told = Callable[[int, int], object]
Init = str | Tensor | InitFunction

# For each center of k-means++. More than the usual 2 + ln k: candidates are measured together, and
# fits end lower. The kernels are made for no more (KM_CANDIDATES_TOGETHER in csrc/abi/native.h).
CANDIDATES = 16
# Potentials that differ by less, relatively, are taken for equal.
ROUNDING = 1e-9
# Candidates of k-means|| in a round, for each cluster.
OVERSAMPLING = 2
# Rows of a stream that k-means++ draws from: as many, or a multiple of k.
SAMPLE, SAMPLE_OF_CLUSTER = 65_536, 256


def random(draws: Draws, n_clusters: int, *, told: Told | None = None) -> Tensor:
    """Distinct rows, drawn one after the other in proportion to their weight, (P, k, d)."""
    tell = told or _nobody
    tell(0, n_clusters)
    centers = draws.distinct(n_clusters)
    tell(n_clusters, n_clusters)
    return centers


def kmeans_plus_plus(draws: Draws, n_clusters: int, *, told: Told | None = None) -> Tensor:
    """Greedy k-means++ (P, k, d); of a stream, on a uniform sample of its rows."""
    (told or _nobody)(0, n_clusters)
    held = draws.in_memory(max(SAMPLE, SAMPLE_OF_CLUSTER * n_clusters))
    # Rows whose distance to a center underflows to 0 are no copies of it.
    return draws.distinct(n_clusters, first=greedy(held, n_clusters, told=told))


def greedy(draws: HeldDraws, n_clusters: int, *, told: Told | None = None) -> Tensor:
    """Of 16 rows drawn by squared distance to the nearest center, the one that lowers the
    potential most becomes the next center, (P, k, d)."""
    tell = told or _nobody
    rounds = draws.rounds(n_clusters, CANDIDATES)
    tell(1, n_clusters)
    for number in range(2, n_clusters + 1):
        rounds.lower()
        rounds.draw()
        rounds.choose()
        tell(number, n_clusters)
    return rounds.centers


def _nobody(done: int, total: int) -> None:
    """Nobody listens."""


def least(potentials: Tensor) -> Tensor:
    """The first of the potentials (P, m) that are least but for rounding, which depends on the
    batches: (P,) indices."""
    lowest = potentials.amin(dim=-1, keepdim=True)
    return (potentials <= lowest * (1 + ROUNDING)).to(torch.uint8).argmax(dim=-1)


def kmeans_parallel(
    draws: Draws, n_clusters: int, *, n_rounds: int = 5, told: Told | None = None
) -> Tensor:
    """k-means||: in each of a few passes 2k rows are drawn by squared distance, all at once;
    k-means++ on these candidates, weighted by their clusters, chooses k of them, (P, k, d).

    Two counts are told: passes over the rows, then centers.

    No iterations of Lloyd's algorithm reduce the candidates: their means lie nearer to the
    middle of the data than rows do, and where the data have no clusters one such mean takes
    most of the rows.
    """
    tell, passes = told or _nobody, n_rounds + 2
    tell(0, passes)
    centers = draws.by_distance(None, 1)
    tell(1, passes)
    candidates = [centers]
    for number in range(n_rounds):
        centers = draws.by_distance(centers, OVERSAMPLING * n_clusters)
        candidates.append(centers)
        tell(number + 2, passes)
    chosen = torch.cat(candidates, dim=1)
    masses = draws.masses(chosen)
    tell(passes, passes)
    tell(0, n_clusters)
    centers = greedy(draws.standing_for(chosen, masses), n_clusters, told=told)
    return draws.distinct(n_clusters, first=centers)


class DrawnInit(Protocol):
    """An init by name."""

    def __call__(self, draws: Draws, n_clusters: int, *, told: Told | None = None) -> Tensor: ...


INITS: dict[str, DrawnInit] = {
    "k-means++": kmeans_plus_plus,
    "k-means||": kmeans_parallel,
    "random": random,
}


def initialize(
    rows: Rows,
    problem: Problem,
    init: Init,
    *,
    generator: Generators = None,
    search: Search | None = None,
    told: Told | None = None,
) -> Tensor:
    """Initial centroids of P independent problems.

    Args:
        rows: of this rank.
        problem: what is asked for.
        init: one of INITS, a tensor (k, d) or (P, k, d), or a function ``init(x, n_clusters,
            generator)`` that returns such a tensor: called on the first rank, once for each
            restart, with all rows, whatever their weights (where a stream or several ranks hold
            many, with a uniform sample of those of positive weight).
        generator: what the draws come from; None for torch's default. Those of restarts draw for
            their own problems, a function is called for each.
        search: of the rows, where a run has one already.
        told: hears how far an init by name is; None for nobody.

    Returns:
        (P, k, d), of the problem's dtype.

    Raises:
        ValueError: unknown init, or an init of another shape.
    """
    if isinstance(init, str):
        draws = rows.draws(problem, generator, search)
        centroids = INITS[init](draws, problem.n_clusters, told=told)
        return centroids.to(problem.dtype)
    if isinstance(generator, tuple):
        alone = problem._replace(n_problems=problem.n_problems // len(generator))
        starts = [initialize(rows, alone, init, generator=own) for own in generator]
        return torch.cat(starts)
    k, d = problem.n_clusters, problem.n_features
    given: object = init
    if callable(init):
        n = max(SAMPLE, SAMPLE_OF_CLUSTER * k)
        sample, make = rows.excerpt(n, generator), init
        given = rows.from_first(lambda: _called(make, sample, k, generator))
    else:
        given = rows.from_first(lambda: init)  # ranks may have been given others
    # A tensor was looked at with the data: its values need no further wait.
    start = check_init(given, problem, values=callable(init))
    start = start.repeat(problem.n_problems // len(start), 1, 1).view(-1, k, d)
    return _in_metric(start, problem)


def _called(
    make: InitFunction, x: Tensor, n_clusters: int, generator: torch.Generator | None
) -> Tensor:
    given: object = make(x, n_clusters, generator)
    if not isinstance(given, Tensor):
        raise TypeError(
            f"init should be a function that returns a tensor ({n_clusters}, {x.shape[-1]}); "
            f"got {shown(given)}"
        )
    return given.detach()


def check_name(init: object) -> None:
    """Refuse the name of an init that does not exist."""
    if isinstance(init, str) and init not in INITS:
        raise ValueError(
            f"init should be one of {', '.join(INITS)}, a tensor or a callable; got {init!r}"
        )


def flat_init(init: Init, shape: tuple[int, ...]) -> Init:
    """An init of centroids of a shape (*batch_shape, k, d), for problems (P, k, d).

    Raises:
        ValueError: a tensor, or what a function returns, of another shape than this one or
            (k, d).
    """
    if isinstance(init, Tensor) and init.ndim > 2:
        if init.shape != shape:
            raise ValueError(f"init should have shape {shape}; got {tuple(init.shape)}")
        return init.flatten(0, -3)
    if isinstance(init, str | Tensor) or not callable(init):
        return init
    make = init

    def flat(x: Tensor, n_clusters: int, generator: torch.Generator | None) -> Any:
        x = x.reshape(*shape[:-2], *x.shape[-2:]) if x.ndim > 2 else x
        given = make(x, n_clusters, generator)
        return flat_init(given, shape) if isinstance(given, Tensor) else given

    return flat


def check_init(init: object, problem: Problem, *, values: bool = True) -> Tensor:
    """An init that is a tensor (k, d) or (P, k, d), as (1 or P, k, d) of the problem's dtype.

    Args:
        init: the tensor.
        problem: what is asked for.
        values: whether the numbers are looked at, too, which waits for a device once.
    """
    k, d = problem.n_clusters, problem.n_features
    if not isinstance(init, Tensor):
        raise TypeError(f"init should be a name, a tensor or a callable; got {shown(init)}")
    if init.is_complex():
        raise TypeError(f"init should hold real numbers; got {init.dtype}")
    if init.layout != torch.strided or init.is_quantized or init.is_meta:
        raise TypeError(
            f"init should be a dense tensor in memory; got {init.layout}, {init.dtype} on "
            f"{init.device}"
        )
    if (
        init.ndim not in (2, 3)
        or init.shape[-2:] != (k, d)
        or (init.ndim == 3 and problem.n_problems % len(init))
    ):
        raise ValueError(f"init should have shape {(k, d)}; got {tuple(init.shape)}")
    init = init.to(problem.device, problem.dtype)
    if values:
        faults = torch.stack([~init.isfinite().all(), (init == 0).all(-1).any()])
        nonfinite, zero_row = faults.tolist()
        if nonfinite:
            raise ValueError(
                f"init should be finite in {problem.dtype}; it contains NaN or infinity"
            )
        if zero_row and problem.metric == "cosine":
            raise ValueError('init should have no zero row where metric="cosine"')
    return init if init.ndim == 3 else init.unsqueeze(0)


def _in_metric(centroids: Tensor, problem: Problem) -> Tensor:
    if problem.metric != "cosine":
        return centroids
    # In float64, so that no order of additions shows in float32: alike on every device.
    exact = accumulator_dtype(problem.device)
    return unit_rows(centroids.to(exact)).to(problem.dtype)
