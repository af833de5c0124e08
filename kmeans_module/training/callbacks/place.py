"""Where the files of a run go: only where they were asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger


def run_folder(trainer: Any) -> Path | None:
    """The folder of a run: that of the first logger that has one, else ``default_root_dir`` if that
    was chosen, else None. A collective over the ranks.

    A logger that knows only a save_dir gives save_dir/name/version, where ModelCheckpoint writes.
    """
    # trainer is Any, as Lightning does not declare the attribute fast_dev_run.
    if trainer.fast_dev_run or trainer.barebones:
        return None
    folder = next(filter(None, map(_folder_of_logger, trainer.loggers)), None)
    # Lightning fills in the current folder; "." is a choice.
    if folder is None and trainer.default_root_dir != os.getcwd():
        folder = trainer.default_root_dir
    if folder is not None and "://" in folder:
        folder = None  # results are written to folders of this machine only
    folder = trainer.strategy.broadcast(folder)  # versions are counted by the first rank
    return None if folder is None else Path(folder)


def why_nowhere(trainer: Any) -> str:
    """Why :func:`run_folder` is None."""
    if trainer.fast_dev_run:
        return "fast_dev_run"
    if trainer.barebones:
        return "barebones"
    return "no logger has a folder, and default_root_dir is not set"


def _folder_of_logger(logger: Logger) -> str | None:
    folder = getattr(logger, "log_dir", None)
    if isinstance(folder, str | os.PathLike):
        return os.fspath(folder)
    folder = getattr(logger, "save_dir", None)
    if not isinstance(folder, str | os.PathLike):
        return None
    version = logger.version
    version = f"version_{version}" if isinstance(version, int) else version
    return os.path.join(folder, *(str(part) for part in (logger.name, version) if part is not None))
