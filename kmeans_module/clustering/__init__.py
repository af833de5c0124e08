"""k-means in one call, and labels by whatever holds centroids: a result, a module, a saved run."""

from kmeans_module.clustering.one_call import Clustering, kmeans, predict

__all__ = ["Clustering", "kmeans", "predict"]
