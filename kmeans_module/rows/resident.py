"""Batches that a loader hands out again every epoch keep their workspace."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from kmeans_module.backends import Workspace
from kmeans_module.layer import KMeansLayer
from kmeans_module.rows.batch import Batch

_PROBES = 16


class _Place(NamedTuple):
    """Where a tensor lies, and in which version; does not keep the tensor alive."""

    # While this weak reference lives no other storage can be taken for the same one.
    storage: StorageWeakRef
    layout: tuple[object, ...]


class _Seen(NamedTuple):
    """A batch as it was last time, with its workspace if it had come back then."""

    places: tuple[_Place, ...]
    workspace: Workspace | None = None
    probes: tuple[Tensor, ...] = ()


class ResidentBatches:
    """Workspaces of batches whose rows lie in the same memory, unchanged, from epoch to epoch.

    A batch is only noted at first, without keeping it alive; when it comes back it gets a
    workspace. Changes that torch does not count, such as those made through numpy, are looked
    for in a few rows. Copies and pickles are empty.
    """

    def __init__(self) -> None:
        self._seen: dict[int, _Seen] = {}

    def __reduce__(self) -> tuple[type[ResidentBatches], tuple[()]]:
        return ResidentBatches, ()

    def note(self, batch: Batch) -> None:
        """Remember where the batch lies."""
        if _can_stay(batch):
            self._seen[batch.start] = _Seen(_places(batch))

    def workspace(self, batch: Batch, layer: KMeansLayer) -> Workspace | None:
        """The workspace of a batch that came back; other batches are noted, and have none."""
        seen = self._seen.pop(batch.start, None)
        if seen is None or not _came_back(batch, seen):
            self.note(batch)
            return None
        if seen.workspace is None:
            prepared = layer.prepare(batch.x, batch.sample_weight)
            seen = seen._replace(workspace=prepared, probes=_probes(batch))
        self._seen[batch.start] = seen
        return seen.workspace


def _parts(batch: Batch) -> tuple[Tensor, ...]:
    return (batch.x,) if batch.sample_weight is None else (batch.x, batch.sample_weight)


def _can_stay(batch: Batch) -> bool:
    """Whether a workspace helps, and changes of the batch can be seen."""
    # On accelerators a workspace keeps nothing; inference tensors do not count versions. What
    # is no dense tensor is left to the layer to refuse.
    return len(batch.x) > 0 and all(
        isinstance(part, Tensor)
        and part.layout == torch.strided
        and part.device.type == "cpu"
        and not part.is_inference()
        for part in _parts(batch)
    )


def _came_back(batch: Batch, seen: _Seen) -> bool:
    if not _can_stay(batch) or _places(batch) != seen.places:
        return False
    return all(map(torch.equal, seen.probes, _probes(batch)))


def _places(batch: Batch) -> tuple[_Place, ...]:
    return tuple(
        _Place(
            StorageWeakRef(part.untyped_storage()),  # type: ignore[no-untyped-call]
            (part.data_ptr(), part.dtype, part.shape, part.stride(), part._version),
        )
        for part in _parts(batch)
    )


def _probes(batch: Batch) -> tuple[Tensor, ...]:
    """Copies of some rows and their weights."""
    return tuple(part[:: -(-len(part) // _PROBES)].clone() for part in _parts(batch))
