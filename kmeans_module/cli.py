"""The command line: fit, validate, test, predict, each configured by YAML and flags."""

from __future__ import annotations

import argparse
import inspect
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from kmeans_module import files
from kmeans_module.clustering.predicting import names_a_run, predict_by_run
from kmeans_module.core.words import shown
from kmeans_module.data import ArrayDataModule, BlobDataModule, ImageDataModule, RowsDataModule
from kmeans_module.faults import in_words, is_fault, late_interrupts, quiet_threads
from kmeans_module.files.claims import check_unclaimed, claim_folder
from kmeans_module.hints import columns_option, hinted
from kmeans_module.shorthand import config_files, spelled_out
from kmeans_module.training.callbacks import Checkpoints, ClusterFigures, IterationBar, RunFolder
from kmeans_module.training.callbacks.place import run_folder
from kmeans_module.training.checkpoint_files import is_remote, read_checkpoint
from kmeans_module.training.describe import describe
from kmeans_module.training.lit_kmeans import LitKMeans
from kmeans_module.usage import answer, commands, program

# Imported, so that a configuration may call these classes by their plain names.
DATA_MODULES = (BlobDataModule, ArrayDataModule, ImageDataModule)

DESCRIPTION = "k-means in PyTorch: cluster blobs, rows of a file, or the pixels of pictures."
TRAINER_DEFAULTS: dict[str, Any] = {
    "max_epochs": 300,
    "log_every_n_steps": 1,
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
    "logger": {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": {"save_dir": "runs", "name": "blobs", "default_hp_metric": False},
    },
}


SUBCOMMANDS = ("fit", "validate", "test", "predict")
# Set to anything but "", every error comes with its traceback.
TRACEBACK = "KMEANS_TRACEBACK"


class Parser(LightningArgumentParser):
    """Takes whole names only, and says what is wrong in one line.

    Attributes:
        arguments: of the command line, whose configuration files a message names.
    """

    arguments: Sequence[str] = ()

    def __init__(self, **kwargs: Any) -> None:
        kwargs = {"description": DESCRIPTION, "prog": program(), **kwargs}
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        files = config_files(self.arguments)
        key = re.search(r"""[Pp]arser key "(.*?)"|option '(.*?)'""", message)
        given = key is not None and any(
            arg.startswith(f"--{key[1] or key[2]}") for arg in self.arguments
        )
        message = hinted(message, self.arguments, SUBCOMMANDS, self._keys)
        if files and not given:
            message = f"{', '.join(files)}: {message}"
        _fail(message, status=2)

    def _keys(self) -> set[str]:
        """Keys of the options of all subcommands."""
        parsers, keys = [self], set()
        for parser in parsers:
            for action in parser._actions:
                if isinstance(action, argparse._SubParsersAction):
                    parsers += action.choices.values()
                keys |= {name[2:] for name in action.option_strings if name[:2] == "--"}
        for module in DATA_MODULES:
            keys |= {f"data.{name}" for name in inspect.signature(module).parameters}
        return {key for key in keys if not key.endswith(("+", "help"))}


