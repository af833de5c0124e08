"""How a codebook learns, in one object."""

from __future__ import annotations

from typing import NamedTuple


class Rule(NamedTuple):
    """What :class:`kmeans_module.VectorQuantizer` was told.

    Attributes:
        update, decay, smoothing, revive_below, metric, nonfinite: its arguments.
        draws_codes: whether codes are drawn in training, so that they are not always the nearest.
    """

    update: str
    decay: float | None
    smoothing: float
    revive_below: float | None
    metric: str
    nonfinite: str
    draws_codes: bool
