"""The progress of a fit on the screen."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from kmeans_module.training.callbacks.reading import as_kmeans


class IterationBar(ProgressBar):
    """One bar for the whole fit: iteration, inertia, shift."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._progress: Progress | None = None

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._enabled or not trainer.is_global_zero:
            return
        self._progress = Progress(
            TextColumn("iteration"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("inertia {task.fields[inertia]}  shift {task.fields[shift]}"),
            TimeElapsedColumn(),
        )
        self._progress.start()
        self._progress.add_task(
            "iterations",
            total=None if trainer.max_epochs in (None, -1) else trainer.max_epochs,
            completed=trainer.current_epoch,
            inertia="–",
            shift="–",
        )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        last = as_kmeans(pl_module).last
        if self._progress is not None and last is not None:
            self._progress.update(
                self._progress.task_ids[0],
                completed=trainer.current_epoch + 1,
                inertia=f"{last.inertia:,.6g}",
                shift=f"{last.shift:.3g}",
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
