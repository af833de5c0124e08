"""Promises of the writers: never half a file, never a lost one; tensors come back as saved."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest
import torch

from kmeans_module import files


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


def test_bad_tensor_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "centroids.safetensors"
    with pytest.raises(FileNotFoundError, match=r"centroids\.safetensors: no such file"):
        files.load_tensors(path)
    path.write_bytes(b"pickle")
    with pytest.raises(ValueError, match=r"safetensors: not a readable \.safetensors file"):
        files.load_tensors(path)
