"""Every fit takes a seed in place of a generator."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from kmeans_module import KMeansLayer, ProductQuantizer, ResidualQuantizer

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


DOORS = [fit_layer, initialize_layer, fit_product, fit_residual]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("seed", [0, 7, np.int32(7), np.uint64(7)])
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
