"""Promises of saved runs: other data get the labels that the run would have given them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from kmeans_module import BlobDataModule, KMeansLayer, LitKMeans, kmeans, predict
from kmeans_module.clustering.saved_run import SavedRun
from kmeans_module.files import load_tensors, read_image, save_tensors
from kmeans_module.training.callbacks import RunFolder
from tests.runs import FRAME, RUNS, X


@pytest.fixture
def folder(run_folders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with data and a run of each kind; tests change copies."""
    monkeypatch.chdir(run_folders)
    return run_folders


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a run, which a test may spoil."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(folder / "runs" / name / "version_0", tmp_path / name))

    return copy


def run_of(folder: Path, name: str) -> Path:
    return folder / "runs" / name / "version_0"


OWN: list[tuple[str, Any]] = [
    ("chosen", "rows.csv"),
    ("chosen", "rows.parquet"),
    ("chosen", FRAME),
    ("chosen", FRAME[["u", "w"]]),
    ("chosen", FRAME[["u", "w"]].to_numpy()),
    ("chosen", torch.tensor(FRAME[["u", "w"]].to_numpy())),
    ("rows", "rows.npy"),
    ("rows", X),
    ("rows", X.numpy()),
    ("rows", list(X.split(20))),
    ("rows", FRAME[["u", "v", "w"]].astype("float32")),
    ("parts", "parts"),
    ("parts", "rows.npy"),
    ("parts", X.tolist()),
    ("rows", "parts"),
    ("pictures", "pictures"),
]


@pytest.mark.parametrize(("name", "data"), OWN)
def test_the_data_of_the_run_get_its_labels(name: str, data: Any, folder: Path) -> None:
    run = run_of(folder, name)
    labels = predict(run, data)
    of_tensors = isinstance(data, torch.Tensor) or (isinstance(data, list) and name == "rows")
    assert isinstance(labels, torch.Tensor if of_tensors else np.ndarray)
    assert np.array_equal(labels, np.load(run / "labels.npy"))
    assert np.array_equal(SavedRun.read(run).predict(data, device="cpu"), labels)


def test_pictures_in_bytes_are_scaled_as_those_of_the_run(folder: Path) -> None:
    run = SavedRun.read(run_of(folder, "pictures"))
    picture = read_image(folder / "one.png")
    labels = run.predict(picture)
    assert labels.shape == picture.shape[:2]
    assert np.array_equal(run.predict((picture * 255).round().to(torch.uint8).numpy()), labels)
    assert np.array_equal(run.predict(folder / "one.png"), labels.flatten())


def test_a_run_says_what_it_holds(folder: Path) -> None:
    run = SavedRun.read(run_of(folder, "chosen"))
    assert run.layer.n_clusters == 4
    assert run.feature_names == ["u", "w"]
    assert run.config["model"]["n_clusters"] == 4
    assert run.mean is not None
    assert run.scale is not None
    np.testing.assert_allclose(run.mean, FRAME[["u", "w"]].mean())
    np.testing.assert_allclose(run.scale, FRAME[["u", "w"]].std(ddof=0))
    assert SavedRun.read(run_of(folder, "rows")).mean is None
    assert SavedRun.read(run_of(folder, "rows")).layer.metric == "cosine"


BAD_DATA: list[tuple[str, Any, str]] = [
    ("rows", "rows.csv", r"^rows\.csv: rows of 4 features, those of .* have 3$"),
    ("rows", FRAME, r"^x should have shape \(\.\.\., 3\); got \(90, 4\)$"),
    ("rows", "one.png", r"^one\.png: unknown suffix '\.png'"),
    ("rows", "pictures", r"^pictures: no files of rows in this folder"),
    ("chosen", FRAME[["w", "u"]].to_numpy()[:, :1], r"^x should have shape \(\.\.\., 2\)"),
    ("chosen", FRAME[["u", "v"]], r"^x: the columns should be those of .*, u, w; got u, v$"),
    ("chosen", "rows.npy", r"^rows\.npy: no column 'u'"),
    ("chosen", np.full((2, 2), np.nan), "2 rows hold NaN or infinity"),
    ("pictures", "rows.csv", r"^rows\.csv: not a readable image"),
    ("pictures", "parts", r"^parts: no images in this folder"),
    ("pictures", X[:, :2], r"^x should have shape \(\.\.\., 3\)"),
    ("rows", "nothing.npy", r"^nothing\.npy: no such file"),
]


@pytest.mark.parametrize(("name", "data", "message"), BAD_DATA)
def test_data_of_another_kind_are_refused(name: str, data: Any, message: str, folder: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message) as refused:
        predict(run_of(folder, name), data)
    assert "\n" not in str(refused.value)


def test_columns_in_another_order_are_put_in_that_of_the_run_or_refused(
    folder: Path, tmp_path: Path, copied: Callable[[str], Path]
) -> None:
    backwards = FRAME[["w", "v", "u", "id"]]
    backwards.to_csv(tmp_path / "backwards.csv", index=False)
    labels = np.load(run_of(folder, "chosen") / "labels.npy")
    assert np.array_equal(predict(run_of(folder, "chosen"), backwards), labels)
    assert np.array_equal(predict(run_of(folder, "chosen"), tmp_path / "backwards.csv"), labels)
    run = copied("chosen")  # of all columns of its file
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["init_args"]["columns"] = None
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=r"x: the columns .* of .*, u, w; got w, u"):
        predict(run, backwards[["w", "u"]])
    backwards[["w", "u"]].to_csv(tmp_path / "two.csv", index=False)
    with pytest.raises(ValueError, match=r"two\.csv: the columns should be those of"):
        predict(run, tmp_path / "two.csv")


