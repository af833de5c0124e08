"""What repeated E-steps of the same rows have learned, kept between calls."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor

from kmeans_module.core.problem import Problem
from kmeans_module.core.statistics import ClusterStats
from kmeans_module.rows.held import HeldRows, HeldSearch
from kmeans_module.rows.stream import StreamRows, StreamSearch

Outcome = tuple[Tensor | None, Tensor | None, ClusterStats]


class LastSearch:
    """The search of the rows that came last, while they live. Copies and pickles are empty."""

    def __init__(self) -> None:
        self._rows: weakref.ref[HeldRows | StreamRows] | None = None
        self._search: HeldSearch | StreamSearch | None = None

    def __reduce__(self) -> tuple[type[LastSearch], tuple[()]]:
        return LastSearch, ()

    def of(self, rows: HeldRows | StreamRows, problem: Problem) -> RepeatedSteps:
        """E-steps of these rows that find again what the ones before have learned."""
        known = self._rows is not None and self._rows() is rows
        if not known or self._search is None or self._search.problem != problem:
            self._search = rows.search(problem)
            self._rows = weakref.ref(rows, self._forget)
        return RepeatedSteps(self._search)

    def _forget(self, _: object) -> None:
        self._rows = self._search = None


class RepeatedSteps:
    """E-steps whose results belong to the caller.

    Args:
        search: of the rows.
    """

    def __init__(self, search: HeldSearch | StreamSearch) -> None:
        self.search = search

    def e_step(self, rows: HeldRows | StreamRows, centroids: Tensor) -> Outcome:
        """Labels and distances (P, n), None for a stream, and statistics of this rank."""
        if isinstance(self.search, StreamSearch):
            return None, None, self._statistics(rows, centroids)
        steps = [
            space.e_step(centroids, start=batch.start or 0)
            for space, batch in zip(self.search.workspaces, self.search.batches, strict=True)
        ]
        stats = steps[0].stats
        for step in steps[1:]:
            stats = stats + step.stats
        # The next E-step overwrites the labels that a workspace keeps.
        labels = torch.cat([step.labels for step in steps], dim=-1)
        return labels, torch.cat([step.distances for step in steps], dim=-1), stats

    def _statistics(self, rows: HeldRows | StreamRows, centroids: Tensor) -> ClusterStats:
        device = centroids.device
        stats = ClusterStats.nothing(*centroids.shape, device=device)
        self.search.begin_pass()
        for batch in rows:
            stats = stats + self.search.step(batch, centroids)[0]
        self.search.end_pass()
        return stats
