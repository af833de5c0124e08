"""Promises of checkpoints: whole or not there when written, verified when read."""

import os
import re
import resource
import shutil
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO

from kmeans_module import BlobDataModule, LitKMeans, files
from kmeans_module.cli import main
from kmeans_module.training.callbacks import Checkpoints
from kmeans_module.training.checkpoint_files import AtomicCheckpointIO, read_checkpoint
from tests.end_to_end.helpers import quiet_trainer, train

pytestmark = pytest.mark.filterwarnings(
    "ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
    "ignore:Checkpoint directory .* exists and is not empty",
    "ignore:The dirpath has changed",
)
VERSION_0_1 = Path(__file__).parent / "checkpoints" / "version_0_1.ckpt"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(LitKMeans, its checkpoint)."""
    path = tmp_path_factory.mktemp("saved") / "last.ckpt"
    lit = LitKMeans(6)
    train(lit, BlobDataModule(samples_per_cluster=30)).save_checkpoint(path)
    return lit, path


def flipped(content, centroids):
    """The file with one bit of a centroid turned over."""
    place = content.index(centroids.numpy().tobytes()) + 5
    return content[:place] + bytes([content[place] ^ 8]) + content[place + 1 :]


def changed(content, path):
    path.write_bytes(content)
    checkpoint = torch.load(path)
    checkpoint["state_dict"]["kmeans.centroids"][0, 0] += 1
    torch.save(checkpoint, path)


def of_another_module(content, path):
    checkpoint = torch.load(path.with_name("good.ckpt"))
    del checkpoint["kmeans"]
    torch.save(checkpoint, path)


DAMAGE = {
    "a flipped bit": (lambda content, path: path.write_bytes(content), "damaged: 'archive/data/"),
    "a changed centroid": (changed, "damaged: the layer or the run is not that of its checksum"),
    "cut": (lambda content, path: path.write_bytes(content[:4096]), "damaged: the file is cut"),
    "cut early": (lambda content, path: path.write_bytes(content[:9]), "damaged: the file is cut"),
    "text": (lambda content, path: path.write_text("k: 3\n" * 9), "not a checkpoint of LitKMeans"),
    "empty": (lambda content, path: path.touch(), "not a checkpoint: the file is empty"),
    "a folder": (lambda content, path: path.mkdir(), "is a folder, expected a file"),
    "an array": (
        lambda content, path: files.save_array(path, torch.zeros(9)),
        "not a checkpoint of LitKMeans",
    ),
    "a tensor": (
        lambda content, path: torch.save(torch.zeros(3), path),
        "not a checkpoint of LitKMeans",
    ),
    "of another module": (of_another_module, "not a checkpoint of LitKMeans"),
}
DOORS = {
    "load_from_checkpoint": lambda path: LitKMeans.load_from_checkpoint(path),
    "fit": lambda path: train(LitKMeans(6), BlobDataModule(), ckpt_path=str(path)),
    "predict": lambda path: quiet_trainer().predict(
        LitKMeans(6), BlobDataModule(), ckpt_path=str(path), weights_only=True
    ),
    "the command line": lambda path: main(
        ["test", f"--ckpt_path={path}", "--trainer.logger=false"]
    ),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_foreign_file_is_named_in_one_line(damage, door, saved, tmp_path, capsys):
    lit, whole = saved
    good, older, bad = (tmp_path / f"{name}.ckpt" for name in ("good", "older", "bad"))
    shutil.copy(whole, good)
    older.write_bytes(whole.read_bytes())
    os.utime(older, (0, 0))
    write, expected = DAMAGE[damage]
    content = whole.read_bytes()
    write(flipped(content, lit.kmeans.centroids) if damage == "a flipped bit" else content, bad)
    with pytest.raises((ValueError, SystemExit)) as refused:
        DOORS[door](bad)
    line = str(refused.value)
    if door == "the command line":
        assert refused.value.code == 1
        (line,) = capsys.readouterr().err.splitlines()
        line = line.removeprefix("kmeans: ")
    assert line.startswith(f"{bad}: {expected}")
    assert line.endswith(f"{good} is whole")
    assert "\n" not in line


def test_the_newest_whole_checkpoint_is_named_or_none(saved, tmp_path):
    bad = tmp_path / "a.ckpt"
    bad.write_bytes(b"PK\3\4")
    for name, cut in (("b", 100), ("c", None), ("d", 200)):
        (tmp_path / f"{name}.ckpt").write_bytes(saved[1].read_bytes()[:cut])
    os.utime(tmp_path / "c.ckpt", (1, 1))
    with pytest.raises(ValueError, match=r"c\.ckpt is whole$"):
        read_checkpoint(bad)
    (tmp_path / "c.ckpt").unlink()
    with pytest.raises(ValueError, match=r"cut short$"):
        read_checkpoint(bad)
    with pytest.raises(FileNotFoundError, match=re.escape(f"{tmp_path / 'no.ckpt'}: no such file")):
        read_checkpoint(tmp_path / "no.ckpt")


def test_no_flipped_bit_changes_what_is_read(saved, tmp_path):
    lit, path = saved
    content = path.read_bytes()
    place = tmp_path / "a.ckpt"
    generator = np.random.default_rng(0)
    refusals = []
    for position in generator.integers(0, len(content), 200):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(generator.integers(8))
        place.write_bytes(damaged)
        try:
            state = read_checkpoint(place)
        except ValueError as error:
            refusals.append(str(error))
        else:  # a bit of the padding, or of a date
            assert torch.equal(state["state_dict"]["kmeans.centroids"], lit.kmeans.centroids)
            assert state["loops"] == torch.load(path)["loops"]
    assert len(refusals) > 100
    assert not any("\n" in refusal for refusal in refusals)


def test_a_change_on_purpose_says_how_to_go_on(saved, tmp_path):
    path = tmp_path / "a.ckpt"
    changed(saved[1].read_bytes(), path)
    with pytest.raises(ValueError, match=re.escape("checkpoint['kmeans']['checksum']")):
        LitKMeans.load_from_checkpoint(path)
    checkpoint = torch.load(path)
    del checkpoint["kmeans"]["checksum"]
    torch.save(checkpoint, path)
    lit = LitKMeans.load_from_checkpoint(path)
    assert torch.equal(lit.kmeans.centroids, checkpoint["state_dict"]["kmeans.centroids"])


def test_checkpoints_without_a_checksum_are_verified_by_their_archive(tmp_path):
    centroids = read_checkpoint(VERSION_0_1)["state_dict"]["kmeans.centroids"]
    path = tmp_path / "a.ckpt"
    path.write_bytes(flipped(VERSION_0_1.read_bytes(), centroids))
    with pytest.raises(ValueError, match=r"a\.ckpt: damaged"):
        LitKMeans.load_from_checkpoint(path)


def test_objects_are_read_on_demand_only(tmp_path, saved):
    checkpoint = {**torch.load(saved[1]), "mine": Path("x")}
    torch.save(checkpoint, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a\.ckpt: holds objects.*weights_only=False"):
        LitKMeans.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    LitKMeans.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=False)


def test_loading_into_an_instance_is_refused(saved):
    with pytest.raises(TypeError, match="cannot be called on an instance"):
        saved[0].load_from_checkpoint(saved[1])


def test_every_trainer_of_a_litkmeans_writes_atomically_unless_told_otherwise(tmp_path):
    class Own(TorchCheckpointIO):
        pass

    data = BlobDataModule(samples_per_cluster=30)
    for plugins, expected in (([], AtomicCheckpointIO), ([Own()], Own)):
        trainer = train(LitKMeans(6), data, plugins=plugins)
        assert type(trainer.strategy.checkpoint_io) is expected


def test_checkpoints_of_other_plugins_are_verified_too(tmp_path):
    path = tmp_path / "a.ckpt"
    data = BlobDataModule(samples_per_cluster=30)
    trainer = train(LitKMeans(6), data, plugins=[AsyncCheckpointIO()])
    trainer.save_checkpoint(path)
    trainer.strategy.checkpoint_io.teardown()
    changed(path.read_bytes(), path)
    with pytest.raises(ValueError, match="damaged"):
        train(LitKMeans(6), data, plugins=[AsyncCheckpointIO()], ckpt_path=str(path))


@pytest.fixture
def small_files():
    """No file may be larger than 2 KiB: the stand-in for a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_the_file_that_was_there(saved, tmp_path, small_files):
    path = tmp_path / "best.ckpt"
    path.write_bytes(b"good")
    with pytest.raises(OSError, match=re.escape(f"'{path}'")) as error:
        AtomicCheckpointIO().save_checkpoint(torch.load(saved[1]), path)
    assert "cannot write" in str(error.value)
    assert path.read_bytes() == b"good"
    assert list(tmp_path.iterdir()) == [path]


def test_no_folder_for_temporary_files_is_needed(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    train(
        LitKMeans(6), BlobDataModule(samples_per_cluster=30), callbacks=[Checkpoints()],
        enable_checkpointing=True, default_root_dir=tmp_path,
    )  # fmt: skip
    folder = tmp_path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt"]
    read_checkpoint(folder / "last.ckpt")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_kill_at_any_time_leaves_a_whole_file(saved, tmp_path):
    path = tmp_path / "last.ckpt"
    checkpoint = torch.load(saved[1])
    checkpoint["ballast"] = torch.zeros(500_000)
    AtomicCheckpointIO().save_checkpoint(checkpoint, path)
    left = 0
    for i in range(12):
        process = os.fork()
        if process == 0:
            while True:
                AtomicCheckpointIO().save_checkpoint(checkpoint, path)
        time.sleep(0.02 + 0.003 * i)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        read_checkpoint(path)
        left += len(list(tmp_path.iterdir())) - 1
        files.remove_abandoned(tmp_path)
        assert list(tmp_path.iterdir()) == [path]
    assert left > 0
