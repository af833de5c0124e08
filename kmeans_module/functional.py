r"""The mathematics of k-means as pure functions.

Lloyd's algorithm minimises the inertia :math:`\sum_i w_i \min_j \|x_i - c_j\|^2` by turns:
the E-step assigns every sample to its nearest centroid, the M-step moves every centroid to
the mean of its samples. Neither step can raise the inertia.

Shapes: ``batch_shape`` stands for independent problems and may be empty. Centroids are
(*batch_shape, k, d), samples (*batch_shape, n, d), or (n, d) where all problems share them.

Source: S. P. Lloyd, Least squares quantization in PCM, IEEE Trans. Inf. Theory 28, 1982.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kmeans_module.backends import (
    ClusterStats,
    EStep,
    Workspace,
    compute_dtype,
    full_precision,
    prepare,
    unit_rows,
)
from kmeans_module.core.empty_clusters import refill

METRICS = ("euclidean", "cosine")


def workspace(
    x: Tensor,
    sample_weight: Tensor | None = None,
    *,
    metric: str = "euclidean",
    n_batch_dims: int,
    once: bool = False,
) -> Workspace:
    """A workspace whose problems are the batch dimensions of x, flattened."""
    if x.ndim > 2:
        x = x.flatten(0, n_batch_dims - 1) if n_batch_dims else x.unsqueeze(0)
    if sample_weight is not None and sample_weight.ndim > 1:
        sample_weight = sample_weight.flatten(0, -2)
    return prepare(x, sample_weight, metric=metric, once=once)


@torch.no_grad()
def e_step(
    x: Tensor, centroids: Tensor, sample_weight: Tensor | None = None, *, metric: str = "euclidean"
) -> EStep:
    """Assign every sample to its nearest centroid and sum up the clusters.

    Args:
        x: samples, (*batch_shape, n, d) or (n, d).
        centroids: (*batch_shape, k, d).
        sample_weight: (*batch_shape, n) or (n,); None for weight 1.
        metric: "euclidean", or "cosine" with centroids of unit length.

    Returns:
        labels (*batch_shape, n) int64, squared distances (*batch_shape, n), and the
        statistics that the M-step needs.

    Example:
        >>> import torch
        >>> step = e_step(torch.tensor([[0.0], [1.0], [9.0]]), torch.tensor([[0.0], [10.0]]))
        >>> step.labels, step.stats.inertia
        (tensor([0, 0, 1]), tensor(2., dtype=torch.float64))
    """
    batch_shape = centroids.shape[:-2]
    space = workspace(x, sample_weight, metric=metric, n_batch_dims=len(batch_shape), once=True)
    step = space.e_step(centroids.reshape(-1, *centroids.shape[-2:]))
    return EStep(
        step.labels.reshape(*batch_shape, -1),
        step.distances.reshape(*batch_shape, -1),
        step.stats.reshape(batch_shape),
    )


@torch.no_grad()
def update_centroids(
    centroids: Tensor,
    counts: Tensor,
    stats: ClusterStats,
    *,
    decay: float = 0.0,
    empty_cluster: str = "relocate",
    metric: str = "euclidean",
) -> tuple[Tensor, Tensor, Tensor]:
    r"""The M-step of all kinds of k-means.

    .. math::
        c \leftarrow \frac{\lambda\,n\,c + \sum_i w_i x_i}{\lambda\,n + \sum_i w_i}, \qquad
        n \leftarrow \lambda\,n + \sum_i w_i

    λ = ``decay`` = 0 is Lloyd's, 1 the mini-batch update of Sculley (Web-scale k-means
    clustering, WWW 2010), between them the moving average that learns codebooks.

    Args:
        centroids: (*batch_shape, k, d).
        counts: what the centroids weigh so far, (*batch_shape, k).
        stats: of the E-step, with leading batch_shape.
        decay: λ, from 0 to 1.
        empty_cluster: what becomes of clusters that weigh nothing: "relocate" to the farthest
            samples, "split" the heaviest cluster, "keep" the centroid, or raise an "error".
        metric: "cosine" scales the new centroids to unit length.

    Returns:
        centroids, counts, and the shift Σ‖c_new - c_old‖², (*batch_shape) float64.

    Raises:
        EmptyClusterError: a cluster is empty and empty_cluster is "error".
    """
    batch_shape, (k, d) = centroids.shape[:-2], centroids.shape[-2:]
    old_counts = counts.reshape(-1, k) * decay if decay else None
    new, new_counts, shift = m_step(
        centroids.reshape(-1, k, d), stats.reshape((-1,)), old_counts,
        empty_cluster=empty_cluster, metric=metric,
    )  # fmt: skip
    return (
        new.reshape(*batch_shape, k, d),
        new_counts.clone().reshape(*batch_shape, k),  # not those of stats
        shift.reshape(batch_shape),
    )


def m_step(
    centroids: Tensor,
    stats: ClusterStats,
    old_counts: Tensor | None = None,
    *,
    empty_cluster: str,
    metric: str,
    some_empty: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`update_centroids` of P problems, (P, k, d); old_counts, (P, k), are decayed already.

    Without some_empty the caller knows that every cluster of stats weighs something.
    """
    dtype = centroids.dtype
    old = centroids.to(stats.sums.dtype)
    sums, counts = stats.sums, stats.counts
    if old_counts is not None:
        sums = sums.addcmul(old, old_counts.unsqueeze(-1))
        counts = counts + old_counts
    sums, counts = refill(old, sums, counts, stats, policy=empty_cluster, dtype=dtype)
    divisor = counts.unsqueeze(-1)
    weighs = divisor > 0
    new = sums / (divisor.where(weighs, 1.0) if some_empty else divisor)
    del sums  # k·d numbers, like every tensor here: few of them may live at once
    if metric == "cosine":
        weighs = weighs & (new != 0).any(dim=-1, keepdim=True)
        new = unit_rows(new)
    if some_empty or metric == "cosine":
        new = new.where(weighs, old)
    new = new.to(dtype)
    shift = (new - old).square_().sum(dim=(-2, -1))
    return new, counts, shift


def inertia(
    x: Tensor, centroids: Tensor, sample_weight: Tensor | None = None, *, metric: str = "euclidean"
) -> Tensor:
    """Weighted sum of the squared distances of samples to their nearest centroid, (*batch_shape).

    Example:
        >>> import torch
        >>> inertia(torch.tensor([[0.0], [1.0], [9.0]]), torch.tensor([[0.0], [10.0]]))
        tensor(2., dtype=torch.float64)
    """
    return e_step(x, centroids, sample_weight, metric=metric).stats.inertia


def pairwise_distances(x: Tensor, centroids: Tensor, *, metric: str = "euclidean") -> Tensor:
    """Squared distance of every sample to every centroid, differentiable.

    Args:
        x: (..., m, d).
        centroids: (..., k, d); leading dimensions broadcast with those of x.
        metric: "euclidean", or "cosine": 1 - cos, and 1 for a zero row.

    Returns:
        (..., m, k).
    """
    dtype = compute_dtype(x, centroids)
    x, centroids = x.to(dtype), centroids.to(dtype)
    with full_precision(x.device):
        if metric == "cosine":
            return 1 - unit_rows(x) @ unit_rows(centroids).transpose(-1, -2)
        exact = "donot_use_mm_for_euclid_dist"
        return torch.cdist(x, centroids, compute_mode=exact).square()
