"""k-means for people who work in PyTorch."""

from kmeans_module.empty_clusters import EmptyClusterError
from kmeans_module.kernels import ClusterStats, EStep
from kmeans_module.layer import FitResult, KMeansLayer
from kmeans_module.validation import NotInitializedError

__all__ = [
    "ClusterStats",
    "EStep",
    "EmptyClusterError",
    "FitResult",
    "KMeansLayer",
    "NotInitializedError",
]
