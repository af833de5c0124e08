"""What was meant by a command line that is wrong."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches

import yaml

from kmeans_module import files
from kmeans_module.shorthand import module_of
from kmeans_module.usage import program

# Longer lists of columns are not told: a message is one line.
_LONGEST = 100
# Names of other programs for options of this one.
_USUAL = {
    "k": "model.n_clusters",
    "max_iter": "trainer.max_epochs",
    "device": "trainer.accelerator",
    "gpu": "trainer.accelerator",
}


def hinted(
    message: str, args: Sequence[str], commands: Sequence[str], keys: Callable[[], Iterable[str]]
) -> str:
    """A message of the parser, with what was meant where that can be told.

    Args:
        message: as argparse or jsonargparse words it.
        args: the command line.
        commands: that there are.
        keys: gives the keys of all options.
    """
    lacks = re.fullmatch(r"argument (--\S+): expected one argument", message)
    if lacks:
        option = _option_without_value(lacks[1], args)
        return f"argument {option}: expected one argument, as in {option} VALUE"
    command = re.match(r"argument subcommand: invalid choice: '(.*?)'", message)
    if command:
        meant = _unknown_command(command[1], commands)
        return _asking(message, f"{program()} {meant}" if meant else "")
    unknown = re.match(r"unrecognized arguments: (.*)", message)
    if unknown:
        word = next((arg for arg in args if unknown[1].startswith(arg)), unknown[1])
        if not word.startswith("-"):
            return f"{message}; {_misplaced_file(word, args)}"
        meant = _unknown_option(word.lstrip("-").partition("=")[0], keys())
        return _asking(message, f"--{meant}" if meant else "")
    of_data = re.search(r"[Oo]ption '(.*?)' is not accepted", message)
    of_file = re.search(r"does not accept option '(.*?)'", message)
    if of_data:  # whose options are those of a class
        return _asking(message, _unknown_option(f"data.{of_data[1]}", keys()))
    return _asking(message, _unknown_option(of_file[1], keys())) if of_file else message


def _asking(message: str, meant: str) -> str:
    return f"{message}; did you mean {meant}?" if meant else message


def columns_option(columns: Sequence[int | str]) -> str:
    """The option that chooses columns, to be pasted into a shell; its name alone where the list is
    long."""
    value = ",".join(map(str, columns))
    names = [column for column in columns if isinstance(column, str)]
    # YAML reads some names as other values: 1, no, null.
    if not all(re.fullmatch(r"\w+", name) and yaml.safe_load(name) == name for name in names):
        value = shlex.quote(json.dumps(columns, ensure_ascii=False))
    return f"--data.columns {value}" if len(value) <= _LONGEST else "--data.columns"


def _unknown_option(key: str, options: Iterable[str]) -> str:
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


def _misplaced_file(word: str, args: Sequence[str]) -> str:
    """What to do with a word on a command line that its parser has no place for."""
    if args[0] != "fit":
        return f"data are named by --data {word}"
    if module_of(word) is None:
        kinds = files.enumerated([*files.ARRAY_SUFFIXES, *sorted(files.IMAGE_SUFFIXES)], limit=20)
        return f"fit reads a file of {kinds}, or a folder of such files"
    if any(arg.partition("=")[0] == "--data" for arg in args):
        return "fit takes one file, or one folder"
    return f"the file comes first: fit {word}"


def _unknown_command(word: str, commands: Sequence[str]) -> str:
    """The command that is meant by a word that is none, "" where none is near."""
    if module_of(word) is not None:
        return f"fit {word}"
    return next(iter(get_close_matches(word, commands, 1)), "")


def _option_without_value(option: str, args: Sequence[str]) -> str:
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
