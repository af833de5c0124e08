"""Rows in memory: one tensor, or batches that stay, of this process or over ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from kmeans_module.backends import Workspace, workspace
from kmeans_module.core.generators import Generators
from kmeans_module.core.late import Loops
from kmeans_module.core.problem import Problem
from kmeans_module.core.rows import Moments
from kmeans_module.core.sparse import is_sparse, no_rows
from kmeans_module.core.statistics import ClusterStats, EStep
from kmeans_module.rows.batch import Batch, OneDtype
from kmeans_module.rows.draws import HeldDraws
from kmeans_module.rows.keyed import draw_seeds, uniform_sample
from kmeans_module.rows.ranks import (
    ProcessGroup,
    all_gather,
    all_sum,
    all_sum_stats,
    anywhere,
    errors_shared,
    from_first,
    rank,
)
from kmeans_module.rows.survey import Survey
from kmeans_module.rows.whole import whole
from kmeans_module.seeds import generator_of


class HeldRows:
    """Batches that are in memory; see :class:`kmeans_module.core.rows.Rows`.

    Args:
        batches: of this rank; x is (n, d), shared by all problems, or (P, n, d). Batches without
            a ``start`` are numbered in their order, rank by rank.
        n_problems: P where problems have rows or weights of their own, else 1.
        group: the ranks that hold the rest.
    """

    stable = True

    def __init__(
        self,
        batches: Sequence[Batch],
        *,
        n_problems: int = 1,
        group: ProcessGroup | None = None,
    ) -> None:
        self.n_problems = n_problems
        self.group = group
        self.n_features = batches[0].x.shape[-1]
        self.device = batches[0].x.device
        self.example = no_rows(batches[0].x)  # of the rows' dtype
        one_dtype = OneDtype()
        with errors_shared(group):
            for batch in batches:
                one_dtype(batch.x)
        self.batches = self._numbered(batches)
        self._moments: dict[str, Moments] = {}

    def _numbered(self, batches: Sequence[Batch]) -> list[Batch]:
        """Batches with a handle and the number of their first row."""
        batches = [
            batch if batch.handle is not None else batch._replace(handle=i)
            for i, batch in enumerate(batches)
        ]
        # One rank without numbers is enough for all to be numbered anew; no rows need none.
        lack = any(batch.start is None and batch.x.shape[-2] for batch in batches)
        if not anywhere(lack, self.group):
            return [batch._replace(start=batch.start or 0) for batch in batches]
        sizes = [batch.x.shape[-2] for batch in batches]
        first = 0
        if self.group is not None:
            before = all_gather(torch.tensor([sum(sizes)], device=self.device), self.group)
            first = int(before[: rank(self.group)].sum())
        numbered = []
        for batch, size in zip(batches, sizes, strict=True):
            numbered.append(batch._replace(start=first))
            first += size
        return numbered

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def __len__(self) -> int:
        """Rows of this rank."""
        return sum(batch.x.shape[-2] for batch in self.batches)

    @property
    def shared(self) -> bool:
        """Whether all problems have the same rows and weights."""
        return all(
            batch.x.ndim == 2 and (batch.sample_weight is None or batch.sample_weight.ndim == 1)
            for batch in self.batches
        )

    def moments(self, metric: str = "euclidean") -> Moments:
        if metric not in self._moments:
            survey = Survey(
                n_problems=self.n_problems, n_features=self.n_features, metric=metric,
                device=self.device, stay=True,
            )  # fmt: skip
            for batch in self.batches:
                survey.add(batch, batch.start or 0)
            self._moments[metric] = survey.finish(self.group)
        return self._moments[metric]

    def search(self, problem: Problem) -> HeldSearch:
        return HeldSearch(self.batches, problem, whole=self.group is None)

    def draws(self, problem: Problem, generator: Generators, search: Any = None) -> HeldDraws:
        if not isinstance(search, HeldSearch):
            search = self.search(problem)
        workspaces = [
            space
            for space, batch in zip(search.workspaces, self.batches, strict=True)
            if batch.x.shape[-2]
        ]
        return HeldDraws(
            self.batches, problem, generator=generator, group=self.group, workspaces=workspaces
        )

    def merge(
        self, stats: ClusterStats, also: Sequence[Tensor]
    ) -> tuple[ClusterStats, list[Tensor]]:
        return all_sum_stats(stats, self.group, also=also)

    def from_first(self, make: Callable[[], Any]) -> Any:
        return from_first(make, self.group, self.device)

    def excerpt(self, n: int, generator: torch.Generator | None) -> Tensor:
        if self.group is None and len(self.batches) == 1:
            return self.batches[0].x
        if is_sparse(self.batches[0].x):
            raise ValueError(
                "init as a function needs sparse rows of one process; got a process_group"
            )
        n_samples = int(all_sum([torch.tensor([len(self)], device=self.device)], self.group)[0])
        if self.group is None or n_samples <= n:
            example = self.batches[0].x[..., :0, :]
            batches = (batch._replace(sample_weight=None) for batch in self.batches)
            return whole(batches, self.group, example=example)[0]
        sample = self.sample(n, generator)
        return sample if self.batches[0].x.ndim == 3 else sample[0]

    def e_step(self, centroids: Tensor, *, metric: str = "euclidean") -> EStep:
        steps = [
            workspace(
                batch.x, batch.sample_weight, metric=metric, dtype=centroids.dtype, once=True
            ).e_step(centroids, start=batch.start or 0)
            for batch in self.batches
        ]
        return joined(steps)

    def labels(self, centroids: Tensor, *, metric: str = "euclidean") -> Iterator[Tensor]:
        return labels_of(self.batches, centroids, metric)

    def map(self, function: Callable[[Tensor], Tensor]) -> HeldRows:
        batches = [batch._replace(x=function(batch.x)) for batch in self.batches]
        return HeldRows(batches, n_problems=self.n_problems, group=self.group)

    def sample(
        self, m: int, generator: torch.Generator | None = None, *, seed: int | None = None
    ) -> Tensor:
        generator = generator_of(generator, seed)
        seeds = draw_seeds(self.n_problems, generator, self.device, self.group)
        return uniform_sample(self.batches, m, seeds, self.group, example=self.example)[0]


class HeldSearch:
    """A run over batches in memory: a workspace for each of them, for all its passes.

    Args:
        batches: of this rank.
        problem: what is asked for.
        whole: whether no other rank holds rows.
    """

    holds = True

    def __init__(self, batches: Sequence[Batch], problem: Problem, *, whole: bool = False) -> None:
        self.batches = batches
        self.problem = problem
        self.whole = whole
        self._place = {batch.handle: i for i, batch in enumerate(batches)}
        self._stepped: set[int] = set()

    @cached_property
    def workspaces(self) -> list[Workspace]:
        """Of all batches."""
        return [
            workspace(
                batch.x, batch.sample_weight, metric=self.problem.metric, dtype=self.problem.dtype
            )
            for batch in self.batches
        ]

    @property
    def together(self) -> bool:
        return self.workspaces[0].together

    def loops(self) -> Loops | None:
        space = self.workspaces[0]
        alone = self.whole and len(self.batches) == 1
        return space if alone and isinstance(space, Loops) else None

    def begin_pass(self) -> None:
        """Nothing: batches in memory are the same in every pass."""

    def step(self, batch: Batch, centroids: Tensor) -> tuple[ClusterStats, Tensor]:
        place = self._place[batch.handle] if len(self.batches) > 1 else 0
        space = self.workspaces[place]
        stats = space.statistics(centroids, start=batch.start or 0)
        if place in self._stepped:
            return stats, space.changed
        self._stepped.add(place)
        return stats, torch.full_like(stats.inertia, torch.nan)

    def end_pass(self) -> None:
        """Nothing."""

    def labels(self) -> Tensor:
        parts = [space.labels for space in self.workspaces]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def labels_of(batches: Iterable[Batch], centroids: Tensor, metric: str) -> Iterator[Tensor]:
    """Labels of each batch, (n,) for centroids (k, d) and (P, n) for (P, k, d)."""
    problems = centroids if centroids.ndim == 3 else centroids.unsqueeze(0)
    for batch in batches:
        space = workspace(batch.x, metric=metric, dtype=centroids.dtype, once=True)
        labels = space.assign(problems)[0]
        yield labels if centroids.ndim == 3 else labels[0]


def joined(steps: Sequence[EStep]) -> EStep:
    """The E-step of all batches together."""
    if len(steps) == 1:
        return steps[0]
    stats = steps[0].stats
    for step in steps[1:]:
        stats = stats + step.stats
    return EStep(
        torch.cat([step.labels for step in steps], dim=-1),
        torch.cat([step.distances for step in steps], dim=-1),
        stats,
    )
