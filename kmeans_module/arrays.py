"""The door for arrays and frames: what NumPy reads becomes a tensor, or is refused in words."""

from __future__ import annotations

from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kmeans_module.core.sparse import csr_rows
from kmeans_module.core.words import shown

Array = NDArray[Any]

# torch has no arithmetic for them; the signed type holds all their values
_SIGNED: dict[int, Any] = {2: np.int32, 4: np.int64, 8: np.int64}


def as_tensor(x: Any, name: str = "x", *, sparse: bool = False) -> Tensor:
    """The numbers of an array, a frame, nested lists or anything else that NumPy reads.

    Memory is shared where torch can: a plain array, contiguous or not, read-only or mapped, is not
    copied. The tensor is for reading. Long floats become float64, unsigned integers signed ones.

    Args:
        x: a tensor, which comes back as it is, or what ``np.asarray`` takes.
        name: of the argument, for messages.
        sparse: whether a matrix of scipy.sparse may become a tensor of layout torch.sparse_csr: of
            CSR whose columns ascend the memory is shared; entries given twice are added up.

    Raises:
        TypeError: x holds anything but real numbers: text, dates, missing values, objects; or is
            sparse, or no array.
        ValueError: x is ragged, or masked somewhere, or has integers beyond int64.
    """
    if isinstance(x, Tensor):
        return x
    if sparse and is_sparse_matrix(x):
        return _csr(x, name)
    array = _array(x, name)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} should hold numbers; got an array of {array.dtype}")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        if array.size and int(array.max()) >= 2**63:
            raise ValueError(
                f"{name} holds integers up to {array.max()}, beyond int64; "
                f"use {name}.astype(np.float64)"
            )
        array = array.astype(_SIGNED[array.dtype.itemsize])
    if array.dtype.char == "g":
        with np.errstate(over="ignore"):  # infinity is refused where the rows are looked at
            array = array.astype(np.float64)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    size = array.dtype.itemsize
    if not array.flags.aligned or any(step < 0 or step % size for step in array.strides):
        array = array.copy()
    found = torch.from_numpy(array if array.flags.writeable else np.asarray(_Lent(array)))
    # The steps of an empty array are 0, which torch 2.8 takes for gaps in sparse rows.
    return found if array.size else torch.empty(found.shape, dtype=found.dtype)


def is_sparse_matrix(x: Any) -> bool:
    """Whether x is a matrix of scipy.sparse, asked without an import of it."""
    return type(x).__module__.startswith("scipy.sparse") and getattr(x, "ndim", 0) == 2


def _csr(x: Any, name: str) -> Tensor:
    matrix = x.tocsr()
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    starts, columns = as_tensor(matrix.indptr, name), as_tensor(matrix.indices, name)
    if starts.dtype != columns.dtype:
        starts, columns = starts.long(), columns.long()
    return csr_rows(starts, columns, as_tensor(matrix.data, name), matrix.shape)


def column_names(x: Any) -> list[str] | None:
    """Names of the columns of a frame; None where x has none, or where they are no text.

    Raises:
        TypeError: some names are text and some are not, as in scikit-learn.
    """
    if isinstance(x, Tensor | np.ndarray):
        return None
    columns = getattr(x, "column_names", None)  # pyarrow's
    columns = getattr(x, "columns", None) if columns is None else columns
    if columns is None or callable(columns):
        return None
    names = list(columns)
    kinds = sorted({type(column).__name__ for column in names})
    if names and all(isinstance(column, str) for column in names):
        return names
    if any(isinstance(column, str) for column in names):
        raise TypeError(
            "Feature names are only supported if all input features have string names, but your "
            f"input has {kinds} as column name types: use X.columns = X.columns.astype(str)"
        )
    return None


def check_unmasked(x: Any, name: str) -> None:
    """Refuse an array with masked values, or a list of such: NumPy would read what lies beneath."""
    if isinstance(x, list | tuple) and any(isinstance(row, np.ma.MaskedArray) for row in x):
        x = np.ma.array(x)
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        rows = np.argwhere(np.ma.getmaskarray(x))
        raise ValueError(
            f"{name} should have no masked value; {len(rows)} of {x.size} are, the first in row "
            f"{rows[0, 0] if rows.shape[1] else 0}: fill them or leave out their rows"
        )


class _Lent:
    """Read-only memory as torch takes it: without a warning, since nothing writes into it."""

    def __init__(self, array: Array) -> None:
        self.array = array
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, False)}


def _array(x: Any, name: str) -> Array:
    """x as an array of any shape and strides; not of objects."""
    expected = f"{name} should be an array of numbers or a tensor"
    if not isinstance(x, np.ndarray) and (hasattr(x, "toarray") or hasattr(x, "todense")):
        raise TypeError(f"{expected}; it is {type(x).__name__}, sparse; use {name}.toarray()")
    if isinstance(x, list | tuple) and any(isinstance(row, Tensor) for row in x):
        raise TypeError(f"{expected}; it is a list of tensors; use torch.stack({name})")
    check_unmasked(x, name)
    try:
        array = np.asarray(x)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"{expected}; NumPy cannot read the {type(x).__name__}: {reason}") from error
    if array.dtype != object:
        return array
    if array.ndim == 0 and not isinstance(x, np.ndarray):
        raise TypeError(f"{expected}; it is {type(x).__name__}")
    return _numbers(array, name)


def _numbers(array: Array, name: str) -> Array:
    """An array of objects, as frames of mixed or nullable columns give them, by its numbers."""
    number = (Real, Decimal, np.bool_)
    if not all(issubclass(kind, number) for kind in {type(value) for value in array.flat}):
        place, value = next(
            (place, value)
            for place, value in np.ndenumerate(array)
            if not isinstance(value, number)
        )
        where = ", ".join(f"{axis} {i}" for axis, i in zip(("row", "column"), place, strict=False))
        raise TypeError(
            f"{name} should hold numbers; {where or 'it'} holds {shown(value)} "
            f"({type(value).__name__})"
        )
    numbers = np.array(array.tolist())
    if numbers.dtype != object:
        return numbers.reshape(array.shape)
    try:
        return array.astype(np.float64)
    except (OverflowError, ValueError) as error:
        raise ValueError(f"{name} holds numbers that float64 does not: {error}") from error
