"""Promises of the metrics: one that is Euclidean after a map is one entry of a table."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from kmeans_module import KMeansLayer, LitKMeans, functional
from kmeans_module.core.metrics import METRICS, Metric
from kmeans_module.rows import BatchLoader
from tests.conftest import seeded
from tests.end_to_end.helpers import train

X = torch.rand(300, 4, generator=seeded())


class Passes:
    """The rows in batches that do not stay."""

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[Tensor]:
        return (part.clone() for part in X.split(100))


@pytest.fixture(autouse=True)
def hellinger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Distances of square roots."""
    monkeypatch.setitem(METRICS, "hellinger", Metric(map=lambda x: x.clamp(min=0).sqrt()))


def test_the_layer_clusters_what_the_map_gives() -> None:
    layer, plain = KMeansLayer(5, 4, metric="hellinger"), KMeansLayer(5, 4)
    result = layer.fit(X, generator=seeded(1))
    expected = plain.fit(X.sqrt(), generator=seeded(1))
    assert torch.equal(layer.centroids, plain.centroids)
    assert torch.equal(result.labels, expected.labels)
    assert torch.equal(layer(X), plain(X.sqrt()))
    assert torch.equal(layer.transform(X), plain.transform(X.sqrt()))
    assert torch.equal(layer.soft_assign(X), plain.soft_assign(X.sqrt()))
    assert torch.equal(layer.e_step(X).stats.sums, plain.e_step(X.sqrt()).stats.sums)
    rows = layer.prepare(X)
    assert torch.equal(layer.e_step(rows).labels, result.labels)
    inertia = functional.inertia(X, layer.centroids, metric="hellinger")
    assert torch.equal(inertia, result.inertia)


@pytest.mark.filterwarnings(
    "ignore:The 'train_dataloader' does not have many workers",
    "ignore:You defined a `validation_step` but have no `val_dataloader`",
)
@pytest.mark.parametrize("stays", [True, False])
def test_lightning_clusters_what_the_map_gives(stays: bool) -> None:
    start = X[:5]
    lit = LitKMeans(5, metric="hellinger")
    lit.kmeans = KMeansLayer(5, 4, metric="hellinger")
    lit.kmeans.initialize(start, start.sqrt())
    train(lit, BatchLoader(X, batch_size=100) if stays else Passes())
    plain = KMeansLayer(5, 4)
    plain.fit(X.sqrt(), init=start.sqrt())
    torch.testing.assert_close(lit.kmeans.centroids, plain.centroids)
    assert torch.equal(lit(X), plain(X.sqrt()))
