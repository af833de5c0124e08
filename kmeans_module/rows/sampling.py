"""Draws by mass from many rows, by cumulative sums of blocks and then within one.

The sums are over integers (see :mod:`kmeans_module.core.scale`): they are the same on every device
and whatever batches and ranks hold the rows, and have no limit on the number of rows
(torch.multinomial: 2^24).
"""

from __future__ import annotations

from torch import Tensor

from kmeans_module.backends import Backend, backend_for
from kmeans_module.core.scale import Scale

BLOCK = 1024


def draw(mass: Tensor, numbers: Tensor, backend: Backend) -> tuple[Tensor, bool]:
    """Columns (P, m) of mass (P, n), none negative, drawn in proportion to it; and whether no
    problem lacks mass: see :meth:`kmeans_module.backends.Backend.draw`."""
    return backend.draw(mass, BLOCK, numbers)


def block_sums(mass: Tensor, scale: Scale, backend: Backend | None = None) -> Tensor:
    """Sums of consecutive blocks of (P, n) numbers, the last one short, (P, n_blocks) int64.

    Args:
        mass: none negative.
        scale: makes integers of them.
        backend: that serves such numbers; None to ask which one does.
    """
    backend = backend or backend_for(mass, operation="sums")
    return backend.block_sums(mass, BLOCK, scale)


def search(
    mass: Tensor, scale: Scale, blocks: Tensor, target: Tensor, backend: Backend | None = None
) -> Tensor:
    """Where the cumulative sum of mass (P, n) exceeds the targets (P, m) int64: (P, m) indices.

    ``blocks`` are the block sums of the mass. A row without mass is found only where no row has
    any.
    """
    backend = backend or backend_for(mass, operation="sums")
    return backend.search_sums(mass, BLOCK, scale, blocks, target)
