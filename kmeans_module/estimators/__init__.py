"""KMeans and MiniBatchKMeans on scikit-learn's own base classes; scikit-learn is an extra."""

from importlib.util import find_spec

if find_spec("sklearn") is None:
    raise ImportError(
        "KMeans and MiniBatchKMeans need scikit-learn>=1.5: pip install 'kmeans-module[sklearn]'; "
        "kmeans_module.kmeans and KMeansLayer do without it"
    )

from kmeans_module.estimators.kmeans import KMeans
from kmeans_module.estimators.minibatch import MiniBatchKMeans

__all__ = ["KMeans", "MiniBatchKMeans"]
