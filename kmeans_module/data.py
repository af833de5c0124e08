"""Where the data come from: blobs, files of rows, pictures; one LightningDataModule each."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor

from kmeans_module import io
from kmeans_module.batches import BatchLoader
from kmeans_module.validation import check_integer, check_number, locate_nonfinite

_CHUNK = 2**22  # numbers held in float64 at a time
_VALIDATION_PART = 5


class _Rows(NamedTuple):
    x: Tensor
    target: Tensor | None = None


class _NoBatches(CombinedLoader):
    """Nothing to iterate over; Lightning takes it in silence, where an empty list makes it warn."""

    flattened: list[object] = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__([], "sequential")

    def __len__(self) -> int:
        return 0


class _RowsDataModule(LightningDataModule):
    """Hands out batches of the training and validation rows; a subclass says which rows.

    The rows are made or read once, when they are first asked for, in every process alike, and
    each process iterates over its own share. Works without a Trainer too:
    ``data.setup("fit"); for batch in data.train_dataloader(): ...``.
    """

    def __init__(self, batch_size: int | None, shuffle: bool, seed: int) -> None:
        super().__init__()
        if batch_size is not None:
            check_integer("batch_size", batch_size, minimum=1)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = check_integer("seed", seed, minimum=0)

    @property
    def _training(self) -> _Rows:
        raise NotImplementedError

    @property
    def _validation(self) -> _Rows | None:
        return None

    @property
    def x(self) -> Tensor:
        """Training rows in order, (n_samples, n_features)."""
        return self._training.x

    @property
    def target(self) -> Tensor | None:
        """True labels of the training rows, (n_samples,) int64, where the data know them."""
        return self._training.target

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
        """Make or read the rows, unless that has been done."""
        _ = self._training

    def train_dataloader(self) -> BatchLoader:
        return self._loader(self._training, shuffle=self.shuffle)

    def val_dataloader(self) -> BatchLoader | CombinedLoader:
        """The validation rows, or no batches at all, and Lightning skips the validation."""
        return _NoBatches() if self._validation is None else self._loader(self._validation)

    def test_dataloader(self) -> BatchLoader:
        """The validation rows if there are any, else the training rows."""
        return self._loader(self._validation or self._training)

    def predict_dataloader(self) -> BatchLoader:
        """The training rows in order, so that predictions line up with :attr:`x`."""
        return self._loader(self._training)

    def _loader(self, rows: _Rows, shuffle: bool = False) -> BatchLoader:
        trainer = self.trainer
        return BatchLoader(
            rows.x,
            batch_size=self.batch_size,
            target=rows.target,
            shuffle=shuffle,
            seed=self.seed,
            rank=0 if trainer is None else trainer.global_rank,
            world_size=1 if trainer is None else trainer.world_size,
        )


class BlobDataModule(_RowsDataModule):
    """Normally distributed clusters around random centres: data whose true labels are known.

    Centres are uniform in [-35, 35]^d, samples normal around them with covariance
    ``variance`` · I, training rows ordered by cluster. Outliers replace their share of the
    samples: they are uniform in [-100, 100]^d and their true label is -1. Validation rows, one for
    five training rows, are further draws from the same mixture.

    Args:
        n_clusters: number of centres k.
        n_features: number of features d.
        samples_per_cluster: training rows of each cluster, one number or a list of k.
        variance: of every feature within a cluster.
        outliers: share of the samples that belong to no cluster, in [0, 1).
        batch_size: rows per step over all processes; default all in one batch.
        shuffle: train on the rows in a new random order every epoch, as mini-batch k-means
            needs: one cluster after the other is no way to learn.
        seed: of the data and of the random orders.

    Raises:
        ValueError: an argument out of range; says which, what was expected and what came.
    """

    def __init__(
        self,
        *,
        n_clusters: int = 6,
        n_features: int = 2,
        samples_per_cluster: int | list[int] = 250,
        variance: float = 30.0,
        outliers: float = 0.0,
        batch_size: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, shuffle, seed)
        self.n_clusters = check_integer("n_clusters", n_clusters, minimum=1)
        self._n_features = check_integer("n_features", n_features, minimum=1)
        sizes = samples_per_cluster
        sizes = list(sizes) if isinstance(sizes, list | tuple) else [sizes] * n_clusters
        if len(sizes) != n_clusters:
            raise ValueError(
                f"samples_per_cluster should be one number or n_clusters={n_clusters} of them; "
                f"got {len(sizes)}"
            )
        self.samples_per_cluster = [
            check_integer("samples_per_cluster", size, minimum=1) for size in sizes
        ]
        self.variance = check_number("variance", variance, minimum=0)
        self.outliers = _check_share("outliers", outliers)

    @property
    def n_features(self) -> int:
        """Number of features of a row."""
        return self._n_features

    @property
    def centers(self) -> Tensor:
        """True centres, (n_clusters, n_features)."""
        return self._mixture[0]

    @property
    def _training(self) -> _Rows:
        return self._mixture[1]

    @property
    def _validation(self) -> _Rows | None:
        return self._mixture[2]

    @cached_property
    def _mixture(self) -> tuple[Tensor, _Rows, _Rows | None]:
        generator = torch.Generator().manual_seed(self.seed)
        centers = torch.rand(self.n_clusters, self.n_features, generator=generator) * 70 - 35
        target = torch.arange(self.n_clusters).repeat_interleave(
            torch.tensor(self.samples_per_cluster)
        )
        training = self._sample(centers, target, generator)
        n_val = len(target) // _VALIDATION_PART
        if n_val == 0:
            return centers, training, None
        every = torch.arange(n_val) * len(target) // n_val  # keeps the clusters' proportions
        return centers, training, self._sample(centers, target[every], generator)

    def _sample(self, centers: Tensor, target: Tensor, generator: torch.Generator) -> _Rows:
        noise = torch.randn(len(target), self.n_features, generator=generator)
        x = centers[target] + math.sqrt(self.variance) * noise
        n_outliers = round(self.outliers * len(target))
        if n_outliers:
            outliers = torch.randperm(len(target), generator=generator)[:n_outliers]
            x[outliers] = torch.rand(n_outliers, self.n_features, generator=generator) * 200 - 100
            target = target.index_fill(0, outliers, -1)
        return _Rows(x, target)


class ArrayDataModule(_RowsDataModule):
    """Rows of a .npy, .npz, .csv, .parquet, .safetensors or .pt file, without unpickling.

    A .npy or .pt file is mapped into memory and not copied, unless columns are chosen, rows
    are held out or features are standardised. Training rows keep the order of the file.

    Args:
        path: the file; its suffix says the format.
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
            see :func:`kmeans_module.io.read_array`.
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
        self.val_share = _check_share("val_share", val_share)

    @property
    def n_features(self) -> int:
        """Number of features of a row; reads the file, or maps it, on first use."""
        return self._table.x.shape[1]

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
    def _table(self) -> io.Table:
        return io.read_table(self.path, columns=self.columns, key=self.key)

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
    def _training(self) -> _Rows:
        return _Rows(self._standardized(self._rows(~self._held_out)))

    @cached_property
    def _validation(self) -> _Rows | None:
        if not self._held_out.any():
            return None
        return _Rows(self._standardized(self._rows(self._held_out)))

    def _rows(self, mask: Tensor) -> Tensor:
        return self._table.x if mask.all() else self._table.x[mask]

    def _standardized(self, x: Tensor) -> Tensor:
        if not self.standardize:
            return x
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        standardized = torch.empty(x.shape, dtype=dtype)
        for rows, out in zip(_chunks(x), _chunks(standardized), strict=True):
            out.copy_((rows.double() - self.mean) / self.scale)
        return standardized


