"""The files that a run leaves behind."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from kmeans_module import KMeansLayer
from kmeans_module.data import ArrayDataModule, ImageDataModule
from kmeans_module.data.base import RowsDataModule
from kmeans_module.figures import clusterings as plotting
from kmeans_module.figures.animation import animation_html
from kmeans_module.figures.trajectory import Trajectory
from kmeans_module.files import readers as io
from kmeans_module.rows.batch import Batch
from kmeans_module.rows.ranks import ProcessGroup, all_gather, all_sum
from kmeans_module.training.callbacks.recorder import (
    Recorder,
    as_kmeans,
    draw_clusters,
    feature_names,
)
from kmeans_module.training.lit_kmeans import LitKMeans

log = logging.getLogger(__name__)


class RunFolder(Recorder):
    """Leaves the result of a run in its folder (``trainer.log_dir``), and a table on the screen.

    centroids.safetensors (for KMeansLayer.from_file), labels.npy (of all rows of the file in
    their order), clusters.png, animation.html; for pictures quantized.png, beside the
    originals, and each of them in quantized/; for standardised features
    standardization.safetensors, the mean and scale of the rows that the centroids are for.
    ``trainer.predict`` leaves labels.npy. Where the rows are those of a folder of files, codes/
    holds the labels of each, under its name. Whatever was there before stays whole until its
    successor is.

    Args:
        summary: print the table at the end.
    """

    def __init__(self, summary: bool = True) -> None:
        super().__init__()
        self.summary = summary
        self._predicted: list[tuple[Tensor, Tensor]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Fail before the work where the folder cannot be written."""
        folder = self.folder(trainer)
        if trainer.is_global_zero and stage in ("fit", "predict"):
            folder.mkdir(parents=True, exist_ok=True)
            io.write_atomically(folder / ".writable", lambda file: file.write(b""))
            (folder / ".writable").unlink()

    def folder(self, trainer: Trainer) -> Path:
        """The run folder; a collective over the ranks."""
        return Path(trainer.log_dir or trainer.default_root_dir)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        lit = as_kmeans(pl_module)
        folder = self.folder(trainer)
        data = getattr(trainer, "datamodule", None)
        inertia, sizes, labels = _label_training_rows(lit, ours=isinstance(data, RowsDataModule))
        if isinstance(data, RowsDataModule):
            labels = _label_all_rows(lit, data)
        if not trainer.is_global_zero:
            return
        lit.kmeans.save(folder / "centroids.safetensors")
        files = ["centroids.safetensors"]
        if isinstance(data, ArrayDataModule) and data.standardize:
            moments = {"mean": data.mean, "scale": data.scale}
            io.save_tensors(folder / "standardization.safetensors", moments)
            files.append("standardization.safetensors")
        if labels is not None:
            files += _save_labels(folder, data, labels)
        if not self.sampled:  # the checkpoint had converged: there was no iteration
            self.trajectory.record(int(lit.kmeans.n_iter), lit.kmeans.centroids)
            for batch in lit.training_batches():
                self.trajectory.sample(batch.x, n_batches=trainer.num_training_batches)
        self.trajectory.measured(self.trajectory.iterations[-1], inertia)
        _save_figure(folder / "clusters.png", draw_clusters(self.trajectory, lit, trainer))
        page = _animation(self.trajectory, lit, trainer).encode()
        io.write_atomically(folder / "animation.html", lambda file: file.write(page))
        files += ["clusters.png", "animation.html"]
        if isinstance(data, ImageDataModule) and labels is not None:
            files += _save_pictures(folder, data, lit, labels, sizes)
        if self.summary:
            _print_summary(lit, inertia, sizes, folder, files)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, KeyboardInterrupt) and trainer.is_global_zero:
            callback = trainer.checkpoint_callback
            last = getattr(callback, "last_model_path", "") or getattr(
                callback, "best_model_path", ""
            )
            if last:
                log.warning("interrupted; --ckpt_path %s continues", last)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._predicted = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if isinstance(batch, Batch):
            positions = torch.arange(batch.start, batch.start + len(outputs))
        else:  # Lightning deals rows out in turn
            seen = sum(len(labels) for _, labels in self._predicted)
            dealt = torch.arange(seen, seen + len(outputs))
            positions = dealt * trainer.world_size + trainer.global_rank
        self._predicted.append((positions, outputs.cpu()))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = self.folder(trainer)
        labels = _gather_labels(self._predicted, as_kmeans(pl_module).process_group)
        self._predicted = []
        if trainer.is_global_zero and labels is not None:
            files = _save_labels(folder, getattr(trainer, "datamodule", None), labels)
            if self.summary:
                Console().print(f"labels of {len(labels):,} rows in {folder / files[-1]}")


def _animation(trajectory: Trajectory, lit: LitKMeans, trainer: Trainer) -> str:
    x = trajectory.x.float()
    layer = KMeansLayer(lit.kmeans.n_clusters, lit.kmeans.n_features, metric=lit.kmeans.metric)
    labels = []
    for centroids in trajectory.centroids:
        layer.centroids.copy_(centroids)
        layer.initialized.fill_(True)
        labels.append(layer(x))
    return animation_html(
        x, torch.stack(labels), trajectory.centroids, trajectory.inertia,
        title=f"k-means, {lit.kmeans.n_clusters} clusters", iterations=trajectory.iterations,
        feature_names=feature_names(trainer),
    )  # fmt: skip


