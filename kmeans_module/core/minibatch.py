"""Mini-batch k-means, in the state machine of Lloyd's algorithm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kmeans_module.core.distances import unit_rows
from kmeans_module.core.lloyd import Lloyd, NonFiniteInertiaError, alone
from kmeans_module.core.m_step import m_step
from kmeans_module.core.problem import Problem
from kmeans_module.core.statistics import ClusterStats


class MiniBatch(Lloyd):
    """One M-step for each batch, with a learning rate for each cluster.

    A pass is an iteration of the machine: the shift is that of the whole pass.

    Source: Sculley, Web-scale k-means clustering, WWW 2010.

    Args:
        counts: what the centroids weigh at the start, (P, k).

    Attributes:
        counts: what the centroids weigh, (P, k).
    """

    def __init__(self, problem: Problem, centroids: Tensor, counts: Tensor, **options: Any) -> None:
        super().__init__(problem, centroids, **options)
        self.counts = counts
        self._first = centroids

    def begin_pass(self) -> None:
        super().begin_pass()
        self._first = self.centroids

    def add(self, stats: ClusterStats, moved: Tensor) -> None:
        stats, (moved,) = self.merge(stats, [moved])
        finite = stats.inertia.isfinite().all()
        host = finite.device.type == "cpu"
        if host and not bool(finite):
            raise NonFiniteInertiaError("the inertia is not finite")
        moved, counts, _ = m_step(
            self.centroids, stats, self.counts, empty_cluster=self.problem.empty_cluster,
            metric=self.problem.metric,
        )  # fmt: skip
        if not host:  # told at the end of the pass, without a wait for each batch
            moved, counts = moved.where(finite, self.centroids), counts.where(finite, self.counts)
        if np.count_nonzero(self.converged):
            moves = torch.from_numpy(self.active).to(moved.device).view(-1, 1, 1)
            moved = moved.where(moves, self.centroids)
            counts = counts.where(moves[..., 0], self.counts)
        self.centroids, self.counts = moved, counts
        super().add(replace(stats, farthest=None), torch.full_like(stats.inertia, torch.nan))

    def _close(self) -> tuple[ClusterStats, Tensor]:
        merge, self.merge = self.merge, alone  # the batches were merged one by one
        try:
            return super()._close()
        finally:
            self.merge = merge

    def _count_empty(self, stats: ClusterStats) -> Tensor:
        return (stats.counts == 0).sum(dim=-1)

    def _m_step(self, stats: ClusterStats, *, some_empty: bool) -> tuple[Tensor, Tensor]:
        difference = self.centroids.to(stats.sums) - self._first
        return self.centroids, difference.square().sum(dim=(-2, -1))

    def _move(self, moved: Tensor, shift: Tensor) -> None:
        self._shift = shift  # the batches have moved the centroids

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "counts": self.counts, "first": self._first}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        device = self.centroids.device
        self.counts, self._first = state["counts"].to(device), state["first"].to(device)


class EarlyStop:
    """Says when batches drawn at random have gone on for long enough, as scikit-learn does.

    Args:
        n_samples: of the data.
        batch_size: of a batch.
        tol: shift Σ‖c_new - c_old‖² of a batch that counts as standing still; 0 for never.
        patience: batches without a lower smoothed inertia; None for any number.

    Attributes:
        smoothed: exponentially weighted average of the mean inertia of the batches but the first,
            which measures the start; None before there is one.
    """

    def __init__(
        self, *, n_samples: int, batch_size: int, tol: float, patience: int | None
    ) -> None:
        self._batch_size = batch_size
        self._share = min(1.0, 2.0 * batch_size / (n_samples + 1))
        self._tol, self._patience = tol, patience
        self._lowest: float | None = None
        self._without = 0
        self.smoothed: float | None = None

    def add(self, inertia: float, shift: float, *, first: bool) -> str | None:
        """Why the batches end with this one; None where they go on.

        Args:
            inertia: sum of squared distances of the batch to the centroids before its M-step.
            shift: of its M-step.
            first: whether it is the first batch.
        """
        if first:
            return None
        mean = inertia / self._batch_size
        old = mean if self.smoothed is None else self.smoothed
        self.smoothed = old * (1 - self._share) + mean * self._share
        if self._tol > 0 and shift <= self._tol:
            return "small centers change"
        if self._lowest is None or self.smoothed < self._lowest:
            self._lowest, self._without = self.smoothed, 0
        else:
            self._without += 1
        if self._patience is not None and self._without >= self._patience:
            return "lack of improvement in inertia"
        return None


def light_clusters(counts: Tensor, *, ratio: float, most: int) -> Tensor:
    """Clusters (k,) bool that weigh less than a ratio of the heaviest: the lightest ones, no more
    than ``most``, and never all."""
    light = counts < ratio * counts.max()
    order = counts.argsort(stable=True)
    light[order[min(most, len(counts) - 1) :]] = False
    return light


def reassigned(
    centroids: Tensor, counts: Tensor, light: Tensor, rows: Tensor, *, metric: str
) -> tuple[Tensor, Tensor]:
    """Centroids (k, d) and counts (k,) after the light clusters have moved to rows.

    They weigh what the lightest other cluster does: less, and they would soon move again.

    Args:
        centroids, counts: before.
        light: clusters to move, (k,) bool.
        rows: one for each of them, (m, d).
        metric: "cosine" scales the rows to length 1; no cluster moves to a zero row.
    """
    rows = rows.to(centroids.dtype)
    if metric == "cosine":
        rows = unit_rows(rows)
        rows = rows.where((rows != 0).any(dim=-1, keepdim=True), centroids[light])
    moved, weights = centroids.clone(), counts.clone()
    moved[light] = rows
    weights[light] = counts[~light].min()
    return moved, weights
