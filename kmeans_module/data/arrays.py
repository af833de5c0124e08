"""Rows of a file, or of a folder of files."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kmeans_module import files
from kmeans_module.checks import check_flag
from kmeans_module.data.base import RowsDataModule, Split, check_share
from kmeans_module.data.batches import FileBatches
from kmeans_module.data.folders import read_folder
from kmeans_module.data.mapped import MappedFile
from kmeans_module.files import Header, Table
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
        header: whether the first line of a .csv file names the columns; "auto" takes it as names if
            it is 0, 1, ..., d - 1 or not numeric throughout, and logs what it took.
        standardize: subtract every feature's mean and divide by its standard deviation, both
            of the training rows; a constant feature becomes 0. With a checkpoint they are those
            of the rows that it was fitted to.
        val_share: share of the rows to hold out at random for validation, in [0, 1).
        batch_size: rows per step over all processes; default all in one batch.
        shuffle: train on the rows in a new random order every epoch.
        seed: of the choice of validation rows and of the random orders.

    Raises:
        ValueError: an argument out of range or, when the file is read, a file that cannot be;
            see :func:`kmeans_module.files.read_array`.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> from kmeans_module import ArrayDataModule
        >>> table = dict(delimiter=",", header="age,income", comments="")
        >>> with TemporaryDirectory() as folder:
        ...     np.savetxt(f"{folder}/table.csv", [[20, 1000], [40, 3000]], **table)
        ...     data = ArrayDataModule(path=f"{folder}/table.csv", standardize=True)
        ...     data.setup("fit")
        >>> data.feature_names, data.x.tolist(), data.mean.tolist()
        (['age', 'income'], [[-1.0, -1.0], [1.0, 1.0]], [30.0, 2000.0])
    """

    def __init__(
        self,
        *,
        path: str,
        columns: list[int | str] | None = None,
        key: str | None = None,
        header: Header = "auto",
        standardize: bool = False,
        val_share: float = 0.0,
        batch_size: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, shuffle, seed)
        files.checked_path(path)
        self.path = path
        self.columns = files.checked_columns(columns)
        self.key = key
        files.check_header(header)
        self.header = header
        check_flag("standardize", standardize)
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
            return read_folder(self.path, columns=self.columns, key=self.key, header=self.header)
        table = files.read_table(self.path, columns=self.columns, key=self.key, header=self.header)
        return table, None

    @cached_property
    def _mapped(self) -> MappedFile | None:
        """The file whose rows are mapped into memory; None where they were copied."""
        if not self._table.mapped:
            return None
        file = Path(self.path) if self.files is None else Path(self.path) / next(iter(self.files))
        return MappedFile(file, self._table.x)

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
            moments = _mean_and_scale(self._rows(~self._held_out))
            if not bool(moments[1].isfinite().all()):
                file, reason = self._nonfinite() or (self.path, "the variance overflows float64")
                raise ValueError(f"{file}: cannot standardize: {reason}")
            return moments
        return (
            torch.zeros(self.n_features, dtype=torch.float64),
            torch.ones(self.n_features, dtype=torch.float64),
        )

    @cached_property
    def training_split(self) -> Split:
        return self._split(~self._held_out)

    @property
    def prediction_split(self) -> Split:
        if len(self.val_index) == 0:
            return self.training_split
        return self._split(torch.ones_like(self._held_out))

    @cached_property
    def validation_split(self) -> Split | None:
        if not self._held_out.any():
            return None
        return self._split(self._held_out)

    def _split(self, mask: Tensor) -> Split:
        self.check_intact()
        split = Split(self._standardized(self._rows(mask)))
        self.check_intact()
        return split

    def state_dict(self) -> dict[str, Any]:
        """What predictions by a checkpoint need to know of the rows that it was fitted to."""
        return {
            "feature_names": self.feature_names,
            "standardize": self.standardize,
            "mean": self.mean,
            "scale": self.scale,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the mean and scale of a checkpoint; its rows have to have had the same columns.

        Raises:
            ValueError: other columns, or standardized features on one side only.
        """
        names, fitted = self.feature_names, state_dict["feature_names"]
        if names is not None and fitted is not None and names != fitted:
            raise ValueError(
                f"{self.path}: the columns should be those of the checkpoint, "
                f"{files.enumerated(fitted)}; got {files.enumerated(names)}"
            )
        if self.standardize != state_dict["standardize"]:
            raise ValueError(
                f"standardize should be {state_dict['standardize']}, as in the fit of the "
                f"checkpoint; got {self.standardize}"
            )
        if not self.standardize or len(state_dict["mean"]) != self.n_features:
            return  # the layer refuses another number of features
        self._moments = (state_dict["mean"].cpu(), state_dict["scale"].cpu())
        for split in ("training_split", "validation_split"):
            self.__dict__.pop(split, None)

    def check_intact(self) -> None:
        """Refuse rows that were lost since the file was mapped into memory.

        Raises:
            ValueError: the file was cut short.
        """
        if self._mapped is not None:
            self._mapped.check()

    def _batches(self, x: Tensor, **options: Any) -> FileBatches:
        copied = x.untyped_storage().data_ptr() != self._table.x.untyped_storage().data_ptr()
        return FileBatches(
            x,
            check_file=_nothing if copied else self.check_intact,
            check_rows=self._check_rows,
            **options,
        )

    def _check_rows(self, x: Tensor) -> None:
        """Refuse NaN and infinity by the file that holds them."""
        if not x.is_floating_point() or not x.numel():
            return
        if not all(bool(extreme.isfinite()) for extreme in x.aminmax()):
            fault = self._nonfinite()
            if fault is not None:
                raise ValueError(f"{fault[0]}: {fault[1]}")

    def _nonfinite(self) -> tuple[Path, str] | None:
        """The first file that holds NaN or infinity, and in which of its rows; None if none is."""
        first = 0
        for name, n_rows in (self.files or {Path(): len(self._table.x)}).items():
            nonfinite = Nonfinite().look(self._table.x[first : first + n_rows])
            if nonfinite.count:
                return Path(self.path) / name, str(nonfinite)
            first += n_rows
        return None

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


def _nothing() -> None:
    """There is no file any more."""


def _chunks(x: Tensor) -> list[Tensor]:
    """Views of x (n, d), few rows each, so that float64 copies of them stay small."""
    rows = max(1, _CHUNK_ELEMENTS // x.shape[1])
    return [x[start : start + rows] for start in range(0, len(x), rows)]


def _mean_and_scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (1 for constant features) in float64, chunk by chunk."""
    origin = x[0].double()  # the variance of a constant feature is then exactly 0
    mean = sum(((rows.double() - origin).sum(0) for rows in _chunks(x)), torch.zeros(())) / len(x)
    squares = ((rows.double() - origin - mean).square().sum(0) for rows in _chunks(x))
    scale = (sum(squares, torch.zeros(())) / len(x)).sqrt()
    return origin + mean, torch.where(scale == 0, torch.ones_like(scale), scale)
