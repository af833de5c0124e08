"""Promises about files that are not what their names say: one line names them, nothing is run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file as save_arrays

from kmeans_module import ArrayDataModule, files
from tests.files.helpers import WRITERS, formats, refusal, written


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.trace),))


@formats
def test_objects_are_refused_and_never_run(tmp_path: Path, suffix: str) -> None:
    bomb, trace = Bomb(tmp_path / "trace"), tmp_path / "trace"
    path = tmp_path / f"bomb{suffix}"
    path.write_bytes(pickle.dumps(bomb))
    refusal(path)
    if suffix == ".pt":
        assert "not a file that torch.save writes" in refusal(path)
        torch.save({"x": bomb}, path)
        assert "holds pickled objects, expected only tensors" in refusal(path)
    if suffix in {".npy", ".npz"}:
        objects = np.array([[bomb]], dtype=object)
        with open(path, "wb") as file:
            (np.save if suffix == ".npy" else np.savez)(file, objects)
        assert "not a readable" in refusal(path)
    assert not trace.exists()


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("values", [["a", "b"], [1j, 2j]], ids=["text", "complex"])
def test_arrays_of_anything_but_real_numbers_are_refused(
    tmp_path: Path, suffix: str, values: list[object]
) -> None:
    path = tmp_path / f"rows{suffix}"
    with open(path, "wb") as file:
        (np.save if suffix == ".npy" else np.savez)(file, np.array(values))
    assert "expected numbers, got an array of" in refusal(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (torch.eye(3).to_sparse(), "expected dense real numbers"),
        (torch.zeros(3, 2, dtype=torch.complex64), "expected dense real numbers"),
        ([1, 2, 3], "expected a tensor or a dict of them, got list"),
        ({"epoch": 3}, "expected one two-dimensional array, got 0"),
        (torch.zeros(3, 2).to(torch.float8_e4m3fn), "that can be clustered, got torch.float8_e4m3"),
        (torch.full((3, 2), 2**63, dtype=torch.uint64), "up to 9223372036854775808, beyond int64"),
    ],
)
def test_pt_without_a_matrix_is_refused(tmp_path: Path, content: object, reason: str) -> None:
    torch.save(content, tmp_path / "rows.pt")
    assert reason in refusal(tmp_path / "rows.pt")


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_unsigned_integers_become_signed_ones(
    tmp_path: Path, suffix: str, dtype: torch.dtype
) -> None:
    path, x = tmp_path / f"rows{suffix}", torch.arange(6).view(3, 2)
    if suffix == ".pt":
        torch.save({"x": x.to(dtype)}, path)
    else:  # safetensors 0.4 does not write them from tensors
        save_arrays({"x": x.to(dtype).numpy()}, path)
    assert torch.equal(files.read_array(path).long(), x)


@pytest.mark.parametrize("path", [None, 3, ["a.npy"], b"a.npy"])
def test_what_is_no_path_is_refused(path: object) -> None:
    for door in (files.read_array, lambda path: ArrayDataModule(path=path)):
        with pytest.raises(TypeError, match="path should be that of a file or a folder; got "):
            door(path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("suffix", "actual"),
    [(s, a) for s in WRITERS for a in [*WRITERS, ".png", "empty"] if a != s],
)
def test_file_that_is_not_what_its_name_says_is_refused(
    tmp_path: Path, suffix: str, actual: str
) -> None:
    if actual == "empty":
        source = tmp_path / "empty"
        source.touch()
    elif actual == ".png":
        source = tmp_path / "picture.png"
        Image.new("RGB", (8, 8)).save(source)
    else:
        source = written(tmp_path, actual)
    refusal(source.rename(tmp_path / f"mislabeled{suffix}"))


damage = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("suffix", [s for s in WRITERS if s != ".csv"])
@damage
@given(data=st.data())
def test_truncated_file_is_refused(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    content = written(tmp_path, suffix).read_bytes()
    path = tmp_path / f"cut{suffix}"
    path.unlink(missing_ok=True)
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    refusal(path)


@formats
@damage
@given(data=st.data())
def test_flipped_bytes_are_read_or_refused_by_name(
    tmp_path: Path, suffix: str, data: st.DataObject
) -> None:
    content = bytearray(written(tmp_path, suffix).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / f"flipped{suffix}"
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    try:
        x = files.read_array(path)
    except ValueError:
        refusal(path)
    else:
        assert x.ndim == 2
        x.double().sum()  # every byte of it can be reached
