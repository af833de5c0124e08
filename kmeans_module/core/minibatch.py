"""Mini-batch k-means, in the state machine of Lloyd's algorithm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
