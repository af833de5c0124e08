"""Tables in .parquet: columns of numbers, but for the index that pandas writes among them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from kmeans_module.arrays import as_tensor
from kmeans_module.files.columns import Column, column_numbers
from kmeans_module.files.refusals import DROP, UnsuitableError


def read_parquet(path: Path, columns: Sequence[Column] | None) -> tuple[Tensor, list[str]]:
    """Rows of numbers, (n, d), and the names of the columns.

    An index of pandas is no feature, unless it is asked for by its name; numbers of columns do not
    count it.
    """
    try:
        from pyarrow import parquet
    except ImportError:
        raise UnsuitableError(
            "reading .parquet needs pyarrow: pip install 'kmeans-module[parquet]'"
        ) from None
    # not mapped into memory: a file that is cut short meanwhile is then an error, not a signal
    with parquet.ParquetFile(path, memory_map=False) as file:
        schema = file.schema_arrow
        index = _index_columns(schema)
        names = [name for name in schema.names if name not in index]
        if columns is not None:
            names = _chosen(columns, names, index)
        if not names:
            raise UnsuitableError("expected rows of numbers, got no column but an index")
        twice = next((name for name in names if schema.names.count(name) > 1), None)
        if twice is not None:
            raise UnsuitableError(f"{schema.names.count(twice)} columns are named {twice!r}")
        table = file.read(columns=list(dict.fromkeys(names)))
    text = next((name for name in names if not _is_numeric(schema.field(name).type)), None)
    numeric = [name for name in names if _is_numeric(schema.field(name).type)]
    if text is not None and columns is None and numeric:
        fault = f"expected numbers, got {schema.field(text).type} in {text!r}"
        raise UnsuitableError(fault, numeric)
    arrays = [_numbers(table.column(name), name) for name in names]
    stacked = np.column_stack(arrays)
    if stacked.dtype.kind == "f" and any(_inexact(array) for array in arrays):
        raise UnsuitableError(
            f"holds integers beyond 2^53, which {stacked.dtype} does not tell apart: "
            "choose columns of one kind"
        )
    return as_tensor(stacked), names


def _chosen(columns: Sequence[Column], names: list[str], index: set[str]) -> list[str]:
    """The names of the columns that are asked for, an index by its name too."""
    return [
        column
        if isinstance(column, str) and column in index
        else names[column_numbers([column], names, len(names))[0]]
        for column in columns
    ]


def _index_columns(schema: Any) -> set[str]:
    """Names of the columns that pandas wrote as an index."""
    metadata = schema.pandas_metadata or {}
    told = {name for name in metadata.get("index_columns", ()) if isinstance(name, str)}
    return told | {name for name in schema.names if re.fullmatch(r"__index_level_\d+__", name)}


def _numbers(column: Any, name: str) -> np.ndarray[Any, Any]:
    """A column as numbers, none of which is missing."""
    from pyarrow import types

    if types.is_decimal(column.type):
        column = column.cast("float64", safe=False)
    if not _is_numeric(column.type):
        raise UnsuitableError(f"expected numbers, got {column.type} in {name!r}")
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        missing = "value is" if column.null_count == 1 else "values are"
        raise UnsuitableError(
            f"{column.null_count} {missing} missing in {name!r}, the first in row {row}; {DROP}"
        )
    array: np.ndarray[Any, Any] = column.to_numpy()
    return array


def _is_numeric(kind: Any) -> bool:
    """Whether a column of this type of pyarrow is read as numbers."""
    from pyarrow import types

    known = types.is_integer, types.is_floating, types.is_boolean, types.is_decimal
    return any(is_known(kind) for is_known in known)


def _inexact(array: np.ndarray[Any, Any]) -> bool:
    """Whether an array holds integers that float64 does not tell apart."""
    if array.dtype.kind not in "iu" or array.dtype.itemsize < 8 or not array.size:
        return False
    return max(int(array.max()), -int(array.min())) > 2**53
