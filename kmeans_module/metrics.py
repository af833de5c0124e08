"""torchmetrics of clusterings: states of constant size, merged over ranks by sums."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class Inertia(Metric):
    """Weighted sum of squared distances of samples to their centroid.

    Shape:
        - ``update(distances, sample_weight=None)``: squared distances (n,), weights (n,).
        - ``compute()``: () float64.

    Example:
        >>> import torch
        >>> metric = Inertia()
        >>> metric.update(torch.tensor([1.0, 4.0]))
        >>> metric.update(torch.tensor([2.0]), torch.tensor([3.0]))
        >>> metric.compute()
        tensor(11., dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    total: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # MPS has no float64, and a metric lives on the CPU before it moves there.
        exact = torch.float32 if torch.backends.mps.is_available() else torch.float64
        self.add_state("total", torch.zeros((), dtype=exact), dist_reduce_fx="sum")

    def update(self, distances: Tensor, sample_weight: Tensor | None = None) -> None:
        """Add samples."""
        distances = distances.to(self.total.dtype)
        if sample_weight is not None:
            distances = distances * sample_weight
        self.total = self.total + distances.sum()

    def compute(self) -> Tensor:
        """The sum so far."""
        return self.total


class ClusterUsage(Metric):
    """How evenly clusters, or the codes of a codebook, are used.

    Args:
        n_clusters: k.

    Shape:
        - ``update(labels)``: int64 of any shape; -1, which stands for no cluster, is not counted.
        - ``compute()``: dict of () tensors: ``used``, the share of clusters that have samples,
          and ``perplexity``, exp of the entropy of the cluster sizes, from 1 to k.

    Example:
        >>> import torch
        >>> metric = ClusterUsage(n_clusters=4)
        >>> metric.update(torch.tensor([0, 0, 1, 1]))
        >>> {name: round(value.item(), 3) for name, value in metric.compute().items()}
        {'used': 0.5, 'perplexity': 2.0}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    counts: Tensor

    def __init__(self, n_clusters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n_clusters = n_clusters
        zeros = torch.zeros(n_clusters, dtype=torch.int64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")

    def update(self, labels: Tensor) -> None:
        """Count labels."""
        counts = torch.bincount(labels.flatten() + 1, minlength=self.n_clusters + 1)
        self.counts = self.counts + counts[1:]

    def compute(self) -> dict[str, Tensor]:
        """Shares so far; NaN before any sample."""
        share = self.counts / self.counts.sum()
        entropy = torch.special.entr(share).sum()
        return {"used": (self.counts > 0).float().mean(), "perplexity": entropy.exp()}
