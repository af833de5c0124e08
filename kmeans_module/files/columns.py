"""Which columns of a table are features: all, or those that are asked for by number or name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral

from kmeans_module.core.words import shown
from kmeans_module.files.refusals import UnsuitableError, enumerated

Column = int | str


def checked_columns(columns: Iterable[Column] | None) -> list[Column] | None:
    """Columns as a list, of an iterator too, which a first file would exhaust.

    Args:
        columns: numbers and names, or None for all columns.

    Returns:
        A list of int and str, or None.

    Raises:
        TypeError: they are no numbers and names.
        ValueError: there are none.
    """
    if columns is None:
        return None
    if isinstance(columns, str | bytes) or not isinstance(columns, Iterable):
        raise TypeError(f"columns should be a list of numbers and names; got {shown(columns)}")
    if getattr(columns, "ndim", 1) != 1:
        raise TypeError(f"columns should be a list of numbers and names; got {shown(columns)}")
    checked: list[Column] = []
    for column in columns:
        if isinstance(column, bool) or not isinstance(column, Integral | str):
            raise TypeError(f"columns should be numbers and names; got {shown(column)}")
        checked.append(column if isinstance(column, str) else int(column))
    if not checked:
        raise ValueError("columns should name one column at least; got none")
    return checked


def column_numbers(columns: Sequence[Column], names: list[str] | None, n_columns: int) -> list[int]:
    """The number of each column that is given by its number or its name."""

    def number(column: Column) -> int:
        if isinstance(column, str) and names is not None and column in names:
            if names.count(column) > 1:
                raise UnsuitableError(f"{names.count(column)} columns are named {column!r}")
            return names.index(column)
        if isinstance(column, int) and 0 <= column < n_columns:
            return column
        by_name = "" if names is None else f" or one of {enumerated(names)}"
        raise UnsuitableError(f"no column {column!r}, expected 0 to {n_columns - 1}{by_name}")

    return [number(column) for column in columns]
