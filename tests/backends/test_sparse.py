"""E-steps of sparse rows: labels and distances are those of the dense rows, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kmeans_module import backends
from kmeans_module import functional as F
from kmeans_module.backends.native import NativeSparseWorkspace
from kmeans_module.core.sparse import csr_rows
from kmeans_module.core.statistics import EStep
from tests.backends.conftest import needs_native
from tests.conftest import seeded

SHAPES = ((60, 3, 4), (70, 8, 20), (130, 9, 5), (150, 100, 33), (40, 2500, 19))
DTYPES = (torch.float32, torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool)


def csr_of(dense: Tensor) -> Tensor:
    """Rows (n, d) without their zeros."""
    given = dense != 0
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), given.sum(dim=-1).cumsum(0)])
    return csr_rows(starts, given.nonzero()[:, 1], dense[given], (len(dense), dense.shape[1]))


def sparse_and_dense(
    n: int, d: int, dtype: torch.dtype = torch.float32, *, whole: bool = False
) -> tuple[Tensor, Tensor]:
    """Rows (n, d) with rows and columns of zeros, equal rows and zeros that are given."""
    generator = seeded(n + d)
    dense = torch.randn(n, d, generator=generator, dtype=torch.float64)
    if whole or not dtype.is_floating_point:
        dense = torch.randint(1, 4, (n, d), generator=generator).double()
    dense *= torch.rand(n, d, generator=generator) < (0.4 if d < 20 else 0.05)
    dense[:, d // 2] = 0
    dense[3] = 0
    dense[-10:] = dense[:10]
    dense = dense.to(dtype)
    x = csr_of(dense)
    x.values()[:: 7 if dtype == torch.float32 else n * d] = 0
    return x, x.to_dense()


def centroids_of(dense: Tensor, k: int, metric: str) -> Tensor:
    """Some are rows, two are equal."""
    dtype = torch.promote_types(dense.dtype, torch.float32)
    generator = seeded(k)
    centroids = dense[torch.randperm(len(dense), generator=generator)[:k]].to(dtype)
    centroids[::2] += 0.1 * torch.randn(centroids[::2].shape, generator=generator, dtype=dtype)
    centroids[-1] = centroids[0]
    if metric == "cosine":
        centroids = torch.nn.functional.normalize(centroids + 1e-3)
    return centroids


def assert_same(step: EStep, expected: EStep) -> None:
    assert torch.equal(step.labels, expected.labels)
    assert torch.equal(step.distances, expected.distances)
    torch.testing.assert_close(step.stats.sums, expected.stats.sums, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(step.stats.counts, expected.stats.counts)
    torch.testing.assert_close(step.stats.inertia, expected.stats.inertia)
    assert (step.stats.farthest is None) == (expected.stats.farthest is None)
    if step.stats.farthest is not None and expected.stats.farthest is not None:
        for own, other in zip(step.stats.farthest, expected.stats.farthest, strict=True):
            assert torch.equal(own, other)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_e_step_is_that_of_the_dense_rows(kernel: str, dtype: torch.dtype, metric: str) -> None:
    for n, d, k in SHAPES:
        for whole in (False, True):  # whole numbers are as near to several centroids
            x, dense = sparse_and_dense(n, d, dtype, whole=whole)
            centroids = centroids_of(dense, k, metric)
            weight = torch.rand(n, generator=seeded()) * (torch.rand(n, generator=seeded(1)) > 0.1)
            for sample_weight in (None, weight):
                step = F.e_step(x, centroids, sample_weight, metric=metric)
                expected = F.e_step(dense, centroids, sample_weight, metric=metric)
                assert_same(step, expected)
            labels, finite = F.assign(x, centroids, metric=metric)
            assert torch.equal(labels, step.labels)
            assert finite


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_instruction_set_decides_as_for_dense_rows(
    instruction_set: str, dtype: torch.dtype
) -> None:
    for metric in ("euclidean", "cosine"):
        for n, d, k in SHAPES:
            x, dense = sparse_and_dense(n, d, dtype)
            centroids = centroids_of(dense, k, metric)
            assert_same(
                F.e_step(x, centroids, metric=metric), F.e_step(dense, centroids, metric=metric)
            )
            unit = backends.unit_rows(x)
            assert torch.equal(unit.to_dense(), backends.unit_rows(dense))


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e17, 1e18, 1e19])
def test_rows_whose_products_overflow_or_underflow_are_measured(kernel: str, scale: float) -> None:
    _, dense = sparse_and_dense(60, 40)
    x, dense = csr_of(dense * scale), dense * scale
    centroids = centroids_of(dense / scale, 7, "euclidean") * scale
    step, expected = F.e_step(x, centroids), F.e_step(dense, centroids)
    assert torch.equal(step.labels, expected.labels)
    assert torch.equal(step.distances, expected.distances)
    assert torch.equal(step.stats.inertia.isfinite(), expected.stats.inertia.isfinite())


def test_centroids_far_from_zero_lose_no_label(kernel: str) -> None:
    x, dense = sparse_and_dense(150, 100)
    centroids = centroids_of(dense, 33, "euclidean") + 1000  # products lose all digits
    assert_same(F.e_step(x, centroids), F.e_step(dense, centroids))


def test_several_problems_share_sparse_rows(kernel: str) -> None:
    x, dense = sparse_and_dense(130, 9)
    centroids = torch.stack([centroids_of(dense, k, "euclidean")[:5] for k in (5, 6, 7)])
    weight = torch.rand(3, 130, generator=seeded())
    for sample_weight in (None, weight[0], weight):
        assert_same(
            F.e_step(x, centroids, sample_weight), F.e_step(dense, centroids, sample_weight)
        )


@needs_native
def test_repeated_steps_count_the_labels_that_change() -> None:
    x, dense = sparse_and_dense(150, 100)
    space = NativeSparseWorkspace(x)
    expected = backends.workspace(dense)
    centroids = centroids_of(dense, 33, "euclidean").unsqueeze(0)
    for shift in (0.0, 0.0, 0.3, -0.2):
        moved = centroids + shift * torch.randn(centroids.shape, generator=seeded(5))
        stats, of_dense = space.statistics(moved), expected.statistics(moved)
        assert torch.equal(space.changed, expected.changed)
        assert torch.equal(space.labels, expected.labels)
        torch.testing.assert_close(stats.sums, of_dense.sums, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(stats.inertia, of_dense.inertia)
    space.labels.zero_()  # somebody writes into them: they are no labels of a step any more
    space.statistics(moved)
    assert space.changed.tolist() == [150]


@needs_native
def test_sums_do_not_depend_on_the_threads() -> None:
    x, _ = sparse_and_dense(4000, 300)
    centroids = centroids_of(x.to_dense(), 40, "euclidean")
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            found.append(F.e_step(x, centroids).stats.sums)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_sums_of_given_labels_are_those_of_dense_rows(kernel: str, metric: str) -> None:
    x, dense = sparse_and_dense(130, 9)
    labels = torch.randint(5, (2, 130), generator=seeded())
    weight = torch.rand(130, generator=seeded())
    found = backends.workspace(x, weight, metric=metric).sums_of(labels, 5)
    expected = backends.workspace(dense, weight, metric=metric).sums_of(labels, 5)
    torch.testing.assert_close(found.sums, expected.sums)
    torch.testing.assert_close(found.counts, expected.counts)


def test_seeding_measures_the_dense_rows_and_equal_ones_at_zero(kernel: str) -> None:
    for dtype in (torch.float32, torch.float64):
        x, dense = sparse_and_dense(130, 9, dtype)
        space, expected = backends.workspace(x), backends.workspace(dense)
        nearest = torch.full((1, 130), torch.inf, dtype=dtype)
        near_dense = nearest.clone()
        for start in (0, 40, 80):
            candidates = dense[start : start + 21].unsqueeze(0)
            torch.testing.assert_close(
                space.potentials(nearest, candidates), expected.potentials(near_dense, candidates)
            )
            space.lower(nearest, candidates[:, :1])
            expected.lower(near_dense, candidates[:, :1])
            torch.testing.assert_close(nearest, near_dense)
            assert nearest[0, start] == 0
