"""Promises of the mathematics: hand-computed answers, and the same with every leading shape."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from kmeans_module import functional as F
from kmeans_module.core.distances import unit_rows
from tests.conftest import blobs, brute_force, seeded

LINE = torch.tensor([[0.0], [1.0], [9.0]])
ENDS = torch.tensor([[0.0], [10.0]])


def test_e_step_by_hand() -> None:
    step = F.e_step(LINE, ENDS, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    assert step.labels.tolist() == [0, 0, 1]
    assert step.distances.tolist() == [0, 1, 1]
    assert step.stats.sums.tolist() == [[2], [27]]
    assert step.stats.counts.tolist() == [3, 3]
    assert step.stats.inertia.item() == 5


@pytest.mark.parametrize(
    ("decay", "centroids", "counts"),
    [
        (0.0, [[0.5], [9.0]], [2.0, 1.0]),
        (0.5, [[(0 + 1) / 4], [(2 * 10 + 9) / 3]], [4.0, 3.0]),
        (1.0, [[(0 + 1) / 6], [(4 * 10 + 9) / 5]], [6.0, 5.0]),
    ],
)
def test_m_step_by_hand(decay: float, centroids: list[list[float]], counts: list[float]) -> None:
    before = torch.tensor([4.0, 4.0], dtype=torch.float64)
    stats = F.e_step(LINE, ENDS).stats
    new, weigh, shift = F.update_centroids(ENDS, before, stats, decay=decay)
    torch.testing.assert_close(new, torch.tensor(centroids))
    assert weigh.tolist() == counts
    expected = sum((a[0] - b) ** 2 for a, b in zip(centroids, (0, 10), strict=True))
    assert shift.item() == pytest.approx(expected, rel=1e-5)


def test_sculley_learns_the_running_mean() -> None:
    x = torch.randn(300, 2, generator=seeded(), dtype=torch.float64)
    centroids, counts = torch.zeros(1, 2, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for batch in x.split(70):
        stats = F.e_step(batch, centroids).stats
        centroids, counts, _ = F.update_centroids(centroids, counts, stats, decay=1.0)
    torch.testing.assert_close(centroids[0], x.mean(dim=0))
    assert counts.item() == 300


@pytest.mark.parametrize("metric", F.METRICS)
def test_neither_step_raises_the_inertia(metric: str) -> None:
    x = blobs(400, 4)
    centroids = x[:8] if metric == "euclidean" else unit_rows(x[:8])
    before = math.inf
    for _ in range(15):
        step = F.e_step(x, centroids, metric=metric)
        assert step.stats.inertia.item() <= before * (1 + 1e-7)
        before = step.stats.inertia.item()
        centroids, _, _ = F.update_centroids(
            centroids, torch.zeros(8).double(), step.stats, metric=metric
        )


def test_cosine_centroids_keep_unit_length() -> None:
    x = blobs(400, 4)
    centroids = unit_rows(x[:8])
    stats = F.e_step(x, centroids, metric="cosine").stats
    new, _, _ = F.update_centroids(centroids, torch.zeros(8).double(), stats, metric="cosine")
    torch.testing.assert_close(new.norm(dim=-1), torch.ones(8))


def test_a_cosine_cluster_that_cancels_keeps_its_centroid() -> None:
    x = torch.tensor([[0.0, 1.0], [0.0, -1.0]])
    centroids = torch.tensor([[1.0, 0.0]])
    stats = F.e_step(x, centroids, metric="cosine").stats
    new, counts, shift = F.update_centroids(
        centroids, torch.zeros(1).double(), stats, metric="cosine"
    )
    assert new.tolist() == [[1, 0]]
    assert counts.tolist() == [2]
    assert shift.item() == 0


@pytest.mark.parametrize("batch_shape", [(), (1,), (3,), (2, 3)])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_batched_problems_equal_separate_ones(
    batch_shape: tuple[int, ...], shared: bool, weighted: bool
) -> None:
    x = torch.randn(*(() if shared else batch_shape), 40, 3, generator=seeded())
    centroids = torch.randn(*batch_shape, 5, 3, generator=seeded(1))
    weight = torch.rand(*batch_shape, 40, generator=seeded(2)).double() if weighted else None
    step = F.e_step(x, centroids, weight)
    zeros = torch.zeros(*batch_shape, 5, dtype=torch.float64)
    new, counts, shift = F.update_centroids(centroids, zeros, step.stats, empty_cluster="keep")
    assert shift.shape == step.stats.inertia.shape == batch_shape
    assert step.labels.shape == step.distances.shape == (*batch_shape, 40)
    for at in itertools.product(*map(range, batch_shape)):
        own_weight = None if weight is None else weight[at]
        own = F.e_step(x if shared else x[at], centroids[at], own_weight)
        assert torch.equal(step.labels[at], own.labels)
        torch.testing.assert_close(step.stats.inertia[at], own.stats.inertia)
        alone = F.update_centroids(centroids[at], zeros[at], own.stats, empty_cluster="keep")
        for ours, theirs in zip((new[at], counts[at], shift[at]), alone, strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("metric", F.METRICS)
def test_inertia_is_the_weighted_sum_to_the_nearest(metric: str) -> None:
    x, centroids = blobs(200, 3), blobs(7, 3, seed=5)
    weight = torch.rand(200, generator=seeded(), dtype=torch.float64)
    if metric == "euclidean":
        distances = brute_force(x, centroids)
    else:
        centroids = unit_rows(centroids)
        distances = 1 - torch.nn.functional.cosine_similarity(
            x.double()[:, None], centroids.double(), dim=-1
        )
    expected = (distances.min(-1).values * weight).sum()
    found = F.inertia(x, centroids, weight, metric=metric)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("metric", F.METRICS)
def test_pairwise_distances_broadcast_and_can_be_differentiated(metric: str) -> None:
    x = torch.randn(2, 1, 5, 3, generator=seeded(), dtype=torch.float64, requires_grad=True)
    centroids = torch.randn(4, 6, 3, generator=seeded(1), dtype=torch.float64, requires_grad=True)
    found = F.pairwise_distances(x, centroids, metric=metric)
    assert found.shape == (2, 4, 5, 6)
    if metric == "euclidean":
        torch.testing.assert_close(found, brute_force(x, centroids))
    assert torch.autograd.gradcheck(
        lambda x, c: F.pairwise_distances(x, c, metric=metric), (x, centroids)
    )


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch.func's own
@pytest.mark.parametrize("far", [1e2, 1e6])
def test_gradients_of_pairwise_distances_are_those_of_differences(far: float) -> None:
    """Also where groups of centroids lie so far apart that products in float32 would cancel."""
    centroids = blobs(20, 8)
    centroids[10:] += far
    x = centroids.repeat(10, 1) + blobs(200, 8, seed=1)

    def gradients(dtype: torch.dtype, distances: Any) -> tuple[torch.Tensor, ...]:
        points = [t.to(dtype).requires_grad_() for t in (x, centroids)]
        return torch.autograd.grad(distances(*points).amin(dim=-1).sum(), points)

    exact = gradients(torch.float64, lambda x, c: (x[:, None] - c).square().sum(dim=-1))
    for found, expected in zip(gradients(torch.float32, F.pairwise_distances), exact, strict=True):
        assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)
    tangents = (torch.ones_like(x), torch.zeros_like(centroids))
    _, found = torch.func.jvp(F.pairwise_distances, (x, centroids), tangents)
    difference = x.double()[:, None] - centroids.double()
    assert_close(found, 2 * difference.sum(dim=-1).float(), rtol=1e-5, atol=1e-4)


def test_pairwise_distances_keep_small_differences_at_a_large_offset() -> None:
    x = torch.tensor([[1e6], [1e6 + 1]])
    assert F.pairwise_distances(x, x).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("metric", F.METRICS)
def test_autocast_changes_no_distance(metric: str) -> None:
    x, centroids = blobs(50, 8), blobs(5, 8, seed=1)
    expected = F.pairwise_distances(x, centroids, metric=metric)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(F.pairwise_distances(x, centroids, metric=metric), expected)


def test_nothing_is_changed_in_place() -> None:
    x, centroids, counts = LINE.clone(), ENDS.clone(), torch.ones(2).double()
    stats = F.e_step(x, centroids).stats
    sums = stats.sums.clone()
    F.update_centroids(centroids, counts, stats, decay=0.5)
    assert torch.equal(x, LINE)
    assert torch.equal(centroids, ENDS)
    assert counts.tolist() == [1, 1]
    assert torch.equal(stats.sums, sums)
