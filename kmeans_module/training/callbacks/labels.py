"""labels.npy: the labels of all rows, from all batches on all ranks, in the order of the rows."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kmeans_module import files
from kmeans_module.data import ArrayDataModule, RowsDataModule
from kmeans_module.rows.batch import row_numbers
from kmeans_module.rows.ranks import ProcessGroup, all_gather, all_sum, anywhere
from kmeans_module.rows.source import stable_order
from kmeans_module.training.lit_kmeans import LitKMeans
from kmeans_module.training.scores import Scores

log = logging.getLogger(__name__)


class RowLabels:
    """Collects the labels of this rank batch by batch, and puts those of all ranks in order."""

    def __init__(self) -> None:
        self._numbers = [torch.empty(0, dtype=torch.int64)]
        self._labels = [torch.empty(0, dtype=torch.int64)]

    def __len__(self) -> int:
        """Number of labels of this rank."""
        return sum(map(len, self._labels))

    def add(self, numbers: Tensor, labels: Tensor) -> None:
        """Add the labels (n,) of the rows with these numbers (n,)."""
        self._numbers.append(numbers.cpu())
        self._labels.append(labels.cpu())

    def gather(self, process_group: ProcessGroup | None) -> Tensor:
        """Labels (n,) int64 by row number, from all ranks; -1 for a row that was in no batch."""
        longest = int(all_gather(torch.tensor(len(self)), process_group).max())
        padded = torch.full((2, longest), -1, dtype=torch.int64)
        padded[0, : len(self)] = torch.cat(self._numbers)
        padded[1, : len(self)] = torch.cat(self._labels)
        numbers, labels = all_gather(padded, process_group).transpose(0, 1).flatten(1)
        rows = numbers >= 0
        ordered = torch.full((int(numbers.max()) + 1 if len(numbers) else 0,), -1)
        ordered[numbers[rows]] = labels[rows]
        return ordered


class Evaluation(NamedTuple):
    """The training rows as the final centroids cluster them.

    Attributes:
        inertia: over all ranks.
        sizes: weight of each cluster over all ranks, (k,).
        labels: of the rows of this rank; None where the rows come in no lasting order.
        agreement: with the true labels, where the data know them; see
            :class:`~kmeans_module.training.agreement.Agreement`.
    """

    inertia: float
    sizes: Tensor
    labels: RowLabels | None
    agreement: dict[str, float]


def evaluate_training_rows(lit: LitKMeans) -> Evaluation:
    """One E-step over the training rows; a collective over the ranks."""
    scores = Scores().to(lit.device)
    inertia = torch.zeros((), dtype=lit.kmeans.counts.dtype, device=lit.device)
    sizes = torch.zeros_like(lit.kmeans.counts)
    labels, ordered = RowLabels(), True
    rows_stay = stable_order(lit.trainer.train_dataloader)
    for batch in lit.training_batches():
        step = lit.kmeans.e_step(batch.x, batch.sample_weight)
        inertia += step.stats.inertia
        sizes += step.stats.counts
        scores.add(step, batch)
        labels.add(row_numbers(batch), step.labels)
        ordered = ordered and (batch.index is not None or rows_stay)
    inertia, sizes = all_sum([inertia, sizes], lit.process_group)
    known = anywhere(scores.agreement.update_called, lit.process_group)
    agreement = {name: float(x) for name, x in scores.agreement.compute().items()} if known else {}
    return Evaluation(float(inertia), sizes, labels if ordered else None, agreement)


def label_all_rows(lit: LitKMeans, data: RowsDataModule) -> Tensor:
    """Labels (n,) of all rows of the data, held out or not; a collective over the ranks."""
    labels = RowLabels()
    for batch in data.predict_dataloader():
        labels.add(row_numbers(batch), lit.kmeans(batch.x.to(lit.device)))
    return labels.gather(lit.process_group)


def save_labels(folder: Path, data: Any, labels: Tensor) -> list[str]:
    """Write labels.npy, and codes/ with a file for each file of the data if they are a folder.

    Returns:
        The names of what was written.
    """
    unseen = int((labels == -1).sum())
    if unseen:
        log.warning("labels.npy holds -1 for %d rows that were in no batch", unseen)
    files.save_array(folder / "labels.npy", labels)
    sizes = data.files if isinstance(data, ArrayDataModule) else None
    if sizes is None or sum(sizes.values()) != len(labels):
        return ["labels.npy"]
    for name, codes in zip(sizes, torch.split(labels, list(sizes.values())), strict=True):
        path = (folder / "codes" / name).with_suffix(".npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        files.save_array(path, codes)
    return ["labels.npy", "codes/"]
