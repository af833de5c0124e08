"""Lloyd's algorithm as a state machine: passes over the data come in, centroids move.

A driver opens a pass, hands in the statistics of each batch, and closes the pass:
:func:`kmeans_module.core.fit.fit` pulls the batches, Lightning pushes them. All that a run knows
between two batches is the state of the machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kmeans_module.core.empty_clusters import raise_if_empty
from kmeans_module.core.m_step import m_step
from kmeans_module.core.problem import Problem
from kmeans_module.core.statistics import ClusterStats, Farthest, from_host, to_host

Flags = NDArray[np.bool_]
Merge = Callable[[ClusterStats, Sequence[Tensor]], tuple[ClusterStats, list[Tensor]]]


class Iteration(NamedTuple):
    """One E-step over all the data and the M-step that followed.

    Attributes:
        number: iterations so far, this one included.
        inertia: of the centroids before the M-step, (*batch_shape) float64.
        shift: Σ‖c_new - c_old‖² of the M-step, (*batch_shape) float64.
        moved: labels that differ from those of the iteration before, (*batch_shape);
            NaN where the number is not known, as in the first iteration and for streams.
        seconds: from the start of the pass to the end of the M-step; on a device that is looked at
            late the mean of the passes since the last look.
        counts: weight of each cluster in the E-step, (*batch_shape, k) float64.
        stage: which of several fits this is, such as "restart 2 of 10" or "level 3 of 8, 16 of 64
            directions"; "" where there is only one.

    Numbers of a single problem may be floats, once they have been read from the device.
    """

    number: int
    inertia: Tensor | float
    shift: Tensor | float
    moved: Tensor | float
    seconds: float
    counts: Tensor
    stage: str = ""

    def reshape(self, batch_shape: tuple[int, ...]) -> Iteration:
        """The same with other leading dimensions in place of the axis of problems."""
        return self._replace(
            inertia=from_host(self.inertia).reshape(batch_shape),
            shift=from_host(self.shift).reshape(batch_shape),
            moved=from_host(self.moved).reshape(batch_shape),
            counts=self.counts.reshape(*batch_shape, self.counts.shape[-1]),
        )


class NonFiniteInertiaError(ValueError):
    """Distances are NaN or infinite: the caller knows the data and says why."""


def alone(stats: ClusterStats, also: Sequence[Tensor]) -> tuple[ClusterStats, list[Tensor]]:
    """The merge of a single process."""
    return stats, list(also)


class Lloyd:
    """P problems, each of which freezes when it has converged.

    A problem converges when no label changes, unless its last M-step filled an empty cluster, or
    when the shift of its last M-step is within the threshold.

    Args:
        problem: what is asked for.
        centroids: to start from, (P, k, d).
        threshold: shift that counts as standing still, (P,); None for 0.
        merge: of statistics over the ranks that hold other parts of the rows.
        rounding: shift that an M-step of the same labels may have where passes bring the rows in
            another order, (P,): with equal counts it is standing still. None where the order
            stays.

    Attributes:
        centroids: (P, k, d).
        passes: passes so far.
        finished: whether every problem has converged.
        active: which problems have not converged, (P,) bool array.
        converged: which problems have, (P,) bool array.
    """

    def __init__(
        self,
        problem: Problem,
        centroids: Tensor,
        *,
        threshold: Tensor | None = None,
        merge: Merge = alone,
        rounding: Tensor | None = None,
    ) -> None:
        n_problems = len(centroids)
        self.problem = problem
        self.centroids = centroids
        self.merge = merge
        self.limit = np.zeros(n_problems) if threshold is None else threshold.cpu().numpy()
        self.passes = 0
        self.finished = False
        self._stopped_at = np.zeros(n_problems, dtype=np.int64)
        self.active = np.ones(n_problems, dtype=bool)
        self.converged = np.zeros(n_problems, dtype=bool)
        # A cluster that was filled takes samples at the next E-step: labels may come back equal.
        self._filled: Flags | None = np.ones(n_problems, dtype=bool)
        self._unknown = torch.full((n_problems,), torch.nan, dtype=torch.float64, device="cpu")
        self._rounding = None if rounding is None else rounding.cpu().numpy()
        self._counts: Tensor | None = None
        self._limit_now = self.limit
        self._shift: Tensor | None = None
        self._partial: ClusterStats | None = None
        self._moved: Tensor | None = None
        self._began = perf_counter()

    @property
    def n_iter(self) -> NDArray[np.int64]:
        """Iterations of each problem, (P,)."""
        return np.where(self.active, self.passes, self._stopped_at)

    def begin_pass(self) -> None:
        """Open a pass over the data; what an unfinished one has brought is dropped."""
        self._partial = self._moved = None
        self._began = perf_counter()

    def add(self, stats: ClusterStats, moved: Tensor) -> None:
        """Take one batch of the pass.

        Args:
            stats: of an E-step of the batch with the present centroids.
            moved: labels of the batch that differ from those of the last pass, (P,); NaN where
                that is not known.
        """
        if self._partial is None or self._moved is None:
            self._partial, self._moved = stats, moved
        else:
            self._partial, self._moved = self._partial + stats, self._moved + moved

    def end_pass(self, *, move: bool = True) -> Iteration:
        """Close the pass: see which problems have converged, and move the others' centroids.

        Waits for the device once. The shift of this M-step is read in the next pass, or by
        :meth:`look`.

        Args:
            move: False for a pass that only measures: no M-step follows, and it is no iteration.

        Raises:
            NonFiniteInertiaError: distances are NaN or infinite.
            EmptyClusterError: a cluster is empty and the policy is "error".
        """
        return self._end_pass(move=move)[0]

    def end_pass_and_look(
        self, also: Callable[[Tensor], Sequence[Tensor]]
    ) -> tuple[Iteration, list[NDArray[Any]]]:
        """:meth:`end_pass` and :meth:`look` with one wait for the device, since the M-step is made
        before it is known to be needed.

        Args:
            also: makes of the counts (P, k) further numbers (P,) that are read.

        Returns:
            The iteration, whose numbers are on the host, and those further numbers.
        """
        return self._end_pass(move=True, also=also)

    def _end_pass(
        self, *, move: bool, also: Callable[[Tensor], Sequence[Tensor]] | None = None
    ) -> tuple[Iteration, list[NDArray[Any]]]:
        stats, moved = self._close()
        policy = self.problem.empty_cluster
        values = {"inertia": stats.inertia, "moved": moved}
        empty = self._count_empty(stats)
        if empty is not None:
            values["empty"] = empty
        if self._shift is not None:
            values["shift"] = self._shift
        same_counts = self._same_counts(stats.counts)
        if same_counts is not None:
            values["same counts"] = same_counts
        ahead = None
        if also is not None:
            # An empty cluster that is an error is one below: nobody sees what it has moved to.
            ahead = self._m_step(stats, some_empty=empty is not None and policy != "error")
            values["next shift"] = ahead[1]
            values |= {f"also {i}": value for i, value in enumerate(also(stats.counts))}
        host = dict(zip(values, to_host(list(values.values())), strict=True))
        if not math.isfinite(np.add.reduce(host["inertia"])):
            raise NonFiniteInertiaError("the inertia is not finite")
        empties = host.get("empty")
        some_empty = empties is not None and bool(np.count_nonzero(empties))
        if some_empty and policy == "error":
            raise_if_empty(stats.counts)
        still = None if self._shift is None else host["shift"] <= self._limit_now
        self._shift = None
        self._limit_now = self._limit_of(host.get("same counts"))
        self._see_who_stopped(host["moved"] == 0, still, counts_as_iteration=move)
        if move and not self.finished:
            refills = policy in ("relocate", "split")
            self._filled = empties > 0 if some_empty and refills and empties is not None else None
            self._move(*(ahead or self._m_step(stats, some_empty=some_empty)))
        shift = torch.zeros_like(stats.inertia) if self._shift is None else self._shift
        seconds = perf_counter() - self._began
        number = int(self.n_iter.max()) if self.finished else self.passes
        iteration = Iteration(number, stats.inertia, shift, moved, seconds, stats.counts)
        if also is None:
            return iteration, []
        shifts = np.zeros_like(host["next shift"]) if self._shift is None else host["next shift"]
        if self._shift is not None:
            self._finish(shifts <= self._limit_now, self.passes)
        iteration = iteration._replace(
            inertia=from_host(host["inertia"]),
            shift=from_host(shifts),
            moved=from_host(host["moved"]),
        )
        return iteration, [value for name, value in host.items() if name.startswith("also")]

    def _see_who_stopped(
        self, unmoved: Flags, still: Flags | None, *, counts_as_iteration: bool
    ) -> None:
        """Count the pass, and freeze the problems that have converged.

        Args:
            unmoved: problems none of whose labels moved, (P,).
            still: problems that stopped with the M-step before this pass, (P,).
            counts_as_iteration: whether an M-step belongs to this pass.
        """
        before = self.passes
        self.passes += counts_as_iteration
        # count_nonzero: of arrays of one element, methods of numpy take most of an iteration.
        if still is not None and np.count_nonzero(still):
            self._finish(still, before)
        if self._filled is not None:
            unmoved = unmoved & ~self._filled
        if np.count_nonzero(unmoved):
            self._finish(unmoved, self.passes)

    def look(self) -> None:
        """Read the shift of the last M-step now: the problems within the threshold converge."""
        if self._shift is None:
            return
        (shifts,) = to_host([self._shift])
        self._finish(shifts <= self._limit_now, self.passes)

    def _same_counts(self, counts: Tensor) -> Tensor | None:
        """Where counts are those of the pass before, (P,); None where nobody asks."""
        if self._rounding is None:
            return None
        before, self._counts = self._counts, counts
        return None if before is None else (before == counts).all(dim=-1)

    def _limit_of(self, same_counts: NDArray[Any] | None) -> NDArray[np.float64]:
        """Shift of this pass that counts as standing still, (P,)."""
        if self._rounding is None or same_counts is None:
            return self.limit
        return np.where(same_counts, np.maximum(self.limit, self._rounding), self.limit)

    def _close(self) -> tuple[ClusterStats, Tensor]:
        """Statistics and moved labels of the pass, over all ranks."""
        partial, moved = self._partial, self._moved
        if partial is None or moved is None:  # a rank without rows
            device = self.centroids.device
            partial = ClusterStats.nothing(*self.centroids.shape, device=device)
            moved = torch.zeros(len(self.centroids), device=device)
        self._partial = self._moved = None
        stats, (moved,) = self.merge(partial, [moved])
        return stats, moved if self.passes else self._unknown.to(stats.inertia)

    def _count_empty(self, stats: ClusterStats) -> Tensor | None:
        # Backends give the farthest samples wherever a cluster may be empty.
        return None if stats.farthest is None else (stats.counts == 0).sum(dim=-1)

    def _m_step(self, stats: ClusterStats, *, some_empty: bool) -> tuple[Tensor, Tensor]:
        """What the M-step makes of the centroids, and its shift."""
        moved, _, shift = m_step(
            self.centroids, stats, empty_cluster=self.problem.empty_cluster,
            metric=self.problem.metric, some_empty=some_empty,
        )  # fmt: skip
        return moved, shift

    def _move(self, moved: Tensor, shift: Tensor) -> None:
        self._shift = shift
        if np.count_nonzero(self.converged):
            moves = torch.from_numpy(self.active).to(moved.device)
            moved = moved.where(moves.view(-1, 1, 1), self.centroids)
        self.centroids = moved

    def _finish(self, problems: Flags, n_iter: int) -> None:
        problems = problems & self.active
        self._stopped_at[problems] = n_iter
        self.converged |= problems
        self.active &= ~problems
        self.finished = not self.active.any()

    def state_dict(self) -> dict[str, Any]:
        """All that the run knows, also in the middle of a pass: tensors and plain values."""
        partial = self._partial
        return {
            "centroids": self.centroids,
            "passes": self.passes,
            "n_iter": torch.from_numpy(self.n_iter),
            "active": torch.from_numpy(self.active.copy()),
            "converged": torch.from_numpy(self.converged.copy()),
            "filled": None if self._filled is None else torch.from_numpy(self._filled.copy()),
            "shift": self._shift,
            "moved": self._moved,
            "partial": None if partial is None else _fields(partial),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave; ``add`` continues an open pass."""
        device = self.centroids.device
        self.centroids = state["centroids"].to(device)
        self.passes = state["passes"]
        self._stopped_at = state["n_iter"].cpu().numpy().copy()
        self.active = state["active"].cpu().numpy().copy()
        self.converged = state["converged"].cpu().numpy().copy()
        filled = state["filled"]
        self._filled = None if filled is None else filled.cpu().numpy().copy()
        self.finished = not self.active.any()
        self._shift = None if state["shift"] is None else state["shift"].to(device)
        self._moved = None if state["moved"] is None else state["moved"].to(device)
        self._partial = None if state["partial"] is None else _stats(state["partial"], device)


def _fields(stats: ClusterStats) -> dict[str, Any]:
    farthest = None if stats.farthest is None else list(stats.farthest)
    return {
        "sums": stats.sums, "counts": stats.counts, "inertia": stats.inertia, "farthest": farthest
    }  # fmt: skip


def _stats(fields: dict[str, Any], device: torch.device) -> ClusterStats:
    farthest = fields["farthest"]
    if farthest is not None:
        farthest = Farthest(*(field.to(device) for field in farthest))
    sums, counts, inertia = (fields[name].to(device) for name in ("sums", "counts", "inertia"))
    return ClusterStats(sums, counts, inertia, farthest)
