"""Codebooks whose centroids add up, fitted together."""

from __future__ import annotations

import torch
from torch import Tensor

_RIDGE = 1e-4  # samples of a code that is never used


def least_squares(x: Tensor, codes: Tensor, codebooks: Tensor) -> Tensor:
    """The codebooks that, for given codes, leave least of the samples: all levels at once.

    Source: Martinez et al., LSQ++, ECCV 2018, section 3.1.

    Args:
        x: (n, d).
        codes: (n, L).
        codebooks: the present ones, (L, k, d): where codes are not used, they stay.

    Returns:
        (L, k, d).
    """
    levels, k, d = codebooks.shape
    places = (codes + torch.arange(levels, device=codes.device) * k).T  # (L, n)
    exact = codebooks.double()
    counts = exact.new_zeros((levels * k, levels * k))
    ones = exact.new_ones(len(x))
    for row in places:
        for column in places:
            counts.view(-1).index_add_(0, row * (levels * k) + column, ones)
    left = x.double() - exact.view(-1, d)[places].sum(dim=0)
    sums = exact.new_zeros((levels * k, d))
    for row in places:
        sums.index_add_(0, row, left)
    counts.diagonal().add_(_RIDGE)
    change = torch.linalg.solve(counts, sums)
    return (exact + change.view_as(exact)).to(codebooks.dtype)
