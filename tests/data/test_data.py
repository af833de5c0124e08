"""Promises of the DataModules: which rows, in which order, on which rank, made only once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torch import Tensor

from kmeans_module.data import ArrayDataModule, BlobDataModule, ImageDataModule
from kmeans_module.files import readers as io
from kmeans_module.rows.batch import Batch

X = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32) * [1, 10, 100] + [0, 5, 1e6]


def rows_of(loader: Iterable[Batch]) -> Tensor:
    return torch.cat([batch.x for batch in loader])


@pytest.fixture
def npy(tmp_path: Path) -> str:
    path = str(tmp_path / "rows.npy")
    np.save(path, X)
    return path


# Blobs


def test_blobs_are_the_seeds_data_by_default() -> None:
    data = BlobDataModule()
    assert data.n_features == 2
    data.setup("fit")
    assert data.x.shape == (1500, 2)
    assert data.x.dtype == torch.float32
    assert data.n_samples == 1500
    assert data.centers.shape == (6, 2)
    assert data.centers.abs().max() <= 35
    assert torch.equal(data.target, torch.arange(6).repeat_interleave(250))
    for cluster in range(6):
        samples = data.x[cluster * 250 : (cluster + 1) * 250]
        assert (samples.mean(0) - data.centers[cluster]).abs().max() < 5 * (30 / 250) ** 0.5
        covariance = samples.T.cov()
        assert (covariance - 30 * torch.eye(2)).abs().max() < 5 * 30 * (2 / 250) ** 0.5


def test_centers_fill_their_cube() -> None:
    centers = BlobDataModule(n_clusters=2000, n_features=3, samples_per_cluster=1).centers
    assert -35 <= centers.min() < -34
    assert 34 < centers.max() <= 35
    assert centers.mean(0).abs().max() < 5 * 70 / 12**0.5 / 2000**0.5


def test_blobs_repeat_with_their_seed_and_touch_no_global_one() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (BlobDataModule(seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, other.x)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_unequal_clusters_of_any_dimension() -> None:
    data = BlobDataModule(n_clusters=3, n_features=5, samples_per_cluster=[1, 7, 2], variance=0)
    assert data.target.tolist() == [0] + [1] * 7 + [2] * 2
    assert torch.equal(data.x, data.centers[data.target])


def test_outliers_replace_their_share_and_have_no_label() -> None:
    data = BlobDataModule(outliers=0.1)
    clean = BlobDataModule()
    outliers = data.target == -1
    assert int(outliers.sum()) == 150
    assert torch.equal(data.x[~outliers], clean.x[~outliers])
    assert torch.equal(data.target[~outliers], clean.target[~outliers])
    assert data.x[outliers].abs().max() <= 100
    assert data.x[outliers].abs().max() > 90
    assert outliers[:750].any()
    assert outliers[750:].any()


def test_held_out_blobs_are_new_draws_of_the_same_mixture() -> None:
    data = BlobDataModule(variance=4)
    (batch,) = data.val_dataloader()
    assert batch.target.bincount().tolist() == [50] * 6
    assert not torch.isin(batch.x, data.x).any()
    distances = (batch.x - data.centers[batch.target]).square().mean()
    assert 3 < distances < 5


def test_shuffled_batches_of_blobs_keep_their_labels() -> None:
    data = BlobDataModule(batch_size=100, shuffle=True)
    first = next(iter(data.train_dataloader()))
    assert len(first.target.unique()) > 1
    assert torch.equal(first.x, data.x[first.index])
    assert torch.equal(first.target, data.target[first.index])
    ordered = BlobDataModule(batch_size=100)
    assert torch.equal(rows_of(ordered.train_dataloader()), data.x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_clusters": 0}, "n_clusters should be >= 1; got 0"),
        ({"n_features": 0}, "n_features should be >= 1; got 0"),
        ({"samples_per_cluster": 0}, "samples_per_cluster should be >= 1; got 0"),
        (
            {"samples_per_cluster": [1, 2]},
            "samples_per_cluster should be one number or n_clusters=6 of them; got 2",
        ),
        ({"samples_per_cluster": [1, 2, 3, 4, 5, -6]}, "samples_per_cluster should be >= 1"),
        ({"variance": -1}, "variance should be from 0 to inf; got -1"),
        ({"variance": float("nan")}, "variance should be from 0 to inf; got nan"),
        ({"variance": float("inf")}, "variance should be from 0 to inf; got inf"),
        ({"outliers": -0.1}, "outliers should be from 0 to 1; got -0.1"),
        ({"outliers": 1}, "outliers should be less than 1; got 1"),
        ({"batch_size": 0}, "batch_size should be >= 1; got 0"),
        ({"seed": -1}, "seed should be >= 0; got -1"),
    ],
)
def test_bad_blob_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        BlobDataModule(**options)


# Arrays


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
    read_table = io.read_table
    monkeypatch.setattr(
        io, "read_table", lambda *a, **k: (reads.append(npy), read_table(*a, **k))[1]
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
    monkeypatch.setattr("kmeans_module.data.arrays._CHUNK", chunk)
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
    io.save_array(tmp_path / "x.npy", torch.arange(8).to(dtype))
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
    with pytest.raises(ValueError, match=r"x\.npy: cannot standardi.e: .*2 rows .* row 7"):
        ArrayDataModule(path=path, standardize=True).setup()
    np.save(path, X * 1e200)
    with pytest.raises(ValueError, match=r"x\.npy: cannot standardi.e: the variance overflows"):
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


# Folders of arrays


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


# Images


def test_pixels_of_a_folder_turn_back_into_its_pictures(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pictures = {
        name: generator.integers(0, 256, (height, width, 3), np.uint8)
        for name, height, width in [("b.png", 2, 3), ("a.png", 4, 5)]
    }
    for name, picture in pictures.items():
        Image.fromarray(picture).save(tmp_path / name)
    data = ImageDataModule(path=str(tmp_path))
    assert data.n_features == 3
    data.setup("fit")
    assert data.x.dtype == torch.float32
    assert data.x.shape == (26, 3)
    assert data.n_samples == 26
    assert [file.name for file in data.image_files] == ["a.png", "b.png"]
    assert data.image_shapes == [(4, 5), (2, 3)]
    parts = data.x.split([h * w for h, w in data.image_shapes])
    for file, shape, part in zip(data.image_files, data.image_shapes, parts, strict=True):
        np.testing.assert_allclose(part.view(*shape, 3) * 255, pictures[file.name], rtol=1e-6)


def test_one_picture_is_a_folder_of_one(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4), "white").save(tmp_path / "a.png")
    data = ImageDataModule(path=str(tmp_path / "a.png"), batch_size=7, shuffle=True)
    assert torch.equal(data.x, torch.ones(20, 3))
    assert data.image_shapes == [(4, 5)]
    assert len(data.train_dataloader()) == 3
    assert len(data.val_dataloader()) == 0


def test_n_features_of_images_needs_no_file() -> None:
    data = ImageDataModule(path="gone.png")
    assert data.n_features == 3
    with pytest.raises(FileNotFoundError, match=r"gone\.png: no such file"):
        data.setup("fit")


# All of them


def test_each_rank_gets_its_share(npy: str) -> None:
    shares = []
    for rank in range(2):
        data = ArrayDataModule(path=npy, batch_size=15)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)  # type: ignore[assignment]
        for loader in (data.train_dataloader(), data.predict_dataloader(), data.test_dataloader()):
            assert (loader.rank, loader.world_size) == (rank, 2)
        shares.append(list(data.train_dataloader()))
    together = [batch.x for pair in zip(*shares, strict=True) for batch in pair]
    np.testing.assert_array_equal(torch.cat(together), X)


class Collector(LightningModule):
    """Keeps the rows that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.zero = torch.nn.Parameter(torch.zeros(0))
        self.rows: list[Tensor] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        self.rows.append(batch.x)
        return self.zero.sum()

    def validation_step(self, batch: Batch, _: int) -> None:
        self.rows.append(batch.x)

    def predict_step(self, batch: Batch, _: int) -> Tensor:
        return batch.x


