"""The E-step as operators of torch: what compiled, exported, traced and fake code holds.

Code that must not see a pointer sees one opaque node instead; when it runs on real tensors, the
native kernel serves where it takes the rows, and the torch reference elsewhere.

Shapes: x is (n, d) shared by all problems or (P, n, d), centroids (P, k, d), weights (n,) or
(P, n).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kmeans_module.backends.native import BACKEND as NATIVE
from kmeans_module.backends.native.library import library
from kmeans_module.backends.native.workspace import NativeWorkspace
from kmeans_module.backends.reference import ReferenceBackend, ReferenceWorkspace
from kmeans_module.core.distances import declared_dtype
from kmeans_module.core.statistics import (
    MAX_FARTHEST,
    ClusterStats,
    EStep,
    Farthest,
    accumulator_dtype,
    no_farthest,
)


def _workspace(
    x: Tensor, sample_weight: Tensor | None, centroids: Tensor, metric: str
) -> NativeWorkspace | ReferenceWorkspace:
    # A compiler that folds constants runs operators while it compiles: both questions are asked.
    if NATIVE.obstacle(x, centroids.dtype) is None and library() is not None:
        return NativeWorkspace(x, sample_weight, metric=metric, dtype=centroids.dtype, once=True)
    return ReferenceWorkspace(x, sample_weight, metric=metric)


@torch.library.custom_op(
    "kmeans_module::assign",
    mutates_args=(),
    schema="(Tensor x, Tensor centroids, str metric) -> Tensor",
)
def assign(x: Tensor, centroids: Tensor, metric: str) -> Tensor:
    """Labels of the nearest centroids, (P, n) int64."""
    return _workspace(x, None, centroids, metric).assign(centroids)[0]


@assign.register_fake
def _(x: Tensor, centroids: Tensor, metric: str) -> Tensor:
    return x.new_empty((centroids.shape[0], x.shape[-2]), dtype=torch.int64)


@torch.library.custom_op(
    "kmeans_module::e_step",
    mutates_args=(),
    schema=(
        "(Tensor x, Tensor? sample_weight, Tensor centroids, str metric, SymInt start) -> "
        f"({', '.join(['Tensor'] * 10)})"
    ),
)
def e_step(
    x: Tensor, sample_weight: Tensor | None, centroids: Tensor, metric: str, start: int
) -> tuple[Tensor, ...]:
    """labels, distances, sums, counts, inertia, and the fields of Farthest, which say that
    there are no samples where no cluster is empty."""
    step = _workspace(x, sample_weight, centroids, metric).e_step(centroids, start=start)
    stats, d = step.stats, x.shape[-1]
    farthest = stats.farthest
    if farthest is None:
        farthest = no_farthest(
            step.labels, step.distances, n_features=d, m=min(centroids.shape[1], MAX_FARTHEST)
        )
    # Integers beyond 2^24 are searched in float64, but a recorded dtype depends on no values.
    distances = step.distances.to(declared_dtype(x, centroids))
    farthest = farthest._replace(
        distances=farthest.distances.to(distances.dtype), rows=farthest.rows.to(distances.dtype)
    )
    return (step.labels, distances, stats.sums, stats.counts, stats.inertia, *farthest)


@e_step.register_fake
def _(
    x: Tensor, sample_weight: Tensor | None, centroids: Tensor, metric: str, start: int
) -> tuple[Tensor, ...]:
    problems, k, d = centroids.shape
    exact = accumulator_dtype(x.device)
    labels = x.new_empty((problems, x.shape[-2]), dtype=torch.int64)
    distances = torch.empty_like(labels, dtype=declared_dtype(x, centroids))
    farthest = no_farthest(labels, distances, n_features=d, m=min(k, MAX_FARTHEST))
    return (
        labels,
        distances,
        x.new_empty((problems, k, d), dtype=exact),
        x.new_empty((problems, k), dtype=exact),
        x.new_empty((problems,), dtype=exact),
        *farthest,
    )


class OperatorWorkspace(ReferenceWorkspace):
    """A workspace whose steps are operators, each of which starts afresh."""

    def assign(self, centroids: Tensor) -> tuple[Tensor, Tensor | bool]:
        # What is recorded does not look for NaN.
        return assign(self.x, centroids, self.metric), True

    def _step(self, centroids: Tensor, start: int, wants_farthest: bool) -> EStep:
        labels, to_nearest, sums, counts, inertia, *farthest = e_step(
            self.x, self.sample_weight, centroids, self.metric, start
        )
        self._count_changed(labels)
        stats = ClusterStats(sums, counts, inertia, Farthest(*farthest))
        return EStep(labels, to_nearest, stats)


class OperatorBackend(ReferenceBackend):
    """What stands in for a backend of pointers where no pointer may be taken."""

    name = "operators"

    def workspace(
        self,
        x: Tensor,
        sample_weight: Tensor | None,
        *,
        metric: str,
        dtype: torch.dtype | None = None,
        once: bool,
    ) -> OperatorWorkspace:
        return OperatorWorkspace(x, sample_weight, metric=metric)


BACKEND = OperatorBackend()
