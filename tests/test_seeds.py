"""Every fit takes a seed in place of a generator."""

import inspect
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import kmeans_module
from kmeans_module import (
    KMeansLayer,
    ProductQuantizer,
    ResidualQuantizer,
    functional,
    kmeans,
    metrics,
    quantization,
    rows,
)

X = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))


def fit_layer(**drawn: object) -> Tensor:
    layer = KMeansLayer(5, 8)
    layer.fit(X, max_iter=2, **drawn)
    return layer.centroids


def initialize_layer(**drawn: object) -> Tensor:
    layer = KMeansLayer(5, 8)
    layer.initialize(X, "random", **drawn)
    return layer.centroids


def fit_product(**drawn: object) -> Tensor:
    quantizer = ProductQuantizer(4, 8, 2, rotation=True)
    quantizer.fit(X, max_iter=2, rotations=1, **drawn)
    return quantizer.codebooks


def fit_residual(**drawn: object) -> Tensor:
    quantizer = ResidualQuantizer(4, 8, 2)
    quantizer.fit(X, max_iter=2, refinements=1, **drawn)
    return quantizer.codebooks


def fit_sample(**drawn: object) -> Tensor:
    layer = KMeansLayer(5, 8)
    layer.fit(X, max_iter=2, max_points_per_centroid=20, **drawn)
    return layer.centroids


def sample_rows(**drawn: object) -> Tensor:
    return KMeansLayer(5, 8).prepare(X).sample(20, **drawn)


def sample_stream(**drawn: object) -> Tensor:
    return KMeansLayer(5, 8).prepare(DataLoader(X, batch_size=64)).sample(20, **drawn)


def one_call(**drawn: object) -> Tensor:
    return kmeans(X, 5, max_iter=2, **drawn).centroids


DOORS = [
    fit_layer, initialize_layer, fit_product, fit_residual, fit_sample, sample_rows, sample_stream,
    one_call,
]  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("seed", [0, 7, np.int32(7), np.uint64(7), 2**64 - 1])
def test_a_seed_draws_what_a_generator_of_that_seed_draws(
    door: Callable[..., Tensor], seed: int
) -> None:
    assert torch.equal(door(seed=seed), door(generator=torch.Generator().manual_seed(int(seed))))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("drawn", "error", "message"),
    [
        ({"seed": 0, "generator": torch.Generator()}, ValueError, "generator or seed"),
        ({"seed": -1}, ValueError, "seed should be >= 0; got -1"),
        ({"seed": 2**64}, ValueError, "overflows a 64-bit integer"),
        ({"seed": 1.5}, TypeError, "seed should be an integer; got 1.5"),
        ({"seed": True}, TypeError, "seed should be an integer; got True"),
        ({"seed": "0"}, TypeError, "seed should be an integer"),
        ({"generator": 0}, TypeError, "generator should be a torch.Generator"),
    ],
)
def test_what_is_no_seed_is_refused_by_name(
    door: Callable[..., Tensor], drawn: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        door(**drawn)


def test_every_public_function_with_a_generator_takes_a_seed() -> None:
    drawing = {name: taken for name, taken in public() if "generator" in taken}
    assert {"KMeansLayer.fit", "ProductQuantizer.fit", "kmeans", "HeldRows.sample"} <= set(drawing)
    assert not [name for name, taken in drawing.items() if "seed" not in taken]


def public() -> Iterator[tuple[str, Mapping[str, object]]]:
    """Functions and methods that users call, and what they take."""
    inner = ("draws", "excerpt")  # what Rows give to seeding
    for module in (kmeans_module, functional, metrics, quantization, rows):
        for name in getattr(module, "__all__", vars(module)):
            value = getattr(module, name)
            members = {name: value}
            if inspect.isclass(value):
                members = {f"{name}.{key}": member for key, member in inspect.getmembers(value)}
            for full, member in members.items():
                ours = str(getattr(member, "__module__", "")).startswith("kmeans_module")
                last = full.rpartition(".")[2]
                if ours and inspect.isfunction(member) and last not in inner and last[0] != "_":
                    yield full, inspect.signature(member).parameters
