"""The files that a run leaves behind."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from torch import Tensor

from kmeans_module import files
from kmeans_module.clustering.saved_run import CENTROIDS, STANDARDIZATION, description_of
from kmeans_module.data import ArrayDataModule, ImageDataModule, RowsDataModule
from kmeans_module.files.claims import claim_folder
from kmeans_module.rows.batch import Batch, row_numbers
from kmeans_module.rows.ranks import errors_shared
from kmeans_module.training.callbacks.drawing import draw_animation, draw_clusters
from kmeans_module.training.callbacks.labels import (
    Evaluation,
    RowLabels,
    label_all_rows,
    save_labels,
)
from kmeans_module.training.callbacks.pictures import save_figure, save_pictures
from kmeans_module.training.callbacks.place import run_folder, why_nowhere
from kmeans_module.training.callbacks.progress import leaves_screen, says
from kmeans_module.training.callbacks.reading import as_kmeans, has_rows
from kmeans_module.training.callbacks.recorder import Recorder, evaluated
from kmeans_module.training.callbacks.summary import print_summary
from kmeans_module.training.lit_kmeans import LitKMeans

log = logging.getLogger(__name__)


class RunFolder(Callback):
    """Leaves the result of a run in its folder, and a table on the screen.

    The folder is that of the first logger which has one, else ``trainer.default_root_dir`` if it
    was set. Without either, in ``fast_dev_run`` and ``barebones``, no file is written.

    - centroids.safetensors, for KMeansLayer.from_file;
    - labels.npy, of all rows of the data in their order; ``trainer.predict`` leaves it too. Where
      the rows are those of a folder of files, codes/ holds the labels of each under its name;
    - clusters.png and animation.html;
    - for standardized features standardization.safetensors, the mean and scale of the rows that
      the centroids are for;
    - for pictures quantized/, each picture in the colors of the palette, and quantized.png, a few
      of them beside their originals.

    In a folder that is chosen again a file of the earlier run stays whole until the file that takes
    its place is complete; a file that is of no run is never replaced.

    Args:
        summary: print the table at the end.
    """

    def __init__(self, summary: bool = True) -> None:
        self.summary = summary
        self._folder: Path | None = None
        self._predicted = RowLabels()
        self._left = False
        self._said = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Fail before the work where the module is another or the folder cannot be written."""
        self._folder = run_folder(trainer)
        if stage not in ("fit", "predict"):
            return
        lit = as_kmeans(pl_module)
        self._left = False
        self._said = False
        if self._folder is None:
            return
        if stage == "fit":
            Recorder.attach(trainer)
        with errors_shared(lit.process_group):
            if trainer.is_global_zero:
                claim_folder(self._folder)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._say_nowhere(trainer)  # no earlier: a refusal of the data is a line alone

    def _say_nowhere(self, trainer: Trainer) -> None:
        if self._folder is None and not self._said and trainer.is_global_zero:
            self._said = True
            log.warning("no results are written: %s", why_nowhere(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._say_nowhere(trainer)
        lit = as_kmeans(pl_module)
        folder = self._folder
        self._left = True
        if folder is None and not self.summary:
            return
        data = getattr(trainer, "datamodule", None)
        evaluation = evaluated(lit)
        names: list[str] = []
        if folder is not None:
            labels = _all_labels(lit, data, evaluation)
            if trainer.is_global_zero:
                says(trainer, f"drawing, and writing the results to {folder}")
                names = _save_results(folder, lit, trainer, labels, evaluation)
        leaves_screen(trainer)
        if self.summary and trainer.is_global_zero:
            print_summary(lit, evaluation, folder, names)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the results of a fit that was at its end in its checkpoint: it did not train."""
        if not self._left and has_rows(as_kmeans(pl_module)):
            self.on_train_end(trainer, pl_module)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        stopped = isinstance(exception, KeyboardInterrupt | SIGTERMException)
        if stopped and trainer.is_global_zero:
            callback = trainer.checkpoint_callback
            last = getattr(callback, "last_model_path", "") or getattr(
                callback, "best_model_path", ""
            )
            if last:
                how = "terminated" if isinstance(exception, SIGTERMException) else "interrupted"
                log.warning("%s; the same command with --ckpt_path %s continues", how, last)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._predicted = RowLabels()

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._folder is None:
            return
        if isinstance(batch, Batch):
            numbers = row_numbers(batch)
        else:  # Lightning deals rows out in turn
            first = len(self._predicted)
            dealt = torch.arange(first, first + len(outputs))
            numbers = dealt * trainer.world_size + trainer.global_rank
        self._predicted.add(numbers, outputs)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._say_nowhere(trainer)
        folder = self._folder
        if folder is None:
            return
        labels = self._predicted.gather(as_kmeans(pl_module).process_group)
        self._predicted = RowLabels()
        if trainer.is_global_zero:
            names = save_labels(folder, getattr(trainer, "datamodule", None), labels)
            if self.summary:
                Console().print(f"labels of {len(labels):,} rows in {folder / names[-1]}")


def _all_labels(lit: LitKMeans, data: Any, evaluation: Evaluation) -> Tensor | None:
    """Labels of all rows, held out or not where the data say so; None without a lasting order."""
    if isinstance(data, RowsDataModule):
        return label_all_rows(lit, data)
    return None if evaluation.labels is None else evaluation.labels.gather(lit.process_group)


def _save_results(
    folder: Path, lit: LitKMeans, trainer: Trainer, labels: Tensor | None, evaluation: Evaluation
) -> list[str]:
    """Write all results; the names of what was written."""
    data = getattr(trainer, "datamodule", None)
    names = _save_centroids(folder, lit, data)
    if labels is None:
        log.warning("labels.npy is not written: the training rows come in no lasting order")
    else:
        names += save_labels(folder, data, labels)
    names += _save_drawings(folder, lit, trainer, inertia=evaluation.inertia)
    if isinstance(data, ImageDataModule) and labels is not None:
        names += save_pictures(folder, data, lit, labels, evaluation.sizes)
    return names


def _save_centroids(folder: Path, lit: LitKMeans, data: Any) -> list[str]:
    lit.kmeans.save(folder / CENTROIDS, metadata=description_of(data))
    if not isinstance(data, ArrayDataModule) or not data.standardize:
        return [CENTROIDS]
    moments = {"mean": data.mean, "scale": data.scale}
    files.save_tensors(folder / STANDARDIZATION, moments)
    return [CENTROIDS, STANDARDIZATION]


def _save_drawings(folder: Path, lit: LitKMeans, trainer: Trainer, *, inertia: float) -> list[str]:
    trajectory = Recorder.of(trainer).trajectory
    save_figure(folder / "clusters.png", draw_clusters(trajectory, lit, trainer))
    page = draw_animation(trajectory, lit, trainer, inertia=inertia).encode()
    files.write_atomically(folder / "animation.html", lambda file: file.write(page))
    return ["clusters.png", "animation.html"]
