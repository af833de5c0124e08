"""Draws by position from rows in memory, and seeding's view of them.

Positions number the rows of all ranks; a draw is a uniform number and a search for it in the
cumulative sum of the masses, so it is the same whatever batches and ranks hold the rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from kmeans_module.backends import Workspace, backend_for
from kmeans_module.backends.reference import just_below
from kmeans_module.core.distances import compute_dtype, unit_rows
from kmeans_module.core.problem import Problem
from kmeans_module.core.statistics import accumulator_dtype, gather_rows
from kmeans_module.rows.batch import Batch
from kmeans_module.rows.keyed import KeyedDraw
from kmeans_module.rows.ranks import ProcessGroup, all_gather, all_sum, broadcast, rank
from kmeans_module.rows.sampling import block_sums, search

_NOWHERE = torch.iinfo(torch.int64).max


class Positions:
    """The rows of P problems by their number, over batches and ranks.

    Args:
        batches: of this rank, each with a ``start``; x is (n, d), shared by the problems, or
            (P, n, d).
        problem: what is asked for; "cosine" scales rows to unit length and gives zero rows no
            weight.
        generator: draws on its own device, by default torch's CPU generator.
        group: the ranks that hold the rest.
    """

    def __init__(
        self,
        batches: Sequence[Batch],
        problem: Problem,
        *,
        generator: torch.Generator | None,
        group: ProcessGroup | None,
    ) -> None:
        self.n_problems = problem.n_problems
        self.metric = problem.metric
        self.generator = generator
        self.group = group
        self.device = problem.device
        self.accumulator = accumulator_dtype(problem.device)
        self.n_features = problem.n_features
        self.batches = [batch for batch in batches if batch.x.shape[-2]]
        sample = batches[0].x if batches else torch.empty(0, dtype=problem.dtype)
        self.dtype = compute_dtype(sample, problem.dtype)
        self._backend = backend_for(sample.new_empty(0, 0, dtype=self.dtype), operation="sums")
        self._lay_out()

    def _lay_out(self) -> None:
        """Number the positions of all rows: batches of all ranks in the order of ``start``."""
        sizes = [batch.x.shape[-2] for batch in self.batches]
        self._alone = self.group is None and len(sizes) == 1
        if self._alone:
            self.starts, self._places = [0], [0]
            return
        most = torch.tensor([len(sizes)], device=self.device)
        slots = int(all_gather(most, self.group).max())
        table = torch.zeros((slots, 2), dtype=torch.int64, device=self.device)
        table[:, 0] = _NOWHERE
        for i, (batch, size) in enumerate(zip(self.batches, sizes, strict=True)):
            table[i, 0], table[i, 1] = batch.start or 0, size
        flat = all_gather(table, self.group).view(-1, 2)
        self._order = flat[:, 0].argsort(stable=True)
        ends = flat[self._order, 1].cumsum(0)
        starts = torch.empty_like(ends)
        starts[self._order] = ends - flat[self._order, 1]
        self._slots = slots
        first = rank(self.group) * slots
        mine = slice(first, first + len(sizes))
        self.starts = [int(start) for start in starts[mine]]
        self._places = [int(place) for place in self._order.argsort()[mine]]

    def weight(self, i: int) -> Tensor:
        """Weights of batch i, (P, n)."""
        x, sample_weight = self.batches[i].x, self.batches[i].sample_weight
        if sample_weight is None:
            weight = torch.ones(x.shape[:-1], dtype=self.dtype, device=self.device)
        else:
            weight = sample_weight.to(self.accumulator)
        if self.metric == "cosine":
            weight = weight * (x != 0).any(dim=-1)
        return weight.expand(self.n_problems, -1)

    def uniform(self, m: int) -> Tensor:
        """Numbers in [0, 1), (P, m), the same on all ranks."""
        device = torch.device("cpu") if self.generator is None else self.generator.device
        numbers = torch.rand(
            (self.n_problems, m),
            dtype=accumulator_dtype(device),
            device=device,
            generator=self.generator,
        )
        return broadcast(numbers.to(self.device, self.accumulator), self.group)

    def draw(
        self, masses: Sequence[Tensor], m: int, *, otherwise: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Positions (P, m), each drawn in proportion to the masses, one (P, n) per batch; for
        problems whose masses are all 0, to other masses."""
        blocks = [block_sums(mass, self._backend) for mass in masses]
        ends = None if self._alone else self._ends(blocks)
        total = blocks[0].sum(dim=-1, keepdim=True) if ends is None else ends[-1]
        if otherwise is not None and not bool(total.all()):
            nothing, instead = total == 0, zip(otherwise, masses, strict=True)
            return self.draw([other.to(mass).where(nothing, mass) for other, mass in instead], m)
        target = (self.uniform(m) * total).minimum(just_below(total))
        if ends is None:
            return search(masses[0], blocks[0], target, self._backend)
        positions = torch.zeros((self.n_problems, m), dtype=torch.int64, device=self.device)
        for i, (mass, place) in enumerate(zip(masses, self._places, strict=True)):
            low = ends[place - 1] if place else torch.zeros_like(total)
            local = search(mass, blocks[i], target - low, self._backend) + self.starts[i]
            positions += local * ((target >= low) & (target < ends[place]))
        return all_sum([positions], self.group)[0]

    def _ends(self, blocks: Sequence[Tensor]) -> Tensor:
        """Cumulative sums over the batches of all ranks in the order of ``start``, (·, P, 1)."""
        shape = (self._slots, self.n_problems)
        totals = torch.zeros(shape, dtype=self.accumulator, device=self.device)
        for i, sums in enumerate(blocks):
            totals[i] = sums.sum(dim=-1)
        totals = all_gather(totals, self.group).view(-1, self.n_problems)
        return totals[self._order].cumsum(0).unsqueeze(-1)

    def take(self, positions: Tensor) -> Tensor:
        """The rows at positions (P, m), where the metric is Euclidean: (P, m, d)."""
        if self._alone:
            return self._at(self.batches[0], positions)
        shape = (*positions.shape, self.n_features)
        taken = torch.zeros(shape, dtype=self.accumulator, device=self.device)
        for i, batch in enumerate(self.batches):
            local = positions - self.starts[i]
            inside = (local >= 0) & (local < batch.x.shape[-2])
            local = local.clamp(0, batch.x.shape[-2] - 1)
            rows = self._at(batch, local).to(self.accumulator)
            taken += rows.where(inside.unsqueeze(-1), 0)
        return all_sum([taken], self.group)[0].to(self.dtype)

    def _at(self, batch: Batch, positions: Tensor) -> Tensor:
        """Rows of a batch, where the metric is Euclidean: (P, m, d)."""
        if batch.x.ndim == 3:
            rows = gather_rows(batch.x, positions)
        else:
            rows = batch.x.index_select(0, positions.flatten()).view(*positions.shape, -1)
        rows = rows.to(self.dtype)
        return unit_rows(rows) if self.metric == "cosine" else rows

    def mark(self, masses: Sequence[Tensor], positions: Tensor) -> None:
        """Set the masses at positions (P, m) to 0, in place."""
        for i, mass in enumerate(masses):
            local = positions - self.starts[i]
            inside = (local >= 0) & (local < mass.shape[-1])
            problem, column = inside.nonzero(as_tuple=True)
            mass[problem, local[problem, column]] = 0


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
        from kmeans_module.rows.held import HeldRows

        # All ranks hold the same rows; the numbers drawn are those of the first rank.
        rows = HeldRows([Batch(x, sample_weight, start=0)], n_problems=len(x))
        draws = rows.draws(self.problem, self.generator)
        draws.numbers_from(self.group)
        return draws

    def numbers_from(self, group: ProcessGroup | None) -> None:
        """Take the random numbers of the group's first rank, though every rank has all rows."""
        self._numbers_group = group

    _numbers_group: ProcessGroup | None = None

    def uniform(self, m: int) -> Tensor:
        return broadcast(super().uniform(m), self._numbers_group)

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
        for near, workspace in zip(self.nearest, self.workspaces, strict=True):
            potential += workspace.potentials(near, candidates)
        return all_sum([potential], self.group)[0]

    def lower(self, center: Tensor) -> None:
        for near, workspace in zip(self.nearest, self.workspaces, strict=True):
            if center.shape[1] == 1:
                workspace.lower(near, center)
                continue
            distances = workspace.e_step(center).distances
            distances = 2 * distances if self.metric == "cosine" else distances
            torch.minimum(near, distances, out=near)

    def by_distance(self, centers: Tensor | None, m: int) -> Tensor:
        if centers is not None:
            self.lower(centers)
        seeds = draw_seeds(self.n_problems, self.generator, self.device, self.group)
        draw = KeyedDraw(m, seeds, n_features=self.n_features, dtype=self.dtype)
        masses = self.weights if centers is None else self._far()
        for batch, mass, start in zip(self.batches, masses, self.starts, strict=True):
            draw.add(batch.x, None, mass, start)
        rows, _, valid = draw.finish(self.group)
        return repeat_first(unit_rows(rows) if self.metric == "cosine" else rows, valid, m)

    def masses(self, centers: Tensor) -> Tensor:
        counts = torch.zeros(centers.shape[:2], dtype=self.accumulator, device=self.device)
        for workspace in self.workspaces:
            counts += workspace.statistics(centers).counts
        return all_sum([counts], self.group)[0]


def draw_seeds(
    problems: int,
    generator: torch.Generator | None,
    device: torch.device,
    group: ProcessGroup | None,
) -> Tensor:
    """A seed of keyed draws for each problem, (P,) int64, the same on all ranks."""
    place = "cpu" if generator is None else generator.device
    numbers = torch.randint(2**62, (problems,), device=place, generator=generator)
    return broadcast(numbers.to(device), group)


def repeat_first(rows: Tensor, valid: Tensor, m: int) -> Tensor:
    """Rows (P, m', d) made m by repeating the first in place of those that are not valid."""
    rows = rows.where(valid.unsqueeze(-1), rows[:, :1])
    missing = m - rows.shape[1]
    return torch.cat([rows, rows[:, :1].expand(-1, missing, -1)], dim=1) if missing else rows


def first_occurrences(values: Tensor) -> Tensor:
    """The values without repetitions, in the order in which they come."""
    order = values.argsort(stable=True)
    ordered = values[order]
    repeated = torch.zeros_like(values, dtype=torch.bool)
    repeated[order[1:]] = ordered[1:] == ordered[:-1]
    return values[~repeated]
