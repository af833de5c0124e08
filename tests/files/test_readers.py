"""Promises of kmeans_module.files.readers: exact reading, one-line refusals, writes that never lose a file."""

from __future__ import annotations

import builtins
import os
import pickle
import re
import stat
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet
from safetensors.torch import save_file

from kmeans_module.files import readers as io

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
Y = np.arange(40)


def write_csv(path: Path, x: np.ndarray) -> None:
    lines = [",".join(repr(float(value)) for value in row) for row in x]
    path.write_text("a,b,c\n" + "\n".join(lines) + "\n")


def write_npz(path: Path, x: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.savez(file, x=x, y=Y)


WRITERS: dict[str, Callable[[Path, np.ndarray], object]] = {
    ".npy": np.save,
    ".npz": write_npz,
    ".csv": write_csv,
    ".parquet": lambda path, x: parquet.write_table(pa.table(dict(zip("abc", x.T))), path),  # noqa: B905
    ".safetensors": lambda path, x: save_file(
        {"x": torch.from_numpy(x), "y": torch.from_numpy(Y)}, path
    ),
    ".pt": lambda path, x: torch.save({"x": torch.from_numpy(x), "y": torch.from_numpy(Y)}, path),
}
formats = pytest.mark.parametrize("suffix", WRITERS)


def written(folder: Path, suffix: str, x: np.ndarray = X) -> Path:
    path = folder / f"rows{suffix}"
    WRITERS[suffix](path, x)
    return path


def refusal(path: Path, **options: object) -> str:
    """The message of the refusal: one line, which names the file."""
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        io.read_array(path, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


@formats
def test_every_format_gives_back_the_rows(tmp_path: Path, suffix: str) -> None:
    x = io.read_array(written(tmp_path, suffix))
    assert x.dtype == (torch.float64 if suffix == ".csv" else torch.float32)
    assert torch.equal(x.float(), torch.from_numpy(X))


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet", ".safetensors", ".pt"])
@pytest.mark.parametrize("dtype", ["int8", "int64", "uint8", "float16", "float64"])
def test_dtype_is_the_files(tmp_path: Path, suffix: str, dtype: str) -> None:
    x = (X * 10).astype(dtype)
    assert torch.equal(io.read_array(written(tmp_path, suffix, x)), torch.from_numpy(x))


@formats
def test_columns_by_number_come_in_the_order_asked_for(tmp_path: Path, suffix: str) -> None:
    x = io.read_array(written(tmp_path, suffix), columns=[2, 0])
    np.testing.assert_array_equal(x, X[:, [2, 0]])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_columns_by_name_and_number_mix(tmp_path: Path, suffix: str) -> None:
    table = io.read_table(written(tmp_path, suffix), columns=["c", 0])
    np.testing.assert_array_equal(table.x, X[:, [2, 0]])
    assert table.names == ["c", "a"]


@formats
@pytest.mark.parametrize("column", [3, -1, "z"])
def test_unknown_column_is_refused_with_what_there_is(
    tmp_path: Path, suffix: str, column: int | str
) -> None:
    message = refusal(written(tmp_path, suffix), columns=[column])
    assert f"no column {column!r}, expected 0 to 2" in message
    assert ("one of a, b, c" in message) == (suffix in {".csv", ".parquet"})


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
def test_key_chooses_the_array(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path, suffix)
    np.testing.assert_array_equal(io.read_array(path, key="y"), Y[:, None])
    assert "no array 'z', expected one of: x, y" in refusal(path, key="z")


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".parquet"])
def test_key_is_refused_where_there_is_one_array(tmp_path: Path, suffix: str) -> None:
    assert "key='x' names an array" in refusal(written(tmp_path, suffix), key="x")


def test_several_matrices_need_a_key(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", a=X, b=X)
    assert "got 2 in: a, b; say which with key" in refusal(tmp_path / "two.npz")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".pt"])
