"""The short help of the command line, which does not wait for Lightning."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

HELP = """\
k-means: cluster the rows of a file, the pixels of pictures, or example data.

usage: {program} COMMAND [--config FILE.yaml] [--key value ...]

commands:
  fit [FILE]         cluster the rows of a file, or pictures; without FILE example data
  predict RUN DATA   label other data by the folder of a run
  predict            label data by a checkpoint, configured as fit is
  validate, test     inertia of held-out rows by a checkpoint, and agreement with true labels

examples:
  {program} fit table.csv --data.standardize true --model.n_clusters 5
  {program} fit photo.jpg --model.n_clusters 16
  {program} predict runs/table/version_0 more.csv

A run leaves a folder with labels, centroids, pictures, an animation and its
configuration; its path is printed at the end. All options, which are keys of a
configuration file too:
  {program} fit --help
  {program} fit --print_config
"""

_COMMANDS = {
    "fit": "{program} fit [FILE]: cluster the rows of a file, the pixels of a picture, those of a "
    "folder of either, or what --data says; without data, blobs.",
    "validate": "{program} validate: the inertia of held-out rows by a checkpoint.",
    "test": "{program} test: the inertia of held-out rows by a checkpoint, and agreement with true "
    "labels.",
    "predict": "{program} predict RUN DATA [--output FILE] [--device DEVICE]: label the rows of a "
    "file by the folder of a run, without any of the options below. With them, and --ckpt_path: "
    "label data by a checkpoint, configured as fit is.",
}


def program() -> str:
    """How this process was called."""
    path = sys.argv[0] if sys.argv else ""
    name = os.path.basename(path)
    if name == "__main__.py":
        return "python -m kmeans_module"
    return f"python {path}" if name.endswith(".py") else name or "kmeans"


def answer(args: Sequence[str]) -> str | None:
    """What to print for these arguments, where nothing is to be run."""
    if list(args[:1]) in (["-h"], ["--help"], ["help"]):
        return HELP.format(program=program())
    if list(args[:1]) in (["--version"], ["-V"]):
        from kmeans_module import __version__
        from kmeans_module.backends.native.library import INSTALLED

        without = "" if INSTALLED else ", without its native kernel: no C++ compiler built it"
        return f"kmeans_module {__version__}{without}\n"
    return None


def commands() -> dict[str, dict[str, str]]:
    """What the help of each command begins with, as LightningCLI takes it; options follow."""
    return {
        name: {"description": words.format(program=program())} for name, words in _COMMANDS.items()
    }
