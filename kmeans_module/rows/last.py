"""What repeated E-steps of the same rows have learned, kept between calls."""

from __future__ import annotations

import weakref
from typing import cast

from torch import Tensor

from kmeans_module.core.problem import Problem
from kmeans_module.core.statistics import ClusterStats, EStep
from kmeans_module.rows.held import HeldRows, HeldSearch, joined
from kmeans_module.rows.stream import StreamRows, StreamSearch


class LastSearch:
    """The search of the rows that came last, while they live. Copies and pickles are empty."""

    def __init__(self) -> None:
        self._rows: weakref.ref[HeldRows | StreamRows] | None = None
        self._search: HeldSearch | StreamSearch | None = None

    def __reduce__(self) -> tuple[type[LastSearch], tuple[()]]:
        return LastSearch, ()

    def e_step(self, rows: HeldRows | StreamRows, problem: Problem, centroids: Tensor) -> EStep:
        """An E-step that finds again what the ones before have learned of the same rows.

        Args:
            rows: of this rank.
            problem: what is asked for.
            centroids: (P, k, d).

        Returns:
            labels and distances of this rank, (P, n), which belong to the caller, or None for a
            stream; and the statistics of all ranks.

        Raises:
            ValueError: distances overflow.
        """
        known = self._rows is not None and self._rows() is rows
        if not known or self._search is None or self._search.problem != problem:
            self._search = rows.search(problem)
            self._rows = weakref.ref(rows, self._forget)
        step = _step(rows, self._search, centroids)
        stats, _ = rows.merge(step.stats, [])
        if not bool(stats.inertia.isfinite().all()):
            raise ValueError(
                f"squared distances overflow {problem.dtype}: scale x down or use float64"
            )
        return step._replace(stats=stats)

    def _forget(self, _: object) -> None:
        self._rows = self._search = None


def _step(
    rows: HeldRows | StreamRows, search: HeldSearch | StreamSearch, centroids: Tensor
) -> EStep:
    if isinstance(search, HeldSearch):
        step = joined(
            [
                space.e_step(centroids, start=batch.start or 0)
                for space, batch in zip(search.workspaces, search.batches, strict=True)
            ]
        )
        # The next E-step overwrites the labels that a workspace keeps.
        return step._replace(labels=step.labels.clone())
    stats = ClusterStats.nothing(*centroids.shape, device=centroids.device)
    search.begin_pass()
    for batch in rows:
        stats = stats + search.step(batch, centroids)[0]
    search.end_pass()
    none = cast("Tensor", None)
    return EStep(none, none, stats)
