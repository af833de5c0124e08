"""The E-step in plain torch: for every device, and the measure of every faster backend.

Labels are those of the nearest centroid within the rounding of Σ(x - c)², which decides and is
what distances are; see :mod:`kmeans_module.core.nearest`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from kmeans_module.backends.beam import torch_beam_search
from kmeans_module.backends.moments import torch_moments
from kmeans_module.backends.neighbors import torch_search
from kmeans_module.backends.sparse import (
    sparse_farthest,
    sparse_stats_of_labels,
    sparse_unit_rows,
    sparse_weights,
)
from kmeans_module.core.distances import (
    chunk_rows,
    compute_dtype,
    few_distances,
    pairwise_distances,
    squared_norms,
    unit_rows,
)
from kmeans_module.core.guard import captured, for_other_inputs, no_values, under_mode
from kmeans_module.core.nearest import Screen
from kmeans_module.core.neighbors import Neighbors
from kmeans_module.core.scale import Scale
from kmeans_module.core.soft import in_chunks
from kmeans_module.core.sparse import is_sparse, rows_at
from kmeans_module.core.statistics import (
    MAX_FARTHEST,
    ClusterStats,
    EStep,
    Farthest,
    accumulator_dtype,
    find_farthest,
    gather_rows,
    rows_and_weights,
    space_rows,
    stats_of_labels,
)

_BLOCKS = 4096  # of numbers that are added up together


class ReferenceWorkspace:
    """See :class:`kmeans_module.backends.Workspace`."""

    together = True

    changed: Tensor
    labels: Tensor

    def __init__(
        self, x: Tensor, sample_weight: Tensor | None = None, *, metric: str = "euclidean"
    ) -> None:
        self.x = x
        self.sample_weight = sample_weight
        self.metric = metric
        self._last: Tensor | None = None
        self._k = 0

    def assign(self, centroids: Tensor) -> tuple[Tensor, Tensor | bool]:
        """Labels (P, n), and whether every row had a finite score, ()."""
        labels, _, finite = self._nearest(centroids)
        return labels, finite

    def statistics(
        self, centroids: Tensor, *, start: int = 0, farthest: bool = True
    ) -> ClusterStats:
        return self._step(centroids, start, farthest).stats

    def e_step(self, centroids: Tensor, *, start: int = 0) -> EStep:
        return self._step(centroids, start, True)

    def _step(self, centroids: Tensor, start: int, wants_farthest: bool) -> EStep:
        problems, k, d = centroids.shape
        n = self.x.shape[-2]
        dtype = compute_dtype(self.x, centroids)
        accumulator = accumulator_dtype(self.x.device)
        device = self.x.device
        labels, parts, _ = self._nearest(centroids)
        to_nearest = torch.empty((problems, n), dtype=dtype, device=device)
        sums = torch.zeros((problems * k, d), dtype=accumulator, device=device)
        counts = torch.zeros(problems * k, dtype=accumulator, device=device)
        inertia = torch.zeros(problems, dtype=accumulator, device=device)
        flat_centroids = centroids.to(dtype).reshape(problems * k, d)
        first_cluster = torch.arange(problems, device=device).unsqueeze(-1) * k
        # Accelerators would make the host wait for a look at the counts; a program serves other
        # rows than those that it is made with.
        unseen = device.type != "cpu" or no_values(counts, labels) is not None

        for part in parts:
            rows, weights = self._rows_and_weights(part, dtype, problems)
            clusters = (labels[:, part] + first_cluster).flatten()
            nearest_centroids = flat_centroids.index_select(0, clusters).view_as(rows)
            chunk_distances = squared_norms(rows - nearest_centroids)
            if self.metric == "cosine":
                chunk_distances = (chunk_distances / 2).where((rows != 0).any(dim=-1), 1.0)
            to_nearest[:, part] = chunk_distances
            rows = rows.to(accumulator)
            chunk_distances = chunk_distances.to(accumulator)
            if weights is not None:
                rows = rows * weights.unsqueeze(-1)
                chunk_distances = chunk_distances * weights
                counts.index_add_(0, clusters, weights.reshape(-1))
            elif unseen:  # bincount looks at the labels
                counts.index_add_(0, clusters, counts.new_ones(1).expand(clusters.shape[0]))
            else:
                counts += torch.bincount(clusters, minlength=problems * k)
            sums.index_add_(0, clusters, rows.reshape(-1, d))
            inertia += chunk_distances.sum(dim=-1)

        stats = ClusterStats(sums.view(problems, k, d), counts.view(problems, k), inertia)
        if wants_farthest and (unseen or bool((counts == 0).any())):
            stats = replace(stats, farthest=self._farthest(labels, to_nearest, k, start))
        self._count_changed(labels)
        return EStep(labels, to_nearest, stats)

    def _farthest(self, labels: Tensor, distances: Tensor, k: int, start: int) -> Farthest:
        problems, dtype = len(labels), distances.dtype
        if is_sparse(self.x):
            return sparse_farthest(
                self.x, self._sparse_weights(problems), labels, distances, k, metric=self.metric,
                start=start,
            )  # fmt: skip
        return find_farthest(
            lambda part: self._rows_and_weights(part, dtype, problems), labels, distances,
            n_features=self.x.shape[-1], m=min(k, MAX_FARTHEST), start=start,
        )  # fmt: skip

    def _in_space(self, dtype: torch.dtype) -> Tensor:
        """Sparse rows in the space where the metric is Euclidean."""
        x = self.x.to(dtype)
        return sparse_unit_rows(x) if self.metric == "cosine" else x

    def _sparse_weights(self, problems: int) -> Tensor:
        return sparse_weights(self.x, self.sample_weight, metric=self.metric, problems=problems)

    def _count_changed(self, labels: Tensor) -> None:
        """Compare labels (P, n) with those of the previous E-step."""
        if self._last is None or self._last.shape != labels.shape:
            problems, n = labels.shape
            self.changed = torch.full((problems,), n, device=labels.device)
        else:
            self.changed = (labels != self._last).sum(dim=-1)
        self._last = self.labels = labels

    def rounds(self, center: Tensor, numbers: Tensor, drawn_by: Tensor | None) -> None:
        return None

    def sums_of(self, labels: Tensor, k: int) -> ClusterStats:
        if is_sparse(self.x):
            unit = self._in_space(torch.promote_types(self.x.dtype, torch.float32))
            return sparse_stats_of_labels(unit, self._sparse_weights(len(labels)), labels, k)
        return stats_of_labels(self.x, self.sample_weight, labels, k, metric=self.metric)

    def potentials(self, nearest: Tensor, candidates: Tensor) -> Tensor:
        problems, m = candidates.shape[:2]
        accumulator = accumulator_dtype(self.x.device)
        potential = torch.zeros((problems, m), dtype=accumulator, device=self.x.device)
        for part, distances in self._distances_to(candidates, nearest.dtype):
            lowered = distances.minimum(nearest[:, part].unsqueeze(-1)).to(accumulator)
            _, weights = self._rows_and_weights(part, nearest.dtype, problems)
            if weights is not None:
                lowered = lowered * weights.unsqueeze(-1)
            potential += lowered.sum(dim=1)
        return potential

    def lower(self, nearest: Tensor, center: Tensor) -> None:
        for part, distances in self._distances_to(center, nearest.dtype):
            nearest[:, part] = nearest[:, part].minimum(distances.squeeze(-1))

    def _distances_to(self, points: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """Slices of rows with their distances to a few points (P, m, d)."""
        problems, m, d = points.shape
        n = self.x.shape[-2]
        size = chunk_rows(n, 4 * m, d, problems, self.x.device)
        for first in range(0, n, size):
            part = slice(first, min(first + size, n))
            rows = space_rows(self.x, part, metric=self.metric, dtype=dtype)
            yield part, few_distances(rows, points)

    def _nearest(self, centroids: Tensor) -> tuple[Tensor, list[slice], Tensor]:
        """Labels (P, n) by chunks of rows, these chunks, and whether all scores were finite ()."""
        problems, k, d = centroids.shape
        n, device = self.x.shape[-2], centroids.device
        dtype = compute_dtype(self.x, centroids)
        screen = Screen(centroids.to(dtype))
        recorded = under_mode() is not None or self.x.is_meta or captured(self.x)
        if for_other_inputs():
            parts = [slice(None)]
        else:
            size = chunk_rows(n, screen.fixed_width if recorded else k, d, problems, device)
            parts = [slice(first, min(first + size, n)) for first in range(0, n, size)]
        # Allocated at once: what outlives a chunk between its temporaries would split the heap.
        labels = torch.empty((problems, n), dtype=torch.int64, device=device)
        doubtful = torch.zeros((problems, n), dtype=torch.bool, device=device)
        finite = torch.ones((), dtype=torch.bool, device=device)
        for part in parts:
            rows = space_rows(self.x, part, metric=self.metric, dtype=dtype)
            if recorded:
                chosen = screen.decide_in_a_fixed_graph(rows)
            else:
                chosen, doubtful[:, part], chunk_finite = screen.guess(rows)
                finite &= chunk_finite
            labels[:, part] = self._without_zero_rows(chosen, rows)
        if not recorded:
            self._decide(labels, doubtful, screen)
        return labels, parts, finite

    def _decide(self, labels: Tensor, doubtful: Tensor, screen: Screen) -> None:
        """Correct the labels (P, n) of the rows that are in doubt, (P, n). The host waits for the
        device once, and again where there are such rows."""
        problem, row = doubtful.nonzero(as_tuple=True)
        if not len(row):
            return
        index = row.unsqueeze(0)
        if len(doubtful) > 1:  # (P, m) with the rows of each problem, the first one repeated
            counts = doubtful.sum(dim=-1)
            first = counts.cumsum(0) - counts
            place = torch.arange(len(row), device=row.device) - first[problem]
            filler = row[first.clamp(max=len(row) - 1)].where(counts > 0, 0)
            index = filler.unsqueeze(-1).repeat(1, int(counts.max()))
            index[problem, place] = row
        dtype = screen.centroids.dtype
        k, d = screen.centroids.shape[1:]
        size = chunk_rows(index.shape[-1], k, d, len(labels), row.device)
        for part in torch.split(index, size, dim=-1):
            rows = gather_rows(self.x, part) if self.x.ndim == 3 else rows_at(self.x, part)
            rows = space_rows(rows, slice(None), metric=self.metric, dtype=dtype)
            labels.scatter_(-1, part, self._without_zero_rows(screen.decide(rows), rows))

    def _without_zero_rows(self, labels: Tensor, rows: Tensor) -> Tensor:
        """Under the cosine metric zero rows have label 0."""
        return labels * (rows != 0).any(dim=-1) if self.metric == "cosine" else labels

    def _rows_and_weights(
        self, part: slice, dtype: torch.dtype, problems: int
    ) -> tuple[Tensor, Tensor | None]:
        return rows_and_weights(
            self.x, self.sample_weight, part, metric=self.metric, dtype=dtype, problems=problems
        )


class ReferenceBackend:
    """See :class:`kmeans_module.backends.Backend`."""

    name = "reference"
    workspace_type: type[ReferenceWorkspace] = ReferenceWorkspace
    device = "any device"
    operations: tuple[str, ...] = ("e_step", "unit", "beam", "search", "sums", "moments")

    def missing(self) -> str | None:
        return None

    def serves(self, device: torch.device) -> bool:
        return True

    def obstacle(
        self, x: Tensor, dtype: torch.dtype | None = None, operation: str = "e_step"
    ) -> str | None:
        return None

    def workspace(
        self,
        x: Tensor,
        sample_weight: Tensor | None,
        *,
        metric: str,
        dtype: torch.dtype | None = None,
        once: bool,
    ) -> ReferenceWorkspace:
        return self.workspace_type(x, sample_weight, metric=metric)

    beam_search = staticmethod(torch_beam_search)

    def search(self, x: Tensor, centroids: Tensor, m: int, *, metric: str) -> Neighbors:
        return torch_search(x, centroids, m, metric=metric)

    def unit_rows(self, x: Tensor) -> Tensor:
        return sparse_unit_rows(x) if is_sparse(x) else unit_rows(x)

    def sparse_distances(self, x: Tensor, centroids: Tensor, *, metric: str) -> Tensor:
        return in_chunks(partial(pairwise_distances, metric=metric), x, centroids)[0]

    def draw(self, mass: Tensor, size: int, numbers: Tensor) -> tuple[Tensor, bool]:
        largest = mass.amax(dim=-1)
        scale = Scale.of(largest.to(accumulator_dtype(mass.device)), mass.shape[-1])
        blocks = self.block_sums(mass, size, scale)
        target = shares(numbers, blocks.sum(dim=-1, keepdim=True))
        found = self.search_sums(mass, size, scale, blocks, target)
        return found, mass.device.type != "cpu" or bool(largest.all())

    def block_sums(self, mass: Tensor, size: int, scale: Scale) -> Tensor:
        n, parts = mass.shape[-1], []
        for first in range(
            0, max(1, n), size * _BLOCKS
        ):  # integers of all would take twice the rows
            numbers = scale.integers(mass[:, first : first + size * _BLOCKS])
            numbers = torch.nn.functional.pad(numbers, (0, -numbers.shape[-1] % size))
            parts.append(numbers.view(len(mass), -1, size).sum(dim=-1))
        return torch.cat(parts, dim=-1)

    def search_sums(
        self, mass: Tensor, size: int, scale: Scale, blocks: Tensor, target: Tensor
    ) -> Tensor:
        n = mass.shape[-1]
        if 4 * target.shape[-1] * size > n:  # the blocks of the targets would outgrow the rows
            cumulative = scale.integers(mass).cumsum(dim=-1)
            target = target.minimum(cumulative[:, -1:] - 1)
            return torch.searchsorted(cumulative, target, right=True).clamp(max=n - 1)
        ends = blocks.cumsum(dim=-1)
        target = target.minimum(ends[:, -1:] - 1)
        block = torch.searchsorted(ends, target, right=True).clamp(max=ends.shape[-1] - 1)
        inside = target - (ends - blocks).gather(-1, block)
        index = block.unsqueeze(-1) * size + torch.arange(size, device=mass.device)
        within = index < n
        index = index.clamp(max=n - 1)
        numbers = scale.integers(mass.gather(-1, index.flatten(1))).view_as(index)
        cumulative = numbers.where(within, 0).cumsum(dim=-1)
        place = torch.searchsorted(cumulative, inside.unsqueeze(-1), right=True)
        return index.gather(-1, place.clamp(max=size - 1)).squeeze(-1)

    def moments(
        self, x: Tensor, sample_weight: Tensor | None, center: Tensor | None, *, metric: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        return torch_moments(x, sample_weight, center, metric=metric)


def shares(numbers: Tensor, total: Tensor) -> Tensor:
    """Where numbers (P, m) in [0, 1) fall in totals (P, 1) of integers: (P, m) int64."""
    target = (numbers * total.to(numbers.dtype)).floor().long()
    return target.minimum(total - 1).clamp(min=0)


BACKEND = ReferenceBackend()