def test_one_dimension_becomes_one_feature(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path, suffix, X[:, 0].copy())
    key = None if suffix == ".npy" else "x"
    np.testing.assert_array_equal(io.read_array(path, key=key), X[:, :1])


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".pt"])
@pytest.mark.parametrize("shape", [(), (2, 3, 4), (0, 3), (3, 0)])
def test_other_shapes_are_refused(tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
    path = written(tmp_path, suffix, np.zeros(shape, dtype=np.float32))
    message = refusal(path, key=None if suffix == ".npy" else "x")
    assert "expected rows of numbers (n, d), got shape" in message or shape in {(0, 3), (3, 0)}


@pytest.mark.parametrize("suffix", [".npy", ".pt"])
def test_rows_are_mapped_not_copied_and_never_written_back(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path, suffix)
    x = io.read_array(path)
    offset = path.read_bytes().index(X.tobytes())
    with open(path, "r+b") as file:  # the mapping shows what happens to the file
        file.seek(offset)
        file.write(np.float32(42).tobytes())
    assert x[0, 0] == 42
    x[0, 0] = 7
    assert io.read_array(path)[0, 0] == 42


def test_npy_of_any_byte_order_and_memory_order_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "big.npy", np.asfortranarray(X.astype(">f8")))
    x = io.read_array(tmp_path / "big.npy")
    assert x.dtype == torch.float64
    np.testing.assert_array_equal(x, X)


def test_parameters_come_without_their_gradient(tmp_path: Path) -> None:
    torch.save(torch.nn.Parameter(torch.from_numpy(X)), tmp_path / "p.pt")
    assert not io.read_array(tmp_path / "p.pt").requires_grad


@pytest.mark.parametrize(
    ("text", "names", "rows"),
    [
        ("1,2\n3,4\n", None, [[1, 2], [3, 4]]),
        ("\n  \n1,2\n\n3,4", None, [[1, 2], [3, 4]]),
        ("a,b\n1,2\n", ["a", "b"], [[1, 2]]),
        ("\ufeff a , b\r\n1,2\r\n", ["a", "b"], [[1, 2]]),
        ('"a, or\nso","b"\n"1",2\n', ["a, or\nso", "b"], [[1, 2]]),
        ("7\n8\n", None, [[7], [8]]),
        ("0.1,1e-300\n", None, [[0.1, 1e-300]]),
    ],
)
def test_csv_header_is_detected(
    tmp_path: Path, text: str, names: list[str] | None, rows: list[list[float]]
) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(text.encode())
    table = io.read_table(path)
    assert table.names == names
    assert table.x.tolist() == rows


def test_csv_text_columns_may_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "iris.csv"
    path.write_text("5.1,3.5,setosa\n4.9,3.0,setosa\n")
    assert io.read_array(path, columns=[0, 1]).tolist() == [[5.1, 3.5], [4.9, 3.0]]
    path.write_text("length,2020,kind\n1,2,setosa\n")
    assert io.read_array(path, columns=["2020", "length"]).tolist() == [[2, 1]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected rows of numbers, got none"),
        ("\n\n", "expected rows of numbers, got none"),
        ("a,b\n", "expected rows of numbers, got none"),
        ("a,b\n1,x\n", "could not convert string 'x'"),
        ("1,2\n3,\n", "could not convert string ''"),
        ("1,2\n3\n", "number of columns changed"),
        ("a,b,c\n1,2\n", "3 columns named, 2 in the rows"),
        ("1;2\n3;4\n", "could not convert string"),
        ("\x00\x01\x02", "rows.csv: "),
    ],
)
def test_csv_of_anything_but_rows_of_numbers_is_refused(
    tmp_path: Path, text: str, reason: str
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    assert reason in refusal(path)


def test_parquet_text_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"a": [1.0, 2.0], "kind": ["x", "y"]}), path)
    assert "got string in 'kind'" in refusal(path)
    assert io.read_array(path, columns=["a"]).tolist() == [[1.0], [2.0]]


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, ".parquet")
    real_import = builtins.__import__

    def without_pyarrow(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    assert "pip install 'kmeans-module[parquet]'" in refusal(path)


def test_missing_file_folder_and_unknown_suffix_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.npy: no such file"):
        io.read_array(tmp_path / "gone.npy")
    assert "is a folder, expected a file" in refusal(tmp_path)
    (tmp_path / "rows.xlsx").touch()
    assert "unknown suffix '.xlsx', expected one of .npy, .npz" in refusal(tmp_path / "rows.xlsx")


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
    ],
)
def test_pt_without_a_matrix_is_refused(tmp_path: Path, content: object, reason: str) -> None:
    torch.save(content, tmp_path / "rows.pt")
    assert reason in refusal(tmp_path / "rows.pt")


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
    refusal(source.rename(tmp_path / f"mislabelled{suffix}"))


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
        x = io.read_array(path)
    except ValueError:
        refusal(path)
    else:
        assert x.ndim == 2
        x.double().sum()  # every byte of it can be reached


