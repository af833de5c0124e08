"""The tensors that learning changes, which compiled code and joined ranks hand around."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class CodebookState(NamedTuple):
    """The tensors that a training step changes, in place.

    Attributes:
        centroids: (P, k, d).
        counts: (P, k) float64.
        n_iter: (P,) int64.
        initialized: () bool.
        next_centroids: (P, k, d), what the next update brings.
        next_counts: (P, k) float64.
        revived: codes that the next update moves to samples, (P, k) bool.
        skipped: batches that were not finite, () int64.
    """

    centroids: Tensor
    counts: Tensor
    n_iter: Tensor
    initialized: Tensor
    next_centroids: Tensor
    next_counts: Tensor
    revived: Tensor
    skipped: Tensor
