"""Sparse rows of a job: fits, surveys and draws are those of the dense rows."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from kmeans_module import KMeansLayer
from kmeans_module.backends import unit_rows
from kmeans_module.core.sparse import csr_rows, sparse_rows_at
from kmeans_module.rows import subsample
from kmeans_module.rows.keyed import row_hashes
from tests.backends.conftest import needs_native
from tests.backends.test_sparse import csr_of, sparse_and_dense
from tests.conftest import seeded
from tests.processes import run_ranks

POLICIES = ("relocate", "split", "keep")


def layers(n_clusters: int, d: int, **options: object) -> tuple[KMeansLayer, KMeansLayer]:
    return KMeansLayer(n_clusters, d, **options), KMeansLayer(n_clusters, d, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random"])
def test_a_fit_is_that_of_the_dense_rows(kernel: str, init: str, metric: str) -> None:
    for n, d, k, dtype in ((150, 100, 12, torch.float32), (130, 9, 5, torch.float64)):
        x, dense = sparse_and_dense(n, d, dtype)
        for weight in (None, torch.rand(n, generator=seeded())):
            sparse, other = layers(k, d, metric=metric, dtype=dtype)
            result = sparse.fit(x, init=init, seed=1, n_init=2, sample_weight=weight)
            expected = other.fit(dense, init=init, seed=1, n_init=2, sample_weight=weight)
            assert torch.equal(result.labels, expected.labels)
            assert torch.equal(sparse.n_iter, other.n_iter)
            torch.testing.assert_close(sparse.centroids, other.centroids)
            torch.testing.assert_close(result.inertia, expected.inertia)
            assert torch.equal(sparse(x), result.labels)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_sample_of_a_fit_stays_sparse(
    kernel: str, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, dense = sparse_and_dense(400, 60)
    weight = (torch.rand(400, generator=seeded()) > 0.5).float() if weighted else None
    seen: list[Tensor] = []

    def watched(rows: Tensor, index: Tensor) -> Tensor:
        seen.append(sparse_rows_at(rows, index))
        return seen[-1]

    monkeypatch.setattr(subsample, "sparse_rows_at", watched)
    sparse, other = layers(5, 60)
    options = {"seed": 1, "max_points_per_centroid": 12, "sample_weight": weight}
    result, expected = sparse.fit(x, **options), other.fit(dense, **options)  # type: ignore[arg-type]
    assert [rows.layout for rows in seen] == [torch.sparse_csr]
    assert seen[0].shape == (60, 60)
    assert torch.equal(result.labels, expected.labels)
    torch.testing.assert_close(sparse.centroids, other.centroids)


@pytest.mark.filterwarnings("ignore:3 of n_clusters=8 clusters have no samples")
@pytest.mark.parametrize("policy", POLICIES)
def test_empty_clusters_get_the_rows_of_dense_ones(kernel: str, policy: str) -> None:
    x, dense = sparse_and_dense(150, 30)
    start = torch.cat([dense[:5], dense[:3] + 100])  # to which no row is near
    sparse, other = layers(8, 30, empty_cluster=policy)
    result, expected = sparse.fit(x, init=start), other.fit(dense, init=start)
    assert torch.equal(result.labels, expected.labels)
    torch.testing.assert_close(sparse.centroids, other.centroids)


@pytest.mark.filterwarnings("ignore:.*fewer distinct")
@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random"])
def test_equal_rows_are_drawn_once(kernel: str, init: str) -> None:
    rows = sparse_and_dense(30, 40)[1][:6].repeat(20, 1)
    layer = KMeansLayer(6, 40)
    layer.initialize(csr_of(rows), init, seed=0)
    assert len(layer.centroids.unique(dim=0)) == len(rows.unique(dim=0))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_moments_are_those_of_the_dense_rows(kernel: str, metric: str) -> None:
    x, dense = sparse_and_dense(130, 9)
    for weight in (None, torch.arange(130) % 3, torch.rand(2, 130, generator=seeded()) - 0.2):
        if weight is not None:
            weight = weight.clamp(min=0)
        shape = (2,) if weight is not None and weight.ndim == 2 else ()
        layer = KMeansLayer(2, 9, metric=metric, batch_shape=shape)
        found = layer.prepare(x, weight).moments(metric)
        expected = layer.prepare(dense, weight).moments(metric)
        for name in ("n_weighty", "low", "high", "mean", "variance"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name))
        assert found[-3:] == expected[-3:]


def test_hashes_and_unit_rows_are_those_of_the_dense_rows(kernel: str) -> None:
    for dtype in (torch.float32, torch.float64):
        x, dense = sparse_and_dense(70, 2100, dtype)
        assert torch.equal(row_hashes(x), row_hashes(dense))
        assert torch.equal(unit_rows(x).to_dense(), unit_rows(dense))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_steps_by_hand_and_prepared_rows(kernel: str, metric: str) -> None:
    x, dense = sparse_and_dense(150, 100)
    sparse, other = layers(6, 100, metric=metric)
    sparse.initialize(x, seed=0)
    other.initialize(dense, seed=0)
    rows = sparse.prepare(x)
    for _ in range(3):
        step = sparse.e_step(rows)
        assert torch.equal(step.labels, other.e_step(dense).labels)
        sparse.m_step(step.stats)
        other.m_step(other.e_step(dense).stats)
    assert torch.equal(torch.cat(list(rows.labels(sparse.centroids, metric=metric))), sparse(dense))
    torch.testing.assert_close(sparse.centroids, other.centroids)
    sample = rows.sample(5, seeded())[0]
    assert (sample.unsqueeze(1) == dense).all(dim=-1).any(dim=-1).all()


def test_distances_and_shares_with_gradients_to_the_centroids(
    kernel: str, tiny_chunks: None
) -> None:
    x, dense = sparse_and_dense(130, 9)
    for metric in ("euclidean", "cosine"):
        layer = KMeansLayer(4, 9, metric=metric, requires_grad=True)
        layer.fit(dense, seed=0)
        for method in (layer.transform, layer.soft_assign):
            gradients = []
            for rows in (x, dense):
                layer.zero_grad()
                values = method(rows)
                values.square().sum().backward()
                gradients.append(layer.centroids.grad)
            torch.testing.assert_close(method(x), method(dense))
            torch.testing.assert_close(*gradients)
    with pytest.raises(TypeError, match=r"x has no gradient where it is sparse"):
        layer.transform(x.clone().requires_grad_())


def test_a_function_as_init_gets_the_sparse_rows() -> None:
    x, dense = sparse_and_dense(130, 9)
    given = []

    def init(rows: Tensor, n_clusters: int, generator: torch.Generator | None) -> Tensor:
        given.append(rows)
        return dense[:n_clusters]

    KMeansLayer(4, 9).fit(x, init=init)
    assert given[0] is x


def test_independent_problems_share_sparse_rows(kernel: str) -> None:
    x, dense = sparse_and_dense(130, 9)
    sparse, other = layers(4, 9, batch_shape=(2, 3))
    assert torch.equal(sparse.fit(x, seed=0).labels, other.fit(dense, seed=0).labels)
    assert torch.equal(sparse(x), other(dense))
    torch.testing.assert_close(sparse.transform(x), other.transform(dense))


def refused() -> dict[str, tuple[Tensor | list[Tensor], str]]:
    x, _ = sparse_and_dense(20, 9)
    nan = csr_rows(x.crow_indices(), x.col_indices(), x.values() * torch.nan, (20, 9))
    two, one = torch.tensor([0, 2]), torch.ones(2)
    return {
        "coo": (x.to_sparse_coo(), r"got torch.sparse_coo.*x.to_sparse_csr\(\)"),
        "csc": (x.to_sparse_csc(), r"got torch.sparse_csc.*x.to_sparse_csr\(\)"),
        "batches of matrices": (
            torch.stack([x.to_dense()] * 2).to_sparse_csr(),
            r"should have shape \(n, d\) where it",
        ),
        "unsorted": (csr_rows(two, torch.tensor([1, 0]), one, (1, 9)), "ascending order"),
        "repeated": (csr_rows(two, torch.tensor([1, 1]), one, (1, 9)), "ascending order"),
        "beyond the last column": (csr_rows(two, torch.tensor([1, 9]), one, (1, 9)), "x should"),
        "other features": (csr_rows(two, torch.tensor([1, 2]), one, (1, 8)), "got \\(1, 8\\)"),
        "not finite": (nan, r"1\d rows hold NaN or infinity, the first is row 0"),
        "batches": ([x, x], "x should be a dense tensor; got torch.sparse_csr"),
    }


@pytest.mark.parametrize("kind", sorted(refused()))
def test_other_sparse_tensors_are_refused_in_words(kind: str) -> None:
    x, message = refused()[kind]
    layer = KMeansLayer(1, 9)
    layer.fit(torch.randn(5, 9))
    doors = [layer.fit, layer.prepare, layer.initialize]
    if kind != "batches":
        doors += [layer, layer.e_step, layer.transform, layer.soft_assign]  # type: ignore[list-item]
    for door in doors:
        with pytest.raises((TypeError, ValueError), match=message):
            door(x)  # type: ignore[arg-type]


def test_programs_that_are_recorded_refuse_sparse_rows() -> None:
    x, dense = sparse_and_dense(20, 9)
    layer = KMeansLayer(2, 9)
    layer.fit(dense)
    with pytest.raises(RuntimeError, match="sparse x is taken as a plain tensor in eager code"):
        torch.export.export(layer, (x,))


def _fit_on_ranks(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=3)
    x, dense = sparse_and_dense(150, 30)
    part = (slice(0, 70), slice(70, 70), slice(70, 150))[rank]
    for metric, init in itertools.product(("euclidean", "cosine"), ("k-means++", "k-means||")):
        own, alone = layers(6, 30, metric=metric)
        result = own.fit(csr_of(dense[part]), init=init, seed=1, process_group=dist.group.WORLD)
        assert torch.equal(result.labels, alone.fit(x, init=init, seed=1).labels[part])
        torch.testing.assert_close(own.centroids, alone.centroids)
    with pytest.raises(ValueError, match="init as a function needs sparse rows of one process"):
        own.fit(csr_of(dense[part]), init=lambda x, k, _: x[:k], process_group=dist.group.WORLD)
    dist.destroy_process_group()


def test_ranks_together_equal_one_process(tmp_path: Path) -> None:
    run_ranks(_fit_on_ranks, (str(tmp_path),), 3)


_PEAK = """
import resource, numpy, torch
from kmeans_module import KMeansLayer
from kmeans_module.arrays import as_tensor
from scipy.sparse import coo_matrix
generator, many = numpy.random.default_rng(0), 200_000
where = generator.integers(20_000, size=many), generator.integers(50_000, size=many)
x = as_tensor(coo_matrix((generator.random(many, dtype="f"), where), (20_000, 50_000)), sparse=True)
layer = KMeansLayer(3, 50_000)
layer.fit(torch.ones(3, 50_000), max_iter=1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
layer.fit(x, max_iter=2, seed=0)
layer(x)
layer.e_step(x)
KMeansLayer(3, 50_000, metric="cosine").fit(x, max_iter=2, seed=0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@needs_native  # plain torch makes chunks of rows dense
def test_a_fit_takes_memory_for_the_numbers_that_are_given() -> None:
    command = [sys.executable, "-W", "ignore", "-c", _PEAK]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200 << 10  # kilobytes; dense rows take 4,000,000
