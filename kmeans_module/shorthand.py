"""What is short on a command line, in the words of its parser."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from kmeans_module import files

_COLUMNS = ("--data.columns", "--data.init_args.columns")


def spelled_out(args: Sequence[str]) -> list[str]:
    """The arguments in words that name classes and types.

    ``fit table.csv`` and ``--data table.csv`` are ``--data=ArrayDataModule
    --data.path=table.csv``, and the folder of the run has the name of the file;
    ``--data.columns age,income`` is ``--data.columns [age,income]``.
    """
    found: list[str] = []
    named = any("logger" in arg for arg in args) or bool(config_files(args))
    for i, arg in enumerate(args):
        key, equals, value = arg.partition("=")
        joined = bool(equals) and key in ("--data", *_COLUMNS)
        option, value = (key, value) if joined else (args[i - 1] if i else "", arg)
        first = option == "fit" and i == 1
        module = module_of(value) if option == "--data" or first else None
        if option in _COLUMNS and not value.startswith(("[", "-", "null")):
            found.append(f"{option}=[{value}]" if joined else f"[{value}]")
        elif module is None:
            found.append(arg)
        else:
            found.append(f"--data={module}" if joined or first else module)
            found.append(f"--data.path={value}")
            if not named and Path(value).stem:
                found.append(f"--trainer.logger.name={Path(value).stem}")
    return found


def config_files(args: Sequence[str]) -> list[str]:
    """Paths after -c and --config."""
    pairs = [arg.partition("=") for arg in args]
    following = [*args[1:], ""]
    return [
        value if equals else after
        for (name, equals, value), after in zip(pairs, following, strict=True)
        if name in ("-c", "--config")
    ]


def module_of(path: str) -> str | None:
    """The data module for a file or a folder of files; None for what is neither."""
    suffixes = {Path(path).suffix.lower()}
    if os.path.isdir(path):
        suffixes = {file.suffix.lower() for file in Path(path).rglob("*")}
    if suffixes & set(files.ARRAY_SUFFIXES):
        return "ArrayDataModule"
    return "ImageDataModule" if suffixes & set(files.IMAGE_SUFFIXES) else None
