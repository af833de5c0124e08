"""Promises of the E-step: the nearest centroid, exactly, whatever the scale and the chunks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kmeans_module.backends.reference import ReferenceWorkspace as prepare
from kmeans_module.core import distances
from kmeans_module.core.distances import compute_dtype, full_precision, unit_rows
from tests.conftest import brute_force, seeded

shapes = {"n": st.integers(1, 40), "k": st.integers(1, 12), "d": st.integers(1, 9)}


@given(**shapes, seed=st.integers(0, 10**6), scale=st.sampled_from([1e-12, 1.0, 1e12]))
def test_labels_are_those_of_brute_force(n: int, k: int, d: int, seed: int, scale: float) -> None:
    x = torch.randn(n, d, generator=seeded(seed), dtype=torch.float64) * scale
    centroids = torch.randn(k, d, generator=seeded(seed + 1), dtype=torch.float64) * scale
    expected = brute_force(x, centroids)
    step = prepare(x).e_step(centroids.unsqueeze(0))
    assert torch.equal(step.labels[0], expected.argmin(-1))
    torch.testing.assert_close(step.distances[0], expected.min(-1).values, rtol=1e-13, atol=0)
    torch.testing.assert_close(
        step.stats.inertia[0], expected.min(-1).values.sum(), rtol=1e-13, atol=0
    )


@pytest.mark.parametrize("offset", [0.0, 1e3, -1e6, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_offset_costs_no_label(offset: float, dtype: torch.dtype) -> None:
    x = (torch.randn(3000, 2, generator=seeded(), dtype=torch.float64) * 3 + offset).to(dtype)
    centroids = x[:20]
    expected = brute_force(x, centroids)
    step = prepare(x).e_step(centroids.unsqueeze(0))
    chosen = expected.gather(-1, step.labels[0].unsqueeze(-1)).squeeze(-1)
    # what a wrong label costs is at most rounding
    tolerance = 1e-5 * expected.mean()
    assert (chosen - expected.min(-1).values).max() <= tolerance * (1 if offset == 0 else 10)
    torch.testing.assert_close(step.stats.inertia[0], chosen.sum(), rtol=1e-6, atol=0)


def test_close_centroids_far_from_the_data_are_told_apart() -> None:
    x = torch.tensor([[1e4]])
    centroids = torch.tensor([[0.0], [0.001]])
    assert prepare(x).e_step(centroids.unsqueeze(0)).labels.item() == 1


def test_distances_are_not_lost_to_cancellation() -> None:
    x = torch.tensor([[1000.0 + 2**-10]])
    step = prepare(x).e_step(torch.tensor([[[1000.0]]]))
    assert step.distances.item() == 2.0**-20
    assert step.stats.inertia.item() == 2.0**-20


@pytest.mark.parametrize("chunks", ["whole", "tiny"])
def test_ties_go_to_the_lowest_index(chunks: str, request: pytest.FixtureRequest) -> None:
    if chunks == "tiny":
        request.getfixturevalue("tiny_chunks")
    x = torch.tensor([[1.0], [3.0], [2.0], [0.0]]).repeat(20, 1)
    centroids = torch.tensor([[4.0], [2.0], [0.0], [2.0], [0.0], [4.0]])
    labels, finite = prepare(x).assign(centroids.unsqueeze(0))
    assert labels[0].tolist() == [1, 0, 1, 2] * 20
    assert finite.item()
    assert torch.equal(prepare(x).e_step(centroids.unsqueeze(0)).labels, labels)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("problems", [1, 3])
def test_chunks_change_nothing(metric: str, problems: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randint(-6, 6, (problems, 83, 3), generator=seeded()).double()
    centroids = torch.randint(-6, 6, (problems, 5, 3), generator=seeded(1)).double()
    if metric == "cosine":
        centroids = unit_rows(centroids + 0.5)
    weight = torch.rand(problems, 83, generator=seeded(2), dtype=torch.float64)
    whole = prepare(x, weight, metric=metric).e_step(centroids)
    for budget in (1, 100, 700):
        monkeypatch.setattr(distances, "CHUNK_ELEMENTS", {"cpu": budget})
        step = prepare(x, weight, metric=metric).e_step(centroids)
        assert torch.equal(step.labels, whole.labels)
        assert torch.equal(step.distances, whole.distances)
        torch.testing.assert_close(step.stats.sums, whole.stats.sums, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(step.stats.counts, whole.stats.counts, rtol=1e-13, atol=0)
        torch.testing.assert_close(step.stats.inertia, whole.stats.inertia, rtol=1e-13, atol=0)
        assert torch.equal(prepare(x, metric=metric).assign(centroids)[0], whole.labels)


@pytest.mark.parametrize("n", [0, 1, 10, 10**7])
@pytest.mark.parametrize(("k", "d"), [(1, 1), (4096, 16), (10**6, 1024)])
def test_chunks_stay_within_the_budget(n: int, k: int, d: int) -> None:
    rows = distances.chunk_rows(n, k, d, 2, torch.device("cpu"))
    assert 1 <= rows <= max(1, n)
    assert rows == 1 or rows * 2 * (k + 4 * d) <= distances.CHUNK_ELEMENTS["cpu"]


@pytest.mark.parametrize("shared", [True, False])
def test_problems_are_independent(shared: bool) -> None:
    x = torch.randn(*([] if shared else [4]), 50, 3, generator=seeded())
    centroids = torch.randn(4, 6, 3, generator=seeded(1))
    step = prepare(x).e_step(centroids)
    for p in range(4):
        alone = prepare(x if shared else x[p]).e_step(centroids[p : p + 1])
        assert torch.equal(step.labels[p], alone.labels[0])
        torch.testing.assert_close(step.stats.sums[p], alone.stats.sums[0])


def test_cosine_is_one_minus_cos() -> None:
    x = torch.tensor([[3.0, 0.0], [5.0, 5.0], [0.0, 0.0], [-2.0, 0.0]])
    centroids = unit_rows(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    step = prepare(x, metric="cosine").e_step(centroids.unsqueeze(0))
    assert step.labels.tolist() == [[1, 0, 0, 0]]
    root = 0.5**0.5
    torch.testing.assert_close(step.distances[0], torch.tensor([0.0, 1 - root, 1.0, 1.0]))
    # the zero row contributes nothing
    assert step.stats.counts.tolist() == [[2, 1]]
    torch.testing.assert_close(step.stats.inertia, torch.tensor([2 - root], dtype=torch.float64))
    torch.testing.assert_close(step.stats.sums[0, 1], torch.tensor([1.0, 0]).double())


def test_zero_rows_get_label_0_of_every_cosine_call() -> None:
    x = torch.randn(100, 3, generator=seeded())
    x[::3] = 0
    centroids = unit_rows(torch.randn(1, 9, 3, generator=seeded(1)))
    workspace = prepare(x, metric="cosine")
    labels, _ = workspace.assign(centroids)
    step = workspace.e_step(centroids)
    assert (labels[0, ::3] == 0).all()
    assert torch.equal(labels, step.labels)
    assert (step.distances[0, ::3] == 1).all()


def test_rows_become_unit_without_overflow() -> None:
    rows = torch.tensor([[3.0, 4.0], [3e38, 3e38], [1e-40, 0.0], [0.0, 0.0]])
    root = 0.5**0.5
    expected = torch.tensor([[0.6, 0.8], [root, root], [1.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(unit_rows(rows), expected)


def test_assign_says_whether_all_was_finite() -> None:
    centroids = torch.zeros(1, 2, 2)
    centroids[0, 1] = 1
    x = torch.zeros(10, 2)
    assert prepare(x).assign(centroids)[1].item()
    x[7, 1] = torch.nan
    assert not prepare(x).assign(centroids)[1].item()


def test_no_rows_give_empty_labels_and_zero_statistics() -> None:
    workspace = prepare(torch.zeros(0, 2))
    labels, finite = workspace.assign(torch.zeros(3, 4, 2))
    assert labels.shape == (3, 0)
    assert labels.dtype == torch.int64
    assert finite.item()
    step = workspace.e_step(torch.zeros(3, 4, 2))
    assert step.labels.shape == step.distances.shape == (3, 0)
    assert not step.stats.counts.any()
    assert not step.stats.inertia.any()


@pytest.mark.parametrize(
    ("x", "centroids", "expected"),
    [
        (torch.float16, torch.float16, torch.float32),
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.int64, torch.float16, torch.float32),
        (torch.bool, torch.float64, torch.float64),
        (torch.float64, torch.float32, torch.float64),
    ],
)
def test_distances_are_at_least_float32(
    x: torch.dtype, centroids: torch.dtype, expected: torch.dtype
) -> None:
    rows, means = torch.ones(3, 2).to(x), torch.ones(1, 2, 2).to(centroids)
    assert compute_dtype(rows, means) == expected
    assert prepare(rows).e_step(means).distances.dtype == expected


def test_full_precision_holds_inside_and_is_undone_after() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with full_precision(torch.device("cpu")):
                assert torch.get_float32_matmul_precision() == "highest"
                assert not torch.is_autocast_enabled("cpu")
            assert torch.is_autocast_enabled("cpu")
            with pytest.raises(RuntimeError), full_precision(torch.device("cpu")):
                raise RuntimeError
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_autocast_and_matmul_precision_change_nothing(metric: str) -> None:
    x = torch.randn(500, 16, generator=seeded()) + 3
    centroids = unit_rows(torch.randn(1, 40, 16, generator=seeded(1)) + 3)
    expected = prepare(x, metric=metric).e_step(centroids)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            step = prepare(x, metric=metric).e_step(centroids)
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(step.labels, expected.labels)
    assert torch.equal(step.distances, expected.distances)
    assert torch.equal(step.stats.sums, expected.stats.sums)
