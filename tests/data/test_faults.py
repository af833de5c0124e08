"""Promises about faults of files: by the name of the file, and the row in it."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import save_file

from kmeans_module import ArrayDataModule, LitKMeans
from kmeans_module.data.folders import read_folder
from kmeans_module.rows.batch import Batch

X = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)


def trainer(max_epochs: int = 3) -> Trainer:
    return Trainer(
        max_epochs=max_epochs, logger=False, enable_checkpointing=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


def write(path: Path, x: np.ndarray) -> None:
    if path.suffix == ".npy":
        np.save(path, x)
    elif path.suffix == ".csv":
        np.savetxt(path, x, delimiter=",", header="a,b,c", comments="")
    elif path.suffix == ".pt":
        torch.save(torch.from_numpy(x), path)
    else:
        save_file({"x": torch.from_numpy(x)}, path)


def bad(where: str, suffix: str, value: float, folder: Path) -> tuple[Path, Path]:
    """A file, or a folder of three, with two bad rows of which the first is 17; and the file."""
    broken = X.copy()
    broken[17, 1], broken[40, 0] = value, np.nan
    if where == "file":
        write(folder / f"rows{suffix}", broken)
        return folder / f"rows{suffix}", folder / f"rows{suffix}"
    (folder / "rows" / "b").mkdir(parents=True)
    for name, x in (("a", X), ("b/c", broken), ("d", broken)):
        write(folder / "rows" / f"{name}{suffix}", x)
    return folder / "rows", folder / "rows" / "b" / f"c{suffix}"


DOORS: dict[str, Callable[[LitKMeans, ArrayDataModule], object]] = {
    "fit": lambda lit, data: trainer().fit(LitKMeans(3), data),
    "predict": lambda lit, data: trainer().predict(lit, data),
    "test": lambda lit, data: trainer().test(lit, data, verbose=False),
    "validate": lambda lit, data: trainer().validate(lit, data, verbose=False),
    "loader": lambda lit, data: list(data.train_dataloader()),
}


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*Skipping val loop")
@pytest.mark.parametrize("options", [{}, {"batch_size": 7}, {"batch_size": 7, "shuffle": True}])
@pytest.mark.parametrize("where", ["file", "folder"])
@pytest.mark.parametrize("door", DOORS)
def test_a_row_that_is_not_finite_is_named_with_its_file(
    door: str, where: str, options: dict[str, int], tmp_path: Path
) -> None:
    path, file = bad(where, ".npy", np.inf, tmp_path)
    np.save(tmp_path / "good.npy", X)
    lit = LitKMeans(3)
    trainer().fit(lit, ArrayDataModule(path=str(tmp_path / "good.npy")))
    val_share = 0.9 if door in ("validate", "test") else 0.0
    data = ArrayDataModule(path=str(path), val_share=val_share, **options)  # type: ignore[arg-type]
    expected = f"{file}: x should be finite; 2 rows hold NaN or infinity, the first is row 17"
    with pytest.raises(ValueError, match=re.escape(expected)) as raised:
        DOORS[door](lit, data)
    assert str(raised.value) == expected


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".pt", ".safetensors"])
@pytest.mark.parametrize("where", ["file", "folder"])
def test_the_same_holds_in_every_format_and_for_standardization(
    where: str, suffix: str, tmp_path: Path
) -> None:
    path, file = bad(where, suffix, -np.inf, tmp_path)
    reason = "x should be finite; 2 rows hold NaN or infinity, the first is row 17"
    with pytest.raises(ValueError, match=re.escape(f"{file}: {reason}")):
        list(ArrayDataModule(path=str(path)).predict_dataloader())
    with pytest.raises(ValueError, match=re.escape(f"{file}: cannot standardize: {reason}")):
        ArrayDataModule(path=str(path), standardize=True, val_share=0.1).setup()


def cut_after(n_batches: int, loader: Iterable[Batch], path: Path, size: int) -> None:
    """Go through a loader twice, and cut its file after so many batches."""
    for i, _ in enumerate(itertools.chain(loader, loader), start=1):
        if i == n_batches:
            os.truncate(path, size)


@pytest.mark.parametrize("suffix", [".npy", ".pt"])
@pytest.mark.parametrize("in_folder", [False, True])
@pytest.mark.parametrize("n_batches", [1, 3, 4, 6])
def test_a_file_that_is_cut_short_ends_the_pass(
    n_batches: int, in_folder: bool, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"rows{suffix}"
    write(path, np.tile(X, (500, 1)))
    size = path.stat().st_size
    data = ArrayDataModule(path=str(tmp_path if in_folder else path), batch_size=10_000)
    with pytest.raises(ValueError, match="was cut short while it was read") as raised:
        cut_after(n_batches, data.train_dataloader(), path, size // 2)
    assert str(raised.value).startswith(f"{path}: ")
    assert str(raised.value).endswith(f"from {size} bytes to {size // 2}")


def test_a_file_that_is_replaced_or_removed_or_grows_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, X)
    loader = ArrayDataModule(path=str(path), batch_size=7).train_dataloader()
    with open(path, "ab") as file:
        file.write(b"more")
    list(loader)
    np.save(tmp_path / "new.npy", X[:3])
    os.replace(tmp_path / "new.npy", path)
    list(loader)
    path.unlink()
    np.testing.assert_array_equal(torch.cat([batch.x for batch in loader]), X)


def test_a_run_ends_in_words_where_its_file_is_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, np.tile(X, (500, 1)))

    class Cutting(LitKMeans):
        def on_train_epoch_end(self) -> None:
            os.truncate(path, 1000)

    data = ArrayDataModule(path=str(path), batch_size=10_000)
    with pytest.raises(ValueError, match=r"rows\.npy: was cut short while it was read"):
        trainer().fit(Cutting(3, init="random", tol=0.0), data)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("a,b\n1,2\n", "b,a\n1,2\n", "other columns than in a.csv: b, a; there a, b"),
        ("a,b\n1,2\n", "3,4\n1,2\n", "other columns than in a.csv: no header; there a, b"),
        ("3,4\n1,2\n", "0,1\n1,2\n", "other columns than in a.csv: 0, 1; there no header"),
        (",a,b\n0,1,2\n", "a,b,c\n1,2,3\n", "rows of 3 features, those of a.csv have 2"),
    ],
)
def test_files_of_a_folder_have_the_same_columns(
    first: str, second: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text(first)
    (tmp_path / "b.csv").write_text(second)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'b.csv'}: {message}")):
        read_folder(tmp_path)


def test_the_header_of_every_file_of_a_folder_is_left_out(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.csv").write_text(f"0,1\n{i},5\n{i},6\n")
    table, sizes = read_folder(tmp_path)
    assert table.x.tolist() == [[i, j] for i in range(3) for j in (5, 6)]
    assert list(sizes.values()) == [2, 2, 2]
    table, sizes = read_folder(tmp_path, header=False)
    assert len(table.x) == 9
    table, _ = read_folder(tmp_path, columns=iter(["1"]))
    assert table.x.tolist() == [[j] for i in range(3) for j in (5, 6)]


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (("f2", "i1"), torch.float16),
        (("f2", "i2"), torch.float32),
        (("f4", "u1"), torch.float32),
        (("f4", "i4"), torch.float64),
        (("f4", "i8"), torch.float64),
        (("f4", "u4"), torch.float64),
        (("i2", "u1"), torch.int16),
        (("f4", "?"), torch.float32),
    ],
)
def test_rows_of_a_folder_lose_no_digits(
    dtypes: tuple[str, str], expected: torch.dtype, tmp_path: Path
) -> None:
    for i, dtype in enumerate(dtypes):
        np.save(tmp_path / f"{i}.npy", np.ones((1, 1), dtype))
    assert read_folder(tmp_path)[0].x.dtype == expected


def fitted(tmp_path: Path, options: dict[str, bool]) -> Path:
    write(tmp_path / "fit.csv", X * 10 + 5)
    path = tmp_path / "last.ckpt"
    run = trainer()
    run.fit(LitKMeans(3), ArrayDataModule(path=str(tmp_path / "fit.csv"), **options))
    run.save_checkpoint(path)
    return path


@pytest.mark.parametrize("standardize", [False, True])
def test_predictions_take_columns_and_units_from_the_fit(standardize: bool, tmp_path: Path) -> None:
    options = {"standardize": standardize}
    checkpoint = fitted(tmp_path, options)
    # rows of the fit, alone: their own mean and scale are others
    write(tmp_path / "few.csv", (X * 10 + 5)[:9])
    labels = [
        torch.cat(
            trainer().predict(  # type: ignore[arg-type]
                LitKMeans(3),
                ArrayDataModule(path=str(tmp_path / name), **options),
                ckpt_path=checkpoint,
            )
        )
        for name in ("fit.csv", "few.csv")
    ]
    assert torch.equal(labels[0][:9], labels[1])


@pytest.mark.parametrize(
    ("header", "options", "message"),
    [
        ("b,a,c", {}, "few.csv: the columns should be those of the checkpoint, a, b, c; got b, a"),
        ("a,b,x", {}, "few.csv: the columns should be those of the checkpoint, a, b, c; got a, b"),
        ("a,b,c", {"standardize": True}, "standardize should be False, as in the fit of the"),
    ],
)
def test_other_columns_or_units_than_those_of_the_checkpoint_are_refused(
    header: str, options: dict[str, bool], message: str, tmp_path: Path
) -> None:
    checkpoint = fitted(tmp_path, {})
    np.savetxt(tmp_path / "few.csv", X[:9], delimiter=",", header=header, comments="")
    data = ArrayDataModule(path=str(tmp_path / "few.csv"), **options)
    with pytest.raises(ValueError, match=message):
        trainer().predict(LitKMeans(3), data, ckpt_path=checkpoint)
    # rows without names have no order to compare
    np.save(tmp_path / "few.npy", X[:9])
    data = ArrayDataModule(path=str(tmp_path / "few.npy"))
    assert trainer().predict(LitKMeans(3), data, ckpt_path=checkpoint)
