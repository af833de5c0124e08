"""Readers of rows: one tensor out of .npy, .npz, .csv, .parquet, .safetensors or .pt."""

from __future__ import annotations

import csv
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

# re-exported for callers that import this module and not the package
from kmeans_module.files.atomic import load_tensors as load_tensors
from kmeans_module.files.atomic import save_tensors as save_tensors
from kmeans_module.files.refusals import UnsuitableError, enumerated, existing_file, refusing


class Table(NamedTuple):
    """Rows of numbers, (n, d), and the names of the d columns where the file has them."""

    x: Tensor
    names: list[str] | None = None


def read_array(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[int | str] | None = None,
    key: str | None = None,
) -> Tensor:
    """Read rows of numbers from .npy, .npz, .csv, .parquet, .safetensors or .pt.

    Nothing is unpickled. The dtype is the file's (float64 for .csv, which has none).
    A .npy and a .pt file are mapped into memory: rows are read when they are used, and
    writing to the tensor does not write to the file.

    Args:
        path: the file; its suffix says the format.
        columns: features to keep, by number or (.csv and .parquet) by name; default all.
        key: the array to read from an .npz, .safetensors or .pt file that holds several;
            default the only two-dimensional one.

    Returns:
        (n, d); a one-dimensional array of n numbers becomes (n, 1).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not what its name says, is truncated, empty, or holds anything
            but rows of real numbers; or it has no such column or key.
    """
    return read_table(path, columns=columns, key=key).x


def read_table(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[int | str] | None = None,
    key: str | None = None,
) -> Table:
    """As :func:`read_array`, with the names of the columns."""
    path = existing_file(path)
    suffix = path.suffix.lower()
    with refusing(path, f"{suffix} file"):
        if suffix in _TABLE_READERS:
            if key is not None:
                raise UnsuitableError(f"key={key!r} names an array, a {suffix} file has columns")
            x, names = _TABLE_READERS[suffix](path, columns)
            return Table(_matrix(x), names)
        if suffix in _ARRAY_READERS:
            x = _matrix(_ARRAY_READERS[suffix](path, key))
            if columns is not None:
                x = x[:, _column_numbers(columns, None, x.shape[1])]
            return Table(_matrix(x))
        expected = enumerated(ARRAY_SUFFIXES)
        raise UnsuitableError(f"unknown suffix {path.suffix!r}, expected one of {expected}")


def _matrix(x: Tensor) -> Tensor:
    """The rows (n, d) of an array of one or two dimensions; other arrays are refused."""
    if x.layout != torch.strided or x.is_quantized or x.is_complex():
        raise UnsuitableError(f"expected dense real numbers, got {x.dtype} in {x.layout}")
    if x.ndim not in (1, 2) or 0 in x.shape:
        raise UnsuitableError(f"expected rows of numbers (n, d), got shape {tuple(x.shape)}")
    return x.detach() if x.ndim == 2 else x.detach()[:, None]


def _column_numbers(
    columns: Sequence[int | str], names: list[str] | None, n_columns: int
) -> list[int]:
    """The number of each column that is given by its number or its name."""

    def number(column: int | str) -> int:
        if isinstance(column, str) and names is not None and column in names:
            return names.index(column)
        if isinstance(column, int) and 0 <= column < n_columns:
            return column
        by_name = "" if names is None else f" or one of {enumerated(names)}"
        raise UnsuitableError(f"no column {column!r}, expected 0 to {n_columns - 1}{by_name}")

    return [number(column) for column in columns]


def _array_to_read(dimensions: Mapping[str, int], key: str | None) -> str:
    """The name of the array: ``key``, or the only one of two dimensions.

    Args:
        dimensions: number of dimensions of each array of the file, by name.
        key: what the user asked for.
    """
    names = list(dimensions)
    if key is not None:
        if key not in dimensions:
            raise UnsuitableError(f"no array {key!r}, expected one of: {enumerated(names)}")
        return key
    matrices = [name for name in names if dimensions[name] == 2] if len(names) > 1 else names
    if len(matrices) != 1:
        raise UnsuitableError(
            f"expected one two-dimensional array, got {len(matrices)} in: {enumerated(names)}; "
            "say which with key"
        )
    return matrices[0]


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    if array.dtype.kind not in "biuf":
        raise UnsuitableError(f"expected numbers, got an array of {array.dtype}")
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def _read_npy(path: Path, key: str | None) -> Tensor:
    if key is not None:
        raise UnsuitableError(f"key={key!r} names an array, a .npy file holds only one")
    # copy-on-write, as torch has no read-only memory
    return _tensor(np.lib.format.open_memmap(path, mode="c"))


