"""Promises of fits to a sample: the same rows wherever they are, and labels of all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from kmeans_module import Batch, KMeansLayer
from tests.conftest import blobs, seeded
from tests.rows.helpers import Passes

X = blobs(500, 3)
WEIGHTS = torch.linspace(0.5, 2, 500) * (torch.arange(500) % 3 > 0)


class Seen:
    """An init that keeps the rows it is given."""

    def __call__(self, x: Tensor, k: int, generator: torch.Generator | None) -> Tensor:
        self.x = x
        return x[..., :k, :]


HOLDERS: dict[str, Any] = {
    "tensor": lambda: (X, {}),
    "batches": lambda: (list(X.split(77)), {}),
    "stream": lambda: (Passes(X.split(33), stable=True), {}),
    "loader": lambda: (DataLoader(X, batch_size=41, shuffle=True), {}),  # type: ignore[arg-type]
    "rows": lambda: (KMeansLayer(4, 3).prepare(X), {}),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_the_sample_is_the_same_wherever_the_rows_are(holder: str) -> None:
    data, options = HOLDERS[holder]()
    layer, alone = KMeansLayer(4, 3), KMeansLayer(4, 3)
    found = layer.fit(data, max_points_per_centroid=20, seed=5, **options)
    expected = alone.fit(X, max_points_per_centroid=20, seed=5)
    torch.testing.assert_close(layer.centroids, alone.centroids, rtol=1e-6, atol=0)
    assert torch.equal(found.n_iter, expected.n_iter)
    assert torch.equal(layer.counts, alone.counts)
    torch.testing.assert_close(found.inertia, expected.inertia)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int32])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_the_fit_is_of_a_sample_and_the_labels_of_all(dtype: torch.dtype, metric: str) -> None:
    x, seen = X.to(dtype), Seen()
    layer = KMeansLayer(4, 3, metric=metric)
    found = layer.fit(x, init=seen, max_points_per_centroid=20, seed=0)
    assert seen.x.shape == (80, 3)
    assert seen.x.dtype == dtype
    rows = {tuple(row) for row in x.tolist()}
    assert all(tuple(row) in rows for row in seen.x.tolist())
    assert torch.equal(found.labels, layer(x))  # type: ignore[arg-type]
    step = layer.e_step(x)
    torch.testing.assert_close(found.inertia, step.stats.inertia)
    assert torch.equal(layer.counts, step.stats.counts)
    sampled = KMeansLayer(4, 3, metric=metric)
    # the same M-steps: tol is relative to the variance of all rows, so none stops before
    of_sample = sampled.fit(seen.x, init=seen.x[:4], max_iter=3, tol=0)
    again = layer.fit(x, init=seen, max_points_per_centroid=20, seed=0, max_iter=3, tol=0)
    assert torch.equal(layer.centroids, sampled.centroids)
    assert torch.equal(again.history, of_sample.history)


def test_rows_are_drawn_once_and_weights_go_with_them() -> None:
    x, seen = torch.arange(500.0).unsqueeze(1), Seen()
    layer = KMeansLayer(1, 1, dtype=torch.float64)
    found = layer.fit(x, init=seen, sample_weight=WEIGHTS, max_points_per_centroid=300, seed=0)
    drawn = seen.x[:, 0].long()
    assert len(drawn.unique()) == 300
    assert (WEIGHTS[drawn] > 0).all()  # a row that weighs nothing is no point
    mean = (WEIGHTS[drawn].double() * drawn).sum() / WEIGHTS[drawn].double().sum()
    torch.testing.assert_close(layer.centroids[0, 0], mean)
    torch.testing.assert_close(layer.counts.sum(), WEIGHTS.double().sum())
    assert found.labels is not None
    assert len(found.labels) == 500


def test_a_problem_with_few_weights_takes_no_rows_from_the_others() -> None:
    x = torch.stack([X, X])
    weight = torch.ones(2, 500)
    weight[1, 5:] = 0
    layer, alone = KMeansLayer(4, 3, batch_shape=(2,)), KMeansLayer(4, 3)
    start = torch.stack([X[:4], X[:4]])
    layer.fit(x, init=start, sample_weight=weight, max_points_per_centroid=50, seed=0)
    alone.fit(X[:5], init=X[:4])
    torch.testing.assert_close(layer.centroids[1], alone.centroids)
    assert layer.counts[0].sum() == 500


@pytest.mark.parametrize("most", [125, 1000])
def test_rows_that_are_few_enough_are_all_fitted(most: int) -> None:
    layer, all_rows = KMeansLayer(4, 3), KMeansLayer(4, 3)
    found = layer.fit(X, max_points_per_centroid=most, seed=0)
    expected = all_rows.fit(X, seed=0)
    assert torch.equal(layer.centroids, all_rows.centroids)
    assert torch.equal(found.history, expected.history)


def test_restarts_and_batches_with_weights_share_the_sample() -> None:
    batches = [Batch(X[:200], WEIGHTS[:200]), Batch(X[200:], WEIGHTS[200:])]
    layer, alone = KMeansLayer(4, 3), KMeansLayer(4, 3)
    options: dict[str, Any] = {"max_points_per_centroid": 25, "n_init": 3, "init": "random"}
    layer.fit(batches, generator=seeded(2), **options)
    alone.fit(X, sample_weight=WEIGHTS, generator=seeded(2), **options)
    torch.testing.assert_close(layer.centroids, alone.centroids, rtol=1e-6, atol=0)
