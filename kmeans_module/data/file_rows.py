"""Rows of files without a data module: read batch by batch, again in every pass."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kmeans_module import files
from kmeans_module.data.folders import array_files, check_same_columns, common_dtype, read_folder
from kmeans_module.data.mapped import MappedFile
from kmeans_module.files import Header, Table
from kmeans_module.rows.batch import Batch
from kmeans_module.rows.survey import Nonfinite

# Formats whose rows are read when they are used; others are in memory once they are read.
_MAPPED_SUFFIXES = (".npy", ".pt", ".safetensors")
_BATCH_ELEMENTS = 1 << 22
# Rows of so many bytes are worth a copy in memory: passes over them are faster.
HELD_BYTES = 1 << 28


class FileRows:
    """Rows of a file, or of all files of a folder one after the other, in batches.

    Of .npy, .pt and .safetensors files a batch at a time is in memory. Can be gone through again
    and again; each pass refuses files that are no longer what they were, the first one NaN and
    infinity, by the name of the file.

    Args:
        path: of a file, or of a folder with files of one format, in subfolders too.
        columns, key, header: see :func:`kmeans_module.files.read_array`.

    Attributes:
        sizes: rows of each file, by its path in the folder, in their order; of a single file by
            its name.
        n_features: features of a row, d.
        dtype: of the rows; the smallest that holds those of all files.
        names: of the columns where the files have them.

    Raises:
        ValueError, OSError: a file cannot be read; it is named.
    """

    stable = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        columns: Iterable[int | str] | None = None,
        key: str | None = None,
        header: Header = "auto",
    ) -> None:
        self.path = files.checked_path(path)
        self.is_folder = self.path.is_dir()
        self._options: dict[str, Any] = {
            "columns": files.checked_columns(columns), "key": key, "header": header,
        }  # fmt: skip
        self._paths = array_files(self.path) if self.is_folder else [self.path]
        self._known_finite = False
        self._guard: MappedFile | None = None
        # The rows of a single file, or of a folder that had to be read as a whole.
        self._table: Table | None = None
        if self.is_folder and self._paths[0].suffix.lower() in _MAPPED_SUFFIXES:
            self._survey()
        else:
            self._read()

    def _read(self) -> None:
        if self.is_folder:
            self._table, self.sizes = read_folder(self.path, **self._options)
        else:
            self._table = files.read_table(self.path, **self._options)
            self.sizes = {Path(self.path.name): len(self._table.x)}
        x = self._table.x
        self.n_features, self.dtype, self.names = x.shape[1], x.dtype, self._table.names
        if self._table.mapped:
            self._guard = MappedFile(self._paths[0], x)

    def _survey(self) -> None:
        """Shapes and dtypes of the files of a folder, none of which is kept open."""
        first: Table | None = None
        self.sizes = {}
        for path in self._paths:
            table = files.read_table(path, **self._options)
            first = first or table
            check_same_columns(path, table, self._paths[0].relative_to(self.path), first)
            self.dtype = common_dtype(self.dtype, table.x.dtype) if self.sizes else table.x.dtype
            self.sizes[path.relative_to(self.path)] = len(table.x)
        assert first is not None
        self.n_features, self.names = first.x.shape[1], first.names

    def __len__(self) -> int:
        """Number of rows of all files."""
        return sum(self.sizes.values())

    def __iter__(self) -> Iterator[Batch]:
        """One pass; no batch spans two files."""
        first = 0
        for path, n_rows in zip(self._paths, self.sizes.values(), strict=True):
            for rows in self._rows_of(path, first, n_rows):
                yield Batch(rows)
            first += n_rows
        self._known_finite = True

    def held(self) -> Tensor | None:
        """All rows in memory where they are few, or have been read already; None otherwise."""
        copied = self._table is not None and self._guard is None
        n_bytes = len(self) * self.n_features * self.dtype.itemsize
        if not copied and n_bytes > HELD_BYTES:
            return None
        if copied and self._table is not None:
            for _ in self:  # looks for NaN and infinity
                pass
            return self._table.x
        x, start = torch.empty(len(self), self.n_features, dtype=self.dtype), 0
        for batch in self:
            x[start : start + len(batch.x)] = batch.x
            start += len(batch.x)
        return x

    def _rows_of(self, path: Path, first: int, n_rows: int) -> Iterator[Tensor]:
        """Batches of the rows of one file, whose first row is that of this number."""
        if self._table is not None:
            x, guard = self._table.x[first : first + n_rows], self._guard
        else:
            table = files.read_table(path, **self._options)
            if table.x.shape != (n_rows, self.n_features):
                raise ValueError(f"{path}: was changed while it was read")
            x, guard = table.x, MappedFile(path, table.x) if table.mapped else None
        for rows in torch.split(x, max(1, _BATCH_ELEMENTS // self.n_features)):
            if guard is not None:
                guard.check()
            if not self._known_finite:
                _refuse_nonfinite(path, rows, x)
            yield rows.to(self.dtype)
        if guard is not None:
            guard.check()


def _refuse_nonfinite(path: Path, rows: Tensor, x: Tensor) -> None:
    """Raise where rows (n, d) hold NaN or infinity, with what all rows x of the file hold."""
    if not rows.is_floating_point() or not rows.numel():
        return
    if not all(bool(extreme.isfinite()) for extreme in rows.aminmax()):
        raise ValueError(f"{path}: {Nonfinite().look(x)}")
