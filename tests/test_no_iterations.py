"""Promises of max_iter=0: centroids are chosen, samples are assigned, nothing else happens."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from kmeans_module import EmptyClusterError, KMeansLayer, ProductQuantizer, ResidualQuantizer
from kmeans_module.core.generators import of_restarts
from tests.conftest import blobs, seeded, weights_for

X = blobs(200, 3)


class Stream:
    """Batches that do not stay in memory."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter(X.split(70))


DOORS: dict[str, Any] = {"tensor": X, "list": list(X.split(70)), "stream": Stream()}
# Batches are of one problem.
WAYS = [(options, door) for options in ({}, {"metric": "cosine"}) for door in DOORS]
WAYS.append(({"batch_shape": (2,)}, "tensor"))


@pytest.mark.parametrize(("options", "door"), WAYS, ids=str)
@pytest.mark.parametrize(
    "init", ["k-means++", "random", "k-means||", X[:5]], ids=lambda i: str(i)[:9]
)
@pytest.mark.parametrize("n_init", [1, 3])
def test_a_fit_without_iterations_initializes_and_assigns(
    options: dict[str, Any], door: str, init: str | Tensor, n_init: int, kernel: str
) -> None:
    layer, told = KMeansLayer(5, 3, **options), []
    result = layer.fit(
        DOORS[door], init=init, max_iter=0, n_init=n_init, generator=seeded(), callback=told.append
    )
    step = layer.e_step(X)
    assert (result.n_iter == 0).all()
    assert not result.converged.any()
    assert result.history.shape == (*layer.batch_shape, 1)
    assert torch.equal(result.history[..., 0], result.inertia)
    torch.testing.assert_close(result.inertia, step.stats.inertia)
    assert torch.equal(layer.counts, step.stats.counts)
    assert (layer.n_iter == 0).all()
    assert told == []
    if door != "stream":
        assert result.labels is not None
        assert torch.equal(result.labels, layer(X).view_as(result.labels))
    if n_init == 1 and door == "tensor":
        fresh = KMeansLayer(5, 3, **options)
        fresh.initialize(X, init, generator=seeded())
        assert torch.equal(layer.centroids, fresh.centroids)


def test_the_best_restart_is_kept_without_iterations(kernel: str) -> None:
    layer = KMeansLayer(5, 3)
    several = layer.fit(X, max_iter=0, n_init=4, generator=seeded()).inertia
    starts = of_restarts(seeded(), 4)
    alone = [layer.fit(X, max_iter=0, generator=start).inertia for start in starts]
    torch.testing.assert_close(several, min(alone))


def test_weights_count_without_iterations(kernel: str) -> None:
    weight, layer = weights_for(X), KMeansLayer(5, 3)
    result = layer.fit(X, init=X[:5], max_iter=0, sample_weight=weight)
    step = layer.e_step(X, weight)
    torch.testing.assert_close(result.inertia, step.stats.inertia)
    torch.testing.assert_close(layer.counts, step.stats.counts)


@pytest.mark.parametrize("policy", ["relocate", "split", "keep", "error"])
def test_given_centroids_without_samples_stay(policy: str, kernel: str) -> None:
    far = torch.cat([X[:4], X[:1] + 1e3])
    layer = KMeansLayer(5, 3, empty_cluster=policy)
    if policy == "error":
        with pytest.raises(EmptyClusterError):
            layer.fit(X, init=far, max_iter=0)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer.fit(X, init=far, max_iter=0)
        layer.fit(X, init="current", max_iter=0)
    assert torch.equal(layer.centroids, far)
    assert layer.counts[4] == 0


def test_surplus_centroids_that_were_drawn_are_told_of() -> None:
    with pytest.warns(UserWarning, match="x has only 2 distinct rows"):
        KMeansLayer(3, 3).fit(X[:2].repeat(4, 1), max_iter=0)


def test_quantizers_keep_what_was_drawn_without_iterations(kernel: str) -> None:
    x = torch.randn(300, 6, generator=seeded())
    product = ProductQuantizer(16, 6, 2)
    product.fit(x, max_iter=0, seed=0)
    rows = x.view(300, 2, 3).transpose(0, 1)
    for part, centroids in zip(rows, product.codebooks, strict=True):
        assert (centroids.unsqueeze(1) == part).all(dim=-1).any(dim=1).all()
    residual = ResidualQuantizer(16, 6, 2)
    residual.fit(x, max_iter=0, refinements=0, seed=0)
    apart = torch.cdist(residual.codebooks[0], x).amin(dim=1)
    assert (apart < 1e-2).all()
    learned = ResidualQuantizer(16, 6, 2)
    learned.fit(x, refinements=0, seed=0)
    errors = [(q.decode(q.encode(x)) - x).square().sum() for q in (product, residual, learned)]
    assert errors[2] < errors[1]
    turned = ProductQuantizer(16, 6, 2, rotation=True)
    turned.fit(x, max_iter=0, rotations=1, seed=0)
    assert turned.encode(x).shape == (300, 2)


@pytest.mark.parametrize("max_iter", [-1, 1.5, None, True])
def test_less_than_no_iterations_is_refused(max_iter: Any) -> None:
    for fit in (
        KMeansLayer(5, 3).fit,
        ProductQuantizer(4, 3, 1).fit,
        ResidualQuantizer(4, 3, 1).fit,
    ):
        with pytest.raises((TypeError, ValueError), match="max_iter should be"):
            fit(X, max_iter=max_iter)
