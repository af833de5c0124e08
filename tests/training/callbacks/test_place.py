"""Promises of where a run writes: where it was asked to, and over no file of another."""

import os
import re
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from kmeans_module import BlobDataModule, LitKMeans
from kmeans_module.cli import main
from kmeans_module.files.claims import MARK, RESULTS
from kmeans_module.rows.loader import BatchLoader
from kmeans_module.training.callbacks import Checkpoints, ClusterFigures, RunFolder
from kmeans_module.training.callbacks.place import run_folder
from tests.conftest import layer_at
from tests.end_to_end.helpers import MemoryLogger, quiet_trainer

pytestmark = pytest.mark.filterwarnings(
    "ignore:Checkpoint directory .* exists and is not empty",
    "ignore:You defined a `validation_step` but have no `val_dataloader`",
)


class SaveDirLogger(MemoryLogger):
    """Knows a save_dir, as W&B's and MLflow's do, but no log_dir."""

    save_dir = "elsewhere"
    name = "project"
    version = "a1b2"


class RemoteLogger(MemoryLogger):
    save_dir = None


class LogDirLogger(MemoryLogger):
    log_dir = Path("anywhere") / "run"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, with files of the user's by the names of all results."""
    monkeypatch.chdir(tmp_path)
    for name in RESULTS:
        (tmp_path / name).write_text("mine")
    (tmp_path / "checkpoints").mkdir()
    for name in ("best", "last"):
        (tmp_path / "checkpoints" / f"{name}.ckpt").write_text("mine")
    return tmp_path


def of_the_user():
    names = [*RESULTS, "checkpoints/best.ckpt", "checkpoints/last.ckpt"]
    return all(Path(name).read_text() == "mine" for name in names)


def written():
    """Folders in which there is something new, as paths."""
    paths = {path for path in Path().rglob("*") if path.is_file()}
    paths = {path for path in paths if path.read_bytes() != b"mine"}
    return {str(path.parent) for path in paths if path.name in ("labels.npy", "last.ckpt")}


NOWHERE: set[str] = set()
# What is asked of a Trainer, and where a fit then writes labels.npy and last.ckpt.
PLACES = {
    "no logger": (lambda: {"logger": False}, NOWHERE),
    "no logger, and a folder": (
        lambda: {"logger": False, "default_root_dir": "out"}, {"out", "out/checkpoints"},
    ),
    "fast_dev_run": (
        lambda: {"fast_dev_run": True, "logger": CSVLogger("csv"), "default_root_dir": "out"},
        NOWHERE,
    ),
    "fast_dev_run without a logger": (
        lambda: {"fast_dev_run": 2, "logger": False, "default_root_dir": "out"}, NOWHERE,
    ),
    "logger=True": (
        lambda: {"logger": True},
        {"lightning_logs/version_0", "lightning_logs/version_0/checkpoints"},
    ),
    "CSV": (
        lambda: {"logger": CSVLogger("csv", name="a")},
        {"csv/a/version_0", "csv/a/version_0/checkpoints"},
    ),
    "TensorBoard": (
        lambda: {"logger": TensorBoardLogger("tb", name=None, version="v")},
        {"tb/v", "tb/v/checkpoints"},
    ),
    "a list": (
        lambda: {"logger": [RemoteLogger(), CSVLogger("csv", name="a"), TensorBoardLogger("tb")]},
        {"csv/a/version_0", "csv/a/version_0/checkpoints"},
    ),
    "an empty list": (lambda: {"logger": []}, NOWHERE),
    "a save_dir": (
        lambda: {"logger": SaveDirLogger()},
        {"elsewhere/project/a1b2", "elsewhere/project/a1b2/checkpoints"},
    ),
    "a log_dir": (lambda: {"logger": LogDirLogger()}, {"anywhere/run", "anywhere/run/checkpoints"}),
    "a remote logger": (lambda: {"logger": RemoteLogger()}, NOWHERE),
    "a logger without folders": (lambda: {"logger": MemoryLogger()}, NOWHERE),
    "a remote logger, and a folder": (
        lambda: {"logger": RemoteLogger(), "default_root_dir": "out"}, {"out", "out/checkpoints"},
    ),
}  # fmt: skip


def callbacks():
    figures = ClusterFigures(every_n_iterations=1000, projector=False)
    return [figures, Checkpoints(), RunFolder(summary=False)]


