"""The batches of a Trainer's loaders as Rows: in memory where they stay, else a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch.utils.data import DistributedSampler

from kmeans_module.checks import check_sample_weight, check_samples
from kmeans_module.data import RowsDataModule
from kmeans_module.rows import HeldRows, StreamRows
from kmeans_module.rows.batch import Batch, OneDtype, as_batch
from kmeans_module.rows.ranks import ProcessGroup
from kmeans_module.rows.source import (
    check_reiterable,
    listed_batches,
    sampler_of,
    stable_order,
)

BatchOf = Callable[[Any], Any]


class Numbering:
    """Numbers the rows of the batches of one pass over a loader, as they come.

    Args:
        loader: of the trainer.
        world_size, rank: of the trainer.
        batch_of: makes a batch of what the loader hands out.
    """

    def __init__(
        self, loader: Any, *, world_size: int, rank: int, batch_of: BatchOf | None = None
    ) -> None:
        self.sampler = sampler_of(loader)
        self.world_size, self.rank = world_size, rank
        self.batch_of = batch_of
        self._first = 0

    def read(self, data: Any, batch_idx: int) -> Batch:
        """What the loader handed out as a Batch with a start."""
        batch = as_batch(data, self.batch_of)
        if batch.start is not None:
            return batch
        n, first = len(batch.x), self._first if batch_idx else 0
        self._first = first + n
        batch = batch._replace(start=first * self.world_size + self.rank * n)
        if not isinstance(self.sampler, DistributedSampler):
            return batch
        return self._without_repeats(batch, first)

    def _without_repeats(self, batch: Batch, first: int) -> Batch:
        """A DistributedSampler deals rows out in turn, and repeats some of them to make the ranks
        even: those weigh 0."""
        x, n = batch.x, len(batch.x)
        index = torch.arange(first, first + n, device=x.device) * self.world_size + self.rank
        n_rows = len(self.sampler.dataset)
        if n and int(index[-1]) >= n_rows:
            weight = batch.sample_weight
            weight = torch.ones_like(index, dtype=torch.float32) if weight is None else weight
            batch = batch._replace(sample_weight=weight * (index < n_rows))
        return batch if self.sampler.shuffle else batch._replace(index=index % n_rows)


class TrainingBatches:
    """The training batches of this rank, on its device; each iteration is one pass.

    Args:
        trainer: whose loader it is.
        batch_of: makes a batch of what the loader hands out.
        n_features: d, which every batch has to have; None for that of the first batch.
    """

    def __init__(
        self, trainer: Trainer, batch_of: BatchOf | None = None, n_features: int | None = None
    ) -> None:
        self.trainer = trainer
        self.batch_of = batch_of
        self.n_features = n_features
        self._one_dtype = OneDtype()

    def __iter__(self) -> Iterator[Batch]:
        trainer = self.trainer
        loader = trainer.train_dataloader
        assert loader is not None
        numbering = self.numbering()
        for i, data in enumerate(loader):
            if i >= trainer.num_training_batches:
                break
            data = trainer.precision_plugin.convert_input(data)
            yield self.checked(numbering.read(trainer.strategy.batch_to_device(data), i))

    def check_intact(self) -> None:
        """Refuse what came of rows that were lost meanwhile, as far as the data module can tell."""
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, RowsDataModule):
            data.check_intact()

    def numbering(self) -> Numbering:
        """A new numbering of the rows of a pass."""
        trainer = self.trainer
        return Numbering(
            trainer.train_dataloader, world_size=trainer.world_size, rank=trainer.global_rank,
            batch_of=self.batch_of,
        )  # fmt: skip

    def checked(self, batch: Batch) -> Batch:
        """A batch with rows of n_features and right weights."""
        if self.n_features is None:
            self.n_features = batch.x.shape[-1]
        x = self._one_dtype(check_samples(batch.x, self.n_features))
        return batch._replace(x=x, sample_weight=check_sample_weight(batch.sample_weight, x))


def training_rows(
    batches: TrainingBatches,
    *,
    resident: bool,
    device: torch.device,
    group: ProcessGroup | None,
    every_pass_is_the_same: bool = True,
) -> HeldRows | StreamRows:
    """The rows of all training batches.

    Batches that have a handle stay in memory, unless they would have to be copied to another
    device; all do where ``resident`` asks for that.
    """
    trainer = batches.trainer
    _check_reiterable("train_dataloaders", trainer.train_dataloader)
    _check_reiterable("val_dataloaders", trainer.val_dataloaders)
    if resident or _are_listed(batches, device):
        held = [batch._replace(handle=i) for i, batch in enumerate(batches)]
    else:
        held = _staying(batches, device)
    if held:
        return HeldRows(held, group=group)
    if resident:
        raise ValueError("the training data hold no batch")
    return StreamRows(
        batches, n_features=batches.n_features, device=device,
        stable=stable_order(batches.trainer.train_dataloader), group=group,
        every_pass_is_the_same=every_pass_is_the_same,
    )  # fmt: skip


def _check_reiterable(name: str, loaders: Any) -> None:
    """Refuse an iterator, or one among several loaders, of which every epoch needs all batches."""
    several = loaders.values() if isinstance(loaders, Mapping) else loaders
    for loader in several if isinstance(loaders, Mapping | list | tuple) else [loaders]:
        if isinstance(loader, Iterable):
            check_reiterable(name, loader)


def _are_listed(batches: TrainingBatches, device: torch.device) -> bool:
    """Whether the batches are tensors of a list, on the device already."""
    listed = listed_batches(batches.trainer.train_dataloader)
    if listed is None or batches.batch_of is not None:
        return False
    return all(as_batch(data).x.device == device for data in listed)


def _staying(batches: TrainingBatches, device: torch.device) -> list[Batch]:
    """The batches where every one has a handle and is on the device already."""
    loader: Any = batches.trainer.train_dataloader
    if not getattr(loader, "hands_out_handles", False):
        return []
    held = []
    for i, data in enumerate(loader):
        if i >= batches.trainer.num_training_batches:
            break
        batch = as_batch(data, batches.batch_of)
        if batch.handle is None or batch.x.device != device:
            return []
        held.append(batch)
    return [batches.checked(batch) for batch in held]


def nth(loaders: Any, dataloader_idx: int) -> Any:
    """The loader of that number, of one or several."""
    return loaders[dataloader_idx] if isinstance(loaders, list | tuple) else loaders
