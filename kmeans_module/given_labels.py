"""Statistics of labels that are given, wherever centroids are."""

from __future__ import annotations

import torch
from torch import Tensor

from kmeans_module import backends
from kmeans_module import checks as check
from kmeans_module.core import distances
from kmeans_module.core.distances import compute_dtype, squared_norms, unit_rows
from kmeans_module.core.guard import for_other_inputs, no_values, under_mode, without_gradients
from kmeans_module.core.label_stats import LabelStats
from kmeans_module.core.metrics import METRICS, in_space
from kmeans_module.core.sparse import rows_in
from kmeans_module.core.statistics import (
    MAX_FARTHEST,
    Farthest,
    accumulator_dtype,
    find_farthest,
    gather_rows,
    no_farthest,
)


@without_gradients
def label_stats(
    x: Tensor,
    labels: Tensor,
    n_clusters: int,
    sample_weight: Tensor | None = None,
    *,
    centroids: Tensor | None = None,
    metric: str = "euclidean",
) -> LabelStats:
    """Sums, counts, means and mean distances of given labels: what an M-step needs of them.

    The samples need not be those that were clustered, nor have as many features: with labels of
    one space the means are centers in another one.

    Args:
        x: samples, (*batch_shape, n, d) or (n, d), the latter sparse too.
        labels: integers from 0 to k - 1, (*batch_shape, n); a sample of label -1 belongs to no
            cluster and counts nowhere.
        n_clusters: number of clusters, k.
        sample_weight: (*batch_shape, n) or (n,); None for weight 1.
        centroids: that distances are to, (*batch_shape, k, d); None for the means of the labels,
            at unit length where the metric is "cosine".
        metric: "cosine" for the sums of rows at unit length, and distances 1 - cos.

    Returns:
        sums (*batch_shape, k, d), counts (*batch_shape, k), inertia (*batch_shape) and inertias
        (*batch_shape, k) in float64; means and mean_distances. The same call gives the same bits,
        on CUDA where the Triton backend serves.

    Raises:
        ValueError: bad shapes; labels out of range, which are looked at on all devices, but not in
            compiled code.

    Example:
        >>> import torch
        >>> x, labels = torch.tensor([[0.0], [2.0], [9.0]]), torch.tensor([0, 0, 1])
        >>> stats = label_stats(x, labels, 2)
        >>> stats.means.flatten(), stats.mean_distances
        (tensor([1., 9.], dtype=torch.float64), tensor([1., 0.], dtype=torch.float64))
    """
    k = check.check_integer("n_clusters", n_clusters, minimum=1)
    check.check_choice("metric", metric, tuple(METRICS))
    labels = check.check_tensor("labels", labels)
    if labels.dtype.is_floating_point or labels.dtype == torch.bool:
        raise TypeError(f"labels should be integers; got {labels.dtype}")
    x = check.check_rows(x, sparse=True)
    batch_shape = tuple(labels.shape[:-1])
    if x.ndim < 2 or not labels.ndim:
        raise ValueError(
            "x should have shape (*batch_shape, n, d), and labels (*batch_shape, n); "
            f"got {tuple(x.shape)} and {tuple(labels.shape)}"
        )
    x = check.check_samples(x, x.shape[-1], batch_shape, sparse=True)
    if x.shape[-2] != labels.shape[-1]:
        raise ValueError(
            f"labels should be one for each of {x.shape[-2]} samples; got {tuple(labels.shape)}"
        )
    check.check_device("labels", labels, x.device)
    _check_range(labels, k)
    sample_weight = check.check_sample_weight(sample_weight, x, batch_shape)
    if centroids is not None:
        centroids = check.check_centroids(centroids)
        shape = (*batch_shape, k, x.shape[-1])
        if centroids.shape != shape:
            raise ValueError(f"centroids should have shape {shape}; got {tuple(centroids.shape)}")
        check.check_device("x", x, centroids.device)
        centroids = centroids.reshape(-1, *shape[-2:])
    x = in_space(x, metric)
    given = _Given(
        x.flatten(0, -3) if x.ndim > 3 else x,
        _two_dimensional(labels).long(),
        None if sample_weight is None else _two_dimensional(sample_weight),
        k,
        dtype=compute_dtype(x, x.dtype if centroids is None else centroids.dtype),
        cosine=METRICS[metric].kernel == "cosine",
    )
    return given.stats(centroids).reshape(batch_shape)


def _two_dimensional(values: Tensor) -> Tensor:
    """Values (*batch_shape, n) as (P, n)."""
    return values.flatten(0, -2) if values.ndim > 1 else values.unsqueeze(0)


