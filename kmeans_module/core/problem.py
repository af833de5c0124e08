"""What k-means is asked for, in one object."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Problem(NamedTuple):
    """P independent problems of one size.

    Attributes:
        n_clusters: k.
        n_features: d.
        n_problems: P.
        metric: what the backends compute, "euclidean" or "cosine"; see
            :mod:`kmeans_module.core.metrics`.
        empty_cluster: policy, see :mod:`kmeans_module.core.empty_clusters`.
        dtype, device: of the centroids.
    """

    n_clusters: int
    n_features: int
    n_problems: int = 1
    metric: str = "euclidean"
    empty_cluster: str = "relocate"
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")

    def repeated(self, times: int) -> Problem:
        """The same problems so many times over: restarts."""
        return self._replace(n_problems=self.n_problems * times)
