"""Rows of all files of a folder, one file after the other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from kmeans_module.files import readers as io


def array_files(path: str | os.PathLike[str]) -> list[Path]:
    """The files of rows in a folder and its subfolders, sorted by name; not the hidden ones.

    Raises:
        ValueError: the folder holds none, or files of several formats.
    """
    path = Path(path)
    names = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
    visible = (name for name in names if not any(part[0] == "." for part in name.parts))
    files = [path / name for name in sorted(visible) if name.suffix.lower() in io.ARRAY_SUFFIXES]
    if not files:
        expected = ", ".join(io.ARRAY_SUFFIXES)
        raise ValueError(f"{path}: no files of rows in this folder, expected {expected}")
    suffixes = sorted({file.suffix for file in files})
    if len(suffixes) > 1:
        raise ValueError(f"{path}: files of several formats, {', '.join(suffixes)}; expected one")
    return files


def read_folder(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[int | str] | None = None,
    key: str | None = None,
) -> tuple[io.Table, dict[Path, int]]:
    """As :func:`kmeans_module.files.readers.read_table` reads one file, all of a folder and its subfolders.

    Every file is read twice, its shape first, so that the rows are in memory only once. Those of
    a single file stay as they are, mapped into memory where its format allows it.

    Returns:
        The rows of all files, those of differing dtypes in one that holds them all; and how many
        each file has, by its path in the folder, in their order.

    Raises:
        ValueError: there are no files of rows, one cannot be read, or one differs from the
            first in the number of features or in their names.
    """
    files = array_files(path)
    first = io.read_table(files[0], columns=columns, key=key)
    dtype, rows = first.x.dtype, []
    for file in files:
        table = io.read_table(file, columns=columns, key=key)
        if table.x.shape[1] != first.x.shape[1]:
            raise ValueError(
                f"{file}: rows of {table.x.shape[1]} features, "
                f"those of {files[0].relative_to(path)} have {first.x.shape[1]}"
            )
        if table.names != first.names:
            raise ValueError(f"{file}: other columns than in {files[0].relative_to(path)}")
        dtype = torch.promote_types(dtype, table.x.dtype)
        rows.append(len(table.x))
    sizes = {file.relative_to(path): n for file, n in zip(files, rows, strict=True)}
    if len(files) == 1:
        return first, sizes
    x = torch.empty(sum(rows), first.x.shape[1], dtype=dtype)
    for file, part in zip(files, torch.split(x, rows), strict=True):
        part.copy_(io.read_table(file, columns=columns, key=key).x)
    return io.Table(x, first.names), sizes
