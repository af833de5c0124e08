"""How the E-step is computed fast.

``prepare(x, sample_weight)`` gives a :class:`Workspace` that runs E-steps on the same rows
again and again. Whatever speeds them up lives there; it never changes a result.
"""

from __future__ import annotations

import logging
from typing import Protocol

import torch
from torch import Tensor

from kmeans_module.backends.native import workspace as native
from kmeans_module.backends.operators import OperatorWorkspace
from kmeans_module.backends.reference import (
    ReferenceWorkspace,
    compute_dtype,
    full_precision,
    unit_rows,
)
from kmeans_module.core.statistics import (
    MAX_FARTHEST,
    ClusterStats,
    EStep,
    Farthest,
    accumulator_dtype,
)

__all__ = [
    "MAX_FARTHEST",
    "ClusterStats",
    "EStep",
    "Farthest",
    "Workspace",
    "accumulator_dtype",
    "compute_dtype",
    "full_precision",
    "prepare",
    "unit_rows",
]

log = logging.getLogger(__name__)


class Workspace(Protocol):
    """E-steps, and seeding, on fixed rows; P independent problems in one call.

    Attributes:
        changed: labels that differ from those of the previous E-step, (P,); n after the first.
        together: whether problems on the same rows take less time, or less memory for each, in
            one call than one after the other.
    """

    changed: Tensor
    together: bool

    def e_step(self, centroids: Tensor, *, start: int = 0, distances: bool = True) -> EStep:
        """Assign every row to the nearest of the centroids (P, k, d) and sum up the clusters.

        The next E-step may overwrite the labels and distances; without distances it may be faster.
        """

    def potentials(self, nearest: Tensor, candidates: Tensor) -> Tensor:
        """For seeding: what nearest (P, n) would sum up to with each candidate (P, m, d)."""

    def lower(self, nearest: Tensor, center: Tensor) -> None:
        """For seeding: lower the distances nearest (P, n) by those to a centre (P, 1, d)."""

    def assign(self, centroids: Tensor) -> tuple[Tensor, Tensor | bool]:
        """Labels (P, n) alone, and whether every row had a finite distance, ()."""


def prepare(
    x: Tensor,
    sample_weight: Tensor | None = None,
    *,
    metric: str = "euclidean",
    once: bool = False,
) -> Workspace:
    """Get ready for repeated E-steps on the rows x.

    Args:
        x: samples, (n, d) shared by all problems or (P, n, d).
        sample_weight: (n,) or (P, n); None for weight 1.
        metric: "euclidean" or "cosine".
        once: whether one E-step is all, so that keeping anything for the next does not pay.
    """
    served = native.serves(x)
    if torch.compiler.is_compiling():
        kind = OperatorWorkspace if served else ReferenceWorkspace
        return kind(x, sample_weight, metric=metric)
    if served:
        log.debug("E-steps by the native kernel")
        return native.NativeWorkspace(x, sample_weight, metric=metric, once=once)
    log.debug("E-steps by the torch reference: %s", native.obstacle(x))
    return ReferenceWorkspace(x, sample_weight, metric=metric)
