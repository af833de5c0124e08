"""Promises of the iterations: scikit-learn's Lloyd, step by step, and they end."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from kmeans_module import EmptyClusterError
from kmeans_module.core import fit
from kmeans_module.core.lloyd import NonFiniteInertiaError
from kmeans_module.core.problem import Problem
from kmeans_module.rows import Batch, HeldRows
from tests.conftest import (
    DATA_SETS,
    blobs,
    brute_force,
    data_set,
    layer_at,
    seeded,
    weights_for,
)

pytestmark = pytest.mark.usefixtures("kernel")


def reference(
    x: torch.Tensor, init: torch.Tensor, weight: torch.Tensor | None = None, **options: Any
) -> KMeans:
    """scikit-learn's Lloyd from the same centroids."""
    model = KMeans(len(init), init=init.numpy(), n_init=1, algorithm="lloyd", **options)
    # threads that wait for each other take minutes on a busy machine
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")  # fewer distinct clusters than k
        return model.fit(x.numpy(), sample_weight=None if weight is None else weight.numpy())


def starting_rows(x: torch.Tensor, k: int, seed: int = 0) -> torch.Tensor:
    """Near k distinct rows, but in general position: scikit-learn breaks ties by rounding."""
    distinct = torch.unique(x, dim=0)
    rows = distinct[torch.randperm(len(distinct), generator=seeded(seed))[:k]]
    return rows + 0.01 * x.std() * torch.randn(rows.shape, generator=seeded(seed)).to(x.dtype)


def assert_same_but_for_ties(
    labels: torch.Tensor, expected: torch.Tensor, x: torch.Tensor, centroids: torch.Tensor
) -> None:
    """Where labels differ, both centroids are equally near within the rounding of float32."""
    differ = labels != expected
    distances = brute_force(x[differ], centroids)
    ours = distances.gather(-1, labels[differ].unsqueeze(-1))
    theirs = distances.gather(-1, expected[differ].unsqueeze(-1))
    tolerance = 1e-5 * (distances.mean(-1, keepdim=True) + theirs)
    assert ((ours - theirs).abs() <= tolerance).all()


@pytest.mark.parametrize("name", DATA_SETS)
@pytest.mark.parametrize("k", [1, 2, 3, 8, 20, 50])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_every_iteration_is_that_of_scikit_learn(
    name: str, k: int, dtype: torch.dtype, weighted: bool
) -> None:
    x = data_set(name).to(dtype)
    init = starting_rows(x, k)
    weight = weights_for(x).to(dtype) if weighted else None
    for max_iter in (1, 2, 3, 8, 300):
        expected = reference(x, init, weight, max_iter=max_iter, tol=0)
        layer = layer_at(init)
        found = layer.fit(x, init=init, max_iter=max_iter, tol=0, sample_weight=weight)
        assert found.inertia.item() == pytest.approx(expected.inertia_, rel=1e-5)
        assert found.history[-1] == found.inertia
        labels = torch.from_numpy(expected.labels_).long()
        assert_same_but_for_ties(found.labels, labels, x, layer.centroids)
        torch.testing.assert_close(
            layer.centroids, torch.from_numpy(expected.cluster_centers_), rtol=1e-4, atol=1e-4
        )
        assert found.n_iter.item() == expected.n_iter_
        if found.n_iter < max_iter:
            assert found.converged
            break


