"""Files that stay mapped into memory while a run reads them."""

from __future__ import annotations

import os
from pathlib import Path


class MappedFile:
    """Tells whether a file still holds all that was mapped into memory.

    Reading a part of a mapping that its file has lost ends the process by SIGBUS. A file that is
    replaced, or whose name is removed, loses nothing: the mapping is of the old one.

    Args:
        path: of the file, as it was when it was mapped.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        status = self.path.stat()
        self._size, self._identity = status.st_size, (status.st_dev, status.st_ino)

    def check(self) -> None:
        """To be called before the rows are read; between the two a file can still be cut.

        Raises:
            ValueError: the file is shorter than it was; names it.
        """
        try:
            status = self.path.stat()
        except OSError:
            return
        if (status.st_dev, status.st_ino) == self._identity and status.st_size < self._size:
            raise ValueError(
                f"{self.path}: was cut short while it was read, "
                f"from {self._size} bytes to {status.st_size}"
            )
