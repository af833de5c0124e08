"""How a file is refused: one line, which starts with the name of the file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kmeans_module.core.words import first_line

DROP = "drop or fill such rows first"


class UnsuitableError(Exception):
    """Says what is wrong with a file; :func:`refusing` puts the name of the file in front.

    Args:
        message: without the name of the file.
        columns: those that hold numbers, where a table has others too; see :class:`ColumnsError`.
    """

    def __init__(self, message: str, columns: Sequence[int | str] = ()) -> None:
        super().__init__(message)
        self.columns = list(columns)


class ColumnsError(ValueError):
    """A table has text beside its numbers.

    Args:
        fault: what cannot be read, and in which file.
        columns: that hold numbers, by name, or by number where the table has no names.
        remedy: what a caller does; another one where there is no argument columns.
    """

    def __init__(
        self,
        fault: str,
        columns: Sequence[int | str] = (),
        remedy: str = "choose features by columns",
    ) -> None:
        super().__init__(f"{fault}; the columns of numbers are {enumerated(columns)}: {remedy}")
        self.fault, self.columns = fault, list(columns)

    def advising(self, remedy: str) -> ColumnsError:
        """The same with another remedy.

        Args:
            remedy: what to do in place of choosing by columns.

        Returns:
            An error to raise in its place.
        """
        return ColumnsError(self.fault, self.columns, remedy)


@contextmanager
def refusing(path: Path, kind: str) -> Iterator[None]:
    """Turn every error of a parser into a ValueError that names the file.

    Args:
        path: the file that is read in this context.
        kind: what the file should be, as in "not a readable ``kind``".
    """
    # half a dozen parsers meet corrupted bytes with as many kinds of exception
    try:
        yield
    except UnsuitableError as error:
        if error.columns:
            raise ColumnsError(f"{path}: {error}", error.columns) from None
        raise ValueError(f"{path}: {error}") from None
    except Exception as error:
        raise ValueError(f"{path}: not a readable {kind} ({first_line(error)[:200]})") from error


def existing_file(path: str | os.PathLike[str]) -> Path:
    """The path, once it is known to be that of a file.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: there is a folder, a pipe or a device.
        TypeError: it is no path.
    """
    path = checked_path(path)
    if path.is_dir():
        raise ValueError(f"{path}: is a folder, expected a file")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.is_file():  # a pipe would be waited for, and files are read more than once
        raise ValueError(f"{path}: is a pipe or a device, expected a file")
    return path


def checked_path(path: object) -> Path:
    """The path of a file or a folder.

    Args:
        path: text or a path, of what need not exist.

    Returns:
        The path.

    Raises:
        TypeError: it is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path should be that of a file or a folder; got {type(path).__name__}")
    return Path(path)


def enumerated(names: Sequence[object] | frozenset[str], limit: int = 10) -> str:
    """Names for a message, the first of them.

    Args:
        names: in their order; a set is put into alphabetical order.
        limit: how many are listed; then their number follows.

    Returns:
        The names, separated by commas.
    """
    ordered = sorted(names) if isinstance(names, frozenset) else list(names)
    more = f", ... ({len(ordered)} in all)" if len(ordered) > limit else ""
    return ", ".join(str(name) for name in ordered[:limit]) + more
