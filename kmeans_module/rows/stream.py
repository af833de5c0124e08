"""Rows that come again in every pass and are never held: a loader, or any re-iterable of batches.

A few batches are in memory at a time, and no state for each row: equal labels are seen by a hash
of each batch's, and draws keep the rows of least key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kmeans_module.backends import workspace
from kmeans_module.core.generators import Generators
from kmeans_module.core.problem import Problem
from kmeans_module.core.rows import Moments
from kmeans_module.core.statistics import ClusterStats, EStep
from kmeans_module.rows.batch import Batch
from kmeans_module.rows.held import joined, labels_of
from kmeans_module.rows.keyed import draw_seeds, uniform_sample
from kmeans_module.rows.ranks import (
    ProcessGroup,
    all_gather,
    all_sum_stats,
    common_example,
    errors_shared,
    from_first,
    rank,
)
from kmeans_module.rows.stream_draws import StreamDraws
from kmeans_module.rows.survey import Survey
from kmeans_module.rows.watch import Watch, parts_of
from kmeans_module.rows.whole import whole
from kmeans_module.seeds import generator_of

_ODD = -7046029254386353131  # spreads positions over 64 bits


class StreamRows:
    """Batches that are read again in every pass; see :class:`kmeans_module.core.rows.Rows`.

    Args:
        batches: can be gone through again and again; gives Batches on the device of the
            centroids, checked.
        n_features: d; None where the first pass, for the moments, shall tell.
        device: of the rows.
        stable: whether every pass brings the batches in the same order.
        group: the ranks that hold the rest. Batches without a ``start`` are numbered in their
            order, rank by rank.
        every_pass_is_the_same: whether a pass that brings other rows than the one before is
            refused; an empty one is always.
    """

    n_problems = 1
    shared = True

    def __init__(
        self,
        batches: Iterable[Batch],
        *,
        n_features: int | None,
        device: torch.device,
        stable: bool,
        group: ProcessGroup | None = None,
        every_pass_is_the_same: bool = True,
    ) -> None:
        self.batches = batches
        self.every_pass_is_the_same = every_pass_is_the_same
        self.n_features = n_features or 0
        self.device = device
        self.stable = stable
        self.group = group
        self.watch = Watch(group, same=every_pass_is_the_same)
        self.first = 0  # number of this rank's first row, where batches do not say it
        self._numbers_rows = False
        self.example = torch.empty(0, self.n_features, device=device)  # of the rows' dtype, later
        self._moments: dict[str, Moments] = {}

    def __iter__(self) -> Iterator[Batch]:
        """One pass, whose batches have a start; it is refused at its end if it is another one."""
        self.watch.begin()
        with errors_shared(self.group):
            for batch in self.numbered(self.batches):
                self.watch.see(batch)
                yield from parts_of(batch)
        self.watch.end()

    def numbered(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Batches with the number of their first row."""
        first = self.first
        for batch in batches:
            if batch.start is None:
                self._numbers_rows, batch = True, batch._replace(start=first)
            yield batch
            first += batch.x.shape[-2]

    def moments(self, metric: str = "euclidean") -> Moments:
        if metric not in self._moments:
            survey: Survey | None = None
            for batch in self:
                if survey is None:
                    self.example, self.n_features = batch.x[:0], batch.x.shape[-1]
                    survey = self._survey(metric)
                survey.add(batch, batch.start or 0)
            survey = survey or self._survey(metric)
            self.example = common_example(self.example, survey.n_samples, self.group)
            if self.group is not None:
                sizes = torch.tensor([survey.n_samples], device=self.device)
                first = int(all_gather(sizes, self.group)[: rank(self.group)].sum())
                if self._numbers_rows and not self.first:
                    survey.nonfinite.first += first  # it was not known while they were read
                self.first = first
            self._moments[metric] = survey.finish(self.group)
        return self._moments[metric]

    def _survey(self, metric: str) -> Survey:
        return Survey(n_problems=1, n_features=self.n_features, metric=metric, device=self.device)

    def search(self, problem: Problem) -> StreamSearch:
        return StreamSearch(self, problem)

    def draws(self, problem: Problem, generator: Generators, search: Any = None) -> StreamDraws:
        n_samples = self.moments(problem.metric).n_samples
        return StreamDraws(
            self, problem, generator, self.group, example=self.example, n_samples=n_samples
        )

    def merge(
        self, stats: ClusterStats, also: Sequence[Tensor]
    ) -> tuple[ClusterStats, list[Tensor]]:
        return all_sum_stats(stats, self.group, also=also)

    def from_first(self, make: Callable[[], Any]) -> Any:
        return from_first(make, self.group, self.device)

    def excerpt(self, n: int, generator: torch.Generator | None) -> Tensor:
        n_samples = next((known.n_samples for known in self._moments.values()), n + 1)
        if n_samples <= n:
            return whole(self, self.group, example=self.example)[0]
        return self.sample(n, generator)[0]

    def e_step(self, centroids: Tensor, *, metric: str = "euclidean") -> EStep:
        return joined([step for _, step in self._steps(centroids, metric)])

    def labels(self, centroids: Tensor, *, metric: str = "euclidean") -> Iterator[Tensor]:
        return labels_of(self, centroids, metric)

    def _steps(self, centroids: Tensor, metric: str) -> Iterator[tuple[Batch, EStep]]:
        for batch in self:
            space = workspace(
                batch.x, batch.sample_weight, metric=metric, dtype=centroids.dtype, once=True
            )
            yield batch, space.e_step(centroids, start=batch.start or 0)

    def map(self, function: Callable[[Tensor], Tensor]) -> StreamRows:
        rows = StreamRows(
            Mapped(self.batches, function),
            n_features=function(self.example).shape[-1],
            device=self.device,
            stable=self.stable,
            group=self.group,
            every_pass_is_the_same=self.every_pass_is_the_same,
        )
        rows.first = self.first
        return rows

    def sample(
        self, m: int, generator: torch.Generator | None = None, *, seed: int | None = None
    ) -> Tensor:
        generator = generator_of(generator, seed)
        seeds = draw_seeds(1, generator, self.device, self.group)
        return uniform_sample(self, m, seeds, self.group, example=self.example)[0]


