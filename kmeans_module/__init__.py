"""k-means for people who work in PyTorch.

Everything is at hand here; what needs torchmetrics, matplotlib or Lightning is imported when it
is first asked for, so that ``import kmeans_module`` costs no more than ``import torch``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kmeans_module.backends import show_backends
from kmeans_module.checks import NotInitializedError
from kmeans_module.core.empty_clusters import EmptyClusterError
from kmeans_module.core.statistics import ClusterStats, EStep
from kmeans_module.layer import FitResult, KMeansLayer

if TYPE_CHECKING:
    from kmeans_module.data import ArrayDataModule, BlobDataModule, ImageDataModule
    from kmeans_module.estimator import KMeans
    from kmeans_module.metrics import ClusterUsage, Inertia
    from kmeans_module.quantization import ProductQuantizer, ResidualQuantizer, VectorQuantizer
    from kmeans_module.training.lit_kmeans import LitKMeans

__version__ = "0.1.0"

__all__ = [
    "ArrayDataModule",
    "BlobDataModule",
    "ClusterStats",
    "ClusterUsage",
    "EStep",
    "EmptyClusterError",
    "FitResult",
    "ImageDataModule",
    "Inertia",
    "KMeans",
    "KMeansLayer",
    "LitKMeans",
    "NotInitializedError",
    "ProductQuantizer",
    "ResidualQuantizer",
    "VectorQuantizer",
    "show_backends",
]

_LAZY = {
    "ArrayDataModule": "data",
    "BlobDataModule": "data",
    "ImageDataModule": "data",
    "KMeans": "estimator",
    "LitKMeans": "training.lit_kmeans",
    "ClusterUsage": "metrics",
    "Inertia": "metrics",
    "ProductQuantizer": "quantization",
    "ResidualQuantizer": "quantization",
    "VectorQuantizer": "quantization",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
