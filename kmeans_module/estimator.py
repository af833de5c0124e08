"""KMeans by the name under which pickles from before the first release know it."""

from kmeans_module.estimators import KMeans, MiniBatchKMeans

__all__ = ["KMeans", "MiniBatchKMeans"]
