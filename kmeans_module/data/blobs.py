"""Normally distributed clusters."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from kmeans_module.checks import check_integer, check_number
from kmeans_module.data.base import RowsDataModule, Split, check_share

_TRAINING_ROWS_PER_VALIDATION_ROW = 5


class BlobDataModule(RowsDataModule):
    """Normally distributed clusters around random centers: data whose true labels are known.

    Centers are uniform in [-35, 35]^d, samples normal around them with covariance
    ``variance`` · I, training rows ordered by cluster. Outliers replace their share of the
    samples: they are uniform in [-100, 100]^d and their true label is -1. Validation rows, one for
    five training rows, are further draws from the same mixture.

    Args:
        n_clusters: number of centers k.
        n_features: number of features d.
        samples_per_cluster: training rows of each cluster, one number or a list of k.
        variance: of every feature within a cluster.
        outliers: share of the samples that belong to no cluster, in [0, 1).
        batch_size: rows per step over all processes; default all in one batch.
        shuffle: train on the rows in a new random order every epoch, as mini-batch k-means
            needs: rows ordered by cluster would make every batch a single cluster.
        seed: of the data and of the random orders.

    Raises:
        ValueError: an argument out of range; says which, what was expected and what came.

    Example:
        >>> from kmeans_module import BlobDataModule
        >>> data = BlobDataModule(n_clusters=3, samples_per_cluster=100, seed=0)
        >>> data.x.shape, data.target.unique(), data.validation_split.x.shape
        (torch.Size([300, 2]), tensor([0, 1, 2]), torch.Size([60, 2]))
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
        self.outliers = check_share("outliers", outliers)

    @property
    def n_features(self) -> int:
        """Number of features of a row."""
        return self._n_features

    @property
    def centers(self) -> Tensor:
        """True centers, (n_clusters, n_features)."""
        return self._mixture[0]

    @property
    def training_split(self) -> Split:
        return self._mixture[1]

    @property
    def validation_split(self) -> Split | None:
        return self._mixture[2]

    @cached_property
    def _mixture(self) -> tuple[Tensor, Split, Split | None]:
        generator = torch.Generator().manual_seed(self.seed)
        centers = torch.rand(self.n_clusters, self.n_features, generator=generator) * 70 - 35
        target = torch.arange(self.n_clusters).repeat_interleave(
            torch.tensor(self.samples_per_cluster)
        )
        training = self._sample(centers, target, generator)
        n_val = len(target) // _TRAINING_ROWS_PER_VALIDATION_ROW
        if n_val == 0:
            return centers, training, None
        evenly = torch.arange(n_val) * len(target) // n_val  # keeps the clusters' proportions
        return centers, training, self._sample(centers, target[evenly], generator)

    def _sample(self, centers: Tensor, target: Tensor, generator: torch.Generator) -> Split:
        noise = torch.randn(len(target), self.n_features, generator=generator)
        x = centers[target] + math.sqrt(self.variance) * noise
        n_outliers = round(self.outliers * len(target))
        if n_outliers:
            outliers = torch.randperm(len(target), generator=generator)[:n_outliers]
            x[outliers] = torch.rand(n_outliers, self.n_features, generator=generator) * 200 - 100
            target = target.index_fill(0, outliers, -1)
        return Split(x, target)