def spoil(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda run: (run / name).write_bytes(content)  # type: ignore[return-value]


def cut(name: str) -> Callable[[Path], None]:
    return lambda run: (run / name).write_bytes((run / name).read_bytes()[:-9])  # type: ignore[return-value]


def remove(name: str) -> Callable[[Path], None]:
    return lambda run: (run / name).unlink()


def other_moments(**moments: torch.Tensor) -> Callable[[Path], None]:
    return lambda run: save_tensors(run / "standardization.safetensors", moments)


def other_metadata(data: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        tensors, metadata = load_tensors(run / "centroids.safetensors")
        save_tensors(run / "centroids.safetensors", tensors, {**metadata, "data": data})

    return change


DAMAGE: list[tuple[Callable[[Path], None], str]] = [
    (remove("centroids.safetensors"), "centroids.safetensors: no such file; the run has not ended"),
    (cut("centroids.safetensors"), "centroids.safetensors: not a readable"),
    (spoil("centroids.safetensors", b""), "centroids.safetensors: not a readable"),
    (other_metadata("[1"), "centroids.safetensors: not a readable file of centroids"),
    (other_metadata('{"feature_names": 3}'), "centroids.safetensors: not a readable"),
    (remove("standardization.safetensors"), "standardization.safetensors: no such file"),
    (cut("standardization.safetensors"), "standardization.safetensors: not a readable"),
    (other_moments(mean=torch.ones(2)), "standardization.safetensors: not a readable"),
    (
        other_moments(mean=torch.ones(3), scale=torch.ones(3)),
        r"standardization.safetensors: mean and scale should have shape \(2,\)",
    ),
    (
        other_moments(mean=torch.ones(2), scale=torch.zeros(2)),
        "standardization.safetensors: mean and scale should be finite",
    ),
    (spoil("config.yaml", b"a: [1"), "config.yaml: not a readable YAML file"),
    (spoil("config.yaml", b"\xff\xfe\xff"), "config.yaml: not a readable YAML file"),
    (spoil("config.yaml", b"- 1"), "config.yaml: not the configuration of a run"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_a_damaged_run_is_refused_by_the_name_of_the_file(
    damage: Callable[[Path], None], message: str, copied: Callable[[str], Path]
) -> None:
    run = copied("chosen")
    damage(run)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as refused:
        SavedRun.read(run)
    assert str(refused.value).startswith(str(run))
    assert "\n" not in str(refused.value)


def test_what_is_no_run_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    refusals: dict[str | Path, str] = {
        tmp_path / "nothing": "no such run folder",
        "": "folder should be the path of a run folder",
        folder / "rows.npy": "is a file, expected the folder of a run",
        folder / "parts": "is no run folder, it holds no centroids.safetensors",
        folder / "runs" / "rows": "is no run folder but holds 1; the newest is .*rows/version_0$",
        folder / "runs": f"is no run folder but holds {len(RUNS)}; the newest is .*version_0$",
    }
    for path, message in refusals.items():
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            SavedRun.read(path)
    with pytest.raises(TypeError, match="path should be that of a file or a folder"):
        SavedRun.read(3)  # type: ignore[arg-type]


def test_the_newest_version_has_the_greatest_number(
    tmp_path: Path, copied: Callable[[str], Path]
) -> None:
    run = copied("rows")
    for version in (10, 9, 2):  # the last copy is the youngest
        shutil.copytree(run, tmp_path / "blobs" / f"version_{version}")
    with pytest.raises(ValueError, match=r"holds 3; the newest is .*version_10$"):
        predict(tmp_path / "blobs", X)


def test_a_standardization_of_an_earlier_run_is_not_this_ones(
    copied: Callable[[str], Path],
) -> None:
    run = copied("rows")
    other_moments(mean=torch.ones(3), scale=torch.full((3,), 7.0))(run)
    assert np.array_equal(predict(run, X), np.load(run / "labels.npy"))


def test_runs_of_before_are_read_by_their_configuration(copied: Callable[[str], Path]) -> None:
    for name, data in (("parts", X), ("pictures", "pictures"), ("rows", X)):
        run = copied(name)
        tensors, metadata = load_tensors(run / "centroids.safetensors")
        assert json.loads(metadata.pop("data"))
        save_tensors(run / "centroids.safetensors", tensors, metadata)
        assert np.array_equal(predict(run, data), np.load(run / "labels.npy"))
    (copied_again := run.parent / "parts" / "config.yaml").unlink()
    assert np.array_equal(
        predict(copied_again.parent, X), np.load(copied_again.parent / "labels.npy")
    )


def test_a_run_in_python_is_one_too(tmp_path: Path) -> None:
    trainer = Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_checkpointing=False, default_root_dir=tmp_path / "run", enable_model_summary=False,
        num_sanity_val_steps=0, callbacks=[RunFolder(summary=False)], log_every_n_steps=1,
    )  # fmt: skip
    data = BlobDataModule(n_clusters=3, n_features=2, samples_per_cluster=20)
    lit = LitKMeans(n_clusters=3, seed=0)
    trainer.fit(lit, data)
    assert not (tmp_path / "run" / "config.yaml").exists()
    labels = predict(tmp_path / "run", data.x)
    assert torch.equal(labels, torch.from_numpy(np.load(tmp_path / "run" / "labels.npy")))
    assert torch.equal(labels, predict(lit.kmeans, data.x))


def test_a_layer_that_was_saved_reads_what_a_run_has_left(folder: Path) -> None:
    layer = KMeansLayer.from_file(run_of(folder, "rows") / "centroids.safetensors")
    assert torch.equal(layer.centroids, SavedRun.read(run_of(folder, "rows")).layer.centroids)
    assert kmeans(X, 4, init=layer.centroids).inertia > 0
