"""Rows that come again in every pass and are never held: a loader, or any re-iterable of batches.

A few batches are in memory at a time, and no state for each row: equal labels are seen by a hash
of each batch's, and draws keep the rows of least key.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from kmeans_module.backends import workspace
from kmeans_module.core.distances import compute_dtype, unit_rows
from kmeans_module.core.problem import Problem
from kmeans_module.core.rows import Moments
from kmeans_module.core.statistics import ClusterStats, EStep, accumulator_dtype
from kmeans_module.rows.batch import Batch
from kmeans_module.rows.draws import HeldDraws, draw_seeds, repeat_first
from kmeans_module.rows.held import HeldRows, joined, weighs
from kmeans_module.rows.keyed import KeyedDraw
from kmeans_module.rows.ranks import (
    ProcessGroup,
    all_gather,
    all_sum,
    all_sum_stats,
    errors_shared,
    from_first,
    rank,
)
from kmeans_module.rows.survey import Survey

log = logging.getLogger(__name__)

PART_ROWS = 1 << 18  # of a large batch, taken together
_ODD = -7046029254386353131  # spreads positions over 64 bits
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Watch:
    """Whether a pass brings what the pass before brought: rows, counted, and a checksum of the
    first feature of the rows that weigh something, which no order of the rows changes.

    Args:
        group: the ranks that hold the rest.
    """

    def __init__(self, group: ProcessGroup | None) -> None:
        self.group = group
        self.expected: list[int] | None = None
        self._passing: Tensor | None = None

    def begin(self) -> None:
        """Before the first batch of a pass."""
        self._passing = None

    def see(self, batch: Batch) -> None:
        """Count a batch."""
        for part in parts_of(batch):
            column = part.x[:, 0].contiguous()
            bits = column.view(_BITS[column.element_size()])
            if part.sample_weight is not None:
                bits = bits * (part.sample_weight > 0)
            checksum = bits.sum(dtype=torch.int64)
            seen = torch.stack([checksum.new_tensor(len(column)), checksum])
            self._passing = seen if self._passing is None else self._passing + seen

    def end(self) -> None:
        """After the last batch of a pass.

        Raises:
            ValueError: the pass brought other rows than the one before, or none.
        """
        seen = torch.zeros(2, dtype=torch.int64) if self._passing is None else self._passing
        n_rows, checksum = (int(value) for value in all_sum([seen], self.group)[0])
        self._passing = None
        if self.expected is None:
            self.expected = [n_rows, checksum]
            return
        before = self.expected[0]
        if n_rows == 0 and before:
            raise ValueError(
                f"the second pass over the batches brought no rows, the first {before}: hand in "
                "a loader, a list or a class whose __iter__ starts again, not an iterator"
            )
        if n_rows != before:
            raise ValueError(
                f"a pass over the batches brought {n_rows} rows, the one before {before}: "
                "every pass has to bring the same"
            )
        if checksum != self.expected[1]:
            raise ValueError(
                f"a pass over the batches brought other values in its {n_rows} rows than the one "
                "before: every pass has to bring the same (in any order)"
            )


def parts_of(batch: Batch) -> Iterator[Batch]:
    """Views of the rows of a batch, few enough that what is made for each of them is small."""
    n = batch.x.shape[-2]
    if n <= PART_ROWS:
        yield batch
        return
    for first in range(0, n, PART_ROWS):
        part = slice(first, first + PART_ROWS)
        weight = batch.sample_weight
        yield Batch(
            batch.x[part],
            None if weight is None else weight[part],
            start=(batch.start or 0) + first,
        )


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
    ) -> None:
        self.batches = batches
        self.n_features = n_features or 0
        self.device = device
        self.stable = stable
        self.group = group
        self.watch = Watch(group)
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

    def draws(
        self, problem: Problem, generator: torch.Generator | None, search: Any = None
    ) -> StreamDraws:
        return StreamDraws(self, problem, generator)

    def merge(
        self, stats: ClusterStats, also: Sequence[Tensor]
    ) -> tuple[ClusterStats, list[Tensor]]:
        return all_sum_stats(stats, self.group, also=also)

    def from_first(self, make: Callable[[], Any]) -> Any:
        return from_first(make, self.group, self.device)

    def excerpt(self, n: int, generator: torch.Generator | None) -> Tensor:
        return self.sample(n, generator)[0]

    def e_step(self, centroids: Tensor, *, metric: str = "euclidean") -> EStep:
        return joined([step for _, step in self._steps(centroids, metric)])

    def labels(self, centroids: Tensor, *, metric: str = "euclidean") -> Iterator[Tensor]:
        for batch in self:
            space = workspace(batch.x, metric=metric, dtype=centroids.dtype, once=True)
            yield space.assign(centroids)[0]

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
        )
        rows.first = self.first
        return rows

    def sample(self, m: int, generator: torch.Generator | None = None) -> Tensor:
        return self.sampled(m, generator)[0]

    def sampled(
        self, m: int, generator: torch.Generator | None, problems: int = 1
    ) -> tuple[Tensor, Tensor]:
        """m rows drawn uniformly from those of positive weight, (P, m, d), and their weights."""
        draw: KeyedDraw | None = None
        seeds = draw_seeds(problems, generator, self.device, self.group)
        for batch in self:
            if draw is None:
                draw = KeyedDraw(m, seeds, n_features=self.n_features, dtype=batch.x.dtype)
            draw.add(batch.x, batch.sample_weight, weighs(batch, problems), batch.start or 0)
        if draw is None:
            draw = KeyedDraw(m, seeds, n_features=self.n_features, dtype=torch.float32)
        rows, weights, valid = draw.finish(self.group)
        kept = int(valid.sum(dim=-1).min())
        return rows[:, :kept], weights[:, :kept]


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


class StreamDraws:
    """A stream as seeding sees it; see :class:`kmeans_module.core.rows.Draws`.

    Args:
        rows: the stream.
        problem: what is asked for.
        generator: what the draws come from; None for torch's default.
    """

    def __init__(
        self, rows: StreamRows, problem: Problem, generator: torch.Generator | None
    ) -> None:
        self.rows = rows
        self.problem = problem
        self.generator = generator
        self.n_problems = problem.n_problems
        self._centers: Tensor | None = None

    def distinct(self, m: int) -> Tensor:
        return self._pass(None, m)

    def by_distance(self, centers: Tensor | None, m: int) -> Tensor:
        if centers is not None:
            known = self._centers
            self._centers = centers if known is None else torch.cat([known, centers], dim=1)
        return self._pass(self._centers, m)

    def masses(self, centers: Tensor) -> Tensor:
        search = StreamSearch(self.rows, self.problem._replace(n_clusters=centers.shape[1]))
        counts = torch.zeros(
            centers.shape[:2], dtype=accumulator_dtype(centers.device), device=centers.device
        )
        for batch in self.rows:
            counts += search.step(batch, centers)[0].counts
        return all_sum([counts], self.rows.group)[0]

    def standing_for(self, x: Tensor, sample_weight: Tensor) -> HeldDraws:
        # All ranks hold the same rows; the numbers drawn are those of the first rank.
        rows = HeldRows([Batch(x, sample_weight, start=0)], n_problems=len(x))
        draws = rows.draws(self.problem, self.generator)
        draws.numbers_from(self.rows.group)
        return draws

    def in_memory(self, n: int) -> HeldDraws:
        log.info(
            "k-means++ draws from a uniform sample of %d rows at most: the batches do not stay in "
            "memory",
            n,
        )
        rows, weights = self.rows.sampled(n, self.generator, self.n_problems)
        return self.standing_for(rows, weights)

    def _pass(self, centers: Tensor | None, m: int) -> Tensor:
        """Rows (P, m, d) drawn by weight × squared distance to the nearest of the centers."""
        problem, group = self.problem, self.rows.group
        seeds = draw_seeds(self.n_problems, self.generator, problem.device, group)
        draw: KeyedDraw | None = None
        for batch in self.rows:
            if draw is None:
                dtype = compute_dtype(batch.x, problem.dtype)
                draw = KeyedDraw(m, seeds, n_features=problem.n_features, dtype=dtype)
            draw.add(batch.x, None, self._masses(batch, centers), batch.start or 0)
        if draw is None:
            draw = KeyedDraw(m, seeds, n_features=problem.n_features, dtype=problem.dtype)
        rows, _, valid = draw.finish(group)
        rows = unit_rows(rows) if problem.metric == "cosine" else rows
        return repeat_first(rows, valid, m)

    def _masses(self, batch: Batch, centers: Tensor | None) -> Tensor:
        """Weight of the rows, × squared distance to the nearest of the centers, (P, n)."""
        metric = self.problem.metric
        weight = weighs(batch, self.n_problems)
        if batch.sample_weight is not None:
            weight = batch.sample_weight.expand(self.n_problems, -1)
        if metric == "cosine":
            weight = weight * (batch.x != 0).any(dim=-1)
        if centers is None:
            return weight
        space = workspace(batch.x, metric=metric, dtype=self.problem.dtype, once=True)
        distances = space.e_step(centers).distances
        return (2 * distances if metric == "cosine" else distances) * weight


def _hash(labels: Tensor) -> Tensor:
    """64 bits for labels (P, n), (P,)."""
    places = torch.arange(labels.shape[-1], device=labels.device)
    mixed = (labels + 1) * (places * _ODD | 1)
    return (mixed ^ (mixed >> 29)).sum(dim=-1)