@pytest.mark.parametrize("name", PLACES)
def test_a_fit_writes_where_it_was_asked_to(name, caplog):
    options, expected = PLACES[name]
    trainer = quiet_trainer(
        **options(), max_epochs=2, callbacks=callbacks(), enable_checkpointing=True
    )
    trainer.fit(LitKMeans(6), BlobDataModule(samples_per_cluster=30))
    assert written() == expected
    assert of_the_user()
    lines = [record.message for record in caplog.records if "are written" in record.message]
    assert len(lines) == (not expected)
    if not expected:
        assert not [path for path in Path().rglob("*") if path.name == MARK]


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("entry", ["validate", "test", "predict"])
def test_other_entries_write_labels_of_predict_there_and_nothing_else(name, entry):
    options, expected = PLACES[name]
    data = BlobDataModule(samples_per_cluster=30)
    data.setup("fit")
    lit = LitKMeans(6)
    lit.kmeans = layer_at(data.x[:6])
    trainer = quiet_trainer(**options(), callbacks=callbacks(), enable_checkpointing=True)
    loop = getattr(trainer, entry)
    loop(lit, BatchLoader(data.x), **({} if entry == "predict" else {"verbose": False}))
    expected = {place for place in expected if "checkpoints" not in place}
    assert written() == (expected if entry == "predict" else NOWHERE)
    assert of_the_user()


def test_barebones_writes_nothing(monkeypatch):
    trainer = quiet_trainer(
        **{"barebones": True, "logger": None, "enable_checkpointing": None,
           "enable_progress_bar": None, "enable_model_summary": None, "log_every_n_steps": None,
           "num_sanity_val_steps": None, "default_root_dir": "out", "max_epochs": 2,
           "callbacks": [RunFolder(summary=False)]},
    )  # fmt: skip
    with pytest.warns(UserWarning, match="barebones"):
        trainer.fit(LitKMeans(6), BlobDataModule(samples_per_cluster=30))
    assert written() == NOWHERE
    assert of_the_user()


def test_a_remote_folder_is_none_of_this_machine():
    logger = LogDirLogger()
    logger.log_dir = "s3://bucket/run"
    assert run_folder(quiet_trainer(logger=logger)) is None
    assert run_folder(quiet_trainer(default_root_dir="s3://bucket")) is None


@pytest.mark.parametrize("name", RESULTS)
def test_a_file_of_the_user_by_the_name_of_a_result_is_refused_before_the_work(name):
    (Path("out") / name).parent.mkdir()
    (Path("out") / name).write_text("mine")
    lit = LitKMeans(6)
    trainer = quiet_trainer(default_root_dir="out", callbacks=[RunFolder()])
    with pytest.raises(FileExistsError, match=re.escape(f"out/{name}: is no result of a run")):
        trainer.fit(lit, BlobDataModule(samples_per_cluster=30))
    assert not lit.initialized
    assert [path.name for path in Path("out").iterdir()] == [name]


def test_a_folder_that_is_chosen_again_takes_the_results_of_the_later_run():
    for seed in (0, 1):
        lit = LitKMeans(6)
        trainer = quiet_trainer(
            default_root_dir="out", callbacks=callbacks(), enable_checkpointing=True, max_epochs=2
        )
        trainer.fit(lit, BlobDataModule(samples_per_cluster=30, seed=seed))
    saved = LitKMeans.load_from_checkpoint("out/checkpoints/last-v1.ckpt")
    assert torch.equal(saved.kmeans.centroids, lit.kmeans.centroids)
    first = LitKMeans.load_from_checkpoint("out/checkpoints/last.ckpt")
    assert not torch.equal(first.kmeans.centroids, lit.kmeans.centroids)


QUIET = (
    "--trainer.enable_progress_bar=false", "--run_folder.summary=false",
    "--data.samples_per_cluster=30", "--trainer.max_epochs=2",
)  # fmt: skip
COMMANDS = {
    ("--trainer.logger=false",): NOWHERE,
    ("--trainer.fast_dev_run=true",): NOWHERE,
    ("--trainer.logger=false", "--trainer.default_root_dir=out"): {"out", "out/checkpoints"},
    ("--trainer.logger=CSVLogger", "--trainer.logger.save_dir=csv"): {
        "csv/blobs/version_0", "csv/blobs/version_0/checkpoints",
    },
}  # fmt: skip


@pytest.mark.parametrize("args", COMMANDS, ids=" ".join)
def test_the_command_line_writes_where_it_was_asked_to(args, folder):
    main(["fit", *QUIET, *args])
    assert written() == COMMANDS[args]
    assert of_the_user()
    places = {place for place in written() if "checkpoints" not in place}
    assert {str(path.parent) for path in folder.rglob("config.yaml")} == {
        str(folder), *(str(folder / place) for place in places)
    }  # fmt: skip


@pytest.mark.parametrize("root", [".", "full path"])
def test_the_current_folder_can_be_chosen(root, folder, capsys):
    root = str(folder) if root == "full path" else root
    args = ["fit", *QUIET, "--trainer.logger=false", f"--trainer.default_root_dir={root}"]
    with pytest.raises(SystemExit) as refused:
        main(args)
    assert refused.value.code == 1
    assert "config.yaml: is no result of a run" in capsys.readouterr().err
    for name in RESULTS:
        os.remove(name)
    main(args)
    assert Path("labels.npy").exists()
    assert Path("config.yaml").exists()
