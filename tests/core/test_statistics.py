"""Promises of ClusterStats: whatever way the rows arrive, the whole is the sum of the parts."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kmeans_module import ClusterStats
from kmeans_module.backends import workspace as prepare
from kmeans_module.core.statistics import (
    MAX_FARTHEST,
    Farthest,
    accumulator_dtype,
    find_farthest,
    gather_rows,
)
from tests.conftest import brute_force, seeded


def stats_of(x: torch.Tensor, centroids: torch.Tensor, start: int, weight: torch.Tensor | None):
    return prepare(x, weight).e_step(centroids.unsqueeze(0), start=start).stats


@given(
    cuts=st.lists(st.integers(0, 60), max_size=6),
    weighted=st.booleans(),
    reverse=st.booleans(),
    seed=st.integers(0, 20),
)
def test_parts_add_up_to_the_whole(
    cuts: list[int], weighted: bool, reverse: bool, seed: int
) -> None:
    # integers, so that many samples are equally far; far centroids, so that clusters are empty
    x = torch.randint(0, 5, (60, 2), generator=seeded(seed)).float()
    centroids = torch.cat([x[:3], torch.full((4, 2), 1e3)])
    weight = torch.randint(0, 3, (60,), generator=seeded(seed)).double() if weighted else None
    whole = stats_of(x, centroids, 0, weight)

    edges = sorted({0, 60, *cuts})
    parts = [
        stats_of(x[low:high], centroids, low, None if weight is None else weight[low:high])
        for low, high in itertools.pairwise(edges)
    ]
    merged = parts[-1] if reverse else parts[0]
    for part in parts[-2::-1] if reverse else parts[1:]:
        merged = merged + part

    assert torch.equal(merged.counts, whole.counts)
    torch.testing.assert_close(merged.sums, whole.sums, rtol=1e-14, atol=0)
    torch.testing.assert_close(merged.inertia, whole.inertia, rtol=1e-14, atol=0)
    assert whole.farthest is not None
    assert merged.farthest is not None
    for ours, theirs in zip(merged.farthest, whole.farthest, strict=True):
        assert torch.equal(ours, theirs)


def test_farthest_are_sorted_and_ties_come_by_index() -> None:
    x = torch.tensor([[1.0], [3.0], [-3.0], [2.0], [-2.0]])
    centroids = torch.tensor([[0.0], [100.0], [101.0], [102.0]])
    far = stats_of(x, centroids, 10, None).farthest
    assert far is not None
    assert far.distances.tolist() == [[9, 9, 4, 4]]
    assert far.indices.tolist() == [[11, 12, 13, 14]]
    assert far.rows.flatten().tolist() == [3, -3, 2, -2]
    assert far.labels.tolist() == [[0, 0, 0, 0]]
    assert far.weights.tolist() == [[1, 1, 1, 1]]


def test_rows_of_weight_zero_are_never_among_the_farthest() -> None:
    x = torch.tensor([[50.0], [1.0], [2.0]])
    weight = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)
    far = stats_of(x, torch.tensor([[0.0], [1e3], [2e3]]), 0, weight).farthest
    assert far is not None
    assert far.distances.tolist() == [[4, 1, -1]]
    assert far.weights.tolist() == [[1, 1, 0]]


def test_no_empty_cluster_means_nothing_to_carry() -> None:
    x = torch.tensor([[0.0], [9.0]])
    assert stats_of(x, torch.tensor([[0.0], [9.0]]), 0, None).farthest is None
    assert stats_of(x, torch.tensor([[0.0], [99.0]]), 0, None).farthest is not None


def test_a_part_without_empty_clusters_settles_it() -> None:
    x, centroids = torch.tensor([[0.0], [9.0]]), torch.tensor([[0.0], [9.0]])
    parts = [stats_of(x[:1], centroids, 0, None), stats_of(x, centroids, 1, None)]
    assert parts[0].farthest is not None
    assert (parts[0] + parts[1]).farthest is None


@pytest.mark.parametrize(("k", "expected"), [(3, 3), (200, MAX_FARTHEST)])
def test_at_most_64_farthest_travel(k: int, expected: int) -> None:
    x = torch.randn(300, 2, generator=seeded())
    far = stats_of(x, torch.arange(k)[:, None] * torch.tensor([[1e3, 1e3]]), 0, None).farthest
    assert far is not None
    assert far.distances.shape == (1, expected)


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 1000])
def test_the_farthest_do_not_depend_on_chunks(chunk_size: int) -> None:
    x = torch.randint(0, 9, (2, 100, 3), generator=seeded()).float()
    distances = x.square().sum(-1)
    labels = torch.zeros(2, 100, dtype=torch.int64)
    found = find_farthest(
        lambda part: (x[:, part], None), labels, distances,
        n_features=3, m=10, start=5, chunk_size=chunk_size,
    )  # fmt: skip
    order = distances.argsort(dim=-1, descending=True, stable=True)[:, :10]
    assert torch.equal(found.distances, distances.gather(-1, order))
    assert torch.equal(found.indices, order + 5)
    assert torch.equal(found.rows, gather_rows(x, order))


@pytest.mark.parametrize("batch_shape", [(), (2,), (2, 3)])
def test_reshape_gives_the_batch_shape_and_back(batch_shape: tuple[int, ...]) -> None:
    problems = int(torch.tensor(batch_shape).prod()) if batch_shape else 1
    x = torch.randn(problems, 20, 2, generator=seeded())
    stats = prepare(x).e_step(torch.full((problems, 3, 2), 50.0))
    shaped = stats.stats.reshape(batch_shape)
    assert shaped.sums.shape == (*batch_shape, 3, 2)
    assert shaped.counts.shape == (*batch_shape, 3)
    assert shaped.inertia.shape == batch_shape
    assert shaped.farthest is not None
    assert shaped.farthest.rows.shape == (*batch_shape, 3, 2)
    back = shaped.reshape((-1,))
    assert torch.equal(back.sums, stats.stats.sums)
    assert torch.equal(back.inertia, stats.stats.inertia)


def test_counts_are_exact_beyond_2_to_the_24() -> None:
    one = ClusterStats(
        torch.ones(1, 1, 1, dtype=torch.float64),
        torch.full((1, 1), 2.0**24, dtype=torch.float64),
        torch.zeros(1, dtype=torch.float64),
    )
    step = prepare(torch.zeros(1, 1)).e_step(torch.zeros(1, 1, 1)).stats
    assert (one + step).counts.item() == 2**24 + 1


def test_sums_are_those_of_float64() -> None:
    x = torch.full((100_000, 1), 0.1)
    stats = stats_of(x, torch.zeros(1, 1), 0, None)
    assert stats.sums.dtype == stats.counts.dtype == stats.inertia.dtype == torch.float64
    torch.testing.assert_close(stats.sums[0, 0], x.double().sum(0), rtol=1e-12, atol=0)
    assert accumulator_dtype(torch.device("mps")) == torch.float32


def test_statistics_are_what_their_names_say() -> None:
    x = torch.tensor([[0.0, 1.0], [2.0, 1.0], [10.0, 0.0]])
    weight = torch.tensor([1.0, 3.0, 0.5], dtype=torch.float64)
    centroids = torch.tensor([[1.0, 1.0], [9.0, 0.0]])
    step = prepare(x, weight).e_step(centroids.unsqueeze(0))
    assert step.labels.tolist() == [[0, 0, 1]]
    assert step.distances.tolist() == [[1, 1, 1]]
    assert step.stats.sums.tolist() == [[[6, 4], [5, 0]]]
    assert step.stats.counts.tolist() == [[4, 0.5]]
    assert step.stats.inertia.tolist() == [4.5]
    assert brute_force(x, centroids).min(-1).values.tolist() == [1, 1, 1]


def test_farthest_of_unequal_rank_order_merge_alike() -> None:
    x = torch.randn(50, 2, generator=seeded())
    centroids = torch.tensor([[0.0, 0.0], [1e3, 0.0], [2e3, 0.0]])
    parts = [stats_of(x[i : i + 10], centroids, i, None).farthest for i in range(0, 50, 10)]

    def merge(order: list[int]) -> Farthest:
        found = [parts[i] for i in order]
        assert all(part is not None for part in found)
        return sum(found[1:], start=found[0])  # type: ignore[type-var, return-value]

    for ours, theirs in zip(merge([0, 1, 2, 3, 4]), merge([3, 1, 4, 0, 2]), strict=True):
        assert torch.equal(ours, theirs)