@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-3, 1e-4, 0])
@pytest.mark.parametrize("name", ["uniform", "digits"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_tol_means_what_it_means_in_scikit_learn(tol: float, name: str, scale: float) -> None:
    x = data_set(name) * scale
    init = starting_rows(x, 12)
    expected = reference(x, init, tol=tol)
    found = layer_at(init).fit(x, init=init, tol=tol)
    assert found.n_iter.item() == expected.n_iter_
    assert found.inertia.item() == pytest.approx(expected.inertia_, rel=1e-5)
    assert found.converged


@pytest.mark.parametrize("n_empty", [1, 2, 5])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_relocation_is_that_of_scikit_learn(n_empty: int, weighted: bool, seed: int) -> None:
    x = blobs(300, 3, seed=seed)
    # two clusters at one place and far away: the later ones get no sample
    init = torch.cat([starting_rows(x, 6, seed), torch.full((n_empty, 3), 1e3)])
    weight = weights_for(x, seed) + 0.1 if weighted else None
    expected = reference(x, init, weight, max_iter=1, tol=0)
    layer = layer_at(init)
    found = layer.fit(x, init=init, max_iter=1, tol=0, sample_weight=weight)
    theirs = torch.from_numpy(expected.cluster_centers_)
    # argpartition leaves open which of the empty clusters gets which sample
    torch.testing.assert_close(layer.centroids[:6], theirs[:6], rtol=1e-4, atol=1e-4)
    order, their_order = (c[6:, 0].argsort() + 6 for c in (layer.centroids, theirs))
    torch.testing.assert_close(layer.centroids[order], theirs[their_order], rtol=1e-4, atol=1e-4)
    assert found.inertia.item() == pytest.approx(expected.inertia_, rel=1e-5)

    found = layer.fit(x, init=init, tol=0, sample_weight=weight)
    expected = reference(x, init, weight, tol=0)
    assert found.inertia.item() == pytest.approx(expected.inertia_, rel=1e-5)


def run(
    x: torch.Tensor,
    init: torch.Tensor,
    *,
    max_iter: int = 300,
    threshold: torch.Tensor | None = None,
    **asked: Any,
) -> fit.Fit:
    """Lloyd's algorithm from an init (k, d) or (P, k, d)."""
    init = init if init.ndim == 3 else init.unsqueeze(0)
    problem = Problem(*init.shape[1:], len(init), dtype=init.dtype, **asked)
    rows = HeldRows([Batch(x)])
    return fit.run(
        rows, rows.search(problem), problem, init, max_iter=max_iter, threshold=threshold
    )


def test_history_is_the_inertia_before_each_iteration() -> None:
    x = torch.tensor([[0.0], [2.0], [10.0], [12.0]])
    found = run(x, torch.tensor([[0.0], [2.0]]))
    # labels 0 1 1 1 -> centroids 0, 8; labels 0 0 1 1 -> centroids 1, 11; the same again
    assert found.history.tolist() == [[0 + 0 + 64 + 100, 0 + 4 + 4 + 16, 4]]
    assert found.n_iter.tolist() == [3]
    assert found.labels.tolist() == [[0, 0, 1, 1]]
    assert found.centroids.flatten().tolist() == [1, 11]
    assert found.counts.tolist() == [[2, 2]]


def test_it_stops_when_no_label_changes() -> None:
    x = torch.tensor([[0.0], [2.0], [10.0], [12.0]])
    found = run(x, torch.tensor([[0.0], [9.0]]))
    # labels are final at once; the second E-step shows that
    assert found.n_iter.tolist() == [2]
    assert found.converged.all()
    assert run(x, torch.tensor([[1.0], [11.0]])).n_iter.tolist() == [1]


def test_it_stops_within_the_threshold() -> None:
    x = torch.linspace(0, 1, 1000).unsqueeze(-1)
    init = torch.tensor([[0.0], [0.01], [0.02]])
    full = run(x, init)
    shifts = []
    for t in range(1, 6):
        before, after = (run(x, init, max_iter=m).centroids for m in (t, t + 1))
        shifts.append((after - before).square().sum().item())
    early = run(x, init, threshold=torch.tensor([shifts[3] * 1.001]))
    assert early.n_iter.item() == 5
    assert early.converged.all()
    assert full.n_iter > early.n_iter


def test_max_iter_ends_it_unconverged() -> None:
    x = torch.linspace(0, 1, 1000).unsqueeze(-1)
    found = run(x, torch.tensor([[0.0], [0.01], [0.02]]), max_iter=3)
    assert found.n_iter.tolist() == [3]
    assert not found.converged.any()
    assert found.history.shape == (1, 4)


@pytest.mark.parametrize("policy", ["relocate", "split", "keep"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_tol_0_ends_with_more_clusters_than_distinct_rows(
    policy: str, dtype: torch.dtype, metric: str
) -> None:
    # 0.1, 0.3 and 0.7 are no binary fractions: the mean of equal rows may be off by rounding
    x = torch.tensor([[0.1, 0.3], [0.7, 0.1], [0.3, 0.3]], dtype=dtype).repeat(7, 1)
    for seed in range(10):
        init = x[torch.randperm(21, generator=seeded(seed))[:6]]
        if metric == "cosine":
            init = init / init.norm(dim=-1, keepdim=True)
        found = run(x, init, empty_cluster=policy, metric=metric)
        assert found.centroids.isfinite().all()
        if policy != "split":
            assert found.converged.all()
            assert found.n_iter.item() < 20
        if policy == "relocate":
            assert found.inertia.item() < 1e-10


def test_finished_problems_freeze() -> None:
    x = torch.linspace(0, 1, 1000).unsqueeze(-1)
    init = torch.tensor([[[0.25], [0.5], [0.75]], [[0.0], [0.01], [0.02]]])
    both = run(x, init)
    assert both.n_iter[0] < both.n_iter[1]
    for p in range(2):
        alone = run(x, init[p])
        assert alone.n_iter.item() == both.n_iter[p].item()
        torch.testing.assert_close(alone.centroids[0], both.centroids[p])
        torch.testing.assert_close(alone.inertia[0], both.inertia[p])
        length = alone.history.shape[1]
        torch.testing.assert_close(both.history[p, :length], alone.history[0])
        assert (both.history[p, length:] == both.inertia[p]).all()


def test_problems_within_their_threshold_freeze() -> None:
    x = torch.linspace(0, 1, 1000).unsqueeze(-1)
    init = torch.tensor([[0.0], [0.01], [0.02]])
    both = run(x, init.expand(2, 3, 1), threshold=torch.tensor([0.01, 0.0]))
    assert both.n_iter[0] < both.n_iter[1]
    for p, threshold in enumerate((0.01, 0.0)):
        alone = run(x, init, threshold=torch.tensor([threshold]))
        assert alone.n_iter.item() == both.n_iter[p].item()
        torch.testing.assert_close(alone.centroids[0], both.centroids[p])
        torch.testing.assert_close(alone.inertia[0], both.inertia[p])


def test_an_empty_cluster_is_an_error_where_asked() -> None:
    with pytest.raises(EmptyClusterError, match="1 of 2 clusters have no samples"):
        run(torch.zeros(5, 1), torch.tensor([[0.0], [9.0]]), empty_cluster="error")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30])
def test_non_finite_inertia_is_told_before_the_m_step(value: float) -> None:
    with pytest.raises(NonFiniteInertiaError):
        run(torch.tensor([[0.0], [value]]), torch.tensor([[0.0], [1.0]]))
