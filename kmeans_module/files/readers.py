"""Safe readers, atomic writes: numbers in, numbers out, never objects, never half a file."""

from __future__ import annotations

import csv
import os
import pickle
import secrets
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


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
    path = _existing_file(path)
    suffix = path.suffix.lower()
    with _naming(path, f"{suffix} file"):
        if suffix in _TABLE_READERS:
            if key is not None:
                raise _UnsuitableError(f"key={key!r} names an array, a {suffix} file has columns")
            x, names = _TABLE_READERS[suffix](path, columns)
            return Table(_matrix(x), names)
        if suffix in _ARRAY_READERS:
            x = _matrix(_ARRAY_READERS[suffix](path, key))
            if columns is not None:
                x = x[:, _positions(columns, None, x.shape[1])]
            return Table(_matrix(x))
        expected = _listed(ARRAY_SUFFIXES)
        raise _UnsuitableError(f"unknown suffix {path.suffix!r}, expected one of {expected}")


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """Read a picture as RGB, upright as its EXIF orientation says.

    Returns:
        (H, W, 3) float32 in [0, 1].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no image, is truncated, has more than 8 bits per channel, or is
            larger than Pillow's ``Image.MAX_IMAGE_PIXELS``.
    """
    from PIL import Image, ImageOps

    path = _existing_file(path)
    with _naming(path, "image"), warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):  # Pillow would clip them to white
                raise _UnsuitableError(f"expected 8 bits per channel, got mode {image.mode}")
            pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    return torch.from_numpy(pixels).float().div_(255)


def image_files(path: str | os.PathLike[str]) -> list[Path]:
    """The file itself, or the images of a folder sorted by name (not of its subfolders).

    Raises:
        FileNotFoundError: there is neither.
        ValueError: the folder holds no image.
    """
    path = Path(path)
    if not path.is_dir():
        return [_existing_file(path)]
    files = sorted(
        file
        for file in path.iterdir()
        if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file() and file.name[0] != "."
    )
    if not files:
        raise ValueError(f"{path}: no images in this folder, expected {_listed(IMAGE_SUFFIXES)}")
    return files


def write_atomically(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a file that takes the place of ``path`` only when it is complete.

    On any failure, also Ctrl-C, what was at ``path`` stays as it was and nothing is left beside it.

    Raises:
        OSError: the file cannot be written; names ``path``.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, f"cannot write: {error.strerror}", str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def save_array(path: str | os.PathLike[str], tensor: Tensor) -> None:
    """Write a tensor of any shape as .npy, atomically (bfloat16 as float32)."""
    tensor = tensor.detach().cpu()
    array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    write_atomically(path, lambda file: np.save(file, array, allow_pickle=False))


def save_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write named tensors of any shapes and a few strings as .safetensors, atomically."""
    # clones, as safetensors refuses tensors that share memory
    own = {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}
    data = to_safetensors(own, dict(metadata or {}))
    write_atomically(path, lambda file: file.write(data))


def load_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what :func:`save_tensors` wrote: the tensors by name, and the metadata.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a complete .safetensors file.
    """
    path = _existing_file(path)
    with _naming(path, ".safetensors file"), safe_open(path, framework="pt") as file:
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}, file.metadata() or {}


class _UnsuitableError(Exception):
    """Says what is wrong with a file; :func:`_naming` puts the file's name in front."""


@contextmanager
def _naming(path: Path, kind: str) -> Iterator[None]:
    # half a dozen parsers meet corrupted bytes with as many kinds of exception
    try:
        yield
    except _UnsuitableError as error:
        raise ValueError(f"{path}: {error}") from None
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ValueError(f"{path}: not a readable {kind} ({reason[:200]})") from error


