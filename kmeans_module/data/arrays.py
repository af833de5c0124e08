"""Rows of a file, or of a folder of files."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from kmeans_module import files
from kmeans_module.data.base import RowsDataModule, Split, check_share
from kmeans_module.data.folders import read_folder
from kmeans_module.files import Table
from kmeans_module.rows.survey import Nonfinite

_CHUNK_ELEMENTS = 2**22  # numbers held in float64 at a time


class ArrayDataModule(RowsDataModule):
    """Rows of a .npy, .npz, .csv, .parquet, .safetensors or .pt file, without unpickling.

    A .npy or .pt file is mapped into memory and not copied, unless columns are chosen, rows
    are held out or features are standardized. Training rows keep the order of the file.

    A folder of such files, all of one format, is read like one file with the rows of all, sorted
    by name: features of utterances, one file each. The rows are then copied into memory.

    Args:
        path: the file, its suffix says the format; or a folder with files of one format, in
            subfolders too.
        columns: features to keep, by number or (.csv and .parquet) by name; default all.
        key: the array to read from an .npz, .safetensors or .pt file that holds several.
        standardize: subtract every feature's mean and divide by its standard deviation, both
            of the training rows; a constant feature becomes 0.
        val_share: share of the rows to hold out at random for validation, in [0, 1).
        batch_size: rows per step over all processes; default all in one batch.
        shuffle: train on the rows in a new random order every epoch.
        seed: of the choice of validation rows and of the random orders.

    Raises:
        ValueError: an argument out of range or, when the file is read, a file that cannot be;
            see :func:`kmeans_module.files.read_array`.
    """

    def __init__(
        self,
        *,
        path: str,
        columns: list[int | str] | None = None,
        key: str | None = None,
        standardize: bool = False,
        val_share: float = 0.0,
        batch_size: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, shuffle, seed)
        self.path = path
        self.columns = columns
        self.key = key
        self.standardize = standardize
        self.val_share = check_share("val_share", val_share)

    @property
    def n_features(self) -> int:
        """Number of features of a row; reads the file, or maps it, on first use."""
        return self._table.x.shape[1]

    @property
    def files(self) -> dict[Path, int] | None:
        """Rows of each file, by its path in the folder, in their order; None for a single file."""
        return self._source[1]

    @property
    def feature_names(self) -> list[str] | None:
        """Names of the columns where the file has them."""
        return self._table.names

    @property
    def train_index(self) -> Tensor:
        """Row number in the file of every training row, ascending, (n_samples,) int64."""
        return (~self._held_out).nonzero()[:, 0]

    @property
    def val_index(self) -> Tensor:
        """Row number in the file of every validation row, ascending, int64."""
        return self._held_out.nonzero()[:, 0]

    @property
    def mean(self) -> Tensor:
        """What was subtracted, (n_features,) float64; 0 if nothing was.

        Centroids are in the file's units as ``centroids * data.scale + data.mean``.
        """
        return self._moments[0]

    @property
    def scale(self) -> Tensor:
        """What the features were divided by, (n_features,) float64; 1 if by nothing."""
        return self._moments[1]

    @cached_property
    def _source(self) -> tuple[Table, dict[Path, int] | None]:
        if Path(self.path).is_dir():
            return read_folder(self.path, columns=self.columns, key=self.key)
        return files.read_table(self.path, columns=self.columns, key=self.key), None

    @property
    def _table(self) -> Table:
        return self._source[0]

    @cached_property
    def _held_out(self) -> Tensor:
        n = len(self._table.x)
        n_val = round(self.val_share * n)
        if n_val == n:
            raise ValueError(
                f"{self.path}: val_share={self.val_share:g} leaves none of the {n} rows to train on"
            )
        held_out = torch.zeros(n, dtype=torch.bool)
        if n_val:
            generator = torch.Generator().manual_seed(self.seed)
            held_out[torch.randperm(n, generator=generator)[:n_val]] = True
        return held_out

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        if self.standardize:
            return _mean_and_scale(self._rows(~self._held_out), self.path)
        return (
            torch.zeros(self.n_features, dtype=torch.float64),
            torch.ones(self.n_features, dtype=torch.float64),
        )

    @cached_property
    def training_split(self) -> Split:
        return Split(self._standardized(self._rows(~self._held_out)))

    @property
    def prediction_split(self) -> Split:
        if len(self.val_index) == 0:
            return self.training_split
        return Split(self._standardized(self._table.x))

    @cached_property
    def validation_split(self) -> Split | None:
        if not self._held_out.any():
            return None
        return Split(self._standardized(self._rows(self._held_out)))

    def _rows(self, mask: Tensor) -> Tensor:
        return self._table.x if mask.all() else self._table.x[mask]

    def _standardized(self, x: Tensor) -> Tensor:
        if not self.standardize:
            return x
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        standardized = torch.empty(x.shape, dtype=dtype)
        for rows, target in zip(_chunks(x), _chunks(standardized), strict=True):
            target.copy_((rows.double() - self.mean) / self.scale)
        return standardized


def _chunks(x: Tensor) -> list[Tensor]:
    """Views of x (n, d), few rows each, so that float64 copies of them stay small."""
    rows = max(1, _CHUNK_ELEMENTS // x.shape[1])
    return [x[start : start + rows] for start in range(0, len(x), rows)]


def _mean_and_scale(x: Tensor, path: str) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (1 for constant features) in float64, chunk by chunk."""
    origin = x[0].double()  # the variance of a constant feature is then exactly 0
    mean = sum(((rows.double() - origin).sum(0) for rows in _chunks(x)), torch.zeros(())) / len(x)
    squares = ((rows.double() - origin - mean).square().sum(0) for rows in _chunks(x))
    scale = (sum(squares, torch.zeros(())) / len(x)).sqrt()
    if not bool(scale.isfinite().all()):
        reason = str(Nonfinite().look(x)) or "the variance overflows float64"
        raise ValueError(f"{path}: cannot standardize: {reason}")
    return origin + mean, torch.where(scale == 0, torch.ones_like(scale), scale)
