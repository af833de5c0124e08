"""Rows in memory as seeding sees them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from kmeans_module.backends import Workspace, unit_rows, workspace
from kmeans_module.core.generators import Generators, n_restarts
from kmeans_module.core.problem import Problem
from kmeans_module.core.rows import Rounds as RoundsOfDraws
from kmeans_module.rows.batch import Batch
from kmeans_module.rows.keyed import (
    DistinctRows,
    KeyedDraw,
    all_unlike,
    draw_seeds,
    repeat_first,
    row_hashes,
    where_first,
)
from kmeans_module.rows.positions import Positions
from kmeans_module.rows.ranks import ProcessGroup, all_sum, broadcast
from kmeans_module.rows.rounds import Rounds


class HeldDraws(Positions):
    """Rows in memory as seeding sees them; see :class:`kmeans_module.core.rows.Draws`.

    Args:
        batches, problem, generator, group: see :class:`Positions`.
        workspaces: of the batches that have rows.
    """

    def __init__(
        self,
        batches: Sequence[Batch],
        problem: Problem,
        *,
        generator: Generators,
        group: ProcessGroup | None,
        workspaces: Sequence[Workspace],
    ) -> None:
        super().__init__(batches, problem, generator=generator, group=group)
        self.problem = problem
        self.workspaces = workspaces
        self.weights = [self.weight(i) for i in range(len(self.batches))]

    @cached_property
    def drawn_by(self) -> list[Tensor]:
        """Weights by which rows are drawn, (P, n) for each batch; all alike in a problem where
        none is positive, so that its centroids are rows too."""
        if not self._weighs and self.group is None:
            return self.weights
        total = torch.zeros(self.n_problems, dtype=self.accumulator, device=self.device)
        for weight in self.weights:
            total += weight.sum(dim=-1, dtype=self.accumulator)
        weightless = all_sum([total], self.group)[0].unsqueeze(-1) == 0
        return [weight.masked_fill(weightless, 1) for weight in self.weights]

    @property
    def _weighs(self) -> bool:
        """Whether rows of this rank may have weights other than 1."""
        return self.metric == "cosine" or any(b.sample_weight is not None for b in self.batches)

    @cached_property
    def _spaces(self) -> list[Tensor]:
        """Rows of each batch as they are taken, for comparisons."""
        rows = [batch.x.to(self.dtype) for batch in self.batches]
        return [unit_rows(x) for x in rows] if self.metric == "cosine" else rows

    @cached_property
    def nearest(self) -> list[Tensor]:
        """Squared distances to the nearest center so far, (P, n) for each batch."""
        return [
            torch.full(
                (self.n_problems, batch.x.shape[-2]),
                math.inf,
                dtype=self.dtype,
                device=self.device,
            )
            for batch in self.batches
        ]

    def in_memory(self, n: int) -> HeldDraws:
        return self

    def standing_for(self, x: Tensor, sample_weight: Tensor | None) -> HeldDraws:
        return stand_in(x, sample_weight, self.problem, self.generator, self.group)

    def distinct(self, m: int, *, first: Tensor | None = None) -> Tensor:
        if first is not None and first.shape[1] == m and all_unlike(first):
            return first
        drawn, masses = DistinctRows(m, self.n_problems, first), self.drawn_by
        if first is None:
            numbers = self.uniform(self.n_problems, m)
            positions = self.draw(masses, numbers)
            rows = self.take(positions)
            if all_unlike(rows):
                return rows
            new = torch.stack([where_first(position) for position in positions])
            drawn.take(rows, new)
            seeds, masses = row_hashes(numbers), self.without(masses, positions)
        else:
            # Another number of draws would change what the generator gives to others.
            seeds, masses = row_hashes(first).sum(dim=-1), self._unlike(drawn)
        while drawn.lacks:
            drawn.take(*self._keyed(masses, m, seeds))
            if not drawn.wants_more:
                break
            masses = self._unlike(drawn)
        return drawn.finish()

    def _unlike(self, drawn: DistinctRows) -> list[Tensor]:
        """Weights of the rows, 0 for those that equal one that is drawn, (P, n) for each batch."""
        if not drawn.lacks:
            return self.drawn_by
        return [drawn.unlike(w, x) for w, x in zip(self.drawn_by, self._spaces, strict=True)]

    def _keyed(self, masses: Sequence[Tensor], m: int, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (P, m, d) of least key, and which of them are valid, (P, m)."""
        draw = KeyedDraw(m, seeds, n_features=self.n_features, dtype=self.dtype)
        for batch, mass, start in zip(self.batches, masses, self.starts, strict=True):
            numbers = torch.arange(start, start + mass.shape[-1], device=self.device)
            draw.add(batch.x, None, mass, numbers)
        rows, _, valid = draw.finish(self.group)
        return unit_rows(rows) if self.metric == "cosine" else rows, valid

    def rounds(self, n_clusters: int, m: int) -> RoundsOfDraws:
        # All numbers at once: a generator of the CPU is not asked again while a device works.
        problems = self.n_problems
        restarts = n_restarts(self.generator)
        each = problems // restarts
        numbers = self.uniform(problems * (1 + (n_clusters - 1) * m)).view(restarts, -1)
        first, later = numbers[:, :each].reshape(problems, 1), numbers[:, each:]
        center = self.take(self.draw(self.drawn_by, first))
        later = later.reshape(restarts, n_clusters - 1, each, m).transpose(0, 1)
        later = later.reshape(n_clusters - 1, problems, m)
        if self._alone:
            weights = self.drawn_by[0] if self._weighs else None
            own = self.workspaces[0].rounds(center, later, weights)
            if own is not None:
                return own
        return Rounds(self, center, later)

    def candidates(self, numbers: Tensor) -> Tensor:
        """Rows (P, m, d) drawn by weight × squared distance to the nearest center so far."""
        # Where all distances are 0 the weights decide.
        return self.take(self.draw(self._far(), numbers, otherwise=self.drawn_by))

    def _far(self) -> list[Tensor]:
        """Weight × squared distance to the nearest center, (P, n) for each batch."""
        return [
            nearest
            if batch.sample_weight is None and self.metric == "euclidean"
            else nearest * weight
            for nearest, weight, batch in zip(
                self.nearest, self.drawn_by, self.batches, strict=True
            )
        ]

    def potentials(self, candidates: Tensor) -> Tensor:
        """Weighted inertia if each of the candidates (P, m, d) joined the centers, (P, m)."""
        if self._alone:
            return self.workspaces[0].potentials(self.nearest[0], candidates)
        potential = torch.zeros(candidates.shape[:2], dtype=self.accumulator, device=self.device)
        for nearest, space in zip(self.nearest, self.workspaces, strict=True):
            potential += space.potentials(nearest, candidates)
        return all_sum([potential], self.group)[0]

    def lower(self, center: Tensor) -> None:
        """Add centers (P, c, d): lower the distances to the nearest one."""
        for nearest, space in zip(self.nearest, self.workspaces, strict=True):
            if center.shape[1] == 1:
                space.lower(nearest, center)
                continue
            distances = space.e_step(center).distances
            distances = 2 * distances if self.metric == "cosine" else distances
            torch.minimum(nearest, distances, out=nearest)

    def by_distance(self, centers: Tensor | None, m: int) -> Tensor:
        if centers is not None:
            self.lower(centers)
        seeds = draw_seeds(self.n_problems, self.generator, self.device, self.group)
        rows, valid = self._keyed(self.drawn_by if centers is None else self._far(), m, seeds)
        return repeat_first(rows, valid, m, otherwise=centers)

    def masses(self, centers: Tensor) -> Tensor:
        counts = torch.zeros(centers.shape[:2], dtype=self.accumulator, device=self.device)
        for space in self.workspaces:
            counts += space.statistics(centers, farthest=False).counts
        return all_sum([counts], self.group)[0]


class StandIn(HeldDraws):
    """Rows that stand for all rows: every rank has them all, and draws the numbers of the first.

    Args:
        numbers_of: the ranks whose first one draws the numbers.
        options: of :class:`HeldDraws`.
    """

    def __init__(self, *args: Any, numbers_of: ProcessGroup | None, **options: Any) -> None:
        self.numbers_of = numbers_of
        super().__init__(*args, group=None, **options)

    def uniform(self, *shape: int) -> Tensor:
        return broadcast(super().uniform(*shape), self.numbers_of)


def stand_in(
    x: Tensor,
    sample_weight: Tensor | None,
    problem: Problem,
    generator: Generators,
    group: ProcessGroup | None,
) -> HeldDraws:
    """Draws from rows (n, d) or (P, n, d) with weights (n,) or (P, n) that all ranks of a group
    hold alike."""
    space = workspace(x, sample_weight, metric=problem.metric, dtype=problem.dtype)
    return StandIn(
        [Batch(x, sample_weight, start=0)],
        problem,
        generator=generator,
        workspaces=[space],
        numbers_of=group,
    )
