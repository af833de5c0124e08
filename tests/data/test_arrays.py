"""Promises of files of rows: mapped, split, standardized, in the order of the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kmeans_module import files
from kmeans_module.data import ArrayDataModule, BlobDataModule
from tests.data.helpers import X, rows_of


def test_mapped_file_is_not_copied(npy: str) -> None:
    data = ArrayDataModule(path=npy, batch_size=16)
    data.setup("fit")
    last = list(data.train_dataloader())[-1].x
    with open(npy, "r+b") as file:  # the mapping shows what happens to the file
        file.seek(-X.itemsize, 2)
        file.write(np.float64(42).tobytes())
    assert last[-1, -1] == 42
    assert data.x[-1, -1] == 42


def test_file_is_read_once(npy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    read_table = files.read_table
    monkeypatch.setattr(
        files, "read_table", lambda *a, **k: (reads.append(npy), read_table(*a, **k))[1]
    )
    data = ArrayDataModule(path=npy, standardize=True, val_share=0.2)
    assert reads == []
    for stage in ("fit", "validate", "predict", None):
        data.setup(stage)
    assert data.n_features == 3
    data.train_dataloader(), data.val_dataloader()
    assert len(reads) == 1
    blobs = BlobDataModule()
    blobs.setup("fit")
    x = blobs.x
    blobs.setup("test")
    assert blobs.x is x


def test_training_and_validation_rows_are_disjoint_and_complete(npy: str) -> None:
    data = ArrayDataModule(path=npy, val_share=0.3)
    validation = rows_of(data.val_dataloader())
    assert len(validation) == 15
    assert torch.equal(data.train_index, data.train_index.sort().values)
    both = torch.cat([data.train_index, data.val_index]).sort().values
    assert torch.equal(both, torch.arange(50))
    np.testing.assert_array_equal(data.x, X[data.train_index])
    np.testing.assert_array_equal(validation, X[data.val_index])
    again, other = (ArrayDataModule(path=npy, val_share=0.3, seed=seed) for seed in (0, 1))
    assert torch.equal(again.val_index, data.val_index)
    assert not torch.equal(other.val_index, data.val_index)


def test_without_validation_rows_every_row_trains_and_tests(npy: str) -> None:
    data = ArrayDataModule(path=npy)
    assert list(data.val_dataloader()) == []
    assert torch.equal(data.train_index, torch.arange(50))
    np.testing.assert_array_equal(rows_of(data.test_dataloader()), X)
    held_out = ArrayDataModule(path=npy, val_share=0.1)
    assert torch.equal(rows_of(held_out.test_dataloader()), rows_of(held_out.val_dataloader()))


def test_predictions_line_up_with_the_file(npy: str) -> None:
    data = ArrayDataModule(path=npy, batch_size=7, shuffle=True, val_share=0.2)
    assert not torch.equal(rows_of(data.train_dataloader()), data.x)
    np.testing.assert_array_equal(rows_of(data.predict_dataloader()), X)


@pytest.mark.parametrize("chunk", [1, 10, 2**22])
def test_standardized_features_have_mean_0_and_variance_1(
    npy: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kmeans_module.data.arrays._CHUNK_ELEMENTS", chunk)
    data = ArrayDataModule(path=npy, standardize=True, val_share=0.2)
    train = X[data.train_index]
    assert data.x.dtype == torch.float64
    np.testing.assert_allclose(data.mean, train.mean(0), rtol=1e-12)
    np.testing.assert_allclose(data.scale, train.std(0), rtol=1e-9)
    np.testing.assert_allclose(data.x.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(data.x.std(0, correction=0), 1, rtol=1e-9)
    validation = rows_of(data.val_dataloader())
    np.testing.assert_allclose(validation * data.scale + data.mean, X[data.val_index], rtol=1e-9)


def test_unstandardized_rows_map_back_to_themselves(npy: str) -> None:
    data = ArrayDataModule(path=npy)
    assert torch.equal(data.x * data.scale + data.mean, data.x)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.int64, torch.float32), (torch.float16, torch.float16), (torch.float32, torch.float32)],
)
def test_standardized_rows_keep_their_floating_dtype(
    tmp_path: Path, dtype: torch.dtype, expected: torch.dtype
) -> None:
    files.save_array(tmp_path / "x.npy", torch.arange(8).to(dtype))
    data = ArrayDataModule(path=str(tmp_path / "x.npy"), standardize=True)
    assert data.x.dtype == expected
    assert data.x.double().std(correction=0).item() == pytest.approx(1, rel=1e-3)


def test_constant_feature_becomes_exactly_0(tmp_path: Path) -> None:
    x = np.full((1000, 2), 0.1)
    x[:, 1] = np.arange(1000)
    np.save(tmp_path / "x.npy", x)
    data = ArrayDataModule(path=str(tmp_path / "x.npy"), standardize=True)
    assert data.x[:, 0].eq(0).all()
    assert data.scale[0] == 1
    assert data.mean[0] == 0.1


def test_values_that_cannot_be_standardized_are_located(tmp_path: Path) -> None:
    path = str(tmp_path / "x.npy")
    x = X.copy()
    x[7, 1], x[9, 2] = np.nan, np.inf
    np.save(path, x)
    with pytest.raises(ValueError, match=r"x\.npy: cannot standardize: .*2 rows .* row 7"):
        ArrayDataModule(path=path, standardize=True).setup()
    np.save(path, X * 1e200)
    with pytest.raises(ValueError, match=r"x\.npy: cannot standardize: the variance overflows"):
        ArrayDataModule(path=path, standardize=True).setup()


def test_columns_and_key_reach_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b,c\n1,2,3\n4,5,6\n")
    data = ArrayDataModule(path=str(tmp_path / "x.csv"), columns=["c", 0])
    assert data.feature_names == ["c", "a"]
    assert data.n_features == 2
    assert data.x.tolist() == [[3, 1], [6, 4]]
    np.savez(tmp_path / "x.npz", a=X, b=-X)
    np.testing.assert_array_equal(ArrayDataModule(path=str(tmp_path / "x.npz"), key="b").x, -X)


def test_bad_array_arguments_and_files_are_named(npy: str, tmp_path: Path) -> None:
    for share in (-0.1, 1.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="val_share should be"):
            ArrayDataModule(path=npy, val_share=share)
    with pytest.raises(ValueError, match=r"val_share=0\.999 leaves none of the 50 rows"):
        ArrayDataModule(path=npy, val_share=0.999).setup()
    with pytest.raises(FileNotFoundError, match=r"gone\.npy: no such file"):
        ArrayDataModule(path=str(tmp_path / "gone.npy")).setup()
    with pytest.raises(ValueError, match=r"rows\.npy: no column 3"):
        ArrayDataModule(path=npy, columns=[3]).setup()