def _save_figure(path: Path, figure: Figure) -> None:
    io.write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))


def _save_labels(folder: Path, data: Any, labels: Tensor) -> list[str]:
    """The labels of all rows, and those of each file where the rows come from a folder."""
    io.save_array(folder / "labels.npy", labels)
    files = data.files if isinstance(data, ArrayDataModule) else None
    if files is None or sum(files.values()) != len(labels):
        return ["labels.npy"]
    for name, part in zip(files, torch.split(labels, list(files.values())), strict=True):
        path = (folder / "codes" / name).with_suffix(".npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        io.save_array(path, part)
    return ["labels.npy", "codes/"]


def _save_pictures(
    folder: Path, data: ImageDataModule, lit: LitKMeans, labels: Tensor, sizes: Tensor
) -> list[str]:
    """The pictures in the colours of the palette, and up to four beside their originals."""
    files = data.image_files
    names = [file.stem for file in files]
    names = names if len(set(names)) == len(names) else [file.name for file in files]
    pixels = lit.kmeans.decode(labels.to(lit.device)).float().clamp(0, 1).cpu()
    n_pixels = [height * width for height, width in data.image_shapes]
    halves = (torch.split(x, n_pixels) for x in (data.x, pixels))
    parts = zip(*halves, data.image_shapes, strict=True)
    pairs = [(old.view(*shape, 3), new.view(*shape, 3)) for old, new, shape in parts]
    (folder / "quantized").mkdir(exist_ok=True)
    for name, (_, picture) in zip(names, pairs, strict=True):
        image = Image.fromarray((picture * 255).round().to(torch.uint8).numpy())
        io.write_atomically(folder / "quantized" / f"{name}.png", partial(image.save, format="png"))
    originals, quantized = zip(*pairs[:4], strict=True)
    figure = plotting.quantized_figure(originals, quantized, lit.kmeans.centroids, sizes)
    _save_figure(folder / "quantized.png", figure)
    return ["quantized.png", "quantized/"]


def _label_all_rows(lit: LitKMeans, data: RowsDataModule) -> Tensor | None:
    """Labels of the rows that predictions are for: those of the file, held out or not."""
    found = []
    for batch in data.predict_dataloader():
        positions = torch.arange(batch.start, batch.start + len(batch.x))
        found.append((positions, lit.kmeans(batch.x.to(lit.device)).cpu()))
    return _gather_labels(found, lit.process_group)


def _label_training_rows(lit: LitKMeans, *, ours: bool) -> tuple[float, Tensor, Tensor | None]:
    """Inertia and cluster sizes of the centroids as they are, and the labels of foreign rows.

    The labels are None where the rows have no lasting order, or come from our DataModules.
    """
    found: list[tuple[Tensor, Tensor]] = []
    inertia = torch.zeros((), dtype=lit.kmeans.counts.dtype, device=lit.device)
    sizes = torch.zeros_like(lit.kmeans.counts)
    ordered = True
    for batch in lit.training_batches():
        step = lit.kmeans.e_step(batch.x, batch.sample_weight)
        inertia += step.stats.inertia
        sizes += step.stats.counts
        ordered = ordered and (batch.index is not None or lit.rows_stay)
        index = torch.arange(batch.start, batch.start + len(batch.x))
        found.append((index if batch.index is None else batch.index.cpu(), step.labels.cpu()))
    group = lit.process_group
    inertia, sizes = all_sum([inertia, sizes], group)
    if ours:
        return float(inertia), sizes, None
    if not ordered:
        log.warning("labels.npy is not written: the training rows come in no lasting order")
        return float(inertia), sizes, None
    return float(inertia), sizes, _gather_labels(found, group)


def _gather_labels(found: list[tuple[Tensor, Tensor]], group: ProcessGroup | None) -> Tensor | None:
    """Labels in the order of their row numbers, from all ranks."""
    index = torch.cat([rows for rows, _ in found] or [torch.empty(0, dtype=torch.int64)])
    labels = torch.cat([part for _, part in found] or [torch.empty(0, dtype=torch.int64)])
    longest = int(all_gather(torch.tensor(len(index)), group).max())
    padded = torch.full((2, longest), -1, dtype=torch.int64)
    padded[0, : len(index)] = index
    padded[1, : len(labels)] = labels
    index, labels = all_gather(padded, group).transpose(0, 1).flatten(1)
    kept = index >= 0
    ordered = torch.empty(int(index.max()) + 1 if len(index) else 0, dtype=torch.int64)
    ordered[index[kept]] = labels[kept]
    return ordered


def _print_summary(
    lit: LitKMeans, inertia: float, sizes: Tensor, folder: Path, files: list[str]
) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    empty = int((sizes == 0).sum())
    smallest, median, largest = (float(size) for size in (sizes.min(), sizes.median(), sizes.max()))
    table.add_row("inertia", f"{inertia:,.6g}")
    table.add_row("iterations", f"{int(lit.kmeans.n_iter):,}")
    table.add_row("stopped", lit.stop_reason)
    table.add_row(
        "cluster sizes",
        f"{smallest:,.6g} to {largest:,.6g}, median {median:,.6g}, {empty or 'none'} empty",
    )
    table.add_row("run folder", str(folder))
    table.add_row("", ", ".join(files))
    Console().print(table)
