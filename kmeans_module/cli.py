"""The command line: fit, validate, test, predict, each configured by YAML and flags."""

from __future__ import annotations

import logging
import pickle
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from kmeans_module.data import ArrayDataModule, BlobDataModule, ImageDataModule
from kmeans_module.training.callbacks import Checkpoints, ClusterFigures, IterationBar, RunFolder
from kmeans_module.training.lit_kmeans import LitKMeans

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


class Parser(LightningArgumentParser):
    """Takes whole names only, and says what is wrong in one line."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("description", DESCRIPTION)
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        _fail(message, status=2)


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
        """Refuse a file that is no checkpoint before anything is instantiated."""
        self.config = parser.parse_args(args)
        _check_checkpoint(self.config[self.config.subcommand].get("ckpt_path"))

    def _parse_ckpt_path(self) -> None:
        """What the command line says holds; Lightning would let the checkpoint overrule it."""

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Add the bar and the checkpoints, unless the trainer's switches turn them off."""
        trainer = self._get(self.config_init, "trainer")
        if trainer.get("enable_progress_bar") is not False:
            trainer["callbacks"] = [*(trainer.get("callbacks") or []), IterationBar()]
        if trainer.get("enable_checkpointing") is False:
            self._parser(self.subcommand).callback_keys.remove("checkpoints")
        return super().instantiate_trainer(**kwargs)


def main(args: Sequence[str] | None = None) -> None:
    """Run a command line, by default that of the process; without arguments, ``fit`` on blobs.

    Exit status 2 for a bad command line or configuration, 1 for bad data or files; either way
    one line on standard error says what was wrong.
    """
    args = list(sys.argv[1:] if args is None else args) or ["fit"]
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # torch deprecates a name that Lightning uses, and warns of torchmetrics' sparse tensors.
        warnings.filterwarnings("ignore", message=".*LeafSpec")
        warnings.filterwarnings("ignore", message="Sparse invariant checks")
        # Lightning warns that checkpoints go elsewhere: a resumed run has another run folder.
        warnings.filterwarnings("ignore", message="The dirpath has changed")
        try:
            KMeansCLI(
                LitKMeans,
                LightningDataModule,
                subclass_mode_data=True,
                save_config_kwargs={"overwrite": True},
                trainer_defaults=TRAINER_DEFAULTS,
                seed_everything_default=False,
                parser_class=Parser,
                auto_configure_optimizers=False,
                args=args,
            )
        except (ValueError, TypeError, OSError, MisconfigurationException) as error:
            _fail(str(error), status=1)
        except RuntimeError as error:
            if "size mismatch" not in str(error):
                raise
            _fail(f"the checkpoint does not fit the configuration: {error}", status=1)


def _check_checkpoint(path: str | None) -> None:
    """Raise a ValueError where the path is that of a file which LitKMeans did not write."""
    if path is None or not Path(path).is_file():
        return  # "best", "last": Lightning says where there is none
    try:
        is_ours = "kmeans" in torch.load(path, map_location="meta", weights_only=True)
    except (RuntimeError, TypeError, EOFError, pickle.UnpicklingError):
        is_ours = False
    if not is_ours:
        raise ValueError(f"{path}: not a checkpoint of LitKMeans")


def _fail(message: str, *, status: int) -> NoReturn:
    """Exit with one line on standard error, cut out of the many that jsonargparse writes."""
    line = " ".join(message.split())
    # For a union of types there is an error for each: the key and the value say enough.
    union = re.match(r'Parser key "(.*?)":.*Given value: (.*)$', line)
    if union:
        key, value = union.groups()
        line = f"{key} cannot be {value!r}"
        if key == "data":
            names = ", ".join(module.__name__ for module in DATA_MODULES)
            line += f"; it is one of {names}, or a class by its import path"
    # The error of a data module's constructor is quoted among those of the union.
    refusal = re.search(r"Errors: - (.*?) - Expected a .*? Given value type", line)
    line = refusal[1] if refusal else line
    line = re.sub("<class '(.*?)'>", r"\1", line.replace("Parser key ", ""))
    sys.stderr.write(f"kmeans: {line}\n")
    sys.exit(status)