class Mapped:
    """Batches whose rows a function has changed.

    Args:
        batches: can be gone through again and again.
        function: of rows (..., n, d).
    """

    def __init__(self, batches: Iterable[Batch], function: Callable[[Tensor], Tensor]) -> None:
        self.batches, self.function = batches, function

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches:
            yield batch._replace(x=self.function(batch.x), handle=None)


class StreamSearch:
    """A run over a stream: of each batch a hash of its labels, where the order is stable.

    Args:
        rows: whose passes these are.
        problem: what is asked for.
    """

    together = True  # all problems in one pass
    holds = False

    def __init__(self, rows: StreamRows, problem: Problem) -> None:
        self.rows = rows
        self.problem = problem
        self._before: list[Tensor] = []
        self._hashes: list[Tensor] = []

    def loops(self) -> None:
        return None

    def begin_pass(self) -> None:
        self._hashes = []

    def step(self, batch: Batch, centroids: Tensor) -> tuple[ClusterStats, Tensor]:
        steps = [self._step(part, centroids) for part in parts_of(batch)]
        stats, moved = steps[0]
        for more, moved_more in steps[1:]:
            stats, moved = stats + more, moved + moved_more
        return stats, moved

    def _step(self, batch: Batch, centroids: Tensor) -> tuple[ClusterStats, Tensor]:
        space = workspace(
            batch.x, batch.sample_weight, metric=self.problem.metric, dtype=self.problem.dtype,
            once=True,
        )  # fmt: skip
        stats = space.statistics(centroids, start=batch.start or 0)
        stats = _numbered(stats, batch)
        moved = torch.full_like(stats.inertia, torch.nan)
        if self.rows.stable:
            labels, place = _hash(space.labels), len(self._hashes)
            if place < len(self._before) and self._before[place].shape == labels.shape:
                moved = torch.where(self._before[place] == labels, 0.0, moved)
            self._hashes.append(labels)
        return stats, moved

    def end_pass(self) -> None:
        self._before = self._hashes

    def labels(self) -> None:
        return None


def _numbered(stats: ClusterStats, batch: Batch) -> ClusterStats:
    """Farthest samples by their number in the data: of rows equally far the one of lowest number
    comes first, whatever order they came in."""
    if batch.index is None or stats.farthest is None or not len(batch.index):
        return stats
    place = stats.farthest.indices - (batch.start or 0)
    inside = (place >= 0) & (place < len(batch.index))
    numbers = batch.index[place.where(inside, 0)].where(inside, stats.farthest.indices)
    return replace(stats, farthest=stats.farthest._replace(indices=numbers))


def _hash(labels: Tensor) -> Tensor:
    """64 bits for labels (P, n), (P,)."""
    places = torch.arange(labels.shape[-1], device=labels.device)
    mixed = (labels + 1) * (places * _ODD | 1)
    return (mixed ^ (mixed >> 29)).sum(dim=-1)
