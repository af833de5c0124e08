"""Promises of folders of files: one matrix, each file known by its name."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from kmeans_module.data import ArrayDataModule
from tests.data.helpers import X, rows_of


@pytest.fixture
def utterances(tmp_path: Path) -> Path:
    """The rows of X in files of 20, 5 and 25, which sort as b/2, b/10, c."""
    folder = tmp_path / "features"
    (folder / "b").mkdir(parents=True)
    for name, rows in (("b/2.npy", X[20:25]), ("b/10.npy", X[:20]), ("c.npy", X[25:])):
        np.save(folder / name, rows)
    return folder


def test_a_folder_is_the_rows_of_its_files_in_sorted_order(utterances: Path) -> None:
    data = ArrayDataModule(path=str(utterances), batch_size=7)
    assert data.n_features == 3
    np.testing.assert_array_equal(data.x, X)
    np.testing.assert_array_equal(rows_of(data.predict_dataloader()), X)
    assert data.files == {Path("b/10.npy"): 20, Path("b/2.npy"): 5, Path("c.npy"): 25}
    assert list(data.files) == sorted(data.files)


def test_a_folder_holds_files_of_other_kinds_too(utterances: Path) -> None:
    (utterances / "manifest.tsv").write_text("no rows")
    (utterances / ".hidden.npy").write_text("no rows")
    (utterances / ".cache").mkdir()
    (utterances / ".cache" / "d.npy").write_text("no rows")
    assert ArrayDataModule(path=str(utterances)).n_samples == 50


def test_the_options_of_files_hold_for_those_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("a,b,c\n1,2,3\n4,5,6\n")
    (tmp_path / "2.csv").write_text("a,b,c\n7,8,9\n")
    data = ArrayDataModule(path=str(tmp_path), columns=["c", 0], standardize=True)
    assert data.feature_names == ["c", "a"]
    rows = data.x * data.scale + data.mean
    torch.testing.assert_close(rows, torch.tensor([[3, 1], [6, 4], [9, 7]]).double())


def test_a_folder_of_one_file_is_mapped_and_a_file_is_no_folder(npy: str, tmp_path: Path) -> None:
    data = ArrayDataModule(path=str(tmp_path))
    with open(npy, "r+b") as file:
        file.seek(-X.itemsize, 2)
        file.write(np.float64(42).tobytes())
    assert data.x[-1, -1] == 42
    assert data.files == {Path("rows.npy"): 50}
    assert ArrayDataModule(path=npy).files is None


def test_rows_of_a_folder_have_the_dtype_that_holds_all(tmp_path: Path) -> None:
    for i, dtype in enumerate((np.float16, np.float32, np.int16)):
        np.save(tmp_path / f"{i}.npy", np.full((2, 3), i, dtype))
    data = ArrayDataModule(path=str(tmp_path))
    assert data.x.dtype == torch.float32
    assert data.x[:, 0].tolist() == [0, 0, 1, 1, 2, 2]


def test_many_files_need_no_more_open_ones_than_a_few(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    for i in range(300):
        np.save(tmp_path / f"{i:03}.npy", X[:1])
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, limits[1]))
    try:
        assert ArrayDataModule(path=str(tmp_path)).n_samples == 300
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def bad_file(folder: Path, kind: str) -> None:
    """b/2.npy becomes one that is no part of the rows."""
    file = folder / "b" / "2.npy"
    if kind == "truncated":
        file.write_bytes(file.read_bytes()[:-1])
    elif kind == "objects":
        np.save(file, np.array([[{}, 1, 2]], dtype=object), allow_pickle=True)
    elif kind == "width":
        np.save(file, X[:, :2])
    elif kind == "empty":
        np.save(file, X[:0])
    else:
        file.write_bytes(b"")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "not a readable .npy file"),
        ("objects", "not a readable .npy file"),
        ("width", "rows of 2 features, those of b/10.npy have 3"),
        ("empty", "expected rows of numbers (n, d), got shape (0, 3)"),
        ("nothing", "not a readable .npy file"),
    ],
)
def test_a_bad_file_of_a_folder_is_named(utterances: Path, kind: str, message: str) -> None:
    bad_file(utterances, kind)
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        ArrayDataModule(path=str(utterances)).setup()
    assert str(raised.value).startswith(f"{utterances / 'b' / '2.npy'}: ")
    assert "\n" not in str(raised.value)


def test_a_folder_without_rows_or_of_several_formats_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no files of rows in this folder, expected \.npy, "):
        ArrayDataModule(path=str(tmp_path)).setup()
    np.save(tmp_path / "a.npy", X)
    np.savetxt(tmp_path / "a.csv", X, delimiter=",")
    with pytest.raises(ValueError, match=r"files of several formats, \.csv, \.npy; expected one"):
        ArrayDataModule(path=str(tmp_path)).setup()
    (tmp_path / "a.npy").unlink()
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    (tmp_path / "b.csv").write_text("b,a\n2,1\n")
    with pytest.raises(ValueError, match=r"b\.csv: other columns than in a\.csv"):
        ArrayDataModule(path=str(tmp_path)).setup()
