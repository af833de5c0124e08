"""The tensors that learning changes, which compiled code and joined ranks hand around."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

UNSAVED = ("next_centroids", "next_counts", "leaders", "recorded", "refused", "precision")


class CodebookState(NamedTuple):
    """The tensors that a training step changes, in place.

    Attributes:
        centroids: (P, k, d).
        counts: (P, k) float64.
        n_iter: (P,) int64.
        initialized: () bool.
        next_centroids: (P, k, d), what the next update brings.
        next_counts: (P, k) float64.
        leaders: of a code that the next update moves to a sample, 1 + the code from which it
            comes, (P, k) int64; 0 of the others.
        recorded: whether there is an update to make, () bool.
        skipped: batches that were not finite, () int64.
        refused: the batch to raise an error for, see
            :func:`kmeans_module.quantization.decisions.refuse`, (3,) int64.
    """

    centroids: Tensor
    counts: Tensor
    n_iter: Tensor
    initialized: Tensor
    next_centroids: Tensor
    next_counts: Tensor
    leaders: Tensor
    recorded: Tensor
    skipped: Tensor
    refused: Tensor


def update_first(module: Any, prefix: str, keep_vars: bool) -> None:
    """Apply what was recorded: a state_dict holds the codebook that recorded batches lead to.

    A hook of a :class:`LearningCodebook`, run before its state_dict is made.
    """
    module.apply_update()


def fill_unsaved(module: nn.Module, incompatible_keys: object) -> None:
    """Make buffers real that a state_dict does not hold, where it made the others so.

    A hook of a :class:`LearningCodebook`, run after a state_dict was loaded.
    """
    device = module.get_buffer("codebook.counts").device
    for name in UNSAVED:
        buffer = module.get_buffer(name)
        if buffer.is_meta and device.type != "meta":
            setattr(module, name, torch.zeros_like(buffer, device=device))