def test_image_is_rgb_in_the_unit_interval(tmp_path: Path) -> None:
    pixels = np.array([[[255, 0, 51], [0, 255, 102]]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = io.read_image(tmp_path / "a.png")
    assert image.shape == (1, 2, 3)
    assert image.dtype == torch.float32
    torch.testing.assert_close(image, torch.from_numpy(pixels) / 255, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK"])
def test_images_of_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    Image.new("RGB", (4, 3), "white").convert(mode).save(tmp_path / "a.tif")
    assert torch.equal(io.read_image(tmp_path / "a.tif"), torch.ones(3, 4, 3))


def test_image_is_turned_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 2))
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was held on its side
    image.save(tmp_path / "a.jpg", exif=exif)
    assert io.read_image(tmp_path / "a.jpg").shape == (4, 2, 3)


def test_bad_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = tmp_path / "good.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8)).save(good)
    cut, text, deep = (tmp_path / name for name in ("cut.png", "text.png", "deep.png"))
    cut.write_bytes(good.read_bytes()[:700])
    text.write_text("no picture")
    Image.fromarray(np.full((2, 2), 40_000, dtype=np.uint16)).save(deep)
    for path, reason in [
        (cut, "not a readable image"),
        (text, "not a readable image"),
        (deep, "expected 8 bits per channel, got mode I;16"),
        (tmp_path, "is a folder"),
    ]:
        with pytest.raises(ValueError, match=re.escape(f"{path}: {reason}")):
            io.read_image(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        io.read_image(tmp_path / "gone.png")
    for limit in (399, 199):  # Pillow warns above its limit and raises above twice that
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            with pytest.raises(
                ValueError, match=r"good\.png: not a readable image .*exceeds limit"
            ):
                io.read_image(good)


def test_image_files_are_the_sorted_images_of_a_folder(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "notes.txt", "._a.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [file.name for file in io.image_files(tmp_path)] == ["a.JPG", "b.png"]
    assert io.image_files(tmp_path / "b.png") == [tmp_path / "b.png"]
    with pytest.raises(ValueError, match=r"folder\.png: no images in this folder"):
        io.image_files(tmp_path / "folder.png")
    with pytest.raises(FileNotFoundError, match="gone: no such file"):
        io.image_files(tmp_path / "gone")


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
        io.write_atomically(path, write)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_replaces_the_file_with_ordinary_permissions(tmp_path: Path) -> None:
    path, plain = tmp_path / "labels.npy", tmp_path / "plain"
    path.write_bytes(b"old")
    plain.touch()
    io.write_atomically(path, lambda file: file.write(b"new"))
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
            io.save_array(path, torch.zeros(2))
        assert "cannot write" in str(caught.value)
        assert ".tmp" not in str(caught.value)


def test_arrays_come_back_as_saved(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    for x in (torch.arange(6).view(2, 3).T, torch.rand(3, 2).half(), torch.rand(2, 2).bfloat16()):
        io.save_array(path, x.clone().requires_grad_(x.is_floating_point()))
        assert torch.equal(io.read_array(path).to(x.dtype), x)


def test_tensors_and_metadata_come_back_as_saved(tmp_path: Path) -> None:
    path = tmp_path / "centroids.safetensors"
    centroids = torch.rand(4, 3)
    tensors = {"centroids": centroids, "turned": centroids.T, "first": centroids[0]}
    io.save_tensors(path, tensors, {"metric": "cosine"})
    loaded, metadata = io.load_tensors(path)
    assert metadata == {"metric": "cosine"}
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    io.save_tensors(path, {"a": torch.zeros(1)})
    assert io.load_tensors(path)[1] == {}
    assert torch.equal(loaded["centroids"], centroids)  # still the file it was read from


def test_bad_tensor_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "centroids.safetensors"
    with pytest.raises(FileNotFoundError, match=r"centroids\.safetensors: no such file"):
        io.load_tensors(path)
    path.write_bytes(b"pickle")
    with pytest.raises(ValueError, match=r"safetensors: not a readable \.safetensors file"):
        io.load_tensors(path)
