"""Promises of .csv: no row is lost to the header, no header to the rows; faults name the line."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from kmeans_module import files
from tests.files.helpers import refusal

Rows = list[list[float]]

READ: dict[str, tuple[str, list[str] | None, Rows]] = {
    "names of pandas' nameless columns": ("0,1,2\n5,6,7\n", ["0", "1", "2"], [[5, 6, 7]]),
    "one nameless column": ("0\n5\n6\n", ["0"], [[5], [6]]),
    "quoted numbers in order": ('"0","1"\n5,6\n', ["0", "1"], [[5, 6]]),
    "numbers in another order": ("1,0\n5,6\n", None, [[1, 0], [5, 6]]),
    "numbers from 1": ("1,2\n5,6\n", None, [[1, 2], [5, 6]]),
    "floats in order": ("0.0,1.0\n5,6\n", None, [[0, 1], [5, 6]]),
    "names, some of them numbers": ("a,2020,b\n5,6,7\n", ["a", "2020", "b"], [[5, 6, 7]]),
    "a number first": ("2020,a\n5,6\n", ["2020", "a"], [[5, 6]]),
    "names with gaps": ("a,,c\n5,6,7\n", ["a", "", "c"], [[5, 6, 7]]),
    "names twice": ("a,a\n5,6\n", ["a", "a"], [[5, 6]]),
    "quoted names": ('"a, b","c ""d"""\n5,6\n', ["a, b", 'c "d"'], [[5, 6]]),
    "names that look like numbers to Python only": ("1_0,2\n5,6\n", ["1_0", "2"], [[5, 6]]),
    "hexadecimal names": ("0x1,0x2\n5,6\n", ["0x1", "0x2"], [[5, 6]]),
    "unicode names": ("größe,面积\n5,6\n", ["größe", "面积"], [[5, 6]]),
    "names of symbols": ("$x_1$,\\b^{%\n5,6\n", ["$x_1$", "\\b^{%"], [[5, 6]]),
    "header of np.savetxt": ("# a,b\n5,6\n", ["a", "b"], [[5, 6]]),
    "numbers as header of np.savetxt": ("# 1,2\n5,6\n", ["1", "2"], [[5, 6]]),
    "byte order mark": ("\ufeff0,1\n5,6\n", ["0", "1"], [[5, 6]]),
    "CRLF": ("0,1\r\n5,6\r\n", ["0", "1"], [[5, 6]]),
    "CR": ("a,b\r5,6\r", ["a", "b"], [[5, 6]]),
    "blank lines": ("\n ,\na,b\n\n5,6\n \t \n7,8\n\n", ["a", "b"], [[5, 6], [7, 8]]),
    "cells with spaces": (" a , b \n 5 , 6 \n", ["a", "b"], [[5, 6]]),
    "index of pandas": (",a,b\n0,5,6\n1,7,8\n", ["a", "b"], [[5, 6], [7, 8]]),
    "index of a part of a frame": (",a\n17,5\n3,6\n", ["a"], [[5], [6]]),
    "index of names": (",a\nanna,5\nbob,6\n", ["a"], [[5], [6]]),
    "index of nameless columns": (",0,1\nanna,5,6\n", ["0", "1"], [[5, 6]]),
    "index of R": ('"","a"\n"1",5\n"2",6\n', ["a"], [[5], [6]]),
    "index that was written twice": ("Unnamed: 0,a\n0,5\n", ["a"], [[5]]),
    "a column without a name alone": ('a\n""\n5\n'.replace('""\n', ""), ["a"], [[5]]),
}


@pytest.mark.parametrize("kind", READ)
def test_a_header_is_told_from_rows(kind: str, tmp_path: Path) -> None:
    text, names, rows = READ[kind]
    (tmp_path / "rows.csv").write_bytes(text.encode())
    table = files.read_table(tmp_path / "rows.csv")
    assert table.names == names
    assert table.x.tolist() == rows


