"""All rows of a job as one sequence, whatever batches and ranks hold them.

Initialisation needs four operations of the data: take rows by position, draw positions by
weight, measure the potential of candidates, and lower the distance to the nearest centre.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kmeans_module.backends import (
    Workspace,
    accumulator_dtype,
    compute_dtype,
    prepare,
    unit_rows,
)
from kmeans_module.core.statistics import gather_rows
from kmeans_module.rows.batch import Batch
from kmeans_module.rows.ranks import ProcessGroup, all_gather, all_sum, broadcast, rank
from kmeans_module.rows.sampling import block_sums, just_below, search

_NOWHERE = torch.iinfo(torch.int64).max


class Rows:
    """Rows of P independent problems over batches and ranks.

    Args:
        batches: what this rank holds; ``start`` orders the batches of all ranks, and x is
            (n, d), shared by the problems, or (P, n, d).
        n_problems: P.
        metric: "cosine" scales rows to unit length and gives zero rows no weight.
        like: a tensor of the layer's dtype and device.
        generator: draws on its own device, by default torch's CPU generator.
        group: the ranks that hold the rest.
        workspaces: of the batches, to find again what they have learnt; None for new ones.
    """

    def __init__(
        self,
        batches: Sequence[Batch],
        *,
        n_problems: int,
        metric: str,
        like: Tensor,
        generator: torch.Generator | None,
        group: ProcessGroup | None,
        workspaces: Sequence[Workspace] | None = None,
    ) -> None:
        self.n_problems = n_problems
        self.metric = metric
        self.generator = generator
        self.group = group
        self.device = like.device
        self.accumulator = accumulator_dtype(like.device)
        self.batches = [batch for batch in batches if batch.x.shape[-2]]
        if workspaces is None or len(self.batches) != len(batches):
            workspaces = [
                prepare(batch.x, batch.sample_weight, metric=metric) for batch in self.batches
            ]
        self.workspaces = workspaces
        self.n_features = batches[0].x.shape[-1]
        self.dtype = compute_dtype(batches[0].x, like)
        self._lay_out()

    def _lay_out(self) -> None:
        """Number the positions of all rows: batches of all ranks in the order of ``start``."""
        sizes = [batch.x.shape[-2] for batch in self.batches]
        most = torch.tensor([len(sizes)], device=self.device)
        slots = int(all_gather(most, self.group).max())
        table = torch.zeros((slots, 2), dtype=torch.int64, device=self.device)
        table[:, 0] = _NOWHERE
        for i, (batch, size) in enumerate(zip(self.batches, sizes, strict=True)):
            table[i] = torch.tensor([batch.start, size])
        tables = all_gather(table, self.group)
        flat = tables.view(-1, 2)
        self._order = flat[:, 0].argsort(stable=True)
        ends = flat[self._order, 1].cumsum(0)
        starts = torch.empty_like(ends)
        starts[self._order] = ends - flat[self._order, 1]
        self.n_samples = int(ends[-1]) if len(ends) else 0
        self._slots = slots
        self._alone = self.group is None and len(sizes) == 1
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
        device = "cpu" if self.generator is None else self.generator.device
        numbers = torch.rand(
            (self.n_problems, m), dtype=accumulator_dtype(torch.device(device)),
            device=device, generator=self.generator,
        )  # fmt: skip
        return broadcast(numbers.to(self.device, self.accumulator), self.group)

    def total(self, masses: Sequence[Tensor]) -> Tensor:
        """Sum over all rows of (P, n) numbers per batch, (P,)."""
        sums = torch.zeros(self.n_problems, dtype=self.accumulator, device=self.device)
        for mass in masses:
            sums += mass.sum(dim=-1, dtype=self.accumulator)
        return all_sum([sums], self.group)[0]

    def draw(
        self, masses: Sequence[Tensor], m: int, *, otherwise: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Positions (P, m), each drawn in proportion to the masses, one (P, n) per batch; for
        problems whose masses are all 0, to other masses.

        Cumulative sums in float64, of blocks and then within one, and a search in them, have no
        limit on the number of rows.
        """
        blocks = [block_sums(mass) for mass in masses]
        ends = self._ends(blocks)
        total = ends[-1]
        if otherwise is not None and bool((nothing := total == 0).any()):
            instead = zip(otherwise, masses, strict=True)
            return self.draw([other.to(mass).where(nothing, mass) for other, mass in instead], m)
        target = (self.uniform(m) * total).minimum(just_below(total))
        if self._alone:
            return search(masses[0], blocks[0], target)
        positions = torch.zeros((self.n_problems, m), dtype=torch.int64, device=self.device)
        for i, (mass, place) in enumerate(zip(masses, self._places, strict=True)):
            low = ends[place - 1] if place else torch.zeros_like(total)
            found = search(mass, blocks[i], target - low) + self.starts[i]
            positions += found * ((target >= low) & (target < ends[place]))
        return all_sum([positions], self.group)[0]

    def _ends(self, blocks: Sequence[Tensor]) -> Tensor:
        """Cumulative sums over the batches of all ranks in the order of ``start``, (·, P, 1)."""
        if self._alone:
            return blocks[0].sum(dim=-1).view(1, -1, 1)
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
        rows = batch.x[positions] if batch.x.ndim == 2 else gather_rows(batch.x, positions)
        rows = rows.to(self.dtype)
        return unit_rows(rows) if self.metric == "cosine" else rows

    def mark(self, masses: Sequence[Tensor], positions: Tensor) -> None:
        """Set the masses at positions (P, m) to 0, in place."""
        for i, mass in enumerate(masses):
            local = positions - self.starts[i]
            inside = (local >= 0) & (local < mass.shape[-1])
            problem, column = inside.nonzero(as_tuple=True)
            mass[problem, local[problem, column]] = 0

    def potentials(self, nearest: Sequence[Tensor], candidates: Tensor) -> Tensor:
        """Weighted inertia if each of the candidates (P, m, d) joined the centres, (P, m)."""
        if self._alone:
            return self.workspaces[0].potentials(nearest[0], candidates)
        potential = torch.zeros(candidates.shape[:2], dtype=self.accumulator, device=self.device)
        for near, workspace in zip(nearest, self.workspaces, strict=True):
            potential += workspace.potentials(near, candidates)
        return all_sum([potential], self.group)[0]

    def lower(self, nearest: Sequence[Tensor], centers: Tensor) -> None:
        """Lower the distances to the nearest centre by new centers (P, m, d), in place."""
        for near, workspace in zip(nearest, self.workspaces, strict=True):
            if centers.shape[1] == 1:
                workspace.lower(near, centers)
                continue
            distances = workspace.e_step(centers).distances
            distances = 2 * distances if self.metric == "cosine" else distances
            torch.minimum(near, distances, out=near)
