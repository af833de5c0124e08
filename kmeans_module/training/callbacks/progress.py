"""What a fit does, on the screen, while it does it."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from kmeans_module.progress.displays import Screen, State, find_display
from kmeans_module.training.callbacks.reading import as_kmeans


class IterationBar(ProgressBar):
    """One bar for the whole fit: reading, seeding, iterations, results. Where there is no terminal
    it is lines on standard error."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._screen = Screen(None)
        self._counts = self._number = 0

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._enabled or not trainer.is_global_zero:
            return
        self._screen = Screen(find_display())
        self._counts = self._number = 0
        self.says("looking at all rows")

    def on_seeding(
        self, trainer: Trainer, pl_module: LightningModule, done: int, total: int
    ) -> None:
        """The initial centroids are being drawn."""
        lit = as_kmeans(pl_module)
        if done == 0:
            self._counts += 1
        passes = lit.init == "k-means||" and self._counts == 1
        text = f"seeding by {lit.init}: {done:,}/{total:,} {'passes' if passes else 'centers'}"
        if self._screen.is_due(done == total):
            share, seconds = done / total, self._screen.seconds
            self._screen.show(State(text, share, "", seconds, last=done == total))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        lit, number, most = as_kmeans(pl_module), trainer.current_epoch + 1, trainer.max_epochs
        if lit.last is None:
            return
        self._number = number
        of, share = ("", None) if most in (None, -1) else (f" of {most:,}", number / (most or 1))
        text = f"iteration {number:,}{of}, inertia {lit.last.inertia:,.6g}"
        text += f", shift {lit.last.shift:.3g}"
        restarts = lit.restarts
        if len(restarts.m_steps) > 1:
            text += f", restart {restarts.best + 1} of {len(restarts.m_steps)} is ahead"
        last = trainer.should_stop or number == most
        if self._screen.is_due(last):
            self._screen.show(State(text, share, "", self._screen.seconds, number, last=last))

    def says(self, doing: str) -> None:
        """Something begins that has no count."""
        share = 1.0 if self._number else None  # the iterations are over
        self._screen.show(State(doing, share, "", self._screen.seconds, self._number, last=True))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the screen."""
        self._screen.close()


def says(trainer: Trainer, doing: str) -> None:
    """Let the bar of a trainer, if it has one, say what begins."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, IterationBar):
        bar.says(doing)


def leaves_screen(trainer: Trainer) -> None:
    """Let the bar of a trainer, if it has one, end before something else is printed."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, IterationBar):
        bar.close()
