"""What a fit tells while it is under way: a callback, and a display for people who wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from torch import Tensor

from kmeans_module import checks as check
from kmeans_module.core.fit import Fit
from kmeans_module.core.lloyd import Iteration
from kmeans_module.core.seeding import Told
from kmeans_module.core.statistics import from_host
from kmeans_module.progress.displays import Display, Screen, State, find_display
from kmeans_module.rows.ranks import ProcessGroup, rank

_LOOKS_EVERY = 8


class Observer:
    """Tells a callback and a display of a fit, in the order in which things happen.

    Args:
        display: None for nobody.
        callback: of iterations; None for nobody.
        told: of seeding, (done, total); None for nobody.
        max_iter: iterations at most.
        init: of the centroids.
        batch_shape: of the numbers that the callback gets.

    Attributes:
        stage: which of several fits this is.
    """

    def __init__(
        self,
        display: Display | None = None,
        callback: Callable[[Iteration], object] | None = None,
        *,
        told: Told | None = None,
        max_iter: int = 1,
        init: object = None,
        batch_shape: tuple[int, ...] = (),
    ) -> None:
        self._screen = Screen(display)
        self.callback = callback
        self.told = told
        self.max_iter = max_iter
        self.passes_first = isinstance(init, str) and init == "k-means||"
        self.batch_shape = batch_shape
        self.stage = ""
        self._n_counts = 0
        self._number = 0

    @property
    def listens(self) -> bool:
        """Whether anybody is told of iterations."""
        return self._screen.display is not None or self.callback is not None

    @property
    def seeding(self) -> Told | None:
        """Hears how far seeding is; None where nobody looks."""
        return self.told if self._screen.display is None else self._seeding

    @property
    def looks_every(self) -> int | None:
        """Iterations after which the host should look at a device: a bar that stands still for 24
        long ones seems broken."""
        return None if self._screen.display is None else _LOOKS_EVERY

    def says(self, doing: str) -> None:
        """Something begins that has no count."""
        self._screen.show(State(doing, None, self.stage, self._screen.seconds))

    def enters(self, stage: str) -> None:
        """Another of several fits begins."""
        self.stage = stage

    def _seeding(self, done: int, total: int) -> None:
        if self.told is not None:
            self.told(done, total)
        if done == 0:
            self._n_counts += 1
        if not self._screen.is_due(done == total):
            return
        unit = "passes" if self.passes_first and self._n_counts % 2 else "centers"
        doing = f"seeding {done:,}/{total:,} {unit}"
        last = done == total and not self.stage
        self._screen.show(State(doing, done / total, self.stage, self._screen.seconds, last=last))

    def iteration(self, iteration: Iteration) -> None:
        """An iteration has ended; its numbers are those of problems, (P,)."""
        if iteration.stage:
            self.stage = iteration.stage
        elif self.stage:
            iteration = iteration._replace(stage=self.stage)
        if self.callback is not None:
            self.callback(iteration.reshape(self.batch_shape))
        self._number = iteration.number
        if self._screen.is_due():
            number = iteration.number
            doing = f"iteration {number:,} of {self.max_iter:,}, {_numbers(iteration)}"
            share = number / max(1, self.max_iter)
            self._screen.show(State(doing, share, self.stage, self._screen.seconds, number))

    def ends(self, fit: Fit) -> None:
        """The fit has come to its end."""
        if self._screen.display is None:
            return
        n_iter, inertia = int(fit.n_iter.max()), float(fit.inertia.sum())
        if bool(fit.converged.all()):
            doing = f"converged after {n_iter:,} iteration{'s' * (n_iter != 1)}"
        else:
            doing = f"ended after {n_iter:,} iteration{'s' * (n_iter != 1)}, max_iter"
        self.done(f"{doing}, inertia {inertia:.6g}")

    def done(self, doing: str) -> None:
        """All is done."""
        self.stage = ""
        self._screen.show(State(doing, 1.0, "", self._screen.seconds, self._number, last=True))

    def close(self) -> None:
        """Leave the screen."""
        self._screen.close()


@contextmanager
def observing(
    verbose: object,
    callback: Callable[[Iteration], object] | None = None,
    *,
    told: Told | None = None,
    max_iter: int = 1,
    init: object = None,
    batch_shape: tuple[int, ...] = (),
    group: ProcessGroup | None = None,
) -> Iterator[Observer]:
    """An observer whose display is closed whatever happens.

    Args:
        verbose: whether there is a display, on the first rank.
        callback, told, max_iter, init, batch_shape: see :class:`Observer`.
        group: the ranks of the fit.
    """
    shows = check.check_verbose(verbose) and rank(group) == 0
    observer = Observer(
        find_display() if shows else None, callback,
        told=told, max_iter=max_iter, init=init, batch_shape=batch_shape,
    )  # fmt: skip
    try:
        yield observer
    finally:
        observer.close()


def _numbers(iteration: Iteration) -> str:
    """Inertia, shift and moved labels in words, over all problems."""
    inertia, shift, moved = (
        _sum(value) for value in (iteration.inertia, iteration.shift, iteration.moved)
    )
    text = f"inertia {inertia:.6g}, shift {shift:.3g}"
    return text if np.isnan(moved) else f"{text}, {int(moved):,} moved"


def _sum(value: Tensor | float) -> float:
    return float(from_host(value).sum())
