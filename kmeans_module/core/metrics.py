"""The metrics: each one is Euclidean after a map of the rows.

A further metric is one entry of METRICS. ``euclidean`` maps nothing, and the backends do the map
of ``cosine`` themselves, row by row; any other map is applied where rows enter the package.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Metric(NamedTuple):
    """How a metric becomes Euclidean.

    Attributes:
        kernel: what the backends compute: "euclidean", or "cosine" (rows scaled to length 1,
            ½‖x - c‖², zero rows weigh nothing, centroids of length 1).
        map: rows (..., d) to rows (..., d) of the space in which the kernel is right, row by
            row and differentiable; None for rows as they are. Centroids live in that space.
    """

    kernel: str = "euclidean"
    map: Callable[[Tensor], Tensor] | None = None


METRICS: dict[str, Metric] = {
    "euclidean": Metric(),
    "cosine": Metric(kernel="cosine"),
}


def in_space(x: Tensor, metric: str) -> Tensor:
    """Rows (..., d) in the space in which the metric's kernel is right."""
    to_space = METRICS[metric].map
    return x if to_space is None else to_space(x)
