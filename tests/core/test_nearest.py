"""Promises of the search in plain torch: the nearest centroid, whatever cancels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kmeans_module import KMeansLayer, backends
from kmeans_module import functional as F
from kmeans_module.backends.reference import ReferenceWorkspace
from kmeans_module.core.distances import few_distances, unit_rows
from kmeans_module.core.nearest import Screen
from tests.conftest import blobs, brute_force, layer_at, seeded


def awkward(name: str, n: int, d: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Rows (n, d) whose squared norms hide the distances between them."""
    generator = seeded(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    far = {torch.float32: 1e6, torch.float64: 1e15}.get(dtype, 1e4)
    if name == "outlier":
        x[n // 2] = far
    elif name == "outliers":
        x[::7] *= far
    elif name == "offset":
        x += far / 100
    elif name == "two groups":
        x[::2] += far / 10
    elif name == "scales":
        x *= torch.logspace(0, -6, d, dtype=torch.float64) * far
    elif name == "ties":
        x = x.round()
    return x.to(dtype)


AWKWARD = ("plain", "outlier", "outliers", "offset", "two groups", "scales", "ties")


@given(
    name=st.sampled_from(AWKWARD),
    n=st.integers(1, 120),
    k=st.integers(1, 40),
    d=st.integers(1, 9),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    metric=st.sampled_from(["euclidean", "cosine"]),
    problems=st.integers(1, 3),
    seed=st.integers(0, 10**6),
)
def test_labels_are_the_nearest_whatever_cancels(
    name: str, n: int, k: int, d: int, dtype: torch.dtype, metric: str, problems: int, seed: int
) -> None:
    x = awkward(name, n, d, dtype, seed)
    exact = x.to(torch.promote_types(dtype, torch.float32))
    pick = torch.randint(n, (problems, k), generator=seeded(seed))
    centroids = exact[pick] + exact.std(0, correction=0) * 1e-3 * (torch.arange(k) % 2).view(-1, 1)
    if metric == "cosine":
        centroids = unit_rows(centroids)
    found = ReferenceWorkspace(x, metric=metric).e_step(centroids)
    space = unit_rows(exact) if metric == "cosine" else exact
    native = backends.workspace(exact, metric=metric).e_step(centroids)
    for p in range(problems):
        all_distances = brute_force(space, centroids[p])
        chosen = all_distances.gather(-1, found.labels[p, :, None])[:, 0]
        slack = 1 + 4 * (d + 8) * torch.finfo(exact.dtype).eps
        # Rows on a centroid but for the rounding of unit length
        floor = (8 * torch.finfo(exact.dtype).eps) ** 2 if metric == "cosine" else 0
        nonzero = (exact != 0).any(-1) | (metric == "euclidean")
        least = all_distances.amin(-1)
        assert (chosen <= least * slack + floor)[nonzero].all()
        theirs = all_distances.gather(-1, native.labels[p, :, None])[:, 0]
        differs = found.labels[p] != native.labels[p]
        assert ((theirs - chosen).abs() <= least * 2 * slack + floor)[differs].all()
        reported = found.distances[p].double() * (2 if metric == "cosine" else 1)
        torch.testing.assert_close(reported[nonzero], chosen[nonzero], rtol=1e-5, atol=floor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_one_far_row_costs_no_label_and_no_inertia(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KMEANS_KERNEL", "reference")
    x = torch.randn(300, 3, generator=seeded())
    x[7] = 1e6
    x = x.to(dtype)
    layer = KMeansLayer(50, 3, dtype=torch.promote_types(dtype, torch.float32))
    result = layer.fit(x, generator=seeded(1))
    distances = brute_force(x, layer.centroids)
    assert result.labels is not None
    assert torch.equal(distances.argmin(-1), result.labels)
    torch.testing.assert_close(result.inertia, distances.amin(-1).sum(), rtol=1e-5, atol=0)


def test_many_clusters_on_a_line_are_told_apart() -> None:
    # The squared norms are 10^8 times the squared distance of neighbors.
    x = torch.rand(3000, 1, generator=seeded())
    labels, _ = ReferenceWorkspace(x).assign(x[None, :1500])
    assert torch.equal(labels[0], brute_force(x, x[:1500]).argmin(-1))


@pytest.mark.usefixtures("tiny_chunks")
@pytest.mark.parametrize("shared", [True, False])
def test_rows_in_doubt_are_decided_in_their_problem(shared: bool) -> None:
    # No row, one row and all rows of a problem are in doubt.
    x = torch.randn(4, 60, 2, generator=seeded())
    centroids = x[:, :6].clone()
    x[3] += 1e6 * (torch.arange(60) % 2).view(-1, 1)
    centroids[3] = x[3, :6]
    centroids[2, 5] = centroids[2, 1]
    x = x[3] if shared else x
    labels, _ = ReferenceWorkspace(x).assign(centroids)
    expected = [brute_force(x if shared else x[p], centroids[p]).argmin(-1) for p in range(4)]
    assert torch.equal(labels, torch.stack(expected))


# Of two groups of 300 centroids each, 16 are measured: products do not tell the others apart.
@pytest.mark.parametrize(
    ("name", "k"),
    [(name, k) for name in AWKWARD for k in (10, 600) if (name, k) != ("two groups", 600)],
)
def test_a_fixed_graph_finds_the_nearest_too(name: str, k: int) -> None:
    x = awkward(name, 700, 8, torch.float32, 3)
    centroids = x[None, :k]
    labels = Screen(centroids).decide_in_a_fixed_graph(x)[0]
    distances = brute_force(x, centroids[0])
    chosen = distances.gather(-1, labels[:, None])[:, 0]
    assert (chosen <= distances.amin(-1) * (1 + 1e-5)).all()


def test_exported_layers_do_not_lose_to_a_far_centroid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMEANS_KERNEL", "reference")
    x = awkward("outlier", 300, 3, torch.float32, 0)
    layer = layer_at(torch.cat([x[:40], x[150:151]]))
    program = torch.export.export(
        layer, (blobs(5, 3),), dynamic_shapes={"x": {0: torch.export.Dim.AUTO}}
    )
    assert torch.equal(program.module()(x), brute_force(x, layer.centroids).argmin(-1))


@pytest.mark.parametrize("name", AWKWARD)
def test_distances_of_seeding_do_not_cancel(name: str) -> None:
    x = awkward(name, 200, 5, torch.float32, 1)
    for points in (x[None, :1], x[None, :16]):
        expected = brute_force(x, points[0])
        apart = expected > 1e-3 * expected.median()
        found = few_distances(x, points)[0].double()
        torch.testing.assert_close(found[apart], expected[apart], rtol=1e-4, atol=0)


def test_soft_shares_do_not_lose_to_a_far_centroid() -> None:
    x = torch.randn(100, 3, generator=seeded())
    centroids = torch.cat([x[:20], torch.full((1, 3), 1e6)])
    expected = (-brute_force(x, centroids)).softmax(-1).float()
    torch.testing.assert_close(F.soft_assign(x, centroids), expected, rtol=1e-3, atol=1e-6)


def test_no_cosine_distance_is_negative() -> None:
    x = unit_rows(torch.randn(300, 7, generator=seeded()))
    assert (F.pairwise_distances(3 * x, x, metric="cosine") >= 0).all()
