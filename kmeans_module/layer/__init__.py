"""KMeansLayer: k-means as a layer to embed, step by step or by a whole fit.

Its floors, from the ground: the state (:mod:`kmeans_module.state`), centroids that come from
elsewhere (portable), assignment, steps, pictures, and the layer with its fit.
"""

from kmeans_module.layer.kmeans_layer import KMeansLayer
from kmeans_module.layer.result import FitResult

__all__ = ["FitResult", "KMeansLayer"]
