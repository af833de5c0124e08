"""Rows that are sorted into boxes get the labels, distances and sums that all rows measured get."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kmeans_module import KMeansLayer
from kmeans_module.backends.native import NativeWorkspace
from kmeans_module.backends.native import workspace as native
from kmeans_module.core.statistics import ClusterStats
from tests.backends.conftest import KINDS, brute_force, data_of, needs_native, share_visited

pytestmark = needs_native


def measured(x: Tensor, weight: Tensor | None = None) -> NativeWorkspace:
    """All rows with all centroids, of one problem: nothing is kept of the rows."""
    workspace = NativeWorkspace(x, weight)
    workspace.memories = [native.Memory()]
    return workspace


def moved(stats: ClusterStats, centroids: Tensor) -> Tensor:
    counts = stats.counts.unsqueeze(-1)
    means = stats.sums / counts.clamp(min=1e-9)
    return means.to(centroids.dtype).where(counts > 0, centroids)


def check(x: Tensor, k: int, weight: Tensor | None = None, *, steps: int = 6) -> None:
    n = len(x)
    centroids = x[:: max(1, n // k)][:k].unsqueeze(0).clone()
    workspace, every = NativeWorkspace(x, weight), measured(x, weight)
    last: Tensor | None = None
    for i in range(steps):
        expected = every.e_step(centroids)
        if i % 3 == 2:
            step = workspace.e_step(centroids)
            assert torch.equal(step.distances, expected.distances)
            assert torch.equal(step.labels, expected.labels)
            stats = step.stats
        else:
            stats = workspace.statistics(centroids)
        assert torch.equal(workspace.labels, expected.labels)
        scale = float(expected.stats.sums.abs().max())
        torch.testing.assert_close(stats.sums, expected.stats.sums, rtol=1e-9, atol=1e-9 * scale)
        torch.testing.assert_close(stats.counts, expected.stats.counts)
        torch.testing.assert_close(stats.inertia, expected.stats.inertia, rtol=1e-6, atol=0)
        changed = n if last is None else int((workspace.labels != last).sum())
        assert workspace.changed.tolist() == [changed]
        last = workspace.labels.clone()
        centroids = moved(expected.stats, centroids)


@pytest.fixture
def sorted_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_LEAST_ROWS_TO_SORT", 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("d", "k"), [(1, 7), (2, 40), (3, 130), (8, 20)])
def test_sorted_rows_get_the_results_of_measured_ones(
    instruction_set: str, sorted_always: None, kind: str, dtype: torch.dtype, d: int, k: int
) -> None:
    check(data_of(kind, 5_003, d, dtype), k)
    weight = torch.rand(2_001, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weight[::7] = 0
    check(data_of(kind, 2_001, d, dtype), k, weight)


@settings(max_examples=80, deadline=None)
@given(
    n=st.integers(1, 700), d=st.integers(1, 8), k=st.integers(1, 40), seed=st.integers(0, 2**16),
    offset=st.sampled_from([0.0, 1.0, 1e4]), scale=st.sampled_from([1e-21, 1e-3, 1.0, 1e4]),
    outlier=st.sampled_from([1.0, 1e8]),
)  # fmt: skip
def test_labels_of_sorted_rows_are_those_of_a_float64_brute_force(
    n: int, d: int, k: int, seed: int, offset: float, scale: float, outlier: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator) * scale + offset
    x[0] *= outlier
    centroids = torch.randn(1, k, d, generator=generator) * scale + offset
    workspace = NativeWorkspace(x)
    workspace.memories = [native.Memory(keep=True, sort=True)]
    workspace.statistics(centroids)
    labels = workspace.labels
    exact = brute_force(x, centroids[0])
    found = exact.gather(1, labels[0].unsqueeze(1)).squeeze(1)
    assert (found <= exact.amin(dim=1) * (1 + 1e-5)).all() or scale == 1e-21
    assert torch.equal(labels, measured(x).e_step(centroids).labels)


def test_any_layout_is_sorted(sorted_always: None) -> None:
    x = data_of("blobs", 3_000, 5, torch.float32)
    for rows in (x.T.contiguous().T, torch.cat([x, x], dim=1)[:, :5], x.flip(0)[::2]):
        check(rows, 20)


def test_the_same_bits_on_every_run_and_labels_whatever_the_threads(one_thread: None) -> None:
    x = data_of("blobs", 40_000, 3, torch.float32)
    centroids = x[None, :50].clone()

    def statistics() -> tuple[Tensor, ClusterStats]:
        workspace = NativeWorkspace(x)
        stats = workspace.statistics(centroids)
        return workspace.labels, stats

    alone, _ = statistics()
    for threads in (2, 3, 8):
        torch.set_num_threads(threads)
        (labels, first), (_, second) = statistics(), statistics()
        assert torch.equal(labels, alone)
        assert torch.equal(first.sums, second.sums)
        assert torch.equal(first.inertia, second.inertia)


def test_equal_rows_and_equal_centroids(sorted_always: None) -> None:
    x = torch.ones(1_000, 3)
    workspace = NativeWorkspace(x)
    stats = workspace.statistics(torch.ones(1, 4, 3))
    assert workspace.labels.unique().tolist() == [0], "ties go to the lowest index"
    assert stats.inertia.tolist() == [0]
    assert stats.counts.tolist() == [[1_000, 0, 0, 0]]


def test_the_farthest_rows_are_found_where_a_cluster_is_empty() -> None:
    x = data_of("blobs", 6_000, 2, torch.float32)
    centroids = torch.cat([x[:5], torch.full((1, 2), 1e6)]).unsqueeze(0)
    workspace = NativeWorkspace(x)
    stats = workspace.statistics(centroids)
    expected = measured(x).e_step(centroids)
    assert workspace.changed.tolist() == [6_000]
    assert stats.farthest is not None
    assert expected.stats.farthest is not None
    for found, wanted in zip(stats.farthest, expected.stats.farthest, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("d", [2, 9])
def test_labels_that_were_written_over_are_found_again(d: int) -> None:
    x = data_of("blobs", 6_000, d, torch.float32)
    centroids = x[None, :70].clone()
    workspace = NativeWorkspace(x)
    workspace.statistics(centroids)
    expected = workspace.labels.clone()
    for value in (-1, 10**9):
        workspace.statistics(centroids)
        labels = workspace.labels
        assert torch.equal(labels, expected)
        labels[:, ::2] = value
    workspace.statistics(centroids)
    assert torch.equal(workspace.labels, expected)
    labels.numpy()[:, ::2] = 10**9  # which torch does not see: nothing is read beyond its end
    workspace.statistics(centroids)


def test_a_fit_measures_no_distances_that_nobody_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    x = data_of("blobs", 6_000, 3, torch.float32)
    init = x[::700].clone()
    expected = KMeansLayer(9, 3).fit(x, init=init, max_iter=5)

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("distances were measured")

    monkeypatch.setattr(NativeWorkspace, "e_step", refused)
    found = KMeansLayer(9, 3).fit(x, init=init, max_iter=5)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_centroids_too_far_for_boxes_do_not_spoil_what_is_known() -> None:
    x = data_of("blobs", 6_000, 2, torch.float32)
    near = x[None, :9].clone()
    far = near.clone()
    far[0, 3] = 1e16
    workspace, every = NativeWorkspace(x), measured(x)
    for centroids in (near, far, near.flip(1), far, near):
        workspace.statistics(centroids)
        assert torch.equal(workspace.labels, every.e_step(centroids).labels)
        assert torch.equal(workspace.changed, every.changed)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_rows_that_are_not_finite_are_seen(bad: float) -> None:
    x = torch.randn(5_000, 3)
    x[4_321, 1] = bad
    workspace = NativeWorkspace(x)
    for _ in range(2):
        assert not workspace.statistics(torch.zeros(1, 2, 3)).inertia.isfinite()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["blobs", "ties", "duplicates", "offset", "tiny"])
@pytest.mark.parametrize(("d", "weighted"), [(3, False), (3, True), (12, True), (16, False)])
def test_seeding_of_sorted_rows_measures_what_it_does_of_all(
    instruction_set: str, kind: str, dtype: torch.dtype, d: int, weighted: bool
) -> None:
    n = 5_003
    x = data_of(kind, n, d, dtype)
    weight = torch.rand(n, dtype=torch.float64) if weighted else None
    workspace, every = NativeWorkspace(x, weight), measured(x, weight)
    near = torch.full((1, n), torch.inf, dtype=dtype)
    expected_near = near.clone()
    few_bits = 8 * torch.finfo(dtype).eps
    for step in range(12):
        candidates = x[None, step * 50 : step * 50 + (40 if step == 3 else 7)].clone()
        found = workspace.potentials(near, candidates)
        expected = every.potentials(expected_near, candidates)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
        workspace.lower(near, candidates[:, 2:3])
        every.lower(expected_near, candidates[:, 2:3])
        torch.testing.assert_close(near, expected_near, rtol=few_bits, atol=0)
        if step == 6:  # changes from outside are noticed
            near[:, ::3] *= 0.5
            expected_near[:, ::3] *= 0.5
    again = torch.full((1, n), torch.inf, dtype=dtype)
    workspace.lower(again, x[None, :1])
    first = measured(x).e_step(x[None, :1]).distances
    torch.testing.assert_close(again, first, rtol=few_bits, atol=0)


def test_most_rows_are_not_measured_again() -> None:
    """What makes it fast: boxes that one centroid owns settle their rows together."""
    x = torch.rand(100_000, 2, generator=torch.Generator().manual_seed(0))
    layer = KMeansLayer(6, 2)
    layer.fit(x, max_iter=3)
    workspace = NativeWorkspace(x)
    workspace.statistics(layer.centroids.unsqueeze(0))
    assert share_visited(workspace.memories[0]) < 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [1, 3, 8])
@pytest.mark.parametrize("weight_of_outliers", [0.0, 1e-30])
def test_rows_that_weigh_nothing_take_no_digits(
    d: int, dtype: torch.dtype, weight_of_outliers: float, sorted_always: None
) -> None:
    """Masked rows may hold anything: their boxes are as wide as that."""
    x = data_of("noise", 5_000, d, dtype)
    weight = torch.rand(len(x), dtype=torch.float64) + 0.5
    centroids = x[None, :3].clone()
    for size in (1e4, 1e8, 1e12):
        x[100:4000:60] = size * torch.randn(65, d, dtype=dtype)
        weight[100:4000:60] = weight_of_outliers / size**2
        for k in (1, 3):  # with one centroid every box is added as a whole
            stats = NativeWorkspace(x, weight).statistics(centroids[:, :k])
            expected = measured(x, weight).statistics(centroids[:, :k])
            at_rounding = {"rtol": 1e-10, "atol": 1e-10 * float(weight.sum())}
            torch.testing.assert_close(stats.sums, expected.sums, **at_rounding)
            torch.testing.assert_close(stats.counts, expected.counts)
            torch.testing.assert_close(stats.inertia, expected.inertia, rtol=1e-6, atol=0)