class SaveConfig(SaveConfigCallback):
    """Leaves config.yaml in the run folder."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        folder = run_folder(trainer)
        if folder is None or not trainer.is_global_zero or self.already_saved:
            return
        claim_folder(folder)
        content = self.parser.dump(self.config, skip_none=False).encode()
        files.write_atomically(folder / self.config_filename, lambda file: file.write(content))
        self.already_saved = True


class KMeansCLI(LightningCLI):
    """LightningCLI for LitKMeans, which takes n_features from the data."""

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(self._model_class, "model")
        parser.add_lightning_class_args(self._datamodule_class, "data", subclass_mode=True)
        parser.set_defaults({"data": {"class_path": "kmeans_module.data.BlobDataModule"}})
        parser.add_lightning_class_args(ClusterFigures, "figures")
        parser.add_lightning_class_args(Checkpoints, "checkpoints")
        parser.add_lightning_class_args(RunFolder, "run_folder")
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults({f"trainer.{key}": v for key, v in self.trainer_defaults.items()})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Refuse a file that is no whole checkpoint before anything is instantiated."""
        self.arguments = args
        _expect_subcommand(parser, args)
        for file in config_files(args):
            _check_config(file)
        self.config = parser.parse_args(args)
        options = self.config[self.config.subcommand]
        path = options.get("ckpt_path")
        if path is not None and not _found_by_lightning(path):
            read_checkpoint(path, weights_only=options.get("weights_only"))

    def _parse_ckpt_path(self) -> None:
        """What the command line says holds; Lightning would let the checkpoint overrule it."""

    def _refuse_early(self) -> None:
        """Refuse files of data, and a folder, before a logger or a callback has written."""
        folder = run_folder(self.trainer)  # by all ranks: they exchange its name
        if self.trainer.is_global_zero and folder is not None:
            check_unclaimed(folder)
        if isinstance(self.datamodule, RowsDataModule):
            self.datamodule.setup()

    def before_fit(self) -> None:
        says = self.trainer.is_global_zero and isinstance(
            self.trainer.progress_bar_callback, IterationBar
        )
        path = getattr(self.datamodule, "path", None)
        if says and path is not None and sys.stderr.isatty():
            sys.stderr.write(f"kmeans: reading {path}\n")
        self._refuse_early()
        if says and isinstance(self.datamodule, RowsDataModule):
            for line in describe(self.datamodule):
                sys.stderr.write(f"k-means: {line}\n")

    def _apply_early(self) -> None:
        self._refuse_early()
        if self._get(self.config, "ckpt_path") is None:
            raise ValueError(
                "ckpt_path should be a checkpoint of a fit: without one LitKMeans has no centroids "
                f"yet to {self.subcommand} by"
            )

    def before_validate(self) -> None:
        self._apply_early()

    def before_test(self) -> None:
        self._apply_early()

    def before_predict(self) -> None:
        self._apply_early()

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Add the bar and the checkpoints, unless the trainer's switches turn them off."""
        trainer = self._get(self.config_init, "trainer")
        self._choose_logs(trainer)
        root = trainer.get("default_root_dir")
        if root is not None and os.path.abspath(root) == os.getcwd():
            # A choice of the user's, where Lightning's default is the full path.
            trainer["default_root_dir"] = os.curdir
        if trainer.get("enable_progress_bar") is not False:
            trainer["callbacks"] = [*(trainer.get("callbacks") or []), IterationBar()]
        if trainer.get("enable_checkpointing") is False:
            self._parser(self.subcommand).callback_keys.remove("checkpoints")
        return super().instantiate_trainer(**kwargs)

    def _choose_logs(self, trainer: Any) -> None:
        """Leave no file that says nothing: scores of validate and test are printed, and logged
        where the command line asks for that; labels of predict need a folder, and no events."""
        loggers = trainer.get("logger")
        boards = [
            logger
            for logger in (loggers if isinstance(loggers, list) else [loggers])
            if isinstance(logger, TensorBoardLogger)
        ]
        for board in boards:
            board.NAME_HPARAMS_FILE = "config.yaml"  # which holds them, and more
        asked = any(arg.startswith("--trainer.logger") for arg in self.arguments)
        if self.subcommand in ("validate", "test") and not asked:
            trainer["logger"] = False
        elif self.subcommand == "predict" and loggers in boards:
            trainer["logger"] = False
            if trainer.get("default_root_dir") is None:
                trainer["default_root_dir"] = boards[0].log_dir


