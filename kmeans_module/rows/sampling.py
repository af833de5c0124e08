"""Draws by weight from many rows, by cumulative sums of blocks and then within one.

Cumulative sums in float64 have no limit on the number of rows (torch.multinomial: 2^24).
"""

from __future__ import annotations

from torch import Tensor

from kmeans_module.backends import backend_for

BLOCK = 1024


def block_sums(mass: Tensor) -> Tensor:
    """Sums of consecutive blocks of (P, n) numbers, the last one short, (P, n_blocks)."""
    return backend_for(mass, operation="sums").block_sums(mass, BLOCK)


def search(mass: Tensor, blocks: Tensor, target: Tensor) -> Tensor:
    """Where the cumulative sum of mass (P, n) exceeds the targets (P, m): (P, m) indices.

    ``blocks`` are the block sums of the mass. Rounding never leads to a row without mass, unless
    no row has any.
    """
    return backend_for(mass, operation="sums").search_sums(mass, BLOCK, blocks, target)
