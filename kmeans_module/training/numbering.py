"""The numbers of the rows that a Trainer's loader hands out, and rows that it repeats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler

from kmeans_module.rows.batch import Batch, as_batch
from kmeans_module.rows.loader import BatchLoader
from kmeans_module.rows.source import sampler_of

BatchOf = Callable[[Any], Any]


class Numbering:
    """Numbers the rows of the batches of one pass over a loader, as they come.

    A DistributedSampler, which Lightning gives every DataLoader of several ranks, deals rows out
    in turn, in an order of its own, and repeats rows to make the ranks even: the repeated
    rows are left out.

    Args:
        loader: of the trainer.
        world_size, rank: of the trainer.
        batch_of: makes a batch of what the loader hands out.

    Raises:
        ValueError: rows are repeated, and nobody can tell which.
    """

    def __init__(
        self, loader: Any, *, world_size: int, rank: int, batch_of: BatchOf | None = None
    ) -> None:
        sampler = sampler_of(loader)
        self.sampler = sampler if isinstance(sampler, DistributedSampler) else None
        self.world_size, self.rank = world_size, rank
        self.batch_of = batch_of
        # Without a batch_sampler an item of the dataset is a whole batch, and is dealt out as one.
        self.deals_batches = isinstance(loader, DataLoader) and loader.batch_sampler is None
        self._first = 0
        if self.sampler is None:
            return
        self._order = _order(self.sampler)
        n_dealt, n_items = self.sampler.total_size, len(self.sampler.dataset)  # type: ignore[arg-type]
        if n_dealt > n_items and not _in_order(loader):
            raise ValueError(
                f"the loader repeats {n_dealt - n_items} of {n_items} rows to make the ranks even, "
                "and hands rows out in an order that is not its sampler's, so that they cannot be "
                "told: use a BatchSampler and in_order=True, or use_distributed_sampler=False "
                "with shares of your own"
            )
        self._starts = self._starts_of(loader.dataset) if self.deals_batches else None

    def read(self, data: Any, batch_idx: int) -> Batch:
        """What the loader handed out as a Batch with a start."""
        batch = as_batch(data, self.batch_of)
        if batch.start is not None:
            return batch
        n, first = len(batch.x), self._first if batch_idx else 0
        self._first = first + n
        if self.sampler is None:
            return batch._replace(start=first * self.world_size + self.rank * n)
        if self.deals_batches:
            return self._dealt_batch(batch, batch_idx)
        sampler = self.sampler
        place = torch.arange(first, first + n) * sampler.num_replicas + sampler.rank
        batch = batch._replace(start=first * sampler.num_replicas + sampler.rank * n)
        if self._order is not None:
            index = self._order[place % len(self._order)]
            batch = batch._replace(index=index.to(batch.x.device))
        return _beginning(batch, int((place < len(sampler.dataset)).sum()))  # type: ignore[arg-type]

    def _dealt_batch(self, batch: Batch, batch_idx: int) -> Batch:
        sampler = self.sampler
        assert sampler is not None
        place = batch_idx * sampler.num_replicas + sampler.rank
        n_items = len(sampler.dataset)  # type: ignore[arg-type]
        if self._order is not None and self._starts is not None:
            start = self._starts[int(self._order[place % n_items])]
            index = torch.arange(start, start + len(batch.x), device=batch.x.device)
            batch = batch._replace(start=start, index=index)
        return _beginning(batch, len(batch.x) if place < n_items else 0)

    def _starts_of(self, dataset: Any) -> list[int] | None:
        """Number of the first row of each batch, where the batches are a list."""
        if not isinstance(dataset, list | tuple):
            return None
        sizes = [len(as_batch(data, self.batch_of).x) for data in dataset]
        ends = torch.tensor([0, *sizes]).cumsum(0)
        return [int(end) for end in ends[:-1]]


def deals_a_list(loader: Any) -> bool:
    """Whether batches of a list, which are in memory, are dealt out to ranks."""
    listed = isinstance(loader, DataLoader) and isinstance(loader.dataset, list | tuple)
    dealt = isinstance(sampler_of(loader), DistributedSampler)
    return listed and dealt and loader.batch_sampler is None


def shares_are_known(loader: Any, *, world_size: int, rank: int) -> bool:
    """Whether the loader itself says that it gives this rank its share of the rows."""
    if isinstance(loader, BatchLoader):
        return (loader.world_size, loader.rank) == (world_size, rank)
    sampler = sampler_of(loader)
    dealt = isinstance(sampler, DistributedSampler)
    return dealt and (sampler.num_replicas, sampler.rank) == (world_size, rank)


def _order(sampler: DistributedSampler[Any]) -> Tensor | None:
    """The items in the order of this epoch, (n,), as the sampler draws it; None for samplers that
    draw otherwise."""
    if type(sampler) is not DistributedSampler:
        return None
    n = len(sampler.dataset)  # type: ignore[arg-type]
    if not sampler.shuffle:
        return torch.arange(n)
    generator = torch.Generator().manual_seed(sampler.seed + sampler.epoch)
    return torch.randperm(n, generator=generator)


def _in_order(loader: Any) -> bool:
    """Whether rows come in the order of the sampler."""
    batches = getattr(loader, "batch_sampler", None)
    plain = batches is None or type(batches) is BatchSampler
    return plain and (not loader.num_workers or getattr(loader, "in_order", True))


def _beginning(batch: Batch, n: int) -> Batch:
    """The batch without the rows after the first n: a sampler repeats rows at its end."""
    if n == len(batch.x):
        return batch
    weight, target = batch.sample_weight, batch.target
    return batch._replace(
        x=batch.x[:n],
        sample_weight=None if weight is None else weight[:n],
        target=None if target is None else target[:n],
        index=None if batch.index is None else batch.index[:n],
    )
