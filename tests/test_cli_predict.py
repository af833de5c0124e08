"""Promises of ``kmeans predict RUN DATA``: labels of other data, and nothing else touched."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kmeans_module.cli import main
from tests.runs import FRAME, picture


@pytest.fixture(autouse=True)
def folder(run_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a copy of the data and the runs."""
    copy = shutil.copytree(run_folders, tmp_path / "work")
    monkeypatch.chdir(copy)
    return Path(copy)


def run(name: str) -> str:
    return f"runs/{name}/version_0"


def labels_of(name: str) -> np.ndarray:  # type: ignore[type-arg]
    array: np.ndarray = np.load(Path(run(name)) / "labels.npy")  # type: ignore[type-arg]
    return array


def files_under(path: str | Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in Path(path).rglob("*") if file.is_file()}


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[object, str]:
    """The exit status, and the one line on standard error."""
    with pytest.raises(SystemExit) as stopped:
        main(["predict", *args])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("kmeans: ")
    return stopped.value.code, captured.err[len("kmeans: ") : -1]


@pytest.mark.parametrize(
    ("name", "data", "unit"),
    [
        ("chosen", "rows.csv", "90 rows"),
        ("rows", "rows.npy", "90 rows"),
        ("parts", "parts", "90 rows"),
        ("pictures", "pictures", "108 pixels"),
    ],
)
@pytest.mark.parametrize("output", [None, "out", "deep/out.npy"])
def test_the_data_of_a_run_get_its_labels(
    name: str, data: str, unit: str, output: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_under(".")
    main(["predict", run(name), data, *(["--output", output] if output else [])])
    place = Path(output or f"{run(name)}/predictions/{data}")
    place = place if place.suffix == ".npy" and output else place / "labels.npy"
    assert capsys.readouterr().out == f"labels of {unit} in {place}\n"
    labels = np.load(place)
    assert labels.dtype == np.int64
    assert np.array_equal(labels, labels_of(name))
    after = files_under(".")
    assert {path: after[path] for path in before} == before
    new = {str(Path(path)) for path in after if path not in before}
    assert all(path.startswith(output or f"{run(name)}/predictions/{data}/") for path in new)
    assert not [path for path in new if path.endswith(".tmp")]


def test_each_file_of_a_folder_has_its_codes() -> None:
    main(["predict", run("rows"), "parts", "--output", "out"])
    labels = np.load("out/labels.npy")
    assert np.array_equal(labels, labels_of("rows"))
    assert np.array_equal(np.load("out/codes/a.npy"), labels[:30])
    assert np.array_equal(np.load("out/codes/deep/b.2.npy"), labels[30:])


def test_each_picture_has_its_codes_and_its_colors() -> None:
    main(["predict", run("pictures"), "pictures", "--output", "out"])
    labels = np.load("out/labels.npy")
    assert np.array_equal(np.load("out/codes/first.npy"), labels[:88].reshape(8, 11))
    assert np.array_equal(np.load("out/codes/second.npy"), labels[88:].reshape(5, 4))
    for name in ("first", "second"):
        drawn = np.asarray(Image.open(f"out/quantized/{name}.png"))
        assert np.array_equal(
            drawn, np.asarray(Image.open(f"{run('pictures')}/quantized/{name}.png"))
        )


def test_a_picture_becomes_a_picture() -> None:
    picture(7).save("other.png")
    main(["predict", run("pictures"), "other.png", "--output", "drawn.png"])
    main(["predict", run("pictures"), "other.png", "--output", "labels.npy"])
    palette = torch.from_numpy(np.asarray(Image.open("drawn.png")).copy()).view(-1, 3)
    labels = torch.from_numpy(np.load("labels.npy"))
    assert len(palette.unique(dim=0)) == len(labels.unique())


def test_other_rows_are_standardized_by_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    FRAME[40:60].to_csv("some.csv", index=False)
    main(["predict", run("chosen"), "some.csv", "--output=some.npy", "--device", "cpu"])
    assert np.array_equal(np.load("some.npy"), labels_of("chosen")[40:60])


def test_the_form_with_a_checkpoint_gives_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    where = run("chosen")
    main(
        [
            "predict", f"--config={where}/config.yaml",
            f"--ckpt_path={where}/checkpoints/last.ckpt", "--trainer.logger.name=again",
        ]
    )  # fmt: skip
    assert np.array_equal(labels_of("again"), labels_of("chosen"))


def test_an_earlier_prediction_is_replaced_and_nothing_else(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for _ in range(2):
        main(["predict", run("rows"), "rows.npy"])
        main(["predict", run("rows"), "rows.npy", "--output", "out"])
    Path("mine").mkdir()
    for name in ("mine/labels.npy", "mine.npy", "mine.png"):
        Path(name).write_bytes(b"mine")
    capsys.readouterr()
    for output, message in {
        "mine": "mine/labels.npy: is no result of a run, which would replace it",
        "mine.npy": "mine.npy: is there already; move it away or choose another",
        "rows.npy": "rows.npy: is there already",
        "rows.csv": "rows.csv: is there already",
        run("parts"): f"{run('parts')}: is the folder of a run; choose another",
        "new.png": "new.png: a .png file is for one picture",
    }.items():
        before = files_under(".")
        status, line = refused(capsys, run("rows"), "rows.npy", "--output", output)
        assert (status, line[: len(message)]) == (1, message)
        assert files_under(".") == before
    assert refused(capsys, run("pictures"), "one.png", "--output", "mine.png")[0] == 1
    assert Path("mine.png").read_bytes() == b"mine"


def spoilt() -> None:
    x = np.load("rows.npy")
    x[[4, 7]] = np.nan
    np.save("nan.npy", x)
    Path("torn.npy").write_bytes(Path("rows.npy").read_bytes()[:-99])
    Path("torn.png").write_bytes(Path("one.png").read_bytes()[:-99])


REFUSALS: dict[tuple[str, ...], tuple[int, str]] = {
    ("RUN rows",): (2, "the following arguments are required: DATA"),
    ("RUN rows", "rows.npy", "more"): (2, "unrecognized arguments: more"),
    ("RUN rows", "rows.npy", "--out", "x"): (2, "unrecognized arguments: --out x"),
    ("RUN rows", "rows.npy", "--output"): (2, "argument --output: expected one argument"),
    ("RUN rows", "rows.npy", "--ckpt_path", "x"): (2, "unrecognized arguments: --ckpt_path x"),
    ("RUN rows", "rows.npy", "--device", "gpu"): (1, "device should be one that torch can use"),
    ("nothing", "rows.npy"): (1, "nothing: no such run folder"),
    ("rows.npy", "rows.npy"): (1, "rows.npy: is a file, expected the folder of a run"),
    ("runs/rows", "rows.npy"): (1, "runs/rows: is no run folder but holds 1; the newest is runs/r"),
    ("parts", "rows.npy"): (1, "parts: is no run folder, it holds no centroids.safetensors"),
    ("RUN rows", "nothing.npy"): (1, "nothing.npy: no such file"),
    ("RUN rows", "rows.csv"): (
        1,
        "rows.csv: rows of 4 features, those of runs/rows/version_0",
    ),
    ("RUN rows", "nan.npy"): (
        1,
        "nan.npy: x should be finite; 2 rows hold NaN or infinity",
    ),
    ("RUN rows", "torn.npy"): (1, "torn.npy: not a readable .npy file"),
    ("RUN rows", "one.png"): (1, "one.png: unknown suffix '.png'"),
    ("RUN pictures", "rows.npy"): (1, "rows.npy: not a readable image"),
    ("RUN pictures", "torn.png"): (1, "torn.png: not a readable image"),
    ("RUN pictures", "parts"): (1, "parts: no images in this folder"),
    ("RUN pictures", "pictures", "--output", "x.png"): (1, "x.png: a .png file is for one picture"),
}


@pytest.mark.parametrize("args", REFUSALS)
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_written(
    args: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    spoilt()
    before = files_under(".")
    first = run(args[0].removeprefix("RUN ")) if args[0].startswith("RUN ") else args[0]
    status, line = refused(capsys, first, *args[1:])
    expected, message = REFUSALS[args]
    assert (status, line[: len(message)]) == (expected, message)
    assert files_under(".") == before


def test_help_is_that_of_the_form(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["predict", "RUN", "--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("usage: kmeans predict [-h] [--output PATH]")
