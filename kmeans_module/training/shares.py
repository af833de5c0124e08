"""Whether the ranks of a Trainer hand in shares of the rows, and not all of them the same rows."""

from __future__ import annotations

import torch
from torch import Tensor

from kmeans_module.rows.batch import Batch
from kmeans_module.rows.ranks import ProcessGroup, all_gather

_ODD = -7046029254386353131  # spreads bits over 64
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Shares:
    """The rows that this rank reads in a pass, in a few numbers: how many, and a hash.

    Args:
        known: whether the loader says that it gives this rank its share: its rows are not read.
    """

    def __init__(self, *, known: bool) -> None:
        self.known = known
        self.n_batches = self.n_rows = 0
        self._hash: Tensor | None = None
        self._first: Tensor | None = None
        self._varies = False

    def add(self, batch: Batch) -> None:
        """Take a batch."""
        self.n_batches += 1
        self.n_rows += len(batch.x)
        if self.known or not len(batch.x):
            return
        if self._first is None:
            self._first = batch.x[:1].clone()
        self._varies = self._varies or bool((batch.x != self._first).any())
        seen = _hash(batch.x)
        self._hash = seen if self._hash is None else self._hash + seen

    def check(self, group: ProcessGroup) -> None:
        """Refuse ranks with the same rows, and with other numbers of batches; a collective.

        Raises:
            ValueError: two ranks read the same rows, which would count twice; or ranks have
                other numbers of batches, so that one would wait for a batch of the other.
        """
        seen = 0 if self._hash is None else int(self._hash)
        tells = self._varies and not self.known
        mine = torch.tensor([self.n_batches, self.n_rows, tells, seen], dtype=torch.int64)
        ranks = all_gather(mine, group).tolist()
        prints = [tuple(seen) for _, *seen in ranks if seen[1]]
        for a in prints:
            if prints.count(a) > 1:
                raise ValueError(
                    f"the loaders of {prints.count(a)} ranks hand out the same {a[0]} rows, each "
                    "of which would count as often: give each rank its share, by a "
                    "DistributedSampler, BatchLoader(rank=, world_size=), or in __iter__ of an "
                    "IterableDataset"
                )
        counts = [n_batches for n_batches, *_ in ranks]
        if len(set(counts)) > 1:
            raise ValueError(
                "the loaders of all ranks should have as many batches; they have "
                f"{', '.join(map(str, counts))}"
            )


def _hash(x: Tensor) -> Tensor:
    """64 bits of rows (n, d) that do not depend on their order, ()."""
    bits = x.contiguous().view(_BITS[x.element_size()]).to(torch.int64)
    places = torch.arange(1, x.shape[-1] + 1, device=x.device) * _ODD | 1
    mixed = (bits * places).sum(dim=-1)
    return ((mixed ^ (mixed >> 29)) * _ODD).sum()
