"""How data arrive: batches that are slices of one tensor, split alike over ranks."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Rows of one step, on one rank.

    Attributes:
        x: samples, (n, d).
        sample_weight: weights, (n,), or None for weight 1.
        target: true labels where the data know them, (n,) int64.
        start: position of the first row in the epoch's order over all ranks;
            the rows of a batch are consecutive in that order.
        index: row numbers in the data set, (n,) int64; None where they are
            ``start, start + 1, ...`` (nothing was shuffled).
    """

    x: Tensor
    sample_weight: Tensor | None = None
    target: Tensor | None = None
    start: int = 0
    index: Tensor | None = None