class ImageDataModule(_RowsDataModule):
    """The pixels of a picture, or of all pictures in a folder: rows of red, green and blue.

    Rows are float32 in [0, 1], picture by picture, each from its top left to its bottom right.

    Args:
        path: an image file or a folder of them.
        batch_size: pixels per step over all processes; default all in one batch.
        shuffle: train on the pixels in a new random order every epoch.
        seed: of the random orders.

    Raises:
        ValueError: an argument out of range or, when the pictures are read, one that cannot be.
    """

    def __init__(
        self,
        *,
        path: str,
        batch_size: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, shuffle, seed)
        self.path = path

    @property
    def n_features(self) -> int:
        """3: red, green, blue."""
        return 3

    @property
    def feature_names(self) -> list[str]:
        """red, green, blue."""
        return ["red", "green", "blue"]

    @cached_property
    def image_files(self) -> list[Path]:
        """The pictures in the order of their rows."""
        return io.image_files(self.path)

    @property
    def image_shapes(self) -> list[tuple[int, int]]:
        """(H, W) of each picture: its pixels are H·W consecutive rows."""
        return self._pictures[1]

    @property
    def _training(self) -> _Rows:
        return self._pictures[0]

    @cached_property
    def _pictures(self) -> tuple[_Rows, list[tuple[int, int]]]:
        images = [io.read_image(file) for file in self.image_files]
        pixels = [image.reshape(-1, 3) for image in images]
        x = pixels[0] if len(pixels) == 1 else torch.cat(pixels)
        return _Rows(x), [(image.shape[0], image.shape[1]) for image in images]


def _check_share(name: str, value: float) -> float:
    if check_number(name, value, minimum=0, maximum=1) == 1:
        raise ValueError(f"{name} should be less than 1; got {value}")
    return value


def _chunks(x: Tensor) -> list[Tensor]:
    rows = max(1, _CHUNK // x.shape[1])
    return [x[start : start + rows] for start in range(0, len(x), rows)]


def _mean_and_scale(x: Tensor, path: str) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (1 for constant features) in float64, chunk by chunk."""
    origin = x[0].double()  # the variance of a constant feature is then exactly 0
    mean = sum(((rows.double() - origin).sum(0) for rows in _chunks(x)), torch.zeros(())) / len(x)
    squares = ((rows.double() - origin - mean).square().sum(0) for rows in _chunks(x))
    scale = (sum(squares, torch.zeros(())) / len(x)).sqrt()
    if not bool(scale.isfinite().all()):
        reason = locate_nonfinite(x) or "the variance overflows float64"
        raise ValueError(f"{path}: cannot standardise: {reason}")
    return origin + mean, torch.where(scale == 0, torch.ones_like(scale), scale)
