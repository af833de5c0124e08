"""k-means for people who work in PyTorch.

Everything is at hand here; what needs torchmetrics, matplotlib, Lightning or scikit-learn is
imported when it is first asked for, so that ``import kmeans_module`` costs no more than
``import torch``.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from kmeans_module.backends import show_backends
from kmeans_module.checks import NotInitializedError
from kmeans_module.core.empty_clusters import EmptyClusterError
from kmeans_module.core.label_stats import LabelStats
from kmeans_module.core.lloyd import Iteration
from kmeans_module.core.neighbors import Neighbors
from kmeans_module.core.statistics import ClusterStats, EStep
from kmeans_module.layer import KMeansLayer
from kmeans_module.layer.result import FitResult
from kmeans_module.moved import MOVED, MovedFinder, where
from kmeans_module.rows import Batch, BatchLoader

if TYPE_CHECKING:
    from kmeans_module.clustering import Clustering, kmeans, predict
    from kmeans_module.data import ArrayDataModule, BlobDataModule, ImageDataModule
    from kmeans_module.estimators import KMeans, MiniBatchKMeans
    from kmeans_module.metrics import ClusterUsage, Inertia
    from kmeans_module.quantization import ProductQuantizer, ResidualQuantizer, VectorQuantizer
    from kmeans_module.training.lit_kmeans import LitKMeans

__version__ = "0.1.0"

__all__ = [
    "ArrayDataModule",
    "Batch",
    "BatchLoader",
    "BlobDataModule",
    "ClusterStats",
    "ClusterUsage",
    "Clustering",
    "EStep",
    "EmptyClusterError",
    "FitResult",
    "ImageDataModule",
    "Inertia",
    "Iteration",
    "KMeans",
    "KMeansLayer",
    "LabelStats",
    "LitKMeans",
    "MiniBatchKMeans",
    "Neighbors",
    "NotInitializedError",
    "ProductQuantizer",
    "ResidualQuantizer",
    "VectorQuantizer",
    "kmeans",
    "predict",
    "show_backends",
]

_LAZY = {
    "ArrayDataModule": "data",
    "BlobDataModule": "data",
    "Clustering": "clustering",
    "ImageDataModule": "data",
    "KMeans": "estimators",
    "LitKMeans": "training.lit_kmeans",
    "MiniBatchKMeans": "estimators",
    "ClusterUsage": "metrics",
    "Inertia": "metrics",
    "ProductQuantizer": "quantization",
    "ResidualQuantizer": "quantization",
    "VectorQuantizer": "quantization",
    "kmeans": "clustering",
    "predict": "clustering",
}

if find_spec("sklearn") is None:  # the estimators say what they need; a star does without them
    __all__ = [name for name in __all__ if _LAZY.get(name) != "estimators"]

# Last: it says where a module that no longer exists has moved.
if not any(isinstance(finder, MovedFinder) for finder in sys.meta_path):
    sys.meta_path.append(MovedFinder())


def __getattr__(name: str) -> Any:
    if name in MOVED:
        raise AttributeError(where(name))
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
