"""Promises of .parquet: an index is no feature, and no number is made up for a missing one."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from kmeans_module import files
from tests.files.helpers import refusal


def written(folder: Path, table: pa.Table, index: list[Any] | None = None) -> Path:
    """A file as pandas writes it, with an index of some of its columns."""
    if index is not None:
        metadata = {b"pandas": json.dumps({"index_columns": index, "columns": []}).encode()}
        table = table.replace_schema_metadata(metadata)
    parquet.write_table(table, folder / "rows.parquet")
    return folder / "rows.parquet"


TABLE = pa.table({"a": [1.0, 2.0], "b": [3, 4], "id": [7, 9], "__index_level_0__": [0, 5]})


@pytest.mark.parametrize(
    ("index", "names"),
    [
        (["__index_level_0__"], ["a", "b", "id"]),
        (["id", "__index_level_0__"], ["a", "b"]),
        ([{"kind": "range", "start": 0, "stop": 2, "step": 1}], ["a", "b", "id"]),
        (None, ["a", "b", "id"]),
    ],
)
def test_an_index_is_no_feature(index: list[Any] | None, names: list[str], tmp_path: Path) -> None:
    path = written(tmp_path, TABLE, index)
    table = files.read_table(path)
    assert table.names == names
    np.testing.assert_array_equal(table.x, np.column_stack([TABLE[name] for name in names]))
    assert f"no column 9, expected 0 to {len(names) - 1} or one of a, b" in refusal(
        path, columns=[9]
    )


def test_an_index_that_is_asked_for_by_name_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, TABLE, ["id"])
    table = files.read_table(path, columns=["id", 1, "a"])
    assert table.names == ["id", "b", "a"]
    assert table.x.tolist() == [[7, 3, 1], [9, 4, 2]]
    only = written(tmp_path, TABLE.select(["id"]), ["id"])
    assert "got no column but an index" in refusal(only)


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pa.array([1.0, None, 2.0, None]), "in 'c', the first in row 1; drop or fill such rows"),
        (pa.array([1, 2, 3, None]), "1 value is missing in 'c', the first in row 3"),
        (pa.array([True, None, True, True]), "1 value is missing in 'c'"),
        (pa.array(["a", "b", "c", "d"]), "expected numbers, got string in 'c'"),
        (pa.array(["a", "b", "a", "b"]).dictionary_encode(), "expected numbers, got dictionary"),
        (pa.array([[1.0]] * 4), "expected numbers, got list<"),
        (pa.array([[1.0, 2.0]] * 4, pa.list_(pa.float32(), 2)), "expected numbers, got fixed_size"),
        (pa.array([{"x": 1.0}] * 4), "expected numbers, got struct<"),
        (pa.array([0] * 4, pa.timestamp("ns")), "expected numbers, got timestamp[ns] in 'c'"),
        (pa.array([0] * 4, pa.date32()), "expected numbers, got date32[day] in 'c'"),
        (pa.array([0] * 4, pa.duration("s")), "expected numbers, got duration[s] in 'c'"),
        (pa.nulls(4), "expected numbers, got null in 'c'"),
        (pa.array([2**53 + 1] * 4), "integers beyond 2^53, which float64 does not tell apart"),
    ],
)
def test_a_column_without_numbers_is_refused_by_name(
    column: pa.Array, reason: str, tmp_path: Path
) -> None:
    path = written(tmp_path, pa.table({"a": [0.5] * 4, "c": column}))
    assert reason in refusal(path)
    assert files.read_array(path, columns=["a"]).tolist() == [[0.5]] * 4


@pytest.mark.parametrize(
    "column",
    [
        pa.array([True, False]),
        pa.array([1, 0], pa.uint64()),
        pa.array([1, 0], pa.uint16()),
        pa.array([Decimal("1.00"), Decimal("0.00")]),
        pa.array(np.array([1, 0], np.float16)),
    ],
)
def test_numbers_of_every_kind_are_read(column: pa.Array, tmp_path: Path) -> None:
    table = pa.table({"a": [0.5, 1.5], "c": column})
    assert files.read_array(written(tmp_path, table)).tolist() == [[0.5, 1], [1.5, 0]]
    table = pa.table({"c": column})
    assert files.read_array(written(tmp_path, table)).tolist() == [[1], [0]]


def test_names_with_dots_and_names_twice(tmp_path: Path) -> None:
    table = pa.table({"a": [1.0], "a.b": [2.0], "$": [3.0]})
    assert files.read_array(written(tmp_path, table), columns=["a.b", "a"]).tolist() == [[2, 1]]
    assert files.read_array(written(tmp_path, table)).tolist() == [[1, 2, 3]]
    twice = pa.Table.from_arrays([pa.array([1.0])] * 2, names=["a", "a"])
    assert "2 columns are named 'a'" in refusal(written(tmp_path, twice))
