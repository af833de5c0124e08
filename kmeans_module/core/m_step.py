r"""The one M-step of all kinds of k-means.

.. math::
    c \leftarrow \frac{\lambda\,n\,c + \sum_i w_i x_i}{\lambda\,n + \sum_i w_i}, \qquad
    n \leftarrow \lambda\,n + \sum_i w_i

λ = 0 is Lloyd's, 1 the mini-batch update of Sculley (Web-scale k-means clustering, WWW 2010),
between them the moving average that learns codebooks.
"""

from __future__ import annotations

from torch import Tensor

from kmeans_module.core.distances import unit_rows
from kmeans_module.core.empty_clusters import refill
from kmeans_module.core.statistics import ClusterStats


def m_step(
    centroids: Tensor,
    stats: ClusterStats,
    old_counts: Tensor | None = None,
    *,
    empty_cluster: str,
    metric: str,
    some_empty: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """New centroids of P problems; not differentiable, to be called without gradients.

    Args:
        centroids: of the E-step, (P, k, d).
        stats: of the E-step.
        old_counts: λ·n, what the centroids weigh already, (P, k); None for 0.
        empty_cluster: policy for clusters that weigh nothing.
        metric: "cosine" scales the new centroids to length 1.
        some_empty: False where the caller knows that every cluster of stats weighs something.

    Returns:
        centroids (P, k, d), counts (P, k), and the shift Σ‖c_new - c_old‖², (P,) float64.

    Raises:
        EmptyClusterError: a cluster is empty and empty_cluster is "error".
    """
    dtype = centroids.dtype
    old = centroids.to(stats.sums.dtype)
    sums, counts = stats.sums, stats.counts
    if old_counts is not None:
        sums = sums.addcmul(old, old_counts.unsqueeze(-1))
        counts = counts + old_counts
    if some_empty:
        sums, counts = refill(old, sums, counts, stats, policy=empty_cluster, dtype=dtype)
    divisor = counts.unsqueeze(-1)
    if not some_empty and metric == "euclidean":
        new = sums.div(divisor).to(dtype)
    else:
        weighs = divisor > 0
        new = sums / divisor.where(weighs, 1.0)
        del sums  # k·d numbers, like every tensor here: few of them may live at once
        if metric == "cosine":
            weighs = weighs & (new != 0).any(dim=-1, keepdim=True)
            new = unit_rows(new)
        new = new.where(weighs, old).to(dtype)
    shift = (new - old).square().sum(dim=(-2, -1))
    return new, counts, shift
