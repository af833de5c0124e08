"""The memory of the C++ kernel: what a km_workspace keeps of rows from call to call."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor

from kmeans_module.backends.native.directions import Directions
from kmeans_module.backends.native.library import loaded
from kmeans_module.core.guard import version_of


class BeyondFloat32Error(ValueError):
    """Rows that were to be searched in float32 hold integers beyond 2^24."""

    def __init__(self) -> None:
        super().__init__("x holds integers beyond 2^24, which float32 does not tell apart")


class Memory:
    """A km_workspace (csrc/abi/native.h) of the rows of one problem, freed with this object.

    Args:
        keep: whether the kernel may keep coordinates of the rows.
        sort: whether it may keep rows of few features sorted into boxes.
    """

    def __init__(self, *, keep: bool = False, sort: bool = False) -> None:
        library = loaded()
        self.handle = library.km_open(keep, sort)
        if not self.handle:
            raise MemoryError("no memory for a workspace")
        # Directions by the purpose they were found for, and the directions the handle uses now.
        self.directions_for: dict[str, Directions | None] = {}
        self.directions: Directions | None = None
        # For seeding: the tensor of distances to the nearest center that the last call wrote, and
        # its version.
        self.nearest: tuple[weakref.ref[Tensor], int] | None = None
        weakref.finalize(self, library.km_close, self.handle)

    def use(self, directions: Directions | None, *, n_features: int) -> None:
        """Let the calls that follow bound distances along directions; None for all features."""
        if directions is self.directions:
            return
        self.directions = directions
        basis, center = directions or (torch.empty(0, n_features), torch.empty(0))
        if loaded().km_project(self.handle, basis.data_ptr(), center.data_ptr(), *basis.shape):
            raise MemoryError("no memory for directions")

    def knows(self, nearest: Tensor) -> bool:
        """Whether distances to the nearest center are as the last call left them."""
        if self.nearest is None:
            return False
        reference, version = self.nearest
        return reference() is nearest and version == version_of(nearest)

    def note(self, nearest: Tensor) -> None:
        """Remember distances as this call leaves them."""
        self.nearest = weakref.ref(nearest), version_of(nearest)

    def __reduce__(self) -> str:
        raise TypeError("a workspace belongs to its rows in this process; prepare another one")
