"""Beam search over levels whose sizes may differ."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kmeans_module.backends import beam_search
from kmeans_module.backends.beam import search_levels


def search_beams(
    x: Tensor, codebooks: Sequence[Tensor], *, beam_size: int
) -> tuple[Tensor, Tensor]:
    """What :func:`kmeans_module.backends.beam_search` does, with codebooks (k, d) in a list.

    Kernels know levels of one size; torch searches the others by the same rules.
    """
    if len({len(book) for book in codebooks}) == 1:
        return beam_search(x, torch.stack(list(codebooks)), beam_size=beam_size)
    return search_levels(x, [book.to(x.dtype) for book in codebooks], beam_size=beam_size)
