"""Before there is a layer: what stands for it, and what the data say of it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from kmeans_module import files
from kmeans_module.checks import NotInitializedError
from kmeans_module.core.seeding import INITS
from kmeans_module.layer import KMeansLayer
from kmeans_module.state import CentroidState


class PendingLayer(nn.Module):
    """Stands for the layer until the data, or a state_dict, say what it is."""

    @property
    def initialized(self) -> Tensor:
        """There are no centroids."""
        return torch.zeros((), dtype=torch.bool)

    def forward(self, x: Tensor) -> Tensor:
        raise NotInitializedError(
            "LitKMeans has no centroids yet: it makes its layer from the data; call Trainer.fit, "
            "or load a checkpoint"
        )

    def __getattr__(self, name: str) -> Any:
        options = inspect.signature(KMeansLayer).parameters
        if name in options or hasattr(KMeansLayer, name) or name in CentroidState.__annotations__:
            self.forward(torch.empty(0))
        return super().__getattr__(name)


def make_layer(wanted: Any, n_features: int, dtype: torch.dtype) -> KMeansLayer:
    """The layer of a LitKMeans, for data of so many features and this dtype."""
    if wanted.n_features not in (None, n_features):
        raise ValueError(
            f"x should have shape (n_samples, {wanted.n_features}); got {n_features} features"
        )
    return KMeansLayer(
        wanted.n_clusters,
        n_features,
        metric=wanted.metric,
        empty_cluster=wanted.empty_cluster,
        device=wanted.device,
        dtype=dtype,
    )


def check_same_kind(layer: nn.Module, wanted: Any) -> None:
    """Refuse a layer of other n_clusters, metric or batch_shape than LitKMeans was told."""
    if not isinstance(layer, KMeansLayer):
        return
    expected = {"n_clusters": wanted.n_clusters, "metric": wanted.metric, "batch_shape": ()}
    for name, value in expected.items():
        if getattr(layer, name) != value:
            raise ValueError(
                f"kmeans should be a layer with {name}={value!r}; got {getattr(layer, name)!r}"
            )


def read_centroids(path: str) -> Tensor:
    """Centroids (k, d) from what KMeansLayer.save wrote, or from any file of an array."""
    if path.endswith(".safetensors"):
        tensors, _ = files.load_tensors(path)
        if "centroids" in tensors:
            return tensors["centroids"]
    try:
        return files.read_array(path)
    except FileNotFoundError as error:
        raise ValueError(
            f"init should be one of {', '.join(INITS)}, or the path of a file of centroids; "
            f"got {path!r}, which is no file"
        ) from error
