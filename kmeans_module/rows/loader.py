"""BatchLoader: batches that are slices of one tensor, split alike over ranks."""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch import Tensor

from kmeans_module import checks as check
from kmeans_module.rows.batch import Batch


class _Handle:
    """Names a batch; equal to nothing but itself."""


class BatchLoader:
    """Iterates over one tensor, batch by batch; each rank gets its share of every batch.

    With B = ``batch_size``, batch b covers positions bB to (b+1)B of the epoch's order, and
    rank r of R takes the contiguous part from ⌊len·r/R⌋ to ⌊len·(r+1)/R⌋ of it. So every row
    is seen once per epoch, all ranks have equally many batches (a share may hold no row), and
    in batch b the ranks together see exactly what one process would see.

    Args:
        x: samples, (n, d). Without ``shuffle`` the batches are views of it.
        batch_size: rows per batch over all ranks together; None for one batch with everything.
        target: true labels, (n,) int64.
        sample_weight: weights, (n,).
        shuffle: take the rows in a new random order every epoch, the same one on all ranks;
            see :meth:`set_epoch`.
        seed: of the random orders.
        rank: this process, 0 <= rank < world_size.
        world_size: number of processes R.

    Raises:
        ValueError: an argument has the wrong shape or range.

    Example:
        >>> import torch
        >>> from kmeans_module import BatchLoader
        >>> loader = BatchLoader(torch.arange(5.0)[:, None], batch_size=2)
        >>> len(loader), [batch.x.flatten().tolist() for batch in loader]
        (3, [[0.0, 1.0], [2.0, 3.0], [4.0]])
        >>> second = BatchLoader(loader.x, batch_size=4, rank=1, world_size=2)
        >>> [batch.x.flatten().tolist() for batch in second]
        [[2.0, 3.0], [4.0]]
    """

    # What Lightning looks for: `loader.sampler.set_epoch(epoch)`, and `batch_sampler` beside it.
    batch_sampler = None

    def __init__(
        self,
        x: Tensor,
        *,
        batch_size: int | None = None,
        target: Tensor | None = None,
        sample_weight: Tensor | None = None,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        x = check.check_rows(x)
        if x.ndim != 2 or len(x) == 0:
            raise ValueError(f"x should be (n, d) with n >= 1, got shape {tuple(x.shape)}")
        for name, values in (("target", target), ("sample_weight", sample_weight)):
            if values is not None and check.check_tensor(name, values).shape != x.shape[:1]:
                raise ValueError(
                    f"{name} should be ({len(x)},), one per row of x, got {tuple(values.shape)}"
                )
        if batch_size is not None:
            batch_size = check.check_integer("batch_size", batch_size, minimum=1)
        check.check_flag("shuffle", shuffle)
        seed = check.check_integer("seed", seed, minimum=0)
        rank = check.check_integer("rank", rank, minimum=0)
        world_size = check.check_integer("world_size", world_size, minimum=1)
        if rank >= world_size:
            raise ValueError(f"rank should be in [0, world_size={world_size}), got {rank}")
        self.x = x
        self.batch_size = len(x) if batch_size is None else batch_size
        self.target = target
        self.sample_weight = sample_weight
        self.shuffle = shuffle
        self.seed = operator.index(seed)  # torch takes no integers of NumPy
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        # Unshuffled batches are views: what one pass learned of them holds in the next.
        self._handles = [] if shuffle else [_Handle() for _ in range(len(self))]

    @property
    def hands_out_handles(self) -> bool:
        """Whether batches are the same tensors in every pass, and say so by a handle."""
        return not self.shuffle

    @property
    def sampler(self) -> BatchLoader:
        """Itself: it decides the order, as a DataLoader's sampler does."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the random order of the next iteration; Lightning calls it every epoch.

        Args:
            epoch: number from 0; the same order for the same number and seed.
        """
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.x) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        order = self._order()
        for number, low in enumerate(range(0, len(self.x), self.batch_size)):
            size = min(self.batch_size, len(self.x) - low)
            start = low + size * self.rank // self.world_size
            stop = low + size * (self.rank + 1) // self.world_size
            if order is None:
                yield self._batch(start, stop, None)._replace(handle=self._handles[number])
            else:
                yield self._batch(start, stop, order[start:stop])

    def _order(self) -> Tensor | None:
        if not self.shuffle:
            return None
        # torch's generator keeps 32 bits: spread the epochs, so that seeds share no orders
        seed = (self.seed + 0x9E3779B1 * self.epoch) % 2**32
        order = torch.randperm(
            len(self.x), generator=torch.Generator("cpu").manual_seed(seed), device="cpu"
        )
        return order.to(self.x.device)

    def _batch(self, start: int, stop: int, index: Tensor | None) -> Batch:
        def rows(values: Tensor | None) -> Tensor | None:
            if values is None or index is None:
                return None if values is None else values[start:stop]
            return values.index_select(0, index)

        x = self.x[start:stop] if index is None else self.x.index_select(0, index)
        return Batch(x, rows(self.sample_weight), rows(self.target), start, index)
