"""Files that stay mapped into memory while a run reads them."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

from torch import Tensor

from kmeans_module.backends.native.library import INSTALLED, library


class MappedFile:
    """Tells whether a file still holds all that was mapped into memory.

    Reading a part of a mapping that its file has lost ends a process by SIGBUS. While this object
    lives, the native library lets the part read as zeros, and :meth:`check` refuses what came of
    it; without the library, :meth:`check` sees a shorter file only where it is called before the
    rows are read. A file that is replaced, or whose name is removed, loses nothing: the mapping is
    of the old one.

    Args:
        path: of the file, as it was when it was mapped.
        x: rows in the mapping.
    """

    def __init__(self, path: str | os.PathLike[str], x: Tensor) -> None:
        self.path = Path(path)
        status = self.path.stat()
        self._size, self._identity = status.st_size, (status.st_dev, status.st_ino)
        self._storage = x.untyped_storage()
        self._guard()

    def __reduce__(self) -> tuple[type[Copied], tuple[()]]:
        return Copied, ()

    def _guard(self) -> None:
        native = library() if INSTALLED else None
        self._number = -1
        if native is not None:
            self._number = native.km_guard_mapping(self._storage.data_ptr(), self._storage.nbytes())
        if native is not None and self._number >= 0:
            weakref.finalize(self, native.km_release_mapping, self._number)

    def check(self) -> None:
        """Refuse a file that is shorter than it was.

        Raises:
            ValueError: it is; names it.
        """
        native = library() if self._number >= 0 else None
        if native is not None and native.km_mapping_was_cut(self._number):
            raise ValueError(f"{self.path}: was cut short while it was read")
        try:
            status = self.path.stat()
        except OSError:
            return
        if (status.st_dev, status.st_ino) == self._identity and status.st_size < self._size:
            raise ValueError(
                f"{self.path}: was cut short while it was read, "
                f"from {self._size} bytes to {status.st_size}"
            )


class Copied:
    """What a MappedFile is in another process, which has a copy of the rows."""

    def check(self) -> None:
        """There is nothing to lose."""
