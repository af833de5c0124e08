"""Checkpoints from which a fit goes on."""

from __future__ import annotations

from lightning.pytorch.callbacks import ModelCheckpoint

from kmeans_module.checks import check_integer


class Checkpoints(ModelCheckpoint):
    """Saves after every iteration: last.ckpt, and best.ckpt, that of lowest training inertia.

    A run resumed from one goes on as if it had never stopped.

    Args:
        every_n_iterations: save after each so many iterations only.
        save_top_k: how many to keep by inertia; -1 for all.
    """

    def __init__(self, every_n_iterations: int = 1, save_top_k: int = 1) -> None:
        super().__init__(
            filename="best" if save_top_k == 1 else "iteration={step}",
            auto_insert_metric_name=False,
            monitor="train/inertia",
            mode="min",
            save_last=True,
            save_top_k=save_top_k,
            every_n_epochs=check_integer("every_n_iterations", every_n_iterations, minimum=1),
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
