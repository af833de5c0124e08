"""What is short on a command line, in the words of its parser, and what is meant by a wrong one."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

import yaml

from kmeans_module import files
from kmeans_module.files import enumerated

_COLUMNS = ("--data.columns", "--data.init_args.columns")
# Longer lists of columns are not told: a message is one line.
_LONGEST = 100
# Names of other programs for options of this one.
_USUAL = {
    "k": "model.n_clusters",
    "max_iter": "trainer.max_epochs",
    "device": "trainer.accelerator",
    "gpu": "trainer.accelerator",
}


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
        module = _module_of(value) if option == "--data" or first else None
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


def columns_option(columns: Sequence[int | str]) -> str:
    """The option that chooses columns, to be pasted into a shell; its name alone where the list is
    long."""
    value = ",".join(map(str, columns))
    names = [column for column in columns if isinstance(column, str)]
    # YAML reads some names as other values: 1, no, null.
    if not all(re.fullmatch(r"\w+", name) and yaml.safe_load(name) == name for name in names):
        value = shlex.quote(json.dumps(columns, ensure_ascii=False))
    return f"--data.columns {value}" if len(value) <= _LONGEST else "--data.columns"


def unknown_option(key: str, options: Iterable[str]) -> str:
    """The option that is nearest to a key that is none, "" where none is near.

    Args:
        key: what was written, as in ``model.n_cluster`` or ``k``.
        options: keys that there are, as in ``model.n_clusters``.
    """
    key = key.replace("-", "_")
    if key in _USUAL:
        return _USUAL[key]
    rooms = ("model.", "data.", "trainer.")
    # of options of one name, that of the model comes first
    options = sorted(options, key=lambda option: [not option.startswith(room) for room in rooms])
    if "." in key:
        return next(iter(get_close_matches(key, options, 1, 0.8)), "")
    names = [option.rpartition(".")[2] for option in options]
    near = get_close_matches(key, names, 1, 0.75)
    return options[names.index(near[0])] if near else ""


def misplaced_file(word: str, args: Sequence[str]) -> str:
    """What to do with a word on a command line that its parser has no place for."""
    if args[0] != "fit":
        return f"data are named by --data {word}"
    if _module_of(word) is None:
        kinds = f"{enumerated(files.ARRAY_SUFFIXES)}, {enumerated(files.IMAGE_SUFFIXES)}"
        return f"fit reads a file of {kinds}, or a folder of such files"
    if any(arg.partition("=")[0] == "--data" for arg in args):
        return "fit takes one file, or one folder"
    return f"the file comes first: fit {word}"


def unknown_command(word: str, commands: Sequence[str]) -> str:
    """The command that is meant by a word that is none, "" where none is near."""
    if _module_of(word) is not None:
        return f"fit {word}"
    return next(iter(get_close_matches(word, commands, 1)), "")


def option_without_value(option: str, args: Sequence[str]) -> str:
    """The option that lacks its value, where argparse names the option that it is part of."""
    following = [*args[1:], "-"]
    return next(
        (
            arg
            for arg, after in zip(args, following, strict=True)
            if arg.startswith(f"{option}.") and "=" not in arg and after.startswith("-")
        ),
        option,
    )


def _module_of(path: str) -> str | None:
    """The data module for a file or a folder of files; None for what is neither."""
    suffixes = {Path(path).suffix.lower()}
    if os.path.isdir(path):
        suffixes = {file.suffix.lower() for file in Path(path).rglob("*")}
    if suffixes & set(files.ARRAY_SUFFIXES):
        return "ArrayDataModule"
    return "ImageDataModule" if suffixes & set(files.IMAGE_SUFFIXES) else None
