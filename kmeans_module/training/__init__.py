"""LitKMeans: Lightning drives the iterations; loaders, callbacks."""

from kmeans_module.training.lit_kmeans import LitKMeans

__all__ = ["LitKMeans"]
