"""Folders of runs: results go there, never over a file of the user."""

from __future__ import annotations

import os
from pathlib import Path

from kmeans_module.files.atomic import remove_abandoned, write_atomically

RESULTS = (
    "config.yaml",
    "centroids.safetensors",
    "standardization.safetensors",
    "labels.npy",
    "codes",
    "clusters.png",
    "animation.html",
    "quantized.png",
    "quantized",
)
# CSVLogger replaces files of these names when its Trainer starts.
LOGS = ("metrics.csv", "hparams.yaml")
# Lies in the folders of runs: what has the name of a result there is one, of an earlier run.
MARK = ".kmeans_run"


def claim_folder(folder: Path) -> None:
    """Make sure that a run may write into a folder.

    Raises:
        FileExistsError: a file has the name of a result and is none.
        OSError: the folder cannot be written.
    """
    _check_absent(folder, RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    remove_abandoned(folder)
    write_atomically(folder / MARK, lambda file: file.write(b""))


def check_unclaimed(folder: Path) -> None:
    """Make sure, before a logger starts, that a run and its logger may write into a folder.

    Raises:
        FileExistsError: a file has the name of a result or a log, and is none.
    """
    _check_absent(folder, RESULTS + LOGS)


def _check_absent(folder: Path, names: tuple[str, ...]) -> None:
    if (folder / MARK).exists():
        return
    for name in names:
        if os.path.lexists(folder / name):
            raise FileExistsError(
                f"{folder / name}: is no result of a run, which would replace it; move it away "
                "or choose another folder"
            )
