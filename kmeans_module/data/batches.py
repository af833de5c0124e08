"""Batches of rows of a file, which are looked at before they are handed out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from kmeans_module.rows.batch import Batch
from kmeans_module.rows.loader import BatchLoader


class FileBatches(BatchLoader):
    """A BatchLoader that refuses what it cannot hand out, by the name of the file.

    Args:
        x: as of :class:`~kmeans_module.rows.loader.BatchLoader`, as are the options.
        check_file: raises where the file can no longer be read; called before every batch, and
            after the last one.
        check_rows: raises for rows (n, d) that cannot be clustered; called with the batches of the
            first pass.
    """

    def __init__(
        self,
        x: Tensor,
        *,
        check_file: Callable[[], None],
        check_rows: Callable[[Tensor], None],
        **options: Any,
    ) -> None:
        super().__init__(x, **options)
        self.check_file = check_file
        self.check_rows = check_rows
        self._checked = False

    def __iter__(self) -> Iterator[Batch]:
        self.check_file()
        for batch in super().__iter__():
            if not self._checked:
                self.check_rows(batch.x)
            yield batch
            self.check_file()
        self._checked = True
