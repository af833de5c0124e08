r"""The mathematics of k-means as pure functions.

Lloyd's algorithm minimizes the inertia :math:`\sum_i w_i \min_j \|x_i - c_j\|^2` by turns:
the E-step assigns every sample to its nearest centroid, the M-step moves every centroid to
the mean of its samples. Neither step can raise the inertia.

Shapes: ``batch_shape`` stands for independent problems and may be empty. Centroids are
(*batch_shape, k, d), samples (*batch_shape, n, d), or (n, d) where all problems share them.
Samples (n, d) may be sparse, of layout torch.sparse_csr: they are never made dense as a whole, and
have no gradients.

Source: S. P. Lloyd, Least squares quantization in PCM, IEEE Trans. Inf. Theory 28, 1982.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from kmeans_module import backends
from kmeans_module import checks as check
from kmeans_module.backends import Workspace, sparse_distances, workspace
from kmeans_module.core import distances
from kmeans_module.core.empty_clusters import POLICIES, EmptyClusterError
from kmeans_module.core.guard import without_gradients
from kmeans_module.core.m_step import m_step
from kmeans_module.core.metrics import METRICS, in_space
from kmeans_module.core.neighbors import Neighbors
from kmeans_module.core.soft import check_soft, in_chunks, shares_of, soft_shares
from kmeans_module.core.sparse import is_sparse
from kmeans_module.core.statistics import ClusterStats, EStep
from kmeans_module.given_labels import label_stats

__all__ = [
    "assign",
    "decode",
    "e_step",
    "inertia",
    "label_stats",
    "pairwise_distances",
    "search",
    "soft_assign",
    "update_centroids",
]


@without_gradients
def assign(
    x: Tensor, centroids: Tensor, *, metric: str = "euclidean"
) -> tuple[Tensor, Tensor | bool]:
    """Labels of the nearest centroids; ties go to the lowest index.

    Args:
        x: samples, (*batch_shape, n, d) or (n, d).
        centroids: (*batch_shape, k, d).
        metric: "euclidean", or "cosine" with centroids of unit length.

    Returns:
        labels (*batch_shape, n) int64, and whether every sample had a finite distance, ().

    Example:
        >>> import torch
        >>> assign(torch.tensor([[0.0], [9.0]]), torch.tensor([[0.0], [10.0]]))[0]
        tensor([0, 1])
    """
    space, flat = _prepared(x, centroids, None, metric)
    labels, finite = space.assign(flat)
    return _shaped(labels, centroids), finite


@without_gradients
def e_step(
    x: Tensor,
    centroids: Tensor,
    sample_weight: Tensor | None = None,
    *,
    metric: str = "euclidean",
    start: int = 0,
) -> EStep:
    """Assign every sample to its nearest centroid and sum up the clusters.

    Args:
        x: samples, (*batch_shape, n, d) or (n, d).
        centroids: (*batch_shape, k, d).
        sample_weight: (*batch_shape, n) or (n,); None for weight 1.
        metric: "euclidean", or "cosine" with centroids of unit length.
        start: number of the first row where x is a part of the data.

    Returns:
        labels (*batch_shape, n) int64, squared distances (*batch_shape, n), and the
        statistics that the M-step needs.

    Example:
        >>> import torch
        >>> step = e_step(torch.tensor([[0.0], [1.0], [9.0]]), torch.tensor([[0.0], [10.0]]))
        >>> step.labels, step.stats.inertia
        (tensor([0, 0, 1]), tensor(2., dtype=torch.float64))
    """
    start = check.check_integer("start", start, minimum=0)
    space, flat = _prepared(x, centroids, sample_weight, metric)
    return space.e_step(flat, start=start).reshape(centroids.shape[:-2])


@without_gradients
def update_centroids(
    centroids: Tensor,
    counts: Tensor,
    stats: ClusterStats,
    *,
    decay: float = 0.0,
    empty_cluster: str = "relocate",
    metric: str = "euclidean",
) -> tuple[Tensor, Tensor, Tensor]:
    r"""The M-step of all kinds of k-means; see :mod:`kmeans_module.core.m_step`.

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

    Example:
        >>> import torch
        >>> centroids = torch.tensor([[0.0], [10.0]])
        >>> stats = e_step(torch.tensor([[0.0], [1.0], [9.0]]), centroids).stats
        >>> update_centroids(centroids, torch.zeros(2), stats)[0].flatten()
        tensor([0.5000, 9.0000])
    """
    centroids = check.check_centroids(centroids)
    stats = check.check_statistics(stats, centroids)
    decay = check.check_number("decay", decay, minimum=0, maximum=1)
    check.check_choice("empty_cluster", empty_cluster, POLICIES)
    check.check_choice("metric", metric, tuple(METRICS))
    counts = check.check_tensor("counts", counts)
    if counts.shape != centroids.shape[:-1]:
        raise ValueError(
            f"counts should have shape {tuple(centroids.shape[:-1])}; got {tuple(counts.shape)}"
        )
    batch_shape, (k, d) = centroids.shape[:-2], centroids.shape[-2:]
    old_counts = counts.reshape(-1, k) * decay if decay else None
    try:
        new, new_counts, shift = m_step(
            centroids.reshape(-1, k, d), stats.reshape((-1,)), old_counts,
            empty_cluster=empty_cluster, metric=METRICS[metric].kernel,
        )  # fmt: skip
    except EmptyClusterError as error:
        raise error.named(batch_shape) from None
    return (
        new.reshape(*batch_shape, k, d),
        new_counts.clone().reshape(*batch_shape, k),  # not those of stats
        shift.reshape(batch_shape),
    )


def inertia(
    x: Tensor, centroids: Tensor, sample_weight: Tensor | None = None, *, metric: str = "euclidean"
) -> Tensor:
    """Weighted sum of the squared distances of samples to their nearest centroid.

    Args:
        x, centroids, sample_weight, metric: see :func:`e_step`.

    Returns:
        (*batch_shape) float64.

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

    Example:
        >>> import torch
        >>> pairwise_distances(torch.tensor([[0.0], [9.0]]), torch.tensor([[0.0], [10.0]]))
        tensor([[  0., 100.],
                [ 81.,   1.]])
    """
    x, centroids = _broadcast(x, centroids, metric)
    kernel = METRICS[metric].kernel
    if is_sparse(x):
        flat = centroids.reshape(-1, centroids.shape[-1])
        to_all = sparse_distances(x, flat, metric=kernel)
        return to_all.view(len(x), *centroids.shape[:-1]).movedim(0, -2)
    return distances.pairwise_distances(x, centroids, metric=kernel)


@without_gradients
def search(x: Tensor, centroids: Tensor, m: int, *, metric: str = "euclidean") -> Neighbors:
    """The m nearest centroids of every sample, the nearest first; ties go to the lowest index.

    Args:
        x: samples, (*batch_shape, n, d) or (n, d).
        centroids: (*batch_shape, k, d).
        m: how many, from 1 to k.
        metric: "euclidean", or "cosine" with centroids of unit length.

    Returns:
        distances and labels, (*batch_shape, n, m), in chunks of rows: no memory of n × k. The
        first are those of :func:`e_step`. Neither has a gradient; see :func:`pairwise_distances`.

    Example:
        >>> import torch
        >>> x, centroids = torch.tensor([[0.0], [9.0]]), torch.tensor([[0.0], [10.0], [2.0]])
        >>> search(x, centroids, 2)
        Neighbors(distances=tensor([[ 0.,  4.],
                [ 1., 49.]]), labels=tensor([[0, 2],
                [1, 2]]))
    """
    x, _, flat = _flat(x, centroids, None, metric)
    m = check.check_integer("m", m, minimum=1)
    if m > flat.shape[1]:
        raise ValueError(f"m should be <= n_clusters={flat.shape[1]}; got {m}")
    find = partial(backends.search, m=m, metric=METRICS[metric].kernel)
    found = Neighbors(*in_chunks(find, x, flat)) if is_sparse(x) else find(x, flat)
    return found.reshape(*centroids.shape[:-2], x.shape[-2])


def soft_assign(
    x: Tensor,
    centroids: Tensor,
    *,
    temperature: float = 1.0,
    kernel: str = "softmax",
    metric: str = "euclidean",
) -> Tensor:
    """Shares of the clusters in each sample; gradients flow to samples and centroids.

    Args:
        x: (..., m, d).
        centroids: (..., k, d); leading dimensions broadcast with those of x.
        temperature: T of "softmax", degrees of freedom of "student-t"; more than 0.
        kernel: "softmax" of -distance / T, or "student-t"; see :mod:`kmeans_module.core.soft`.
        metric: "euclidean", or "cosine": distances 1 - cos.

    Returns:
        (..., m, k); each row sums to 1.

    Raises:
        ValueError: unknown kernel, temperature not above 0.

    Example:
        >>> import torch
        >>> soft_assign(torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [2.0]]))
        tensor([[0.5000, 0.5000],
                [0.9820, 0.0180]])
    """
    x, centroids = _broadcast(x, centroids, metric)
    if is_sparse(x):  # products give their distances, and no row is made dense
        check_soft(temperature, kernel)
        return shares_of(pairwise_distances(x, centroids, metric=metric), temperature, kernel)
    return soft_shares(
        x, centroids, temperature=temperature, kernel=kernel, metric=METRICS[metric].kernel
    )


def decode(labels: Tensor, centroids: Tensor) -> Tensor:
    """The centroids of labels, differentiable.

    Args:
        labels: (*batch_shape, n), or of any shape without batch_shape.
        centroids: (*batch_shape, k, d).

    Returns:
        labels' shape, then d.

    Example:
        >>> import torch
        >>> decode(torch.tensor([1, 1, 0]), torch.tensor([[0.0], [10.0]])).flatten()
        tensor([10., 10.,  0.])
    """
    centroids = check.check_centroids(centroids)
    labels = check.check_labels(labels, centroids.shape[-2], tuple(centroids.shape[:-2]))
    check.check_device("labels", labels, centroids.device)
    if centroids.ndim == 2:
        return centroids[labels]
    index = labels.unsqueeze(-1).expand(*labels.shape, centroids.shape[-1])
    return centroids.gather(-2, index)


def _prepared(
    x: Tensor, centroids: Tensor, sample_weight: Tensor | None, metric: str
) -> tuple[Workspace, Tensor]:
    """A workspace whose problems are the batch dimensions, flattened, and the centroids so."""
    x, sample_weight, centroids = _flat(x, centroids, sample_weight, metric)
    space = workspace(
        x, sample_weight, metric=METRICS[metric].kernel, once=True, centroids=centroids
    )
    return space, centroids


def _flat(
    x: Tensor, centroids: Tensor, sample_weight: Tensor | None, metric: str
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Rows in the space of the metric, weights and centroids, with an axis of problems in place of
    the batch dimensions."""
    check.check_choice("metric", metric, tuple(METRICS))
    centroids = check.check_centroids(centroids)
    batch_shape = tuple(centroids.shape[:-2])
    x = check.check_samples(x, centroids.shape[-1], batch_shape, sparse=True)
    check.check_device("x", x, centroids.device)
    sample_weight = check.check_sample_weight(sample_weight, x, batch_shape)
    x = in_space(x, metric)
    if centroids.ndim > 3:
        x = x.flatten(0, -3) if x.ndim > 2 else x
        if sample_weight is not None and sample_weight.ndim > 1:
            sample_weight = sample_weight.flatten(0, -2)
        centroids = centroids.flatten(0, -3)
    elif centroids.ndim == 2:
        centroids = centroids.unsqueeze(0)
    return x, sample_weight, centroids


def _broadcast(x: Tensor, centroids: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """Rows in the space of the metric, and centroids, whose leading dimensions broadcast."""
    check.check_choice("metric", metric, tuple(METRICS))
    centroids = check.check_centroids(centroids)
    x = check.check_broadcast(x, centroids)
    return in_space(x, metric), centroids


def _shaped(values: Tensor, centroids: Tensor) -> Tensor:
    """Values (P, n) with the batch_shape of the centroids in place of P."""
    return values[0] if centroids.ndim == 2 else values.reshape(*centroids.shape[:-2], -1)
