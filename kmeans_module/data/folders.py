"""Rows of all files of a folder, one file after the other."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch

from kmeans_module import files


def array_files(path: str | os.PathLike[str]) -> list[Path]:
    """The files of rows in a folder and its subfolders, sorted by name; not the hidden ones.

    Raises:
        ValueError: the folder holds none, or files of several formats.
    """
    path = Path(path)
    # a link to nothing too: that its rows are missing is said when it is read
    found = (file for file in path.rglob("*") if file.is_file() or not file.exists())
    names = (file.relative_to(path) for file in found)
    visible = (name for name in names if not any(part[0] == "." for part in name.parts))
    arrays = [
        path / name for name in sorted(visible) if name.suffix.lower() in files.ARRAY_SUFFIXES
    ]
    if not arrays:
        expected = ", ".join(files.ARRAY_SUFFIXES)
        raise ValueError(f"{path}: no files of rows in this folder, expected {expected}")
    suffixes = sorted({array.suffix for array in arrays})
    if len(suffixes) > 1:
        raise ValueError(f"{path}: files of several formats, {', '.join(suffixes)}; expected one")
    return arrays


def read_folder(
    path: str | os.PathLike[str],
    *,
    columns: Iterable[int | str] | None = None,
    key: str | None = None,
    header: files.Header = "auto",
) -> tuple[files.Table, dict[Path, int]]:
    """All files of a folder and its subfolders, each as :func:`kmeans_module.files.read_table`.

    Every file is read twice, at first for its shape alone, so that the rows are in memory only
    once. The rows of a single file stay as they are, mapped into memory where its format allows it.

    Returns:
        The rows of all files, in the smallest dtype that holds the dtypes of all; and the number
        of rows of each file, by its path in the folder, in the order of the rows.

    Raises:
        ValueError: there are no files of rows, one cannot be read, or one differs from the
            first in the number of features, or in their names or order.
    """
    paths = array_files(path)
    columns = files.checked_columns(columns)  # an iterator would be spent on the first file
    first = files.read_table(paths[0], columns=columns, key=key, header=header)
    dtype, n_rows = first.x.dtype, [len(first.x)]
    for file in paths[1:]:
        table = files.read_table(file, columns=columns, key=key, header=header)
        check_same_columns(file, table, paths[0].relative_to(path), first)
        dtype = common_dtype(dtype, table.x.dtype)
        n_rows.append(len(table.x))
    sizes = {file.relative_to(path): n for file, n in zip(paths, n_rows, strict=True)}
    if len(paths) == 1:
        return first, sizes
    if paths[0].suffix.lower() == ".csv":
        header = first.names is not None  # what was found out holds for the second reading
    x = torch.empty(sum(n_rows), first.x.shape[1], dtype=dtype)
    for file, rows in zip(paths, torch.split(x, n_rows), strict=True):
        again = files.read_table(file, columns=columns, key=key, header=header).x
        if again.shape != rows.shape:
            raise ValueError(f"{file}: was changed while it was read")
        rows.copy_(again)
    return files.Table(x, first.names), sizes


def check_same_columns(
    file: Path, table: files.Table, first_file: Path, first: files.Table
) -> None:
    if table.x.shape[1] != first.x.shape[1]:
        raise ValueError(
            f"{file}: rows of {table.x.shape[1]} features, "
            f"those of {first_file} have {first.x.shape[1]}"
        )
    if table.names != first.names:
        here, there = (
            "no header" if names is None else files.enumerated(names)
            for names in (table.names, first.names)
        )
        raise ValueError(f"{file}: other columns than in {first_file}: {here}; there {there}")


def common_dtype(a: torch.dtype, b: torch.dtype) -> torch.dtype:
    """The smallest dtype that holds the numbers of both; torch's own loses integers to floats."""
    common = torch.promote_types(a, b)
    if not common.is_floating_point:
        return common
    for dtype in (a, b):
        if dtype.is_floating_point or dtype == torch.bool:
            continue
        bits = torch.iinfo(dtype).bits
        if 2**bits > 2 / torch.finfo(common).eps:
            wider = torch.float32 if bits <= 16 else torch.float64
            common = torch.promote_types(common, wider)
    return common
