"""Readers of rows: one tensor out of .npy, .npz, .csv, .parquet, .safetensors or .pt."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kmeans_module.arrays import as_tensor

# re-exported for callers that import this module and not the package
from kmeans_module.files.atomic import load_tensors as load_tensors
from kmeans_module.files.atomic import save_tensors as save_tensors
from kmeans_module.files.columns import checked_columns, column_numbers
from kmeans_module.files.parquet import read_parquet
from kmeans_module.files.refusals import UnsuitableError, enumerated, existing_file, refusing
from kmeans_module.files.text import Header, read_csv

_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
_READ = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip


class Table(NamedTuple):
    """What a file holds.

    Attributes:
        x: rows of numbers, (n, d).
        names: of the d columns, where the file has them.
        mapped: whether the rows are those of the file, mapped into memory, and no copy.
    """

    x: Tensor
    names: list[str] | None = None
    mapped: bool = False


def read_array(
    path: str | os.PathLike[str],
    *,
    columns: Iterable[int | str] | None = None,
    key: str | None = None,
    header: Header = "auto",
) -> Tensor:
    """Read rows of numbers from .npy, .npz, .csv, .parquet, .safetensors or .pt.

    Nothing is unpickled. The dtype is the file's (float64 for .csv, which has none; signed
    integers for unsigned ones of more than 8 bits). A .npy, .pt and .safetensors file is mapped
    into memory: rows are read when they are used, and writing to the tensor does not write to the
    file. Where such a file is cut short meanwhile, reading on ends the process (SIGBUS);
    :class:`kmeans_module.ArrayDataModule` watches its file.

    Args:
        path: the file; its suffix says the format.
        columns: features to keep, by number or (.csv and .parquet) by name; default all. The
            index that pandas writes into a table is no feature, and numbers do not count it.
        key: the array to read from an .npz, .safetensors or .pt file that holds several;
            default the only two-dimensional one.
        header: whether the first line of a .csv file names the columns. "auto" takes it as names
            if it is 0, 1, ..., d - 1 (pandas' names of columns without one), or not numeric
            throughout; the logger ``kmeans_module.files.text`` says at level INFO what was taken.

    Returns:
        (n, d); a one-dimensional array of n numbers becomes (n, 1).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not what its name says, is truncated, empty, or holds anything
            but rows of real numbers; or it has no such column or key.
        TypeError: columns or header are of another kind.
    """
    return read_table(path, columns=columns, key=key, header=header).x


def read_table(
    path: str | os.PathLike[str],
    *,
    columns: Iterable[int | str] | None = None,
    key: str | None = None,
    header: Header = "auto",
) -> Table:
    """Read rows of numbers, and the names of their columns.

    Args:
        path, columns, key, header: see :func:`read_array`.

    Returns:
        Rows, names, and whether the rows are mapped.

    Raises:
        FileNotFoundError, ValueError, TypeError: see :func:`read_array`.
    """
    columns = checked_columns(columns)
    check_header(header)
    path = existing_file(path)
    suffix = path.suffix.lower()
    with refusing(path, f"{suffix} file"):
        if header != "auto" and suffix != ".csv":
            raise UnsuitableError(f"header={header!r} is of a .csv file, this is a {suffix} file")
        if suffix in _TABLE_SUFFIXES:
            if key is not None:
                raise UnsuitableError(f"key={key!r} names an array, a {suffix} file has columns")
            x, names = (
                read_csv(path, columns, header) if suffix == ".csv" else read_parquet(path, columns)
            )
            return Table(_matrix(x), names)
        if suffix in _ARRAY_READERS:
            array, mapped = _ARRAY_READERS[suffix](path, key)
            x = _matrix(array)
            if columns is not None:
                x = _matrix(x[:, column_numbers(columns, None, x.shape[1])])
            return Table(x, mapped=mapped and _shares_memory(x, array))
        expected = enumerated(ARRAY_SUFFIXES)
        raise UnsuitableError(f"unknown suffix {path.suffix!r}, expected one of {expected}")


def check_header(header: object) -> None:
    """Refuse anything but True, False and "auto".

    Args:
        header: what a user has set.

    Raises:
        TypeError: it is none of these.
    """
    if not isinstance(header, bool) and header != "auto":
        raise TypeError(f"header should be True, False or 'auto'; got {header!r}")


def _matrix(x: Tensor) -> Tensor:
    """The rows (n, d) of an array of one or two dimensions; other arrays are refused."""
    if x.layout != torch.strided or x.is_quantized or x.is_complex():
        raise UnsuitableError(f"expected dense real numbers, got {x.dtype} in {x.layout}")
    if x.ndim not in (1, 2) or 0 in x.shape:
        raise UnsuitableError(f"expected rows of numbers (n, d), got shape {tuple(x.shape)}")
    if x.device.type != "cpu":
        raise UnsuitableError(f"expected numbers, got a tensor on the device {x.device}")
    if x.dtype in _UNSIGNED:
        x = _tensor(x.numpy())
    if x.dtype not in _READ:
        raise UnsuitableError(f"expected numbers that can be clustered, got {x.dtype}")
    return x.detach() if x.ndim == 2 else x.detach()[:, None]


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
    try:
        return as_tensor(array, "the array")
    except ValueError as error:
        raise UnsuitableError(f"holds integers up to {array.max()}, beyond int64") from error


def _shares_memory(x: Tensor, y: Tensor) -> bool:
    return x.untyped_storage().data_ptr() == y.untyped_storage().data_ptr()


def _read_npy(path: Path, key: str | None) -> tuple[Tensor, bool]:
    if key is not None:
        raise UnsuitableError(f"key={key!r} names an array, a .npy file holds only one")
    # copy-on-write, as torch has no read-only memory
    array = np.lib.format.open_memmap(path, mode="c")
    x = _tensor(array)
    return x, x.data_ptr() == array.ctypes.data


def _read_npz(path: Path, key: str | None) -> tuple[Tensor, bool]:
    _expect_zip(path, "np.savez")
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
        names = archive.files if key is None or key not in archive else [key]
        arrays = {name: archive[name] for name in names}
    dimensions = {name: array.ndim for name, array in arrays.items()}
    return _tensor(arrays[_array_to_read(dimensions, key)]), False


def _read_safetensors(path: Path, key: str | None) -> tuple[Tensor, bool]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        names = file.keys()
        dimensions = {name: len(file.get_slice(name).get_shape()) for name in names}
        x: Tensor = file.get_tensor(_array_to_read(dimensions, key))
    return x, True


def _read_pt(path: Path, key: str | None) -> tuple[Tensor, bool]:
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
    return tensors[_array_to_read(dimensions, key)], True


def _expect_zip(path: Path, writer: str) -> None:
    # torch.load and np.load would try their older formats
    if not zipfile.is_zipfile(path):
        raise UnsuitableError(f"truncated, or not a file that {writer} writes")


_ARRAY_READERS: dict[str, Callable[[Path, str | None], tuple[Tensor, bool]]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".pt": _read_pt,
}
_TABLE_SUFFIXES = (".csv", ".parquet")
ARRAY_SUFFIXES = (*_ARRAY_READERS, *_TABLE_SUFFIXES)
