"""The nearest centroids on the device are those of the native kernel, in every bit."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from kmeans_module import KMeansLayer
from tests.conftest import DEVICE
from tests.triton.conftest import rows_of


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int16])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize(("d", "k", "m"), [(2, 6, 6), (20, 12, 3)])
def test_neighbors_are_those_of_the_native_kernel(
    d: int, k: int, m: int, metric: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.stack([2 * rows_of(40, d), rows_of(40, d, seed=1)])
    centroids = x[:, : k // 2].repeat(1, 2, 1)
    x[:, 30] = 0
    x = x.to(dtype)
    layer = KMeansLayer.from_centroids(centroids, metric=metric).to(DEVICE)
    found = layer.search(x.to(DEVICE), m)
    assert torch.equal(found.labels[..., 0], layer(x.to(DEVICE)))
    monkeypatch.setenv("KMEANS_KERNEL", "native")
    expected = layer.cpu().search(x, m)
    assert torch.equal(found.labels.cpu(), expected.labels)
    assert torch.equal(found.distances.cpu(), expected.distances)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("d", [2, 20])
def test_statistics_of_labels_are_those_of_the_e_step(d: int, metric: str) -> None:
    x = torch.stack([rows_of(60, d), rows_of(60, d, seed=1)]).to(DEVICE)
    layer = KMeansLayer.from_centroids(x[:, :9].clone(), metric=metric)
    weight = torch.arange(120, device=DEVICE).view(2, 60) % 4
    step = layer.e_step(x, weight)
    stats = layer.stats(x, step.labels, weight)
    for name in ("sums", "counts", "inertia"):
        torch.testing.assert_close(
            getattr(stats, name), getattr(step.stats, name), rtol=1e-6, atol=1e-6
        )
    again = layer.stats(x, step.labels, weight)
    assert torch.equal(stats.sums, again.sums)
    assert torch.equal(stats.inertias, again.inertias)
    none = layer.stats(x, step.labels.where(weight > 0, -1))
    assert torch.equal(none.counts.sum(dim=-1), (weight > 0).double().sum(dim=-1))
