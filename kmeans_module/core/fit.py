"""From rows to centroids: initialize, iterate, keep the best restart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kmeans_module.core.generators import of_restarts
from kmeans_module.core.late import Loops, watch
from kmeans_module.core.lloyd import Iteration, Lloyd
from kmeans_module.core.problem import Problem
from kmeans_module.core.rows import Moments, Rows, Search
from kmeans_module.core.seeding import Init, Told, initialize
from kmeans_module.core.statistics import from_host

# Labels of the restarts that run together: more of them cost memory, fewer cost calls.
_RESTARTS_ELEMENTS = 1 << 20
_RESTARTS_ELEMENTS_OF_DEVICES = 1 << 24
_MOST_PROBLEMS = 1 << 15  # of one call


class Fit(NamedTuple):
    """Outcome for P problems; labels and inertia are those of the centroids.

    Attributes:
        centroids: (P, k, d).
        labels: of this rank's rows, (P, n) int64; None for a stream.
        counts: weight of each cluster, (P, k) float64.
        inertia: (P,) float64.
        n_iter: iterations, (P,) int64.
        converged: (P,) bool.
        history: inertia of the centroids before each iteration, and at last of those
            returned, (P, T) float64; a problem that ended earlier repeats its last.
        longest: iterations of the problem of this run that has had the most.
        some_empty: False where it is known that no cluster is empty.
    """

    centroids: Tensor
    labels: Tensor | None
    counts: Tensor
    inertia: Tensor
    n_iter: Tensor
    converged: Tensor
    history: Tensor
    longest: int
    some_empty: bool = True


@torch.no_grad()
def run(
    rows: Rows,
    search: Search,
    problem: Problem,
    centroids: Tensor,
    *,
    max_iter: int,
    threshold: Tensor | None = None,
    callback: Callable[[Iteration], object] | None = None,
    callback_every: int | None = None,
) -> Fit:
    """Lloyd's algorithm until no label changes, the shift is within the threshold, or max_iter.

    Args:
        rows: of this rank.
        search: of the rows.
        problem: what is asked for.
        centroids: to start from, (P, k, d).
        max_iter: iterations at most.
        threshold: shift Σ‖c_new - c_old‖² that counts as standing still, (P,); None for 0.
        callback: called after each iteration; of a device, when the host looks at it.
        callback_every: iterations after which a device is looked at for the callback at the
            latest; None for whenever it is looked at anyway.

    Raises:
        NonFiniteInertiaError: distances are NaN or infinite.
        EmptyClusterError: by the policy "error".
    """
    loops = search.loops()
    if loops is not None:
        return _run_late(
            loops, search, problem, centroids, max_iter=max_iter, threshold=threshold,
            callback=callback, callback_every=callback_every,
        )  # fmt: skip
    lloyd = machine(rows, problem, centroids, threshold=threshold)
    history, iterations = [], 0
    for number in range(max_iter + 1):
        iteration = one_pass(rows, search, lloyd, move=number < max_iter)
        history.append(from_host(iteration.inertia))
        if callback is not None and iteration.number > iterations:
            iterations = iteration.number
            callback(iteration)
        if lloyd.finished:
            break
    device, n_iter = centroids.device, lloyd.n_iter
    return Fit(
        lloyd.centroids, search.labels(), iteration.counts, history[-1],
        torch.from_numpy(n_iter).to(device), torch.from_numpy(lloyd.converged).to(device),
        torch.stack(history, dim=-1), int(n_iter.max()),
    )  # fmt: skip


def _run_late(
    loops: Loops,
    search: Search,
    problem: Problem,
    centroids: Tensor,
    *,
    max_iter: int,
    threshold: Tensor | None,
    callback: Callable[[Iteration], object] | None,
    callback_every: int | None,
) -> Fit:
    """:func:`run` where the rows are."""
    if threshold is None:
        threshold = centroids.new_zeros(len(centroids), dtype=torch.float64)
    loop = loops.loop(
        problem, centroids, threshold=threshold, max_iter=max_iter, told=callback is not None
    )
    try:
        outcome = watch(loop, max_iter=max_iter, callback=callback, callback_every=callback_every)
    finally:
        loop.close()
    return Fit(
        loop.centroids, search.labels(), loop.counts, loop.inertia, loop.n_iter, loop.converged,
        outcome.history, outcome.n_iter, outcome.some_empty,
    )  # fmt: skip


@torch.no_grad()
def fit(
    rows: Rows,
    problem: Problem,
    *,
    init: Init,
    max_iter: int,
    threshold: Tensor,
    n_init: int,
    generator: torch.Generator | None = None,
    callback: Callable[[Iteration], object] | None = None,
    callback_every: int | None = None,
    seeding: Told | None = None,
    stages: Callable[[str], object] | None = None,
) -> Fit:
    """The best of ``n_init`` runs.

    Args:
        rows: of this rank.
        problem: what is asked for.
        init: see :func:`kmeans_module.core.seeding.initialize`; one that is a tensor needs one
            run only.
        max_iter, threshold, callback, callback_every: see :func:`run`.
        n_init: restarts.
        generator: what the draws come from; None for torch's default. Each restart has one of
            its own, the first draws what a single run would.
        seeding: told how far seeding is, (done, total), while centers are drawn.
        stages: told which restarts begin, where there are several; their iterations say so too.
    """
    search = rows.search(problem)
    n_init = 1 if isinstance(init, Tensor) else n_init
    together = _restarts_together(rows, search, problem, init, n_init)
    generators = of_restarts(generator, n_init)
    best: Fit | None = None
    for first in range(0, n_init, together):
        restarts = min(together, n_init - first)
        repeated = problem.repeated(restarts) if restarts > 1 else problem
        stage = _stage(first, restarts, n_init)
        if stages is not None and stage:
            stages(stage)
        own = generators[first : first + restarts]
        centroids = initialize(rows, repeated, init, generator=own, search=search, told=seeding)
        told = callback
        if callback is not None and n_init > 1:
            told = _tell(callback, problem.n_problems, together=restarts > 1, stage=stage)
        outcome = run(
            rows, search, repeated, centroids, max_iter=max_iter,
            threshold=threshold.repeat(restarts), callback=told, callback_every=callback_every,
        )  # fmt: skip
        if restarts > 1:
            outcome = _best_restart(outcome, problem.n_problems)
        if n_init > together and outcome.labels is not None:
            # The next run would overwrite the labels.
            outcome = outcome._replace(labels=outcome.labels.clone())
        best = outcome if best is None else _better(best, outcome)
    assert best is not None
    if together > 1 and search.loops() is None:  # which are exact: labels are the same alone
        best = _measured_alone(rows, search, best)
    longest = best.longest if n_init == 1 else int(best.n_iter.max())
    return best._replace(history=_resize(best.history, longest + 1))


def machine(
    rows: Rows, problem: Problem, centroids: Tensor, *, threshold: Tensor | None = None
) -> Lloyd:
    """Lloyd's algorithm on rows from centroids (P, k, d); see :func:`run`."""
    rounding = None if rows.stable else _rounding_shift(problem, rows.moments(problem.metric))
    return Lloyd(problem, centroids, threshold=threshold, merge=rows.merge, rounding=rounding)


