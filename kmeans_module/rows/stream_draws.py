"""A stream as seeding sees it: draws within a pass."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from kmeans_module.backends import unit_rows, workspace
from kmeans_module.core import seeding
from kmeans_module.core.distances import compute_dtype
from kmeans_module.core.generators import Generators
from kmeans_module.core.problem import Problem
from kmeans_module.core.statistics import accumulator_dtype
from kmeans_module.rows.batch import Batch, row_numbers, weighs
from kmeans_module.rows.draws import HeldDraws, stand_in
from kmeans_module.rows.keyed import (
    DistinctRows,
    KeyedDraw,
    draw_seeds,
    repeat_first,
    row_hashes,
    uniform_sample,
)
from kmeans_module.rows.ranks import ProcessGroup, all_sum, rank
from kmeans_module.rows.whole import whole

log = logging.getLogger(__name__)


class StreamDraws:
    """A stream as seeding sees it; see :class:`kmeans_module.core.rows.Draws`.

    Args:
        passes: the stream; each iteration over it is a pass over the batches of this rank.
        problem: what is asked for.
        generator: what the draws come from; None for torch's default.
        group: the ranks that hold the rest.
        example: no rows, (0, d), of the dtype that the rows of all ranks have.
        n_samples: rows of all ranks.
    """

    def __init__(
        self,
        passes: Iterable[Batch],
        problem: Problem,
        generator: Generators,
        group: ProcessGroup | None,
        *,
        example: Tensor,
        n_samples: int,
    ) -> None:
        self.example = example
        self.n_samples = n_samples
        self.passes = passes
        self.problem = problem
        self.generator = generator
        self.group = group
        self.n_problems = problem.n_problems
        self._centers: Tensor | None = None

    def distinct(self, m: int, *, first: Tensor | None = None) -> Tensor:
        if first is None and self.n_samples <= max(seeding.SAMPLE, seeding.SAMPLE_OF_CLUSTER * m):
            return self._whole().distinct(m)
        seeds = self._seeds() if first is None else row_hashes(first).sum(dim=-1)
        drawn = DistinctRows(m, self.n_problems, first)
        while drawn.wants_more:
            drawn.take(*self._keyed(lambda batch: self._unlike(batch, drawn), m, seeds))
        return drawn.finish()

    def by_distance(self, centers: Tensor | None, m: int) -> Tensor:
        if centers is not None:
            known = self._centers
            self._centers = centers if known is None else torch.cat([known, centers], dim=1)
        rows, valid = self._keyed(lambda batch: self._far(batch, self._centers), m, self._seeds())
        return repeat_first(rows, valid, m, otherwise=centers)

    def masses(self, centers: Tensor) -> Tensor:
        counts = torch.zeros(
            centers.shape[:2], dtype=accumulator_dtype(centers.device), device=centers.device
        )
        for batch in self.passes:
            space = workspace(
                batch.x,
                batch.sample_weight,
                metric=self.problem.metric,
                dtype=centers.dtype,
                once=True,
            )
            counts += space.statistics(centers, farthest=False).counts
        return all_sum([counts], self.group)[0]

    def standing_for(self, x: Tensor, sample_weight: Tensor | None) -> HeldDraws:
        return stand_in(x, sample_weight, self.problem, self.generator, self.group)

    def in_memory(self, n: int) -> HeldDraws:
        if rank(self.group) == 0:
            log.info(
                "k-means++ draws from a uniform sample of %d rows at most: the batches do not "
                "stay in memory",
                n,
            )
        if self.n_samples <= n:
            return self._whole()
        rows, weights = uniform_sample(
            self.passes, n, self._seeds(), self.group, example=self.example
        )
        return self.standing_for(rows, weights)

    def _whole(self) -> HeldDraws:
        """All rows, which are few: draws from them are those of a tensor."""
        x, weight = whole(self.passes, self.group, example=self.example)
        return self.standing_for(x, weight)

    def _seeds(self) -> Tensor:
        return draw_seeds(self.n_problems, self.generator, self.problem.device, self.group)

    def _keyed(
        self, masses: Callable[[Batch], Tensor], m: int, seeds: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Rows (P, m, d) of least key in a pass, and which of them are valid, (P, m)."""
        problem = self.problem
        dtype = compute_dtype(self.example, problem.dtype)
        draw = KeyedDraw(m, seeds, n_features=problem.n_features, dtype=dtype)
        for batch in self.passes:
            draw.add(batch.x, None, masses(batch), row_numbers(batch))
        rows, _, valid = draw.finish(self.group)
        return unit_rows(rows) if problem.metric == "cosine" else rows, valid

    def _weights(self, batch: Batch) -> Tensor:
        """Weight of the rows, (P, n)."""
        weight = weighs(batch, self.n_problems)
        if batch.sample_weight is not None:
            weight = batch.sample_weight.expand(self.n_problems, -1)
        if self.problem.metric == "cosine":
            weight = weight * (batch.x != 0).any(dim=-1)
        return weight

    def _unlike(self, batch: Batch, drawn: DistinctRows) -> Tensor:
        """Weight of the rows, 0 for those that equal one which is taken, (P, n)."""
        weight = self._weights(batch)
        if not drawn.rows:
            return weight
        rows = batch.x.to(compute_dtype(self.example, self.problem.dtype))
        return drawn.unlike(weight, unit_rows(rows) if self.problem.metric == "cosine" else rows)

    def _far(self, batch: Batch, centers: Tensor | None) -> Tensor:
        """Weight of the rows, × squared distance to the nearest of the centers, (P, n)."""
        weight, metric = self._weights(batch), self.problem.metric
        if centers is None:
            return weight
        space = workspace(batch.x, metric=metric, dtype=self.problem.dtype, once=True)
        distances = space.e_step(centers).distances
        return (2 * distances if metric == "cosine" else distances) * weight
