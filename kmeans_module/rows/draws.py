"""Rows in memory as seeding sees them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from kmeans_module.backends import Workspace, workspace
from kmeans_module.core.distances import unit_rows
from kmeans_module.core.problem import Problem
from kmeans_module.rows.batch import Batch
from kmeans_module.rows.keyed import KeyedDraw, draw_seeds, repeat_first
from kmeans_module.rows.positions import Positions, first_occurrences
from kmeans_module.rows.ranks import ProcessGroup, all_sum, broadcast


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
        generator: torch.Generator | None,
        group: ProcessGroup | None,
        workspaces: Sequence[Workspace],
    ) -> None:
        super().__init__(batches, problem, generator=generator, group=group)
        self.problem = problem
        self.workspaces = workspaces
        self.weights = [self.weight(i) for i in range(len(self.batches))]

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

    def standing_for(self, x: Tensor, sample_weight: Tensor) -> HeldDraws:
        return stand_in(x, sample_weight, self.problem, self.generator, self.group)

    def distinct(self, m: int) -> Tensor:
        masses = [weight.clone() for weight in self.weights]
        chosen = [torch.empty(0, dtype=torch.int64, device=self.device)] * self.n_problems
        while any(len(positions) < m for positions in chosen):
            drawn = self.draw(masses, m)
            self.mark(masses, drawn)
            for p, positions in enumerate(drawn):
                chosen[p] = torch.cat([chosen[p], first_occurrences(positions)])[:m]
        return self.take(torch.stack(chosen))

    def first(self) -> Tensor:
        return self.take(self.draw(self.weights, 1))

    def candidates(self, m: int) -> Tensor:
        # Where all distances are 0 the weights decide.
        return self.take(self.draw(self._far(), m, otherwise=self.weights))

    def _far(self) -> list[Tensor]:
        """Weight × squared distance to the nearest center, (P, n) for each batch."""
        return [
            near if batch.sample_weight is None and self.metric == "euclidean" else near * weight
            for near, weight, batch in zip(self.nearest, self.weights, self.batches, strict=True)
        ]

    def potentials(self, candidates: Tensor) -> Tensor:
        if self._alone:
            return self.workspaces[0].potentials(self.nearest[0], candidates)
        potential = torch.zeros(candidates.shape[:2], dtype=self.accumulator, device=self.device)
        for near, space in zip(self.nearest, self.workspaces, strict=True):
            potential += space.potentials(near, candidates)
        return all_sum([potential], self.group)[0]

    def lower(self, center: Tensor) -> None:
        for near, space in zip(self.nearest, self.workspaces, strict=True):
            if center.shape[1] == 1:
                space.lower(near, center)
                continue
            distances = space.e_step(center).distances
            distances = 2 * distances if self.metric == "cosine" else distances
            torch.minimum(near, distances, out=near)

    def by_distance(self, centers: Tensor | None, m: int) -> Tensor:
        if centers is not None:
            self.lower(centers)
        seeds = draw_seeds(self.n_problems, self.generator, self.device, self.group)
        draw = KeyedDraw(m, seeds, n_features=self.n_features, dtype=self.dtype)
        masses = self.weights if centers is None else self._far()
        for batch, mass, start in zip(self.batches, masses, self.starts, strict=True):
            numbers = torch.arange(start, start + mass.shape[-1], device=self.device)
            draw.add(batch.x, None, mass, numbers)
        rows, _, valid = draw.finish(self.group)
        return repeat_first(unit_rows(rows) if self.metric == "cosine" else rows, valid, m)

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

    def uniform(self, m: int) -> Tensor:
        return broadcast(super().uniform(m), self.numbers_of)


def stand_in(
    x: Tensor,
    sample_weight: Tensor,
    problem: Problem,
    generator: torch.Generator | None,
    group: ProcessGroup | None,
) -> HeldDraws:
    """Draws from rows (P, n, d) with weights (P, n) that all ranks of a group hold alike."""
    space = workspace(x, sample_weight, metric=problem.metric, dtype=problem.dtype)
    return StandIn(
        [Batch(x, sample_weight, start=0)],
        problem,
        generator=generator,
        workspaces=[space],
        numbers_of=group,
    )
