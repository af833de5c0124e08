"""An E-step with an empty cluster searches once; distances of the labels are made afterwards."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from kmeans_module.backends.native import NativeSparseWorkspace, NativeWorkspace
from kmeans_module.backends.native.library import address, loaded
from kmeans_module.core.distances import unit_rows
from kmeans_module.core.statistics import ClusterStats
from tests.backends.conftest import needs_native
from tests.backends.test_sparse import csr_of
from tests.conftest import seeded

pytestmark = needs_native

DTYPES = (torch.float32, torch.float64, torch.float16, torch.int32)


class Counting:
    """The library, which counts the calls of its functions."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        self.calls[name] += 1
        return getattr(loaded(), name)


def rows_of(n: int, d: int, dtype: torch.dtype) -> Tensor:
    """Rows with zero rows and equal ones; of integers, some beyond 2^24."""
    x = torch.randn(n, d, generator=seeded(n + d), dtype=torch.float64)
    if dtype.is_floating_point:
        x = x.to(dtype)
    else:
        x = (x * 20).abs().to(dtype)
        if dtype == torch.int32:
            x[n // 2, 0] = 2**24 + 1  # distances are computed in float64
    x[3:5] = 0
    x[-7:] = x[:7]
    return x


def centroids_of(x: Tensor, k: int, problems: int, metric: str) -> Tensor:
    """Rows, of which some are equal: ties go to the first, and the others' clusters are empty."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    picks = torch.stack([torch.randperm(len(x), generator=seeded(p))[:k] for p in range(problems)])
    centroids = x[picks].to(dtype)
    centroids = unit_rows(centroids + 1e-3) if metric == "cosine" else centroids
    centroids[:, 1:3] = centroids[:, :1]
    return centroids


def assert_same(stats: ClusterStats, expected: ClusterStats, *, exact: bool = True) -> None:
    """Equal but for the inertia, and for sums of whole boxes of rows where not exact."""
    if exact:
        assert torch.equal(stats.sums, expected.sums)
        assert torch.equal(stats.counts, expected.counts)
    torch.testing.assert_close(stats.sums, expected.sums, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(stats.counts, expected.counts, rtol=1e-12, atol=0)
    torch.testing.assert_close(stats.inertia, expected.inertia, rtol=1e-6, atol=0)
    assert stats.farthest is not None
    assert expected.farthest is not None
    for part, of_expected in zip(stats.farthest, expected.farthest, strict=True):
        assert torch.equal(part, of_expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize(
    ("n", "d", "k", "problems"),
    [(600, 8, 12, 2), (5_000, 3, 20, 1), (1_500, 40, 50, 2), (130, 1_100, 9, 1)],
)  # fmt: skip
def test_empty_clusters_cost_no_second_search(
    instruction_set: str, n: int, d: int, k: int, problems: int, metric: str, dtype: torch.dtype
) -> None:
    x = rows_of(n, d, dtype)
    centroids = centroids_of(x, k, problems, metric)
    weight = torch.rand(problems, n, generator=seeded(0), dtype=torch.float64).round(decimals=1)
    for sample_weight in (None, weight):
        warm = NativeWorkspace(x, sample_weight, metric=metric)
        warm.statistics(centroids, farthest=False)  # float64 from here on where rows need it
        counting = warm._library = Counting()
        for step in range(3):
            before = warm.labels.clone()
            stats = warm.statistics(centroids, start=step)
            assert counting.calls == {"km_e_step": problems, "km_label_distances": problems}
            counting.calls.clear()
            fresh = NativeWorkspace(x, sample_weight, metric=metric)
            expected = fresh.e_step(centroids, start=step)
            assert (stats.counts == 0).any()
            assert_same(stats, expected.stats, exact=d > 8)
            assert torch.equal(warm.labels, expected.labels)
            assert torch.equal(warm.changed, (warm.labels != before).sum(dim=-1))
            assert torch.equal(warm._label_distances(centroids), expected.distances)
            counting.calls.clear()
            measured = warm.e_step(centroids, start=step).stats
            assert_same(measured, expected.stats, exact=d > 8)
            assert counting.calls == {"km_e_step": problems}
            counting.calls.clear()
            used = stats.counts.unsqueeze(-1) > 0
            moved = stats.sums / stats.counts.clamp(min=1e-9).unsqueeze(-1)
            centroids = moved.to(centroids.dtype).where(used, centroids)
            centroids = unit_rows(centroids) if metric == "cosine" else centroids
            centroids[:, 1:3] = centroids[:, :1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize(("n", "d", "k"), [(300, 5, 8), (300, 60, 12), (90, 2_100, 7)])
def test_nor_do_those_of_sparse_rows(
    instruction_set: str, n: int, d: int, k: int, metric: str, dtype: torch.dtype
) -> None:
    x = rows_of(n, d, dtype)
    x *= (torch.rand(n, d, generator=seeded(1)) < 0.3).to(dtype)
    centroids = centroids_of(x, k, 1, metric)
    weight = torch.rand(n, generator=seeded(0), dtype=torch.float64).round(decimals=1)
    for sample_weight in (None, weight):
        workspace = NativeSparseWorkspace(csr_of(x), sample_weight, metric=metric)
        assert workspace.dtype == centroids.dtype
        calls: Counter[str] = Counter()
        call = workspace._call

        def counted(name: str, *arguments: object, call: Any = call, calls: Any = calls) -> None:
            calls[name] += 1
            call(name, *arguments)

        workspace._call = counted  # type: ignore[method-assign]
        for _ in range(2):
            stats = workspace.statistics(centroids)
            assert calls == {"km_sparse_e_step": 1, "km_sparse_label_distances": 1}
            calls.clear()
            assert (stats.counts == 0).any()
            fresh = NativeSparseWorkspace(csr_of(x), sample_weight, metric=metric)
            expected = fresh.e_step(centroids)
            assert_same(stats, expected.stats)
            assert torch.equal(workspace._label_distances(centroids), expected.distances)
            dense = NativeWorkspace(x, sample_weight, metric=metric).e_step(centroids)
            assert torch.equal(expected.distances, dense.distances)
            calls.clear()


@pytest.mark.parametrize("d", [3, 40])
def test_distances_of_labels_do_not_depend_on_threads_or_layout(d: int) -> None:
    x = rows_of(10_000, d, torch.float32)
    centroids = centroids_of(x, 30, 1, "euclidean")
    labels = NativeWorkspace(x).e_step(centroids).labels
    results = []
    for rows in (x, x.T.contiguous().T, torch.cat([x, x], dim=1)[:, :d]):
        workspace = NativeWorkspace(rows)
        for threads in (1, 3):
            distances = torch.full((1, len(x)), torch.nan)
            assert not loaded().km_label_distances(
                workspace._of(workspace._rows, 0), address(centroids, 0), 30, address(labels, 0),
                address(distances, 0), threads,
            )  # fmt: skip
            results.append(distances)
    assert all(torch.equal(result, results[0]) for result in results)