def main(args: Sequence[str] | None = None) -> None:
    """Run a command line, by default that of the process; without arguments, ``fit`` on blobs.

    ``predict RUN DATA`` labels other data by the folder of a run, without a configuration.

    Exit status 2 for a bad command line or configuration, 1 for bad data or files, 130 and 143
    after SIGINT and SIGTERM; one line on standard error says what was wrong. With
    KMEANS_TRACEBACK=1 in the environment it is a traceback.
    """
    args = list(sys.argv[1:] if args is None else args) or ["fit"]
    said = answer(args)
    if said is not None:
        sys.stdout.write(said)
        return
    args = spelled_out(args)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    with warnings.catch_warnings(), quiet_threads(), late_interrupts():
        # torch deprecates a name that Lightning uses, and warns of torchmetrics' sparse tensors.
        warnings.filterwarnings("ignore", message=".*LeafSpec")
        warnings.filterwarnings("ignore", message="Sparse invariant checks")
        # Lightning warns that checkpoints go elsewhere: a resumed run has another run folder.
        warnings.filterwarnings("ignore", message="The dirpath has changed")
        try:
            if names_a_run(args):
                predict_by_run(args[1:])
                return
            KMeansCLI(
                LitKMeans,
                LightningDataModule,
                subclass_mode_data=True,
                save_config_callback=SaveConfig,
                trainer_defaults=TRAINER_DEFAULTS,
                seed_everything_default=False,
                parser_kwargs=commands(),
                parser_class=type("Parser", (Parser,), {"arguments": args}),
                auto_configure_optimizers=False,
                args=args,
            )
        except KeyboardInterrupt:
            _fail("interrupted", status=128 + signal.SIGINT)
        except SIGTERMException:  # a SystemExit too
            _fail("terminated", status=128 + signal.SIGTERM)
        except SystemExit as stop:
            if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning exits with 1
                _fail("interrupted", status=128 + signal.SIGINT)
            raise
        except Exception as error:
            if isinstance(error, files.ColumnsError):
                error = error.advising(f"choose features by {columns_option(error.columns)}")
            if os.environ.get(TRACEBACK) or not is_fault(error):
                raise
            _fail(in_words(error), status=1)


def _expect_subcommand(parser: LightningArgumentParser, args: Sequence[str]) -> None:
    """Refuse options without a subcommand, which argparse would call unrecognized one by one."""
    own = {name for action in parser._actions for name in action.option_strings}
    options = [arg for arg in args if arg.startswith("-") and arg.partition("=")[0] not in own]
    if args[0].startswith("-") and options and not any(name in args for name in SUBCOMMANDS):
        parser.error(f"a subcommand is missing, one of {', '.join(SUBCOMMANDS)}: {options[0]}")


def _check_config(path: str) -> None:
    """Refuse a configuration file that is no YAML, by its name; whether it exists jsonargparse
    says."""
    if not Path(path).is_file():
        return
    try:
        yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        _fail(f"{path}: not a text file of UTF-8 ({error})", status=2)
    except yaml.YAMLError as error:
        _fail(f"{path}: not a YAML file ({error})", status=2)


def _found_by_lightning(checkpoint: str) -> bool:
    """Whether the name of a checkpoint is no path of this machine."""
    names = ("best", "last", "hpc")
    return (
        checkpoint in names or checkpoint.startswith("registry") or is_remote(checkpoint)
    ) and not Path(checkpoint).exists()


def _fail(message: str, *, status: int) -> NoReturn:
    """Exit with one line on standard error, cut out of the many that jsonargparse writes."""
    line = " ".join(message.split())
    # For a union of types there is an error for each: the key and the value say enough.
    union = re.match(r'Parser key "(.*?)":.*Given value:(.*)$', line)
    if union:
        key, value = union[1], union[2].strip()
        # of an option whose parent is no mapping
        nested = re.match(r"NestedArg\(key='(.*?)', val=(.*)\)$", value)
        if nested:
            key, value = f"{key}.{nested[1]}", nested[2].strip("'")
        line = f"{key} cannot be {shown(value)}"
        if key == "data":
            names = ", ".join(module.__name__ for module in DATA_MODULES)
            line += f"; it is one of {names}, or a class by its import path"
    # The error of a data module's constructor is quoted among those of the union.
    # jsonargparse 4.49 quotes it last, newer ones first.
    refusal = re.search(
        r"Errors: (?:- Expected a .*? )?- (.*?)(?: - Expected a .*?)? Given value type", line
    )
    line = refusal[1] if refusal else line
    line = re.sub("<class '(.*?)'>", r"\1", line.replace("Parser key ", ""))
    line = re.sub(r"(?<=Got value:)(.*)$", lambda value: _cut(value[0]) or " ''", line)
    line = _cut(re.sub(r"\S+", lambda word: _cut(word[0]), line), longest=2000)
    sys.stderr.write(f"kmeans: {line}\n")
    sys.exit(status)


def _cut(text: str, longest: int = 100) -> str:
    """The text, or its two ends where it is longer; of paths more is told."""
    if os.sep in text and longest < 400:
        longest = 400
    return text if len(text) <= longest else f"{text[: longest // 2]}...{text[-longest // 3 :]}"


if __name__ == "__main__":
    main()
