"""Tables in text: .csv with or without a header, cells separated by commas."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from itertools import dropwhile
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kmeans_module.core.words import shown
from kmeans_module.files.columns import Column, column_numbers
from kmeans_module.files.refusals import DROP, UnsuitableError, enumerated

log = logging.getLogger(__name__)

Header = bool | Literal["auto"]
_ENCODING = "utf-8-sig"  # of Excel's files too
# Of a column of row numbers: pandas and R leave the name empty, and pandas reads that as Unnamed.
_INDEX_NAMES = ("", "Unnamed: 0")


class Line(NamedTuple):
    """A line that is not blank, by its number in the file, from 1."""

    number: int
    cells: list[str]


def read_csv(
    path: Path, columns: Sequence[Column] | None, header: Header
) -> tuple[Tensor, list[str] | None]:
    """Rows of numbers, (n, d) float64, and the names of the columns where there is a header.

    A first column without a name is the index that pandas and R write: it is left out, and numbers
    of columns do not count it.
    """
    with closing(_lines(path)) as lines:
        told = dropwhile(lambda line: not any(line.cells), lines)
        first, second = next(told, None), next(told, None)
    if first is None:
        raise UnsuitableError("expected rows of numbers, got none")
    for line in (second or first, first):
        _check_separator(line)
    names = _header(first, second, header, columns)
    if header == "auto":
        if names is None:
            log.info("%s: no header, line %d is the first row", path, first.number)
        else:
            log.info("%s: line %d names the columns: %s", path, first.number, enumerated(names))
    index, width = 0, len(first.cells)
    labels: list[Column] = list(range(width))
    if names is not None:
        if second is None:
            raise UnsuitableError("expected rows of numbers, got none")
        if len(second.cells) != width:
            raise UnsuitableError(f"{width} columns named, {len(second.cells)} in the rows")
        if width > 1 and names[0] in _INDEX_NAMES:
            _check_index(second)
            log.info("%s: the first column is an index and left out", path)
            index, names = 1, names[1:]
        labels = [*[""] * index, *names]
    numbers = None if columns is None else column_numbers(columns, names, width - index)
    if names is not None and numbers is not None:
        names = [names[number] for number in numbers]
    if numbers is None and index:
        numbers = list(range(width - index))
    cells = None if numbers is None else [number + index for number in numbers]
    skip = first.number - (names is None)
    try:
        array = _numbers(path, skip, cells, width)
    except ValueError as error:
        fault = _first_fault(path, skip, cells, labels) or str(error)
        row = zip(labels[index:], (second or first).cells[index:], strict=False)
        numeric = [label for label, cell in row if is_number(cell)]
        if columns is not None or len(numeric) == width - index or DROP in fault:
            numeric = []
        raise UnsuitableError(fault, numeric) from error
    return torch.from_numpy(array), names


def _numbers(path: Path, skip: int, cells: list[int] | None, width: int) -> NDArray[np.float64]:
    options: dict[str, Any] = {"delimiter": ",", "comments": None, "quotechar": '"', "ndmin": 2}
    if cells is None:
        # NumPy reads the file itself, in less time, unless it meets a line of white space
        with open(path, encoding=_ENCODING) as file, suppress(ValueError):
            return np.loadtxt(file, skiprows=skip, **options)
    with open(path, encoding=_ENCODING) as file:
        rows = _rows(file, skip, None if cells is None else width)
        return np.loadtxt(rows, usecols=cells, **options)


def _lines(path: Path) -> Generator[Line, None, None]:
    """The lines of a file, but for blank ones."""
    with open(path, newline="", encoding=_ENCODING) as file:
        reader = csv.reader(file)
        for cells in reader:
            if len(cells) > 1 or any(cell.strip() for cell in cells):
                yield Line(reader.line_num, [cell.strip() for cell in cells])


def _header(
    first: Line, second: Line | None, header: Header, columns: Sequence[Column] | None
) -> list[str] | None:
    """The names of the columns where the first line holds them."""
    names = first.cells
    comment = names[0].startswith("#")  # as np.savetxt writes a header
    if comment:
        names = [names[0].lstrip("# "), *names[1:]]
    if header != "auto":
        return names if header else None
    if comment or any(isinstance(column, str) for column in columns or ()):
        return names
    told = [cell for cell in names if cell]
    numeric = [cell for cell in told if is_number(cell)]
    if not numeric:
        return names
    counted = names if names[0] else names[1:]
    if counted == [str(i) for i in range(len(counted))]:  # pandas names nameless columns
        return names
    if len(numeric) == len(names):
        return None
    below = [] if second is None else second.cells
    named = (
        cell and not is_number(cell) and is_number(number)
        for cell, number in zip(names, below, strict=False)
    )
    if second is None or any(named):
        return names
    if any(re.fullmatch(r"[+-]?\d+", cell) is None for cell in numeric):
        return None  # 5.1,3.5,setosa: no names, and the text is left out by columns=
    raise UnsuitableError(
        f"line {first.number} may name the columns or be a row: say header=True or header=False"
    )


def _check_separator(line: Line) -> None:
    """Refuse numbers that are separated by semicolons, tabs or spaces, or have decimal commas."""
    parts = [part for cell in line.cells for part in re.split(r"[;,\t ]+", cell)]
    if len(parts) > len(line.cells) and all(map(is_number, parts)):
        cell = next(cell for cell in line.cells if re.search(r"[;,\t ]", cell))
        raise UnsuitableError(
            f"line {line.number}: could not convert string {shown(cell)} to a number; columns "
            "should be separated by commas, and decimals by points"
        )


def _check_index(line: Line) -> None:
    """Refuse a first column without a name whose values number nothing."""
    cell = line.cells[0]
    if is_number(cell) and re.fullmatch(r"[+-]?\d+", cell) is None:
        raise UnsuitableError(
            f"line {line.number}: the first column has no name, and {cell} is no number of a row: "
            "name the column"
        )


def _rows(file: Iterable[str], skip: int, width: int | None) -> Iterator[str]:
    """The lines of a file below the header, but for blank ones.

    Args:
        file: as it was opened.
        skip: number of lines above.
        width: cells of a line where NumPy reads only some of them, and would not see a row that is
            shifted; lines with quotes are not counted.
    """
    within = False
    for number, line in enumerate(file, start=1):
        if number <= skip or (line.isspace() and not within):
            continue
        if width is not None:
            quotes = line.count('"')
            if not quotes and not within:
                _check_width(number, line.count(",") + 1, width)
            within ^= quotes % 2 == 1
        yield line


def _check_width(number: int, n_cells: int, width: int) -> None:
    if n_cells != width:
        raise UnsuitableError(
            f"line {number}: the number of columns changed from {width} to {n_cells}"
        )


def _first_fault(path: Path, skip: int, cells: list[int] | None, labels: Sequence[Column]) -> str:
    """What NumPy could not read, by its line in the file; "" where that is not seen.

    Args:
        path: of the file.
        skip: number of lines above the rows.
        cells: numbers of the cells of a line that are read; None for all.
        labels: of the cells of a line, the names of their columns, or their numbers.
    """
    width = len(labels)
    with closing(_lines(path)) as lines:
        for line in lines:
            if line.number <= skip:
                continue
            try:
                _check_width(line.number, len(line.cells), width)
            except UnsuitableError as error:
                return str(error)
            for i in range(width) if cells is None else cells:
                if not line.cells[i]:
                    return f"line {line.number}, column {labels[i]} is empty; {DROP}"
                if not is_number(line.cells[i]):
                    cell = shown(line.cells[i])
                    return (
                        f"line {line.number}: could not convert string {cell} to a number in "
                        f"column {labels[i]}"
                    )
    return ""


def is_number(text: str) -> bool:
    """Whether NumPy reads the text as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return text.isascii() and "_" not in text
