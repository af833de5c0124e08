"""Rows in memory by their number, over batches and ranks, and draws of these numbers.

Positions number the rows of all ranks; a draw is a uniform number and a search for it in the
cumulative sum of the masses, so it is the same whatever batches and ranks hold the rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kmeans_module.backends import backend_for, unit_rows
from kmeans_module.backends.reference import shares
from kmeans_module.core.distances import declared_dtype
from kmeans_module.core.generators import Generators, drawn, n_restarts, place_of
from kmeans_module.core.problem import Problem
from kmeans_module.core.scale import Scale
from kmeans_module.core.sparse import no_rows, nonzero_rows, rows_at
from kmeans_module.core.statistics import accumulator_dtype, gather_rows
from kmeans_module.rows.batch import Batch
from kmeans_module.rows.ranks import ProcessGroup, all_gather, all_sum, broadcast, rank
from kmeans_module.rows.sampling import block_sums, draw, search

_NOWHERE = torch.iinfo(torch.int64).max


class Positions:
    """The rows of P problems by their number, over batches and ranks.

    Args:
        batches: of this rank, each with a ``start``; x is (n, d), shared by the problems, or
            (P, n, d).
        problem: what is asked for; "cosine" scales rows to unit length and gives zero rows no
            weight.
        generator: draws on its own device, by default torch's CPU generator; those of restarts
            draw for their own problems.
        group: the ranks that hold the rest.
    """

    def __init__(
        self,
        batches: Sequence[Batch],
        problem: Problem,
        *,
        generator: Generators,
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
        sample = (
            no_rows(batches[0].x)
            if batches
            else torch.empty(0, dtype=problem.dtype, device=problem.device)
        )
        self.dtype = declared_dtype(sample, problem.dtype)
        self._backend = backend_for(sample.new_empty(0, 0, dtype=self.dtype), operation="sums")
        self._lay_out()

    def _lay_out(self) -> None:
        """Number the positions of all rows: batches of all ranks in the order of ``start``."""
        sizes = [batch.x.shape[-2] for batch in self.batches]
        self._alone = self.group is None and len(sizes) == 1
        if self._alone:
            self.starts, self._places, self.n_samples = [0], [0], sizes[0]
            return
        # On the CPU, where nothing is waited for.
        slots = int(all_gather(torch.tensor([len(sizes)]), self.group).max())
        table = torch.zeros((slots, 2), dtype=torch.int64)
        table[:, 0] = _NOWHERE
        for i, (batch, size) in enumerate(zip(self.batches, sizes, strict=True)):
            table[i, 0], table[i, 1] = batch.start or 0, size
        flat = all_gather(table, self.group).view(-1, 2)
        order = flat[:, 0].argsort(stable=True)
        ends = flat[order, 1].cumsum(0)
        starts = torch.empty_like(ends)
        starts[order] = ends - flat[order, 1]
        first = rank(self.group) * slots
        mine = slice(first, first + len(sizes))
        self.starts = starts[mine].tolist()
        self._places = order.argsort()[mine].tolist()
        self.n_samples = int(flat[:, 1].sum())
        self._slots, self._order = slots, order.to(self.device, non_blocking=True)

    def weight(self, i: int) -> Tensor:
        """Weights of batch i, (P, n)."""
        x, sample_weight = self.batches[i].x, self.batches[i].sample_weight
        if sample_weight is None:
            weight = torch.ones(x.shape[:-1], dtype=self.dtype, device=self.device)
        else:
            weight = sample_weight.to(self.accumulator)
        if self.metric == "cosine":
            weight = weight * nonzero_rows(x)
        return weight.expand(self.n_problems, -1)

    def uniform(self, *shape: int) -> Tensor:
        """Numbers in [0, 1), the same on all ranks; of each restart an equal part of the first
        dimension."""
        device = place_of(self.generator)
        shape = (shape[0] // n_restarts(self.generator), *shape[1:])

        def draw(generator: torch.Generator | None) -> Tensor:
            return torch.rand(
                shape, dtype=accumulator_dtype(device), device=device, generator=generator
            )

        numbers = drawn(draw, self.generator)
        numbers = numbers.to(self.device, self.accumulator, non_blocking=True)
        return broadcast(numbers, self.group)

    def draw(
        self,
        masses: Sequence[Tensor],
        numbers: Tensor,
        *,
        otherwise: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Positions (P, m), each drawn in proportion to the masses, one (P, n) per batch; for
        problems whose masses are all 0, to other masses. Numbers (P, m) in [0, 1) decide."""
        # A look at a device would make the host wait.
        looks = self.device.type == "cpu"
        if otherwise is not None and not looks:
            masses = self._instead(masses, otherwise)
        if self._alone:
            positions, all_have = draw(masses[0], numbers, self._backend)
            if all_have or otherwise is None:
                return positions
            return self.draw(self._instead(masses, otherwise), numbers)
        largest = self._largest(masses)
        if otherwise is not None and looks and not bool(largest.all()):
            return self.draw(self._instead(masses, otherwise), numbers)
        scale = Scale.of(largest, self.n_samples)
        blocks = [block_sums(mass, scale, self._backend) for mass in masses]
        ends = self._ends(blocks)
        target = shares(numbers, ends[-1])
        positions = torch.zeros(target.shape, dtype=torch.int64, device=self.device)
        for i, (mass, place) in enumerate(zip(masses, self._places, strict=True)):
            low = ends[place - 1] if place else torch.zeros_like(ends[0])
            local = search(mass, scale, blocks[i], target - low, self._backend) + self.starts[i]
            positions += local * ((target >= low) & (target < ends[place]))
        return all_sum([positions], self.group)[0]

    def _instead(self, masses: Sequence[Tensor], otherwise: Sequence[Tensor]) -> list[Tensor]:
        """The masses, or the others in problems where all masses are 0."""
        nothing, pairs = (
            self._largest(masses).unsqueeze(-1) == 0,
            zip(masses, otherwise, strict=True),
        )
        return [other.to(mass).where(nothing, mass) for mass, other in pairs]

    def _largest(self, masses: Sequence[Tensor]) -> Tensor:
        """The largest mass of all ranks, (P,)."""
        largest = [mass.amax(dim=-1).to(self.accumulator) for mass in masses]
        if self._alone:
            return largest[0]
        nothing = torch.zeros(self.n_problems, dtype=self.accumulator, device=self.device)
        return all_gather(torch.stack([nothing, *largest]).amax(dim=0), self.group).amax(dim=0)

    def _ends(self, blocks: Sequence[Tensor]) -> Tensor:
        """Cumulative sums over the batches of all ranks in the order of ``start``, (·, P, 1)."""
        shape = (self._slots, self.n_problems)
        totals = torch.zeros(shape, dtype=torch.int64, device=self.device)
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

    def without(self, masses: Sequence[Tensor], positions: Tensor) -> list[Tensor]:
        """Masses that are 0 at positions (P, m)."""
        left = []
        for mass, start in zip(masses, self.starts, strict=True):
            local = positions - start
            inside = (local >= 0) & (local < mass.shape[-1])
            problem, column = inside.nonzero(as_tuple=True)
            mass = mass.clone()
            mass[problem, local[problem, column]] = 0
            left.append(mass)
        return left

    def _at(self, batch: Batch, positions: Tensor) -> Tensor:
        """Rows of a batch, where the metric is Euclidean: (P, m, d)."""
        rows = gather_rows(batch.x, positions) if batch.x.ndim == 3 else rows_at(batch.x, positions)
        rows = rows.to(self.dtype)
        return unit_rows(rows) if self.metric == "cosine" else rows