def _rounding_shift(problem: Problem, moments: Moments) -> Tensor:
    """Shift that rounding alone may make where rows come in another order, (P,).

    Sums in float64 differ by a few of their last places: a centroid of float32 by its last.
    """
    largest = torch.maximum(moments.low.abs(), moments.high.abs())
    if problem.metric == "cosine":
        largest = torch.ones_like(largest)
    places = 16 if problem.dtype == torch.float64 else 1
    one = (places * torch.finfo(problem.dtype).eps * largest).square().sum()
    return (problem.n_clusters * one).expand(problem.n_problems)


def _restarts_together(
    rows: Rows, search: Search, problem: Problem, init: Init, n_init: int
) -> int:
    """How many restarts run as problems of one call."""
    if n_init == 1 or not rows.shared or not search.together or callable(init):
        return 1
    if not search.holds:
        return n_init
    n_labels = problem.n_problems * max(1, rows.moments(problem.metric).n_samples)
    most = _RESTARTS_ELEMENTS
    if problem.device.type != "cpu":  # where statistics count, too
        most = _RESTARTS_ELEMENTS_OF_DEVICES
        n_labels = max(n_labels, problem.n_problems * problem.n_clusters * problem.n_features)
    return max(1, min(n_init, most // n_labels, _MOST_PROBLEMS // problem.n_problems))


def _measured_alone(rows: Rows, search: Search, best: Fit) -> Fit:
    """Labels and inertia of the best centroids alone: ties within rounding fall as they do in a
    call on these problems alone."""
    best = remeasured(rows, search, best)
    best.history[:, -1] = best.inertia
    return best


def remeasured(rows: Rows, search: Search, outcome: Fit) -> Fit:
    """An outcome with the labels, counts and inertia of one E-step over all the data."""
    iteration = measured(rows, search, search.problem, outcome.centroids)
    return outcome._replace(
        labels=search.labels(), counts=iteration.counts, inertia=from_host(iteration.inertia)
    )


def measured(rows: Rows, search: Search, problem: Problem, centroids: Tensor) -> Iteration:
    """What one E-step over all the data finds for centroids (P, k, d)."""
    return one_pass(rows, search, Lloyd(problem, centroids, merge=rows.merge), move=False)


def one_pass(rows: Rows, search: Search, lloyd: Lloyd, *, move: bool) -> Iteration:
    """One E-step over all the data, and the M-step where it is to ``move`` the centroids."""
    lloyd.begin_pass()
    search.begin_pass()
    for batch in rows:
        lloyd.add(*search.step(batch, lloyd.centroids))
    search.end_pass()
    return lloyd.end_pass(move=move)


def _stage(first: int, restarts: int, n_init: int) -> str:
    """Which restarts begin, in words; "" for a single one."""
    if n_init == 1:
        return ""
    if restarts == 1:
        return f"restart {first + 1} of {n_init}"
    return f"restarts {first + 1} to {first + restarts} of {n_init}, the best"


def _tell(
    callback: Callable[[Iteration], object], n_problems: int, *, together: bool, stage: str
) -> Callable[[Iteration], object]:
    """Tells which restarts iterate; of those that run together, of the one with the lowest inertia
    for each problem."""

    def tell(iteration: Iteration) -> None:
        iteration = iteration._replace(stage=stage)
        callback(_of_the_best(iteration, n_problems) if together else iteration)

    return tell


def _of_the_best(iteration: Iteration, n_problems: int) -> Iteration:
    inertia = from_host(iteration.inertia).view(-1, n_problems)
    problems = torch.arange(n_problems, device=inertia.device)
    index = inertia.argmin(dim=0) * n_problems + problems
    return iteration._replace(
        inertia=inertia.flatten()[index],
        shift=from_host(iteration.shift)[index],
        moved=from_host(iteration.moved)[index],
        counts=iteration.counts[index.to(iteration.counts.device, non_blocking=True)],
    )


def _best_restart(outcome: Fit, n_problems: int) -> Fit:
    """For each problem the restart of lowest inertia, the first of equals."""
    restart = outcome.inertia.view(-1, n_problems).argmin(dim=0)
    index = restart * n_problems + torch.arange(n_problems, device=restart.device)
    chosen: dict[str, Any] = {
        name: field[index] for name, field in outcome._asdict().items() if isinstance(field, Tensor)
    }
    return outcome._replace(**chosen)


def _better(old: Fit, new: Fit) -> Fit:
    """For each problem the result of lower inertia; histories are drawn out to one length."""
    length = max(old.history.shape[1], new.history.shape[1])
    old, new = (result._replace(history=_resize(result.history, length)) for result in (old, new))
    better = new.inertia < old.inertia

    def chosen(name: str) -> Tensor:
        a, b = getattr(old, name), getattr(new, name)
        winner: Tensor = b.where(better.view(-1, *[1] * (a.ndim - 1)), a)
        return winner

    fields: dict[str, Any] = {
        name: chosen(name) for name in Fit._fields if isinstance(getattr(old, name), Tensor)
    }
    return new._replace(**fields, some_empty=old.some_empty or new.some_empty)


def _resize(history: Tensor, length: int) -> Tensor:
    """(P, length): cut, or drawn out by the last inertia."""
    columns = torch.arange(length, device=history.device).clamp(max=history.shape[1] - 1)
    return history[:, columns]