def _check_range(labels: Tensor, k: int) -> None:
    if not labels.numel() or no_values(labels) is not None:
        return
    lowest, highest = torch.stack(labels.aminmax()).tolist()
    if lowest < -1 or highest >= k:
        raise ValueError(
            f"labels should be from 0 to {k - 1}, or -1 for none; got {lowest} to {highest}"
        )


class _Given:
    """Labels (P, n) of rows (n, d) or (P, n, d), which may weigh (1 or P, n)."""

    def __init__(
        self,
        x: Tensor,
        labels: Tensor,
        sample_weight: Tensor | None,
        k: int,
        *,
        dtype: torch.dtype,
        cosine: bool,
    ) -> None:
        self.x = x
        self.labels = labels
        self.sample_weight = sample_weight
        self.k = k
        self.dtype = dtype
        self.cosine = cosine

    def stats(self, centroids: Tensor | None) -> LabelStats:
        sums, counts = self._sums()
        if centroids is None:
            centroids = sums / counts.where(counts > 0, 1.0).unsqueeze(-1)
            centroids = unit_rows(centroids) if self.cosine else centroids
        centroids = centroids.to(self.dtype)
        inertias, measured = self._inertias(centroids)
        farthest = self._farthest(measured, counts)
        return LabelStats(sums, counts, inertias.sum(dim=-1), farthest, inertias=inertias)

    def _parts(self) -> list[slice]:
        """Rows that are looked at together."""
        n = self.labels.shape[-1]
        if for_other_inputs():
            return [slice(None)]
        kind = "cpu" if self.x.device.type == "cpu" else "accelerator"
        numbers = len(self.labels) * self.x.shape[-1]
        size = max(1, distances.CHUNK_ELEMENTS[kind] // max(1, numbers))
        return [slice(first, min(first + size, n)) for first in range(0, n, size)]

    def _rows(self, part: slice) -> tuple[Tensor, Tensor]:
        """Rows (P, r, d) as distances take them, 0 where they have no label; and their weights
        (P, r)."""
        labels = self.labels[:, part]
        rows = rows_in(self.x, part).to(self.dtype)
        rows = (backends.unit_rows(rows) if self.cosine else rows).expand(*labels.shape, -1)
        counted = labels >= 0
        rows = rows.where(counted.unsqueeze(-1), 0.0)
        if self.cosine:
            counted = counted & (rows != 0).any(dim=-1)
        weights = counted.to(accumulator_dtype(rows.device))
        if self.sample_weight is not None:
            weights = weights * self.sample_weight[:, part]
        return rows, weights

    def _totals(self, values: Tensor, weights: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """Sums (P, k, d) and counts (P, k) of values (P, r, d), which add up in a fixed order."""
        # What has no label is a cluster of its own, which nobody sees.
        labels = self.labels[:, part]
        labels = labels.where(labels >= 0, self.k)
        totals = backends.workspace(values, weights, once=True).sums_of(labels, self.k + 1)
        return totals.sums[:, : self.k], totals.counts[:, : self.k]

    def _sums(self) -> tuple[Tensor, Tensor]:
        exact = accumulator_dtype(self.x.device)
        shape = (len(self.labels), self.k)
        sums = torch.zeros((*shape, self.x.shape[-1]), dtype=exact, device=self.x.device)
        counts = sums.new_zeros(shape)
        for part in self._parts():
            more, weights = self._totals(*self._rows(part), part)
            sums, counts = sums + more, counts + weights
        return sums, counts

    def _inertias(self, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """Sums by label (P, k) of the distances to centroids (P, k, d), and all of them (P, n)."""
        inertias = torch.zeros(
            centroids.shape[:2], dtype=accumulator_dtype(self.x.device), device=self.x.device
        )
        measured = []
        for part in self._parts():
            rows, weights = self._rows(part)
            others = gather_rows(centroids, self.labels[:, part].clamp(min=0))
            to_centroids = squared_norms(rows - others)
            if self.cosine:
                to_centroids = (to_centroids / 2).where((rows != 0).any(dim=-1), 1.0)
            measured.append(to_centroids)
            inertias = inertias + self._totals(to_centroids.unsqueeze(-1), weights, part)[0][..., 0]
        return inertias, torch.cat(measured, dim=-1) if measured else inertias[:, :0]

    def _farthest(self, measured: Tensor, counts: Tensor) -> Farthest | None:
        """The farthest samples, for clusters that are empty; see :class:`ClusterStats`."""
        d, m = self.x.shape[-1], min(self.k, MAX_FARTHEST)
        if under_mode() is not None or measured.is_meta:
            return no_farthest(self.labels[:, :0], measured[:, :0], n_features=d, m=m)
        if counts.device.type == "cpu" and bool((counts > 0).all()):
            return None
        return find_farthest(self._rows, self.labels, measured, n_features=d, m=m)