def _read_npz(path: Path, key: str | None) -> Tensor:
    _expect_zip(path, "np.savez")
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
        names = archive.files if key is None or key not in archive else [key]
        arrays = {name: archive[name] for name in names}
    dimensions = {name: array.ndim for name, array in arrays.items()}
    return _tensor(arrays[_array_to_read(dimensions, key)])


def _read_safetensors(path: Path, key: str | None) -> Tensor:
    with safe_open(path, framework="pt") as file:
        names = file.keys()
        dimensions = {name: len(file.get_slice(name).get_shape()) for name in names}
        x: Tensor = file.get_tensor(_array_to_read(dimensions, key))
    return x


def _read_pt(path: Path, key: str | None) -> Tensor:
    _expect_zip(path, "torch.save")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise UnsuitableError("holds pickled objects, expected only tensors") from None
    if isinstance(loaded, Tensor):
        loaded = {key or "": loaded}
    if not isinstance(loaded, Mapping):
        raise UnsuitableError(f"expected a tensor or a dict of them, got {type(loaded).__name__}")
    tensors = {str(name): x for name, x in loaded.items() if isinstance(x, Tensor)}
    dimensions = {name: x.ndim for name, x in tensors.items()}
    return tensors[_array_to_read(dimensions, key)]


def _expect_zip(path: Path, writer: str) -> None:
    # torch.load and np.load would try their older formats
    if not zipfile.is_zipfile(path):
        raise UnsuitableError(f"truncated, or not a file that {writer} writes")


def _read_csv(path: Path, columns: Sequence[int | str] | None) -> tuple[Tensor, list[str] | None]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        lines = (line for line in reader if any(cell.strip() for cell in line))
        first = [cell.strip() for cell in next(lines, [])]
        by_name = any(isinstance(column, str) for column in columns or [])
        names = first if by_name or not any(_is_number(cell) for cell in first) else None
        skip = reader.line_num - (names is None)
        if not first or (names is not None and next(lines, None) is None):
            raise UnsuitableError("expected rows of numbers, got none")
    numbers = None if columns is None else _column_numbers(columns, names, len(first))
    with open(path, encoding="utf-8-sig") as file:
        array = np.loadtxt(
            file,
            delimiter=",",
            comments=None,
            quotechar='"',
            skiprows=skip,
            usecols=numbers,
            ndmin=2,
        )
    if numbers is None and array.shape[1] != len(first):
        raise UnsuitableError(f"{len(first)} columns named, {array.shape[1]} in the rows")
    if names is not None and numbers is not None:
        names = [names[number] for number in numbers]
    return torch.from_numpy(array), names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_parquet(path: Path, columns: Sequence[int | str] | None) -> tuple[Tensor, list[str]]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise UnsuitableError(
            "reading .parquet needs pyarrow: pip install 'kmeans-module[parquet]'"
        ) from None
    with parquet.ParquetFile(path, memory_map=True) as file:
        names: list[str] = file.schema_arrow.names
        if columns is not None:
            names = [names[number] for number in _column_numbers(columns, names, len(names))]
        table = file.read(columns=names)
    arrays = [table.column(name).to_numpy() for name in names]
    for name, array in zip(names, arrays, strict=True):
        if array.dtype.kind not in "biuf":
            raise UnsuitableError(f"expected numbers, got {table.field(name).type} in {name!r}")
    return _tensor(np.column_stack(arrays)), names


_ARRAY_READERS: dict[str, Callable[[Path, str | None], Tensor]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".pt": _read_pt,
}
_TABLE_READERS: dict[
    str, Callable[[Path, Sequence[int | str] | None], tuple[Tensor, list[str] | None]]
] = {".csv": _read_csv, ".parquet": _read_parquet}
ARRAY_SUFFIXES = (*_ARRAY_READERS, *_TABLE_READERS)
