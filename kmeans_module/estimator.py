"""KMeans by the name under which pickles of 0.1.0 know it."""

from kmeans_module.estimators import KMeans, MiniBatchKMeans

__all__ = ["KMeans", "MiniBatchKMeans"]
