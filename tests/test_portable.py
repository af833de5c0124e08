"""Promises of layers that are made from what one has: centroids, state_dicts of them alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kmeans_module import (
    KMeansLayer,
    LitKMeans,
    ProductQuantizer,
    ResidualQuantizer,
    VectorQuantizer,
)
from kmeans_module.core.metrics import METRICS
from tests.conftest import seeded

C = torch.randn(5, 3, generator=seeded())
X = torch.randn(40, 3, generator=seeded(1))
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class OwnLayer(KMeansLayer):
    """A subclass, as people write them."""


GIVEN: dict[str, tuple[Any, torch.dtype]] = {
    "tensor": (C, torch.float32),
    "parameter": (nn.Parameter(C), torch.float32),
    "half": (C.half(), torch.float16),
    "transposed": (C.T.contiguous().T, torch.float32),
    "array": (C.numpy(), torch.float32),
    "read-only array of float64": (np.broadcast_to(C.double().numpy(), (5, 3)), torch.float64),
    "array backwards": (C.numpy()[::-1, ::-1], torch.float32),
    "lists": (C.tolist(), torch.float32),
    "integers": (np.arange(15).reshape(5, 3), torch.float32),
    "large integers": (torch.tensor([[2**25 + 1], [3]]), torch.float64),
    "batches": (torch.stack([C, C + 1]), torch.float32),
    "an array of batches": (np.zeros((2, 3, 4, 5)), torch.float64),
}


@pytest.mark.parametrize("name", GIVEN)
def test_a_layer_holds_the_centroids_that_are_given(name: str) -> None:
    given, dtype = GIVEN[name]
    layer = KMeansLayer.from_centroids(given)
    wanted = given if isinstance(given, Tensor) else torch.from_numpy(np.array(given))
    assert torch.equal(layer.centroids.double(), wanted.double())
    assert layer.centroids.dtype == dtype
    assert layer.batch_shape == tuple(wanted.shape[:-2])
    assert bool(layer.initialized)
    assert not layer.counts.any()
    assert not layer.n_iter.any()
    layer(torch.zeros(4, wanted.shape[-1]))


def test_what_is_given_is_copied_and_options_arrive() -> None:
    c = C.clone()
    layer = OwnLayer.from_centroids(
        c, empty_cluster="keep", counts=range(1, 6), requires_grad=True, dtype=torch.float64
    )
    c.zero_()
    assert type(layer) is OwnLayer
    assert torch.equal(layer.centroids, C.double())
    assert isinstance(layer.centroids, nn.Parameter)
    assert layer.empty_cluster == "keep"
    assert layer.counts.tolist() == [1, 2, 3, 4, 5]
    assert KMeansLayer.from_centroids(C, device="meta").centroids.is_meta


@pytest.mark.parametrize("dtype", FLOATS)
def test_centroids_become_of_unit_length_as_in_initialize(dtype: torch.dtype) -> None:
    layer = KMeansLayer.from_centroids((3 * C).to(dtype), metric="cosine")
    other = KMeansLayer(5, 3, metric="cosine", dtype=dtype)
    other.initialize(X, (3 * C).to(dtype))
    assert torch.equal(layer.centroids, other.centroids)
    again = KMeansLayer.from_centroids(layer.centroids, metric="cosine")
    assert torch.equal(again.centroids, layer.centroids)


@pytest.mark.parametrize(
    ("given", "options", "kind", "message"),
    [
        ([1.0, 2.0], {}, ValueError, r"centroids should have shape \(\*batch_shape, .*got \(2,\)"),
        (torch.zeros(0, 3), {}, ValueError, r"none of them 0; got \(0, 3\)"),
        ([[1.0], [np.nan]], {}, ValueError, "centroids should be finite in torch.float32"),
        ([[1e30]], {"dtype": torch.float16}, ValueError, "should be finite in torch.float16"),
        ([["a"]], {}, TypeError, "centroids should hold numbers; got an array of <U1"),
        ([[1j]], {}, TypeError, "centroids should hold numbers"),
        (None, {}, TypeError, "centroids should be an array of numbers or a tensor"),
        ([[0.0, 0.0]], {"metric": "cosine"}, ValueError, "centroids should have no zero row"),
        ([[1.0]], {"counts": [1, 2]}, ValueError, r"counts should have shape \(1,\); got \(2,\)"),
        ([[1.0]], {"counts": [-1]}, ValueError, "counts should be finite and >= 0"),
        ([[1.0]], {"counts": [np.inf]}, ValueError, "counts should be finite and >= 0"),
        ([[1.0]], {"metric": "l1"}, ValueError, f"metric should be one of {', '.join(METRICS)}"),
        (torch.zeros(2, 2, device="meta"), {}, RuntimeError, "reads the values of tensors"),
    ],
)  # fmt: skip
def test_what_is_no_centroids_is_refused(
    given: Any, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as error:
        KMeansLayer.from_centroids(given, **options)
    assert "\n" not in str(error.value)


def quantizers(device: str | None = None) -> dict[str, tuple[nn.Module, dict[str, Tensor]]]:
    """Modules, and state_dicts that hold their centroids alone."""
    both = {f"levels.{level}.codebook.centroids": C for level in range(2)}
    options: dict[str, Any] = {"device": device}
    return {
        "layer": (KMeansLayer(5, 3, **options), {"centroids": C}),
        "batched layer": (
            KMeansLayer(5, 3, batch_shape=(2,), **options), {"centroids": torch.stack([C, -C])}
        ),
        "parameter": (KMeansLayer(5, 3, requires_grad=True, **options), {"centroids": C}),
        "vector": (VectorQuantizer(5, 3, **options), {"codebook.centroids": C}),
        "gradient": (
            VectorQuantizer(5, 3, update="gradient", **options), {"codebook.centroids": C}
        ),
        "residual": (ResidualQuantizer(5, 3, 2, **options), both),
        "product": (
            ProductQuantizer(5, 6, 2, **options),
            {"quantizer.codebook.centroids": torch.stack([C, -C])},
        ),
    }  # fmt: skip


def encoded(module: nn.Module, x: Tensor) -> Tensor:
    module.eval()
    codes: Tensor = module(x) if isinstance(module, KMeansLayer) else module.encode(x)  # type: ignore[operator]
    return codes


def in_network(module: nn.Module, state: dict[str, Tensor]) -> tuple[nn.Module, dict[str, Tensor]]:
    net = nn.Sequential(nn.Linear(2, 2), nn.ModuleDict({"own": module}))
    kept = {key: value for key, value in net.state_dict().items() if key.startswith("0.")}
    return net, {**kept, **{f"1.own.{key}": value for key, value in state.items()}}


def alone(module: nn.Module, state: dict[str, Tensor]) -> tuple[nn.Module, dict[str, Tensor]]:
    return module, state


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("place", [alone, in_network])
@pytest.mark.parametrize("name", quantizers())
def test_a_state_dict_of_centroids_alone_is_enough(
    name: str, place: Callable[..., tuple[nn.Module, dict[str, Tensor]]], assign: bool
) -> None:
    module, state = quantizers("meta" if assign else None)[name]
    whole, loaded = place(module, state)
    before = copy.deepcopy(loaded)
    found = whole.load_state_dict(loaded, assign=assign)
    assert not found.missing_keys
    assert not found.unexpected_keys
    assert loaded.keys() == before.keys()
    for layer in module.modules():
        if isinstance(layer, KMeansLayer):
            assert bool(layer.initialized)
            assert not layer.counts.any()
            assert layer.counts.dtype == torch.float64
            assert not layer.n_iter.any()
            assert isinstance(layer.centroids, nn.Parameter) == (name in ("parameter", "gradient"))
    x = X[:, :3].repeat(1, 2) if name == "product" else X
    assert encoded(module, x).min() >= 0
    assert not [key for key, value in module.state_dict().items() if value.is_meta]
    module.train()
    module(x)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, 'Missing key.*"centroids", "counts", "n_iter", "initialized"'),
        ({"counts": torch.ones(5)}, 'Missing key.*"centroids", "n_iter", "initialized"'),
        ({"centroids": C, "counts": torch.ones(5)}, 'Missing key.*"n_iter", "initialized"'),
        ({"centroids": C, "other": C}, 'Unexpected key.*"other"'),
        ({"centroids": C[:4]}, r"size mismatch for centroids.*\(4, 3\).*\(5, 3\)"),
        ({"centroids": C.numpy()}, "Missing key"),
    ],
)
def test_other_state_dicts_are_the_errors_of_torch(state: dict[str, Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=f"(?s){message}"):
        KMeansLayer(5, 3).load_state_dict(state)
    with pytest.raises(RuntimeError, match="size mismatch"):
        VectorQuantizer(5, 3).load_state_dict({"codebook.centroids": C[:4]})
    full = VectorQuantizer(5, 3).state_dict()
    full.pop("skipped")
    with pytest.raises(RuntimeError, match=r"Missing key.*skipped"):
        VectorQuantizer(5, 3).load_state_dict(full)


def test_centroids_alone_have_unit_length_where_the_metric_asks() -> None:
    layer = KMeansLayer(5, 3, metric="cosine")
    layer.load_state_dict({"centroids": 3 * C})
    assert torch.equal(
        layer.centroids, KMeansLayer.from_centroids(3 * C, metric="cosine").centroids
    )
    unit = layer.centroids.clone()
    layer.load_state_dict({"centroids": unit}, assign=True)
    assert layer.centroids is unit


def test_a_lightning_module_makes_its_layer_of_centroids_alone() -> None:
    lit = LitKMeans(n_clusters=5)
    lit.load_state_dict({"kmeans.centroids": C})
    assert torch.equal(lit.kmeans(C), torch.arange(5))
