"""Promises of device=: what cannot be computed on is refused in one line, through every door."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kmeans_module import (
    KMeansLayer,
    ProductQuantizer,
    ResidualQuantizer,
    VectorQuantizer,
    kmeans,
    predict,
)
from tests.conftest import blobs, layer_at

X = blobs(60, 4)
DOORS: dict[str, Callable[[Any, Path], object]] = {
    "kmeans": lambda device, _: kmeans(X, 3, seed=0, device=device),
    "predict": lambda device, _: predict(layer_at(X[:3]), X, device=device),
    "layer": lambda device, _: KMeansLayer(3, 4, device=device),
    "from_centroids": lambda device, _: KMeansLayer.from_centroids(X[:3], device=device),
    "from_file": lambda device, file: KMeansLayer.from_file(file, device=device),
    "vector": lambda device, _: VectorQuantizer(3, 4, device=device),
    "projected": lambda device, _: VectorQuantizer(3, 4, projection=2, device=device),
    "product": lambda device, _: ProductQuantizer(3, 4, 2, device=device),
    "rotated": lambda device, _: ProductQuantizer(3, 4, 2, rotation=True, device=device),
    "residual": lambda device, _: ResidualQuantizer(3, 4, 2, device=device),
    "projected levels": lambda device, _: ResidualQuantizer(3, 4, 2, projection=2, device=device),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("layer") / "layer.safetensors"
    layer_at(X[:3]).save(path)
    return path


@pytest.mark.parametrize("device", ["nowhere", "cuda:99", 1.5, True])
@pytest.mark.parametrize("door", DOORS)
def test_a_device_that_is_not_there_is_refused_by_name(door: str, device: Any, file: Path) -> None:
    with pytest.raises(ValueError, match="device should be one that torch can use here; got") as e:
        DOORS[door](device, file)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("device", [None, "cpu", torch.device("cpu")])
@pytest.mark.parametrize("door", DOORS)
def test_a_device_that_is_there_serves(door: str, device: Any, file: Path) -> None:
    DOORS[door](device, file)
