"""Lloyd's algorithm where the rows are, on a device that the host looks at late.

The device goes through passes by itself, in the semantics of
:class:`kmeans_module.core.lloyd.Lloyd`: it sees which problems have converged, and passes that
are launched after the last one do nothing. The host waits for it after more and more passes,
which never changes a result.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kmeans_module.core.empty_clusters import raise_if_empty
from kmeans_module.core.lloyd import Iteration, NonFiniteInertiaError
from kmeans_module.core.problem import Problem

# Passes before the first look; each further look comes after twice as many.
FIRST_LOOK = 24


class Look(NamedTuple):
    """What the host sees when it looks; of the passes since it looked last.

    Attributes:
        done: whether every problem has stopped.
        nonfinite: whether distances are NaN or infinite.
        empty: whether a cluster is empty and the policy is "error".
        some_empty: whether a cluster was empty in the last E-step.
        n_iter: iterations of the problem that has had the most.
        numbers: inertia, shift and moved labels of each pass, (T, P, 3).
        inertia: the same on the device, (T, P).
        counts: weight of each cluster, (T, P, k) on the device; None where nobody is told.
    """

    done: bool
    nonfinite: bool
    empty: bool
    some_empty: bool
    n_iter: int
    numbers: NDArray[np.float64]
    inertia: Tensor
    counts: Tensor | None


class Loop(Protocol):
    """A run on a device.

    Attributes:
        capacity: passes that may be launched between two looks.
        centroids: (P, k, d).
        counts: of the last E-step, (P, k) float64.
        inertia: of the centroids, (P,) float64.
        n_iter: iterations, (P,) int64.
        converged: (P,) bool.
    """

    capacity: int
    counts: Tensor

    @property
    def centroids(self) -> Tensor: ...

    @property
    def inertia(self) -> Tensor: ...

    @property
    def n_iter(self) -> Tensor: ...

    @property
    def converged(self) -> Tensor: ...

    def advance(self, passes: int) -> None:
        """Launch passes, the last of which, after max_iter iterations, only measures; waits for
        nothing."""

    def look(self) -> Look:
        """Wait for the passes launched so far, once."""

    def close(self) -> None:
        """Give back what the run has used."""


@runtime_checkable
class Loops(Protocol):
    """A workspace that can go through passes by itself."""

    def loop(
        self,
        problem: Problem,
        centroids: Tensor,
        *,
        threshold: Tensor,
        max_iter: int,
        told: bool,
    ) -> Loop:
        """A run.

        Args:
            problem: what is asked for.
            centroids: to start from, (P, k, d).
            threshold: shift that counts as standing still, (P,).
            max_iter: iterations at most.
            told: whether counts of all passes are kept for those who are told of them.
        """


class Outcome(NamedTuple):
    """How a run ended.

    Attributes:
        history: inertia of each pass, (P, T) float64.
        n_iter: iterations of the problem that has had the most.
        some_empty: whether a cluster was empty in the last E-step.
    """

    history: Tensor
    n_iter: int
    some_empty: bool


def watch(
    loop: Loop,
    *,
    max_iter: int,
    callback: Callable[[Iteration], object] | None = None,
    callback_every: int | None = None,
) -> Outcome:
    """Let a run come to its end, and tell of its iterations in their order.

    Args:
        loop: the run.
        max_iter: iterations at most.
        callback: told of each iteration when the host looks.
        callback_every: iterations after which the host looks at the latest; None for whenever it
            looks anyway.

    Raises:
        NonFiniteInertiaError: distances are NaN or infinite.
        EmptyClusterError: a cluster is empty and the policy is "error".
    """
    history: list[Tensor] = []
    launched, n_told, passes = 0, 0, FIRST_LOOK
    began = perf_counter()
    while True:
        most = min(passes, loop.capacity, max_iter + 1 - launched)
        if callback is not None and callback_every is not None:
            most = min(most, callback_every)
        loop.advance(most)
        launched, passes = launched + most, 2 * passes
        look = loop.look()
        history.append(look.inertia)
        last = look.done or launched > max_iter
        failed = look.nonfinite or look.empty
        n_passes = len(look.numbers)
        if callback is not None:
            seconds = (perf_counter() - began) / max(1, n_passes)
            before = sum(map(len, history)) - n_passes
            for i in range(n_passes - failed):
                number = min(before + i + 1, max_iter)
                if last and i == n_passes - 1:
                    number = look.n_iter
                if number > n_told:
                    n_told = number
                    callback(_iteration(look, i, number, seconds))
            began = perf_counter()
        if look.nonfinite:
            raise NonFiniteInertiaError("the inertia is not finite")
        if look.empty:
            raise_if_empty(loop.counts)
        if last:
            return Outcome(torch.cat(history).mT.contiguous(), look.n_iter, look.some_empty)


def _iteration(look: Look, i: int, number: int, seconds: float) -> Iteration:
    """The i-th pass of a look, with numbers on the host and counts on the device."""
    inertia, shift, moved = (_tensor(look.numbers[i, :, column]) for column in range(3))
    assert look.counts is not None
    return Iteration(number, inertia, shift, moved, seconds, look.counts[i])


def _tensor(numbers: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(numbers))
