"""``kmeans predict RUN DATA``: labels of other data by what a run has left in its folder."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from kmeans_module import files
from kmeans_module.clustering.given import Given, usable_device
from kmeans_module.clustering.labeling import labels_by
from kmeans_module.clustering.saved_run import CENTROIDS, Pictures, SavedRun
from kmeans_module.data.file_rows import FileRows
from kmeans_module.files.claims import check_unclaimed, claim_folder

# In the run folder, for predictions that were sent nowhere else.
PREDICTIONS = "predictions"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"kmeans: {' '.join(message.split())}\n")
        sys.exit(2)


def names_a_run(args: Sequence[str]) -> bool:
    """Whether a command line is ``predict RUN DATA``, and not ``predict`` with a configuration."""
    return len(args) > 1 and args[0] == "predict" and not args[1].startswith("-")


def predict_by_run(args: Sequence[str]) -> None:
    """Run ``kmeans predict`` with its arguments, the run folder first.

    Raises:
        SystemExit: status 2 for a bad command line.
        ValueError, OSError: the run, the data or the place of the labels are refused.
    """
    options = _parser().parse_args(args)
    device = usable_device(options.device)
    run = SavedRun.read(options.run)
    data = Path(options.data)
    rows = run.open(data)
    output = _output(options.output, run, data)
    _check_free(output, rows)
    if isinstance(rows, Pictures):
        labels, unit, each = _of_pictures(run, rows, device), "pixels", True
    else:
        labels, unit, each = _of_rows(run, rows, device), "rows", rows.is_folder
    place = _write(output, labels, each=each, run=run)
    n = sum(part.numel() for part in labels.values())
    sys.stdout.write(f"labels of {n:,} {unit} in {place}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="kmeans predict", allow_abbrev=False,
        description="Label other data by the centroids of a run. The features are standardized, "
        "and columns chosen, as the run did.",
    )  # fmt: skip
    parser.add_argument("run", metavar="RUN", help="folder of a run, as runs/blobs/version_0")
    parser.add_argument(
        "data", metavar="DATA",
        help="file or folder of rows; of a run of pictures, picture or folder of them",
    )  # fmt: skip
    parser.add_argument(
        "--output", metavar="PATH",
        help="a .npy file for the labels of all rows in their order; for one picture a .png file; "
        "or a folder for labels.npy, of a folder of files codes/ with the labels of each, of "
        "pictures quantized/ with each in the colors of the palette. Only files of an earlier "
        f"prediction are replaced, in a folder. Default: RUN/{PREDICTIONS}/DATA",
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", help="where to compute (default: cpu)")
    return parser


class _Output(NamedTuple):
    """Where labels go.

    Attributes:
        path: of a file or a folder.
        suffix: of the file, ".npy" or ".png"; "" for a folder.
    """

    path: Path
    suffix: str = ""


def _output(given: str | None, run: SavedRun, data: Path) -> _Output:
    if given is None:
        name = data.name or data.resolve().name or "data"
        return _Output(run.folder / PREDICTIONS / name)
    path = Path(given)
    suffix = "" if path.is_dir() else path.suffix.lower()
    return _Output(path, suffix if suffix in (".npy", ".png") else "")


def _check_free(output: _Output, rows: FileRows | Pictures) -> None:
    """Refuse a place whose files are not those of an earlier prediction, before the work."""
    path = output.path
    one_picture = isinstance(rows, Pictures) and len(rows.paths) == 1
    if output.suffix == ".png" and not one_picture:
        raise ValueError(f"{path}: a .png file is for one picture; choose a .npy file or a folder")
    if not path.is_dir() and os.path.lexists(path):
        raise FileExistsError(f"{path}: is there already; move it away or choose another")
    if (path / CENTROIDS).exists():
        raise FileExistsError(f"{path}: is the folder of a run; choose another")
    if not output.suffix:
        check_unclaimed(path)


def _of_rows(run: SavedRun, rows: FileRows, device: torch.device | None) -> dict[Path, Tensor]:
    """Labels (n,) of each file, by its path in the folder without the suffix."""
    data = Given(rows, torch.device("cpu"), rows.n_features)
    labels = labels_by(run.layer, data, device, before=run.standardized)
    parts = torch.split(labels, list(rows.sizes.values()))
    return {name.with_suffix(""): part for name, part in zip(rows.sizes, parts, strict=True)}


def _of_pictures(
    run: SavedRun, pictures: Pictures, device: torch.device | None
) -> dict[Path, Tensor]:
    """Labels (H, W) of each picture, by its name."""
    names = [Path(path.stem) for path in pictures.paths]
    if len(set(names)) < len(names):
        names = [Path(path.name) for path in pictures.paths]
    labels = {}
    for name, path in zip(names, pictures.paths, strict=True):
        picture = files.read_image(path)
        data = Given(picture.view(-1, 3), torch.device("cpu"), 3)
        labels[name] = labels_by(run.layer, data, device).view(picture.shape[:2])
    return labels


def _write(output: _Output, labels: dict[Path, Tensor], *, each: bool, run: SavedRun) -> Path:
    """Write all labels, and in a folder those of each file too; where all of them are."""
    path, suffix = output
    if suffix == ".png":
        _save_picture(path, run, *labels.values())
        return path
    place = path if suffix else path / "labels.npy"
    if not suffix:
        claim_folder(path)
    _save(place, torch.cat([part.flatten() for part in labels.values()]))
    for name, part in labels.items() if each and not suffix else ():
        _save(path / "codes" / f"{name}.npy", part)
        if run.of_images:
            _save_picture(path / "quantized" / f"{name}.png", run, part)
    return place


def _save(path: Path, labels: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.save_array(path, labels)


def _save_picture(path: Path, run: SavedRun, labels: Tensor) -> None:
    """Write a picture in the colors of the palette."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = run.layer.decode(labels).detach().float().clamp(0, 1)
    image = Image.fromarray((pixels * 255).round().to(torch.uint8).numpy())
    files.write_atomically(path, partial(image.save, format="png"))
