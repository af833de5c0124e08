"""What the data modules share: batches of training, validation and prediction rows."""

from __future__ import annotations

from typing import Any, NamedTuple

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor

from kmeans_module.checks import check_flag, check_integer, check_number
from kmeans_module.rows.loader import BatchLoader


class Split(NamedTuple):
    """Rows, and their true labels.

    Attributes:
        x: (n, d).
        target: true labels, (n,) int64, or None where the data do not know them.
    """

    x: Tensor
    target: Tensor | None = None


class _NoBatches(CombinedLoader):
    """Nothing to iterate over; Lightning takes it in silence, where an empty list makes it warn."""

    flattened: list[object] = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__([], "sequential")

    def __len__(self) -> int:
        return 0


class RowsDataModule(LightningDataModule):
    """Hands out batches of rows; a subclass says which rows these are.

    A subclass gives ``training_split``, as a cached property; ``validation_split`` where rows are
    held out, ``prediction_split`` where predictions are for more rows than the training ones;
    and ``n_features`` where it is known before the rows are.

    The rows are made or read once, when they are first asked for, in every process alike, and
    each process iterates over its share of every batch. Works without a Trainer too:
    ``data.setup("fit"); for batch in data.train_dataloader(): ...``.

    Args:
        batch_size: rows per step over all processes; None for all in one batch.
        shuffle: train on the rows in a new random order every epoch.
        seed: of the random orders.

    Example:
        >>> import torch
        >>> from functools import cached_property
        >>> class Line(RowsDataModule):
        ...     @cached_property
        ...     def training_split(self):
        ...         return Split(torch.arange(4.0)[:, None])
        >>> data = Line(batch_size=2, shuffle=False, seed=0)
        >>> [batch.x.flatten().tolist() for batch in data.train_dataloader()]
        [[0.0, 1.0], [2.0, 3.0]]
    """

    def __init__(self, batch_size: int | None, shuffle: bool, seed: int) -> None:
        super().__init__()
        if batch_size is not None:
            check_integer("batch_size", batch_size, minimum=1)
        self.batch_size = batch_size
        check_flag("shuffle", shuffle)
        self.shuffle = shuffle
        self.seed = check_integer("seed", seed, minimum=0)

    @property
    def training_split(self) -> Split:
        """The rows to train on, in order."""
        raise NotImplementedError

    @property
    def validation_split(self) -> Split | None:
        """The rows that are held out; None for none."""
        return None

    @property
    def prediction_split(self) -> Split:
        """The rows that predictions are for, held out or not, in the order of the file."""
        return self.training_split

    @property
    def x(self) -> Tensor:
        """Training rows in order, (n_samples, n_features)."""
        return self.training_split.x

    @property
    def target(self) -> Tensor | None:
        """True labels of the training rows, (n_samples,) int64, where the data know them."""
        return self.training_split.target

    @property
    def n_samples(self) -> int:
        """Number of training rows."""
        return self.x.shape[0]

    @property
    def n_features(self) -> int:
        """Number of features of a row; known without :meth:`setup`."""
        return self.x.shape[1]

    @property
    def feature_names(self) -> list[str] | None:
        """Names of the features where the data have them."""
        return None

    def setup(self, stage: str | None = None) -> None:
        """Make or read the rows, unless that has been done.

        Args:
            stage: of the Trainer, which decides nothing.
        """
        _ = self.training_split

    def check_intact(self) -> None:
        """Refuse rows that have changed since they were read, where that is possible."""

    def train_dataloader(self) -> BatchLoader:
        """The training rows."""
        return self._loader(self.training_split, shuffle=self.shuffle)

    def val_dataloader(self) -> BatchLoader | CombinedLoader:
        """The validation rows, or no batches at all, and Lightning skips the validation."""
        validation = self.validation_split
        return _NoBatches() if validation is None else self._loader(validation)

    def test_dataloader(self) -> BatchLoader:
        """The validation rows if there are any, else the training rows."""
        return self._loader(self.validation_split or self.training_split)

    def predict_dataloader(self) -> BatchLoader:
        """All rows in order, so that predictions line up with the file."""
        return self._loader(self.prediction_split)

    def _loader(self, split: Split, shuffle: bool = False) -> BatchLoader:
        trainer = self.trainer
        return self._batches(
            split.x,
            batch_size=self.batch_size,
            target=split.target,
            shuffle=shuffle,
            seed=self.seed,
            rank=0 if trainer is None else trainer.global_rank,
            world_size=1 if trainer is None else trainer.world_size,
        )

    def _batches(self, x: Tensor, **options: Any) -> BatchLoader:
        return BatchLoader(x, **options)


def check_share(name: str, value: float) -> float:
    """A share of the rows, in [0, 1): of all rows nothing would be left."""
    if check_number(name, value, minimum=0, maximum=1) == 1:
        raise ValueError(f"{name} should be less than 1; got {value}")
    return value