def _existing_file(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: is a folder, expected a file")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    return path


def _listed(names: Sequence[object] | frozenset[str], limit: int = 10) -> str:
    shown = sorted(names) if isinstance(names, frozenset) else list(names)
    more = f", ... ({len(shown)} in all)" if len(shown) > limit else ""
    return ", ".join(str(name) for name in shown[:limit]) + more


def _matrix(x: Tensor) -> Tensor:
    if x.layout != torch.strided or x.is_quantized or x.is_complex():
        raise _UnsuitableError(f"expected dense real numbers, got {x.dtype} in {x.layout}")
    if x.ndim not in (1, 2) or 0 in x.shape:
        raise _UnsuitableError(f"expected rows of numbers (n, d), got shape {tuple(x.shape)}")
    return x.detach() if x.ndim == 2 else x.detach()[:, None]


def _positions(columns: Sequence[int | str], names: list[str] | None, count: int) -> list[int]:
    def position(column: int | str) -> int:
        if isinstance(column, str) and names is not None and column in names:
            return names.index(column)
        if isinstance(column, int) and 0 <= column < count:
            return column
        by_name = "" if names is None else f" or one of {_listed(names)}"
        raise _UnsuitableError(f"no column {column!r}, expected 0 to {count - 1}{by_name}")

    return [position(column) for column in columns]


def _chosen(dimensions: Mapping[str, int], key: str | None) -> str:
    names = list(dimensions)
    if key is not None:
        if key not in dimensions:
            raise _UnsuitableError(f"no array {key!r}, expected one of: {_listed(names)}")
        return key
    matrices = [name for name in names if dimensions[name] == 2] if len(names) > 1 else names
    if len(matrices) != 1:
        raise _UnsuitableError(
            f"expected one two-dimensional array, got {len(matrices)} in: {_listed(names)}; "
            "say which with key"
        )
    return matrices[0]


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    if array.dtype.kind not in "biuf":
        raise _UnsuitableError(f"expected numbers, got an array of {array.dtype}")
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def _read_npy(path: Path, key: str | None) -> Tensor:
    if key is not None:
        raise _UnsuitableError(f"key={key!r} names an array, a .npy file holds only one")
    # copy-on-write, as torch has no read-only memory
    return _tensor(np.lib.format.open_memmap(path, mode="c"))


def _read_npz(path: Path, key: str | None) -> Tensor:
    _expect_zip(path, "np.savez")
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
        names = archive.files if key is None or key not in archive else [key]
        arrays = {name: archive[name] for name in names}
    return _tensor(arrays[_chosen({name: array.ndim for name, array in arrays.items()}, key)])


def _read_safetensors(path: Path, key: str | None) -> Tensor:
    with safe_open(path, framework="pt") as file:
        names = file.keys()
        dimensions = {name: len(file.get_slice(name).get_shape()) for name in names}
        x: Tensor = file.get_tensor(_chosen(dimensions, key))
    return x


def _read_pt(path: Path, key: str | None) -> Tensor:
    _expect_zip(path, "torch.save")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise _UnsuitableError("holds pickled objects, expected only tensors") from None
    if isinstance(loaded, Tensor):
        loaded = {key or "": loaded}
    if not isinstance(loaded, Mapping):
        raise _UnsuitableError(f"expected a tensor or a dict of them, got {type(loaded).__name__}")
    tensors = {str(name): x for name, x in loaded.items() if isinstance(x, Tensor)}
    return tensors[_chosen({name: x.ndim for name, x in tensors.items()}, key)]


def _expect_zip(path: Path, writer: str) -> None:
    if not zipfile.is_zipfile(path):
        raise _UnsuitableError(f"truncated, or not a file that {writer} writes")


def _read_csv(path: Path, columns: Sequence[int | str] | None) -> tuple[Tensor, list[str] | None]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        lines = (line for line in reader if any(cell.strip() for cell in line))
        first = [cell.strip() for cell in next(lines, [])]
        by_name = any(isinstance(column, str) for column in columns or [])
        names = first if by_name or not any(_is_number(cell) for cell in first) else None
        skip = reader.line_num - (names is None)
        if not first or (names is not None and next(lines, None) is None):
            raise _UnsuitableError("expected rows of numbers, got none")
    positions = None if columns is None else _positions(columns, names, len(first))
    with open(path, encoding="utf-8-sig") as file:
        array = np.loadtxt(
            file,
            delimiter=",",
            comments=None,
            quotechar='"',
            skiprows=skip,
            usecols=positions,
            ndmin=2,
        )
    if positions is None and array.shape[1] != len(first):
        raise _UnsuitableError(f"{len(first)} columns named, {array.shape[1]} in the rows")
    if names is not None and positions is not None:
        names = [names[i] for i in positions]
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
        raise _UnsuitableError(
            "reading .parquet needs pyarrow: pip install 'kmeans-module[parquet]'"
        ) from None
    with parquet.ParquetFile(path, memory_map=True) as file:
        names: list[str] = file.schema_arrow.names
        if columns is not None:
            names = [names[i] for i in _positions(columns, names, len(names))]
        table = file.read(columns=names)
    arrays = [table.column(name).to_numpy() for name in names]
    for name, array in zip(names, arrays, strict=True):
        if array.dtype.kind not in "biuf":
            raise _UnsuitableError(f"expected numbers, got {table.field(name).type} in {name!r}")
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
