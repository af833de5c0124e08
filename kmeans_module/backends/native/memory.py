"""What the C++ kernel keeps of rows between its calls."""

from __future__ import annotations

import weakref

from torch import Tensor

from kmeans_module.backends.native.directions import Directions
from kmeans_module.backends.native.library import loaded
from kmeans_module.core.guard import version_of


class BeyondFloat32Error(ValueError):
    """Rows that were to be searched in float32 hold integers beyond 2^24."""

    def __init__(self) -> None:
        super().__init__("x holds integers beyond 2^24, which float32 does not tell apart")


class Memory:
    """What the C++ kernel keeps of the rows of one problem, freed with this object."""

    def __init__(self, *, keep: bool = False, sort: bool = False) -> None:
        library = loaded()
        self.handle = library.km_open(keep, sort)
        if not self.handle:
            raise MemoryError("no memory for a workspace")
        # Directions by purpose, and those that the handle has.
        self.directions_for: dict[str, Directions | None] = {}
        self.directions: Directions | None = None
        # Distances to the nearest center as the last call left them, and their version.
        self.nearest: tuple[weakref.ref[Tensor], int] | None = None
        weakref.finalize(self, library.km_close, self.handle)

    def knows(self, nearest: Tensor) -> bool:
        """Whether these are the distances of the last call, unchanged since."""
        if self.nearest is None:
            return False
        reference, version = self.nearest
        return reference() is nearest and version == version_of(nearest)

    def note(self, nearest: Tensor) -> None:
        """Remember distances as this call leaves them."""
        self.nearest = weakref.ref(nearest), version_of(nearest)

    def __reduce__(self) -> str:
        raise TypeError("a workspace belongs to its rows in this process; prepare another one")
