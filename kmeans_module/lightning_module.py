"""An older name of :mod:`kmeans_module.training`; LitKMeans is in ``kmeans_module`` too."""

from importlib import import_module
from typing import Any

_NEW = {
    "ALGORITHMS": "training.lit_kmeans",
    "Iteration": "core.lloyd",
    "LitKMeans": "training.lit_kmeans",
    "as_batch": "rows.batch",
    "read_centroids": "training.pending",
}


def __getattr__(name: str) -> Any:
    if name not in _NEW:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"kmeans_module.{_NEW[name]}"), name)