@pytest.mark.parametrize("val_share", [0.0, 0.2])
def test_a_trainer_runs_with_and_without_validation_rows(npy: str, val_share: float) -> None:
    data = ArrayDataModule(path=npy, batch_size=20, shuffle=True, val_share=val_share)
    model = Collector()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, datamodule=data)
    seen = torch.cat(model.rows).sort(dim=0).values
    np.testing.assert_array_equal(seen, np.sort(X, axis=0))
    model.rows.clear()
    trainer.validate(model, datamodule=data, verbose=False)
    assert sum(len(rows) for rows in model.rows) == 50 * val_share
    predictions = trainer.predict(model, datamodule=data)
    assert predictions is not None
    np.testing.assert_array_equal(torch.cat(predictions), X)  # type: ignore[arg-type]


@pytest.mark.parametrize("data_module", [BlobDataModule, ArrayDataModule, ImageDataModule])
def test_every_option_is_explained_on_the_command_line(data_module: type) -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(data_module, "data")
    for action in parser._actions:
        if action.dest.startswith("data."):
            assert action.help
            assert "Missing" not in action.help


def test_command_line_reads_columns_by_name_and_number() -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(ArrayDataModule, "data")
    parsed = parser.parse_args(["--data.path=x.csv", "--data.columns=[a, 3]"])
    assert parsed.data.columns == ["a", 3]