REFUSED = {
    "number of a row, or a name": ("2020,kind\n1,setosa\n", "line 1 may name the columns or be a "),
    "a missing value, or a header": ("1,,3\n4,5,6\n", "line 1 may name the columns or be a row"),
    "an index of fractions": (",a\n0.5,1\n", "line 2: the first column has no name, and 0.5 is no"),
    "fewer names than columns": ("a\n1,2\n", "1 columns named, 2 in the rows"),
    "semicolons": ("1;2\n3;4\n", "line 2: could not convert string '3;4' to a number; columns sh"),
    "semicolons below a header": ("a;b\n3;4\n", "line 2: could not convert string '3;4'"),
    "tabs": ("1\t2\n3\t4\n", "should be separated by commas, and decimals by points"),
    "spaces": ("1 2\n3 4\n", "line 2: could not convert string '3 4' to a number; columns should"),
    "decimal commas": ("1,5;2,5\n2,5;3,5\n", "line 2: could not convert string '5;3' to a number"),
    "quoted decimal commas": ('"1,5","2"\n"3","4"\n', "line 1: could not convert string '1,5'"),
    "text in a row": ("\na,b\n1,2\n\n3,x\n", "line 5: could not convert string 'x' to a number"),
    "a missing value": (
        "a,b\n1,2\n,3\n",
        "line 3, column a is empty; drop or fill such rows",
    ),
    "a row of commas": ("a,b\n1,2\n,\n", "line 3, column a is empty; drop or fill such rows"),
    "a comment in a row": ("a\n1\n# c\n", "line 3: could not convert string '# c' to a number"),
    "a shorter row": ("a,b\n1,2\n3\n", "line 3: the number of columns changed from 2 to 1"),
    "a longer row": ("1,2\n3,4\n5,6,7\n", "line 3: the number of columns changed from 2 to 3"),
    "a comma at the end": ("a,b\n1,2\n3,4,\n", "line 3: the number of columns changed from 2 to 3"),
    "underscores in a number": ("a\n1\n1_0\n", "line 3: could not convert string '1_0' to a num"),
    "digits of another script": ("a\n1\n１\n", "line 3: could not convert string '１' to a number"),
    "a long cell": ("a\n1\n" + "y" * 999, f"line 3: could not convert string '{'y' * 27}...y"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_number_is_refused_by_its_line(kind: str, tmp_path: Path) -> None:
    text, message = REFUSED[kind]
    (tmp_path / "rows.csv").write_text(text, encoding="utf-8")
    assert message in refusal(tmp_path / "rows.csv")


@pytest.mark.parametrize(
    ("text", "header", "names", "rows"),
    [
        ("0,1\n5,6\n", False, None, [[0, 1], [5, 6]]),
        ("1,2\n5,6\n", True, ["1", "2"], [[5, 6]]),
        ("2020,5\n1,6\n", True, ["2020", "5"], [[1, 6]]),
        (",1\n0,6\n", True, ["1"], [[6]]),
        ("0\n1\n", False, None, [[0], [1]]),
    ],
)
def test_what_is_said_of_the_header_holds(
    text: str, header: bool, names: list[str] | None, rows: Rows, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text(text)
    table = files.read_table(tmp_path / "rows.csv", header=header)
    assert (table.names, table.x.tolist()) == (names, rows)


def test_names_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n5,6\n")
    assert "line 1: could not convert string 'a' to a number" in refusal(path, header=False)
    path.write_text("1,2\n")
    assert "expected rows of numbers, got none" in refusal(path, header=True)
    np.save(tmp_path / "rows.npy", np.ones((2, 2)))
    assert "header=True is of a .csv file, this is a .npy" in refusal(
        tmp_path / "rows.npy", header=True
    )
    for header in ("yes", 1, None):
        with pytest.raises(
            TypeError, match=f"header should be True, False or 'auto'; got {header!r}"
        ):
            files.read_array(path, header=header)  # type: ignore[arg-type]


def test_auto_logs_what_it_took(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "rows.csv"
    said = {
        "0,1\n5,6\n": f"{path}: line 1 names the columns: 0, 1",
        "\n1,2\n5,6\n": f"{path}: no header, line 2 is the first row",
        ",a\n0,6\n": f"{path}: the first column is an index and left out",
    }
    for text, message in said.items():
        path.write_text(text)
        with caplog.at_level(logging.INFO, "kmeans_module"):
            files.read_array(path)
        assert message in caplog.messages
    caplog.clear()
    files.read_array(path, header=True)
    assert not [message for message in caplog.messages if "names the columns" in message]


@pytest.mark.parametrize(
    ("text", "columns", "rows"),
    [
        (",a,b\n0,5,6\n1,7,8\n", [0], [[5], [7]]),
        (",a,b\n0,5,6\n1,7,8\n", ["b", 0], [[6, 5], [8, 7]]),
        ("5.1,3.5,setosa\n4.9,3.0,setosa\n", [1], [[3.5], [3.0]]),
        ("2020,kind\n1,setosa\n", ["2020"], [[1]]),
        ('a,b\n1,"x\ny, z"\n2,"w"\n', ["a"], [[1], [2]]),
    ],
)
def test_columns_are_those_that_are_asked_for(
    text: str, columns: list[int | str], rows: Rows, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text(text)
    assert files.read_array(tmp_path / "rows.csv", columns=columns).tolist() == rows
    assert files.read_array(tmp_path / "rows.csv", columns=iter(columns)).tolist() == rows


def test_a_shifted_row_is_seen_where_few_columns_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,b,c\n1,2,3\n4,5\n")
    assert "line 3: the number of columns changed from 3 to 2" in refusal(path, columns=["a"])
    path.write_text("a,b\nx,1,2\ny,3,4\n")
    assert "2 columns named, 3 in the rows" in refusal(path, columns=["a"])
    path.write_text("a,a\n1,2\n")
    assert "2 columns are named 'a'" in refusal(path, columns=["a"])


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ("ab", TypeError, "columns should be a list of numbers and names; got 'ab'"),
        (3, TypeError, "columns should be a list of numbers and names; got 3"),
        ([True], TypeError, "columns should be numbers and names; got True"),
        ([0.5], TypeError, "columns should be numbers and names; got 0.5"),
        ([], ValueError, "columns should name one column at least; got none"),
        (iter([]), ValueError, "columns should name one column at least; got none"),
    ],
)
def test_columns_of_another_kind_are_refused(
    columns: object, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        files.read_array(tmp_path / "rows.csv", columns=columns)  # type: ignore[arg-type]


def test_columns_by_numbers_of_numpy(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(6).reshape(2, 3))
    x = files.read_array(tmp_path / "x.npy", columns=np.array([2, 0]))
    assert x.tolist() == [[2, 0], [5, 3]]
