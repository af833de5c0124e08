"""The batches of a Trainer's loaders as Rows: in memory where they stay, else a stream."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from kmeans_module.checks import check_sample_weight, check_samples
from kmeans_module.data import RowsDataModule
from kmeans_module.rows import HeldRows, StreamRows
from kmeans_module.rows.batch import Batch, OneDtype, as_batch
from kmeans_module.rows.exchange import in_order
from kmeans_module.rows.ranks import ProcessGroup, errors_shared
from kmeans_module.rows.source import check_reiterable, in_data_order, listed_batches, stable_order
from kmeans_module.training.numbering import BatchOf, Numbering, shares_are_known
from kmeans_module.training.shares import Shares


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
        self.given: torch.dtype | None = None  # before the Trainer's precision rounds rows
        self._one_dtype = OneDtype()
        known = shares_are_known(
            trainer.train_dataloader, world_size=trainer.world_size, rank=trainer.global_rank
        )
        self._shares: Shares | None = Shares(known=known) if trainer.world_size > 1 else None

    def __iter__(self) -> Iterator[Batch]:
        trainer = self.trainer
        numbering = self.numbering()
        for i, data in enumerate(self._source()):
            if i >= trainer.num_training_batches:
                break
            if self.given is None:
                self.given = as_batch(data, self.batch_of).x.dtype
            data = trainer.precision_plugin.convert_input(data)
            yield self.checked(numbering.read(trainer.strategy.batch_to_device(data), i))

    def _source(self) -> Any:
        """What a pass beside the Trainer's goes through: all rows in their order, as ranks number
        them, where none is left out."""
        trainer = self.trainer
        loader = apart(trainer.train_dataloader)
        ordered = in_data_order(loader)
        if ordered is not loader and trainer.num_training_batches < len(ordered):
            return loader
        return ordered

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
        rounds = self.given is not None and x.dtype.itemsize < self.given.itemsize
        if rounds and not bool(x.isfinite().all()):
            raise ValueError(
                f"x should be finite in {x.dtype}, to which the Trainer's precision="
                f"{self.trainer.precision!r} rounds its {self.given}; scale x, or use another "
                "precision"
            )
        batch = batch._replace(x=x, sample_weight=check_sample_weight(batch.sample_weight, x))
        if self._shares is not None:
            self._shares.add(batch)
        return batch

    @property
    def used(self) -> torch.dtype | None:
        """Dtype of the rows as they are clustered; None before the first batch."""
        return self._one_dtype.dtype

    def end_first_pass(self, group: ProcessGroup | None) -> None:
        """After the first pass over all batches: see that the ranks have shares of the rows."""
        shares, self._shares = self._shares, None
        if shares is not None and group is not None:
            shares.check(group)


def check_loader(loader: Any) -> None:
    """Refuse what a Trainer takes for a loader and is none that passes can be made of.

    Raises:
        ValueError: several loaders, for which Lightning takes a list of batches too; an iterator.
    """
    if isinstance(loader, list | tuple | Mapping):
        raise ValueError(
            f"train_dataloaders should be one loader of batches; Lightning takes a "
            f"{type(loader).__name__} for {len(loader)} loaders whose batches come side by side: "
            "hand in DataLoader(batches, batch_size=None), or one loader of all rows"
        )
    if not isinstance(loader, DataLoader) and iter(loader) is loader:
        raise ValueError(
            f"train_dataloaders is an iterator ({type(loader).__name__}), which can be gone "
            "through only once: hand in a loader, or a class whose __iter__ starts again"
        )


def apart(loader: Any) -> Any:
    """The loader for a pass beside the Trainer's: persistent workers serve one pass at a time, and
    the Trainer has begun its own."""
    if not isinstance(loader, DataLoader) or not loader.persistent_workers:
        return loader
    twin: Any = copy.copy(loader)
    twin._iterator = None
    return twin


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
    # What fails on one rank fails before the rows of all ranks are numbered together.
    with errors_shared(group):
        _check_reiterable("train_dataloaders", trainer.train_dataloader)
        _check_reiterable("val_dataloaders", trainer.val_dataloaders)
        joined = resident or _are_listed(batches, device)
        if joined:
            held = [batch._replace(handle=i) for i, batch in enumerate(batches)]
        else:
            held = _staying(batches, device)
    if joined and group is not None and held and all(batch.index is not None for batch in held):
        held = in_order(held, group)
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
