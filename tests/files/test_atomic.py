"""Promises of the writers: never half a file, never a lost one; tensors come back as saved."""

from __future__ import annotations

import re
import resource
import stat
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import save_file

from kmeans_module import files
from kmeans_module.files.checksum import checksum
from kmeans_module.training.callbacks.pictures import save_figure


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, OSError])
def test_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    path = tmp_path / "labels.npy"
    path.write_bytes(b"old")

    def write(file: object) -> None:
        file.write(b"ne")  # type: ignore[attr-defined]
        raise failure("stop")

    with pytest.raises(failure, match="stop"):
        files.write_atomically(path, write)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_replaces_the_file_with_ordinary_permissions(tmp_path: Path) -> None:
    path, plain = tmp_path / "labels.npy", tmp_path / "plain"
    path.write_bytes(b"old")
    plain.touch()
    files.write_atomically(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    assert sorted(tmp_path.iterdir()) == [path, plain]


def test_unwritable_target_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "file").touch()
    for path, error in [
        (tmp_path / "gone" / "a.npy", FileNotFoundError),
        (tmp_path / "file" / "a.npy", NotADirectoryError),
        (tmp_path / "folder.npy", IsADirectoryError),
    ]:
        with pytest.raises(error, match=re.escape(f"'{path}'")) as caught:
            files.save_array(path, torch.zeros(2))
        assert "cannot write" in str(caught.value)
        assert ".tmp" not in str(caught.value)


WRITERS = {
    "an array": lambda path: files.save_array(path, torch.zeros(9000)),
    "tensors": lambda path: files.save_tensors(path, {"x": torch.zeros(9000)}),
    "a picture": lambda path: files.write_atomically(
        path, partial(Image.effect_noise((300, 300), 50).save, format="png")
    ),
    "a figure": lambda path: save_figure(path, Figure()),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_named_and_loses_nothing(writer: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, limits[1]))  # stands for a disk that is full
    try:
        with pytest.raises(OSError, match=re.escape(str(path))) as caught:
            WRITERS[writer](path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot write" in str(caught.value)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_arrays_come_back_as_saved(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    for x in (torch.arange(6).view(2, 3).T, torch.rand(3, 2).half(), torch.rand(2, 2).bfloat16()):
        files.save_array(path, x.clone().requires_grad_(x.is_floating_point()))
        assert torch.equal(files.read_array(path).to(x.dtype), x)


def test_tensors_and_metadata_come_back_as_saved(tmp_path: Path) -> None:
    path = tmp_path / "centroids.safetensors"
    centroids = torch.rand(4, 3)
    tensors = {"centroids": centroids, "turned": centroids.T, "first": centroids[0]}
    files.save_tensors(path, tensors, {"metric": "cosine"})
    loaded, metadata = files.load_tensors(path)
    assert metadata == {"metric": "cosine"}
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    files.save_tensors(path, {"a": torch.zeros(1)})
    assert files.load_tensors(path)[1] == {}
    assert torch.equal(loaded["centroids"], centroids)  # still the file it was read from


def test_the_same_tensors_are_the_same_bytes(tmp_path: Path) -> None:
    metadata = dict.fromkeys("abcdef", "1")
    tensors = {"y": torch.arange(3), "x": torch.ones(2, 2).half()}
    contents = set()
    for _ in range(5):
        files.save_tensors(tmp_path / "a", tensors, metadata)
        contents.add((tmp_path / "a").read_bytes())
    assert len(contents) == 1
    assert files.load_tensors(tmp_path / "a")[1] == metadata


def test_bad_tensor_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "centroids.safetensors"
    with pytest.raises(FileNotFoundError, match=r"centroids\.safetensors: no such file"):
        files.load_tensors(path)
    path.write_bytes(b"pickle")
    with pytest.raises(ValueError, match=r"safetensors: not a readable \.safetensors file"):
        files.load_tensors(path)


def test_a_changed_tensor_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "centroids.safetensors"
    centroids = torch.rand(4, 3)
    files.save_tensors(path, {"centroids": centroids}, {"metric": "cosine"})
    content = bytearray(path.read_bytes())
    content[-3] ^= 8
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: damaged: .*'checksum'"):
        files.load_tensors(path)
    for metadata in (None, {"metric": "cosine"}):  # as other programs write it
        save_file({"centroids": centroids + 1}, path, metadata)
        tensors, kept = files.load_tensors(path)
        assert torch.equal(tensors["centroids"], centroids + 1)
        assert kept == (metadata or {})


def test_what_a_killed_process_had_begun_goes_and_what_a_living_one_writes_stays(
    tmp_path: Path,
) -> None:
    path = tmp_path / "labels.npy"
    abandoned = tmp_path / ".0123abcd.kmeans.tmp"
    others = [tmp_path / ".mine.tmp", tmp_path / "mine.kmeans.tmp"]
    for file in (abandoned, *others):
        file.touch()

    def write(file: BinaryIO) -> None:
        files.remove_abandoned(tmp_path)
        file.write(b"new")

    files.write_atomically(path, write)
    assert path.read_bytes() == b"new"
    assert sorted(tmp_path.iterdir()) == sorted([path, *others])
    files.remove_abandoned(tmp_path / "no folder")


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 251 + ".npy")
    files.save_array(path, torch.zeros(2))
    assert path.exists()
    longer = tmp_path / ("a" * 252 + ".npy")
    with pytest.raises(OSError, match="cannot write: File name too long"):
        files.save_array(longer, torch.zeros(2))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "change", ["a value", "a dtype", "a shape", "a name", "a number", "a list"]
)
def test_a_checksum_sees_every_change_and_no_order(change: str) -> None:
    def values(what: str = "") -> dict[str, Any]:
        x = torch.arange(6.0).view(2, 3)
        return {
            "y" if what == "a name" else "x": {
                "a value": x + 1e-6, "a dtype": x.int(), "a shape": x.view(3, 2)
            }.get(what, x),
            "n": 2 if what == "a number" else 1,
            "l": [None, True] if what == "a list" else [True, None],
            "empty": torch.empty(0, dtype=torch.bfloat16),
        }  # fmt: skip

    assert checksum(values()) != checksum(values(change))
    assert checksum(values()) == checksum(dict(reversed(values().items())))
