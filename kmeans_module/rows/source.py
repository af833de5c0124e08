"""Loaders: what they hand out, checked; whether it stays in memory, and comes in a stable order."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from kmeans_module import checks as check
from kmeans_module.rows.batch import Batch, OneDtype, as_batch
from kmeans_module.rows.loader import BatchLoader


class CheckedLoader:
    """The batches of a loader: checked, and on a device.

    Args:
        loader: a list, a loader or any other re-iterable of batches.
        n_features: d.
        device: to which the batches are moved.
        batch_of: makes a batch of what the loader hands out.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        *,
        n_features: int,
        device: torch.device,
        batch_of: Callable[[Any], Any] | None = None,
    ) -> None:
        if not isinstance(loader, Iterable) or hasattr(loader, "__array__") or _is_numbers(loader):
            raise TypeError(
                f"x should be a torch.Tensor; got {type(loader).__name__}, which is no list or "
                "loader of batches either: torch.as_tensor makes one of numbers, and "
                "kmeans_module.kmeans takes arrays, frames and lists"
            )
        check_reiterable("x", loader)
        self.loader = loader
        self.n_features = n_features
        self.device = device
        self.batch_of = batch_of
        self._one_dtype = OneDtype()

    def __iter__(self) -> Iterator[Batch]:
        for data in in_data_order(self.loader):
            yield self._checked(as_batch(data, self.batch_of))

    def _checked(self, batch: Batch) -> Batch:
        x = self._one_dtype(check.check_samples(batch.x, self.n_features)).to(self.device)
        weight = batch.sample_weight
        if isinstance(weight, Tensor):
            weight = weight.to(self.device)
        return batch._replace(x=x, sample_weight=check.check_sample_weight(weight, x))

    def staying(self, *, resident: bool) -> list[Batch] | None:
        """All batches where they are in memory anyway, or shall be; None for a stream.

        Those of a list of tensors, and those that have a handle, are, unless they would have to
        be copied to another device.
        """
        listed = listed_batches(self.loader)
        if resident or (listed is not None and all(map(self._is_here, listed))):
            return [batch._replace(handle=i) for i, batch in enumerate(self)]
        if not getattr(self.loader, "hands_out_handles", False):
            return None
        first = next(iter(self.loader), None)
        return list(self) if first is not None and self._is_here(first) else None

    def _is_here(self, data: Any) -> bool:
        """Whether a batch is a tensor on the device, so that it stays what it is."""
        if self.batch_of is not None:
            return False
        try:
            return as_batch(data).x.device == self.device
        except ValueError:
            return True  # refused when the batches are read


def check_reiterable(name: str, loader: Iterable[Any]) -> None:
    """Refuse what can be gone through only once: an iterator, and what hands out the same one.

    Raises:
        ValueError: it is; names it.
    """
    if isinstance(loader, DataLoader):
        return  # which starts its workers, and draws a seed for them, where it is asked
    iterator = iter(loader)
    if iterator is loader or iterator is iter(loader):
        raise ValueError(
            f"{name} is an iterator ({type(loader).__name__}), which can be gone through only "
            "once: hand in a list, a loader, or a class whose __iter__ starts again"
        )


def _is_numbers(data: Any) -> bool:
    """Whether a list or string holds no batches, but rows or numbers."""
    if isinstance(data, str | bytes):
        return True
    if not isinstance(data, list | tuple) or not data:
        return False
    first = data[0][0] if isinstance(data[0], list) and data[0] else data[0]
    return isinstance(first, int | float | complex | str)


def listed_batches(loader: Any) -> Sequence[Any] | None:
    """The batches of a loader that are the items of a list, and stay in memory with it; None for
    other loaders."""
    if isinstance(loader, list | tuple):
        return loader
    is_list = isinstance(loader, DataLoader) and isinstance(loader.dataset, list | tuple)
    if not is_list or loader.batch_size is not None or loader.num_workers:
        return None
    return loader.dataset if isinstance(loader.sampler, SequentialSampler) else None


def sampler_of(loader: Any) -> Any:
    """The sampler of a DataLoader; None for other loaders."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    return getattr(loader.batch_sampler, "sampler", None) or loader.sampler


def in_data_order(loader: Any) -> Any:
    """The loader for a pass in the order of its dataset, where it only shuffles all of it; so
    draws by row number are those of any other order. Other loaders as they are."""
    batches = getattr(loader, "batch_sampler", None)
    sampler = sampler_of(loader)
    if (
        type(loader) is not DataLoader
        or type(batches) is not BatchSampler
        or type(sampler) is not RandomSampler
        or sampler.replacement
        or sampler.num_samples != len(sampler.data_source)
        or (batches.drop_last and sampler.num_samples % batches.batch_size)
    ):
        return loader
    twin = copy.copy(loader)
    twin._iterator = None
    ordered = BatchSampler(
        SequentialSampler(sampler.data_source), batches.batch_size, batches.drop_last
    )
    twin.__dict__.update(
        sampler=ordered.sampler, batch_sampler=ordered
    )  # no loader lets these be set
    return twin


def stable_order(loader: Any) -> bool:
    """Whether every pass brings the same batches in the same order, as far as that is declared:
    by lists, by samplers, or by an attribute ``stable`` of the loader."""
    if isinstance(loader, list | tuple):
        return True
    if isinstance(loader, BatchLoader):
        return not loader.shuffle
    sampler = sampler_of(loader)
    if isinstance(sampler, DistributedSampler):
        return not sampler.shuffle
    return isinstance(sampler, SequentialSampler) or bool(getattr(loader, "stable", False))
