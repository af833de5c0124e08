"""Checkpoints from which a fit goes on."""

from __future__ import annotations

import logging
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint

from kmeans_module import files
from kmeans_module.checks import check_integer
from kmeans_module.training.callbacks.place import run_folder, why_nowhere
from kmeans_module.training.callbacks.run_folder import RunFolder
from kmeans_module.training.checkpoint_files import AtomicCheckpointIO

log = logging.getLogger(__name__)


class Checkpoints(ModelCheckpoint):
    """Saves after every iteration: last.ckpt, and best.ckpt, that of lowest training inertia.

    A run resumed from one goes on as if it had never stopped. They lie in the folder that RunFolder
    writes to, under checkpoints/; where there is none, nothing is saved. Those of another run are
    not replaced: beside them the names are last-v1.ckpt and best-v1.ckpt.

    Args:
        every_n_iterations: save after each so many iterations only.
        save_top_k: how many to keep by inertia; -1 for all.
    """

    def __init__(self, every_n_iterations: int = 1, save_top_k: int = 1) -> None:
        save_top_k = check_integer("save_top_k", save_top_k, minimum=-1)
        super().__init__(
            filename="best" if save_top_k == 1 else "iteration={step}",
            auto_insert_metric_name=False,
            monitor="train/inertia",
            mode="min",
            save_last=True,
            save_top_k=save_top_k,
            every_n_epochs=check_integer("every_n_iterations", every_n_iterations, minimum=1),
            save_on_train_epoch_end=True,
        )
        self._wanted = save_top_k

    def setup(self, trainer: Any, pl_module: LightningModule, stage: str) -> None:
        """Find the folder, and let checkpoints be whole or not there."""
        folder = run_folder(trainer)
        self.save_top_k = 0 if folder is None else self._wanted
        self.save_last = folder is not None
        if folder is None:
            said = any(isinstance(callback, RunFolder) for callback in trainer.callbacks)
            if stage == "fit" and trainer.is_global_zero and not said:
                log.warning("no checkpoints are saved: %s", why_nowhere(trainer))
        else:
            self.dirpath = str(folder / "checkpoints")
            if stage == "fit" and trainer.is_global_zero:
                files.remove_abandoned(self.dirpath)
        super().setup(trainer, pl_module, stage)
        AtomicCheckpointIO.serve(trainer)
