"""Draws by weight from many rows, by cumulative sums of blocks and then within one.

Cumulative sums in float64 have no limit on the number of rows (torch.multinomial: 2^24).
"""

from __future__ import annotations

from torch import Tensor

from kmeans_module.backends import Backend, backend_for

BLOCK = 1024


def block_sums(mass: Tensor, backend: Backend | None = None) -> Tensor:
    """Sums of consecutive blocks of (P, n) numbers, the last one short, (P, n_blocks).

    Args:
        mass: none negative.
        backend: that serves such numbers; None to ask which one does.
    """
    backend = backend or backend_for(mass, operation="sums")
    return backend.block_sums(mass, BLOCK)


def search(mass: Tensor, blocks: Tensor, target: Tensor, backend: Backend | None = None) -> Tensor:
    """Where the cumulative sum of mass (P, n) exceeds the targets (P, m): (P, m) indices.

    ``blocks`` are the block sums of the mass. Rounding never leads to a row without mass, unless
    no row has any.
    """
    backend = backend or backend_for(mass, operation="sums")
    return backend.search_sums(mass, BLOCK, blocks, target)
