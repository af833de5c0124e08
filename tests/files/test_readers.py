"""Promises of the readers of rows: exact reading, columns and keys as they are asked for."""

from __future__ import annotations

import builtins
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from kmeans_module import files
from tests.files.helpers import X, Y, formats, refusal, written


@formats
def test_every_format_gives_back_the_rows(tmp_path: Path, suffix: str) -> None:
    x = files.read_array(written(tmp_path, suffix))
    assert x.dtype == (torch.float64 if suffix == ".csv" else torch.float32)
    assert torch.equal(x.float(), torch.from_numpy(X))


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet", ".safetensors", ".pt"])
@pytest.mark.parametrize("dtype", ["int8", "int64", "uint8", "float16", "float64"])
def test_dtype_is_the_files(tmp_path: Path, suffix: str, dtype: str) -> None:
    x = (X * 10).astype(dtype)
    assert torch.equal(files.read_array(written(tmp_path, suffix, x)), torch.from_numpy(x))


@formats
def test_columns_by_number_come_in_the_order_asked_for(tmp_path: Path, suffix: str) -> None:
    x = files.read_array(written(tmp_path, suffix), columns=[2, 0])
    np.testing.assert_array_equal(x, X[:, [2, 0]])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_columns_by_name_and_number_mix(tmp_path: Path, suffix: str) -> None:
    table = files.read_table(written(tmp_path, suffix), columns=["c", 0])
    np.testing.assert_array_equal(table.x, X[:, [2, 0]])
    assert table.names == ["c", "a"]


@formats
@pytest.mark.parametrize("column", [3, -1, "z"])
def test_unknown_column_is_refused_with_what_there_is(
    tmp_path: Path, suffix: str, column: int | str
) -> None:
    message = refusal(written(tmp_path, suffix), columns=[column])
    assert f"no column {column!r}, expected 0 to 2" in message
    assert ("one of a, b, c" in message) == (suffix in {".csv", ".parquet"})


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
def test_key_chooses_the_array(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path, suffix)
    np.testing.assert_array_equal(files.read_array(path, key="y"), Y[:, None])
    assert "no array 'z', expected one of: x, y" in refusal(path, key="z")


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".parquet"])
def test_key_is_refused_where_there_is_one_array(tmp_path: Path, suffix: str) -> None:
    assert "key='x' names an array" in refusal(written(tmp_path, suffix), key="x")


def test_several_matrices_need_a_key(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", a=X, b=X)
    assert "got 2 in: a, b; say which with key" in refusal(tmp_path / "two.npz")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".pt"])
def test_one_dimension_becomes_one_feature(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path, suffix, X[:, 0].copy())
    key = None if suffix == ".npy" else "x"
    np.testing.assert_array_equal(files.read_array(path, key=key), X[:, :1])


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".pt"])
@pytest.mark.parametrize("shape", [(), (2, 3, 4), (0, 3), (3, 0)])
def test_other_shapes_are_refused(tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
    path = written(tmp_path, suffix, np.zeros(shape, dtype=np.float32))
    message = refusal(path, key=None if suffix == ".npy" else "x")
    assert "expected rows of numbers (n, d), got shape" in message or shape in {(0, 3), (3, 0)}


@pytest.mark.parametrize("suffix", [".npy", ".pt"])
def test_rows_are_mapped_not_copied_and_never_written_back(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path, suffix)
    x = files.read_array(path)
    offset = path.read_bytes().index(X.tobytes())
    with open(path, "r+b") as file:  # the mapping shows what happens to the file
        file.seek(offset)
        file.write(np.float32(42).tobytes())
    assert x[0, 0] == 42
    x[0, 0] = 7
    assert files.read_array(path)[0, 0] == 42


def test_npy_of_any_byte_order_and_memory_order_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "big.npy", np.asfortranarray(X.astype(">f8")))
    x = files.read_array(tmp_path / "big.npy")
    assert x.dtype == torch.float64
    np.testing.assert_array_equal(x, X)


def test_parameters_come_without_their_gradient(tmp_path: Path) -> None:
    torch.save(torch.nn.Parameter(torch.from_numpy(X)), tmp_path / "p.pt")
    assert not files.read_array(tmp_path / "p.pt").requires_grad


@pytest.mark.parametrize(
    ("text", "names", "rows"),
    [
        ("1,2\n3,4\n", None, [[1, 2], [3, 4]]),
        ("\n  \n1,2\n\n3,4", None, [[1, 2], [3, 4]]),
        ("a,b\n1,2\n", ["a", "b"], [[1, 2]]),
        ("\ufeff a , b\r\n1,2\r\n", ["a", "b"], [[1, 2]]),
        ('"a, or\nso","b"\n"1",2\n', ["a, or\nso", "b"], [[1, 2]]),
        ("7\n8\n", None, [[7], [8]]),
        ("0.1,1e-300\n", None, [[0.1, 1e-300]]),
    ],
)
def test_csv_header_is_detected(
    tmp_path: Path, text: str, names: list[str] | None, rows: list[list[float]]
) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(text.encode())
    table = files.read_table(path)
    assert table.names == names
    assert table.x.tolist() == rows


def test_csv_text_columns_may_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "iris.csv"
    path.write_text("5.1,3.5,setosa\n4.9,3.0,setosa\n")
    assert files.read_array(path, columns=[0, 1]).tolist() == [[5.1, 3.5], [4.9, 3.0]]
    path.write_text("length,2020,kind\n1,2,setosa\n")
    assert files.read_array(path, columns=["2020", "length"]).tolist() == [[2, 1]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected rows of numbers, got none"),
        ("\n\n", "expected rows of numbers, got none"),
        ("a,b\n", "expected rows of numbers, got none"),
        ("a,b\n1,x\n", "could not convert string 'x'"),
        ("1,2\n3,\n", "line 2, column 1 is empty; drop or fill"),
        ("1,2\n3\n", "number of columns changed"),
        ("a,b,c\n1,2\n", "3 columns named, 2 in the rows"),
        ("1;2\n3;4\n", "could not convert string"),
        ("\x00\x01\x02", "rows.csv: "),
    ],
)
def test_csv_of_anything_but_rows_of_numbers_is_refused(
    tmp_path: Path, text: str, reason: str
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    assert reason in refusal(path)


def test_parquet_text_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"a": [1.0, 2.0], "kind": ["x", "y"]}), path)
    assert "got string in 'kind'" in refusal(path)
    assert files.read_array(path, columns=["a"]).tolist() == [[1.0], [2.0]]


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, ".parquet")
    real_import = builtins.__import__

    def without_pyarrow(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    assert "pip install 'kmeans-module[parquet]'" in refusal(path)


def test_missing_file_folder_and_unknown_suffix_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.npy: no such file"):
        files.read_array(tmp_path / "gone.npy")
    assert "is a folder, expected a file" in refusal(tmp_path)
    (tmp_path / "rows.xlsx").touch()
    assert "unknown suffix '.xlsx', expected one of .npy, .npz" in refusal(tmp_path / "rows.xlsx")
