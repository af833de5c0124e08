"""The E-step in plain torch: for every device, and the measure of every faster kernel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from kmeans_module.core.statistics import (
    MAX_FARTHEST,
    ClusterStats,
    EStep,
    accumulator_dtype,
    find_farthest,
)

# Elements of one chunk's temporaries: a few L2 caches on the CPU, 64 MB on accelerators.
CHUNK_ELEMENTS = {"cpu": 1 << 20, "accelerator": 1 << 24}


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute products as asked: no autocast, no TF32, no bfloat16 passes."""
    with torch.autocast(device.type, enabled=False):
        if torch.compiler.is_compiling():
            yield
            return
        precision = torch.get_float32_matmul_precision()
        if precision != "highest":
            torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            if precision != "highest":
                torch.set_float32_matmul_precision(precision)


def compute_dtype(x: Tensor, centroids: Tensor) -> torch.dtype:
    """Precision of distances: that of the wider input, at least float32."""
    wider = torch.promote_types(x.dtype, centroids.dtype)
    return torch.promote_types(wider, torch.float32)


def chunk_rows(n: int, k: int, d: int, problems: int, device: torch.device) -> int:
    """Rows per chunk such that the temporaries stay within the budget."""
    budget = CHUNK_ELEMENTS["cpu" if device.type == "cpu" else "accelerator"]
    rows = min(n, budget // max(1, problems * (k + 4 * d)))
    return max(1, min(rows, 1 << 14) if device.type == "cpu" else rows)


def nearest(
    rows: Tensor, centroids: Tensor, offset: Tensor, half_norms: Tensor
) -> tuple[Tensor, Tensor]:
    """Labels, and the smallest score, of the rows of one chunk.

    The score ½‖c - o‖² - (x - o)·(c - o) differs from ½‖x - c‖² by a constant of the row,
    so both have the same argmin; the common offset o keeps it from cancelling.

    Args:
        rows: (m, d) or (P, m, d).
        centroids: centroids less the offset, transposed, (P, d, k).
        offset: (P, 1, d).
        half_norms: (P, 1, k).

    Returns:
        labels (P, m) and scores (P, m).
    """
    with full_precision(rows.device):
        scores = torch.baddbmm(half_norms, rows - offset, centroids, alpha=-1)
    smallest, labels = scores.min(dim=-1)
    return labels, smallest


def unit_rows(rows: Tensor) -> Tensor:
    """Rows scaled to length 1; zero rows stay zero. Overflows for no finite row."""
    largest = rows.abs().amax(dim=-1, keepdim=True)
    rows = rows / largest.where(largest > 0, 1.0)
    norms: Tensor = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows / norms.where(norms > 0, 1.0)


class ReferenceWorkspace:
    """Repeated E-steps on the same rows; see :func:`kmeans_module.backends.prepare`."""

    together = True

    changed: Tensor

    def __init__(
        self, x: Tensor, sample_weight: Tensor | None = None, *, metric: str = "euclidean"
    ) -> None:
        self.x = x
        self.sample_weight = sample_weight
        self.metric = metric
        self._last: Tensor | None = None

    def rows(self, part: slice, dtype: torch.dtype) -> Tensor:
        """Rows in the space where the metric is Euclidean, (m, d) or (P, m, d)."""
        rows = self.x[..., part, :].to(dtype)
        return unit_rows(rows) if self.metric == "cosine" else rows

    def assign(self, centroids: Tensor) -> tuple[Tensor, Tensor | bool]:
        """Labels (P, n), and whether every row had a finite score, ()."""
        # Allocated at once: what outlives a chunk between its temporaries would split the heap.
        shape = (len(centroids), self.x.shape[-2])
        labels = torch.empty(shape, dtype=torch.int64, device=centroids.device)
        finite = torch.ones((), dtype=torch.bool, device=centroids.device)
        for part, _rows, chunk_labels, scores in self._chunks(centroids):
            labels[:, part] = chunk_labels
            finite &= scores.isfinite().all()
        return labels, finite

    def e_step(self, centroids: Tensor, *, start: int = 0, distances: bool = True) -> EStep:
        """Assign every row and gather the statistics of the clusters.

        Args:
            centroids: (P, k, d).
            start: number of the first row in the whole data.
            distances: whether they are needed; they are known here in any case.
        """
        problems, k, d = centroids.shape
        n = self.x.shape[-2]
        dtype = compute_dtype(self.x, centroids)
        accumulator = accumulator_dtype(self.x.device)
        device = self.x.device
        labels = torch.empty((problems, n), dtype=torch.int64, device=device)
        to_nearest = torch.empty((problems, n), dtype=dtype, device=device)
        sums = torch.zeros((problems * k, d), dtype=accumulator, device=device)
        counts = torch.zeros(problems * k, dtype=accumulator, device=device)
        inertia = torch.zeros(problems, dtype=accumulator, device=device)
        flat_centroids = centroids.to(dtype).reshape(problems * k, d)
        first_cluster = torch.arange(problems, device=device).unsqueeze(-1) * k

        for part, rows, chunk_labels, _ in self._chunks(centroids):
            rows = rows.expand(problems, -1, -1)
            weights = self._weights(part, rows)
            clusters = (chunk_labels + first_cluster).flatten()
            nearest_centroids = flat_centroids.index_select(0, clusters).view_as(rows)
            difference = rows - nearest_centroids
            with full_precision(device):
                chunk_distances = torch.linalg.vecdot(difference, difference)
            if self.metric == "cosine":
                chunk_distances = (chunk_distances / 2).where((rows != 0).any(dim=-1), 1.0)
            labels[:, part] = chunk_labels
            to_nearest[:, part] = chunk_distances
            rows = rows.to(accumulator)
            chunk_distances = chunk_distances.to(accumulator)
            if weights is not None:
                rows = rows * weights.unsqueeze(-1)
                chunk_distances = chunk_distances * weights
                counts.index_add_(0, clusters, weights.reshape(-1))
            elif device.type == "cpu":
                counts += torch.bincount(clusters, minlength=problems * k)
            else:  # bincount would make the host wait
                counts.index_add_(0, clusters, counts.new_ones(1).expand(len(clusters)))
            sums.index_add_(0, clusters, rows.reshape(-1, d))
            inertia += chunk_distances.sum(dim=-1)

        stats = ClusterStats(sums.view(problems, k, d), counts.view(problems, k), inertia)
        # On accelerators a look at the counts would make the host wait.
        if device.type != "cpu" or bool((counts == 0).any()):
            farthest = find_farthest(
                lambda part: self._rows_and_weights(part, dtype, problems), labels, to_nearest,
                n_features=d, m=min(k, MAX_FARTHEST), start=start,
            )  # fmt: skip
            stats = replace(stats, farthest=farthest)
        self._count_changed(labels)
        return EStep(labels, to_nearest, stats)

    def _count_changed(self, labels: Tensor) -> None:
        """Compare labels (P, n) with those of the previous E-step."""
        if self._last is None or self._last.shape != labels.shape:
            problems, n = labels.shape
            self.changed = torch.full((problems,), n, device=labels.device)
        else:
            self.changed = (labels != self._last).sum(dim=-1)
        self._last = labels

    def potentials(self, nearest: Tensor, candidates: Tensor) -> Tensor:
        """Weighted sum of the distances to the nearest centre if each candidate were one.

        Distances are squared Euclidean, in the space of :meth:`rows`.

        Args:
            nearest: distances so far, (P, n).
            candidates: (P, m, d).

        Returns:
            (P, m) float64.
        """
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
        """Lower the distances to the nearest centre (P, n), in place, by one more (P, 1, d)."""
        for part, distances in self._distances_to(center, nearest.dtype):
            nearest[:, part] = nearest[:, part].minimum(distances.squeeze(-1))

    def _distances_to(self, points: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """Slices of rows with their distances to a few points (P, m, d); exact for m = 1."""
        problems, m, d = points.shape
        n = self.x.shape[-2]
        offset = points.mean(dim=1, keepdim=True)
        points = points - offset
        norms = points.square().sum(-1).unsqueeze(1)
        size = chunk_rows(n, 4 * m, d, problems, self.x.device)
        for first in range(0, n, size):
            part = slice(first, min(first + size, n))
            rows = (self.rows(part, dtype) - offset).expand(problems, -1, -1)
            with full_precision(rows.device):
                products = torch.baddbmm(norms, rows, points.transpose(1, 2), alpha=-2)
            yield part, (products + rows.square().sum(-1, keepdim=True)).clamp_(min=0)

    def _chunks(self, centroids: Tensor) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """Slices of rows with the rows, their labels and smallest scores."""
        problems, k, d = centroids.shape
        n = self.x.shape[-2]
        dtype = compute_dtype(self.x, centroids)
        offset = centroids.mean(dim=1, keepdim=True, dtype=accumulator_dtype(centroids.device))
        offset = offset.to(dtype)  # rows and centroids have to lose the very same offset
        centered = centroids.to(dtype) - offset
        half_norms = centered.square().sum(-1).div_(2).unsqueeze(1)
        transposed = centered.transpose(1, 2)
        if torch.compiler.is_exporting():  # for any number of rows
            parts = [slice(None)]
        else:
            size = chunk_rows(n, k, d, problems, centroids.device)
            parts = [slice(first, min(first + size, n)) for first in range(0, n, size)]
        for part in parts:
            rows = self.rows(part, dtype)
            labels, scores = nearest(rows, transposed, offset, half_norms)
            if self.metric == "cosine":
                labels = labels * (rows != 0).any(dim=-1)
            yield part, rows, labels, scores

    def _weights(self, part: slice, rows: Tensor) -> Tensor | None:
        """Weights of a chunk, (P, m); a zero row weighs nothing under the cosine metric."""
        accumulator = accumulator_dtype(rows.device)
        weights = None
        if self.sample_weight is not None:
            weights = self.sample_weight[..., part].to(accumulator).expand(rows.shape[:-1])
        if self.metric == "cosine":
            nonzero = (rows != 0).any(dim=-1)
            weights = nonzero.to(accumulator) if weights is None else weights * nonzero
        return weights

    def _rows_and_weights(
        self, part: slice, dtype: torch.dtype, problems: int
    ) -> tuple[Tensor, Tensor | None]:
        rows = self.rows(part, dtype).expand(problems, -1, -1)
        return rows, self._weights(part, rows)
