"""Promises for problems with fewer samples than clusters: the others never notice."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from kmeans_module import EmptyClusterError, KMeans, KMeansLayer
from kmeans_module.core.empty_clusters import problem_name
from kmeans_module.core.seeding import INITS
from kmeans_module.core.surplus import warn_of_surplus
from kmeans_module.layer.result import FitResult
from tests.conftest import seeded
from tests.rows.helpers import Passes

K, D, N = 10, 8, 60
X = torch.randn(4, N, D, generator=seeded())
WEIGHT = torch.rand(4, N, generator=seeded(1)).double() + 0.1
OTHERS = [0, 1, 3]


def first_rows(x: torch.Tensor, k: int, generator: object) -> torch.Tensor:
    return x[..., :k, :]


STARTS: dict[str, Any] = {
    **{name: name for name in INITS},
    "callable": first_rows,
    "tensor": torch.randn(K, D, generator=seeded(2)),
    "current": "current",
}


def lacking(n_weighty: int) -> torch.Tensor:
    """Weights of which problem 2 has few."""
    weight = WEIGHT.clone()
    weight[2, n_weighty:] = 0
    return weight


def fitted(
    weight: torch.Tensor, init: str, x: torch.Tensor = X, **options: Any
) -> tuple[KMeansLayer, FitResult, list[str]]:
    """A layer of 4 problems, its result, and the warnings."""
    policy = options.pop("empty_cluster", "relocate")
    layer = KMeansLayer(K, D, batch_shape=(4,), empty_cluster=policy)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if init == "current":
            layer.initialize(x, sample_weight=WEIGHT, generator=seeded(4))
        result = layer.fit(
            x, init=STARTS[init], sample_weight=weight, generator=seeded(3), **options
        )
    return layer, result, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("init", STARTS)
@pytest.mark.parametrize("policy", ["relocate", "split", "keep"])
@pytest.mark.parametrize("shared", [False, True])
def test_a_problem_with_few_weights_never_stops_or_changes_the_others(
    init: str, policy: str, shared: bool
) -> None:
    x = X[0] if shared else X
    for n_init in (1, 3):
        options = {"x": x, "empty_cluster": policy, "n_init": n_init}
        layer, result, _ = fitted(WEIGHT, init, **options)
        for n_weighty in (5, 0):
            found, other, told = fitted(lacking(n_weighty), init, **options)
            for mine, theirs in zip(found.buffers(), layer.buffers(), strict=True):
                assert not mine.ndim or torch.equal(mine[OTHERS], theirs[OTHERS])
            assert result.labels is not None
            assert other.labels is not None
            assert torch.equal(other.labels[OTHERS], result.labels[OTHERS])
            assert torch.equal(other.inertia[OTHERS], result.inertia[OTHERS])
            assert torch.equal(found(x), other.labels)
            assert found.centroids.isfinite().all()
            used = found.counts[2] > 0
            assert used.sum() <= n_weighty
            assert any(
                t.startswith("problem 2: ") and f"only {n_weighty} samples" in t for t in told
            )
            if init in INITS and n_weighty:
                assert used.tolist() == [True] * 5 + [False] * 5
                copies = found.centroids[2, 5:, None] == found.centroids[2, None, :5]
                assert copies.all(-1).any(-1).all(), "copies of used centroids"
            if init in INITS:  # without any weight they are rows all the same
                rows = x if shared else x[2]
                same = (found.centroids[2, :, None] == rows[None]).all(-1)
                assert same.any(-1).all()


@pytest.mark.parametrize("init", ["random", "k-means++", "k-means||", "callable"])
def test_the_policy_error_names_the_problem(init: str) -> None:
    message = r"^problem 2: 5 of 10 clusters have no samples \(clusters 5, 6, 7, 8, 9\) and empty_c"
    with pytest.raises(EmptyClusterError, match=message) as caught:
        fitted(lacking(5), init, empty_cluster="error", n_init=3)
    assert caught.value.problem % 4 == 2
    layer, _, _ = fitted(WEIGHT, "k-means++")
    layer.empty_cluster = "error"
    stats = layer.e_step(X, lacking(5)).stats
    with pytest.raises(EmptyClusterError, match=r"^problem 2: "):
        layer.m_step(stats)


@pytest.mark.parametrize("form", ["tensor", "list", "stream", "estimator"])
@pytest.mark.parametrize("init", INITS)
def test_few_weights_alone_leave_clusters_unused_too(form: str, init: str) -> None:
    x, weight = X[0], lacking(5)[2]
    message = "^5 of n_clusters=10 clusters have no samples: sample_weight is positive for only 5"
    if form == "estimator":
        model = KMeans(K, init=init, random_state=0)
        with pytest.warns(UserWarning, match=r"distinct clusters \(5\) found smaller than"):
            model.fit(x.numpy(), sample_weight=weight.numpy())
        assert model.inertia_ == 0
        return
    data: Any = x
    if form != "tensor":
        parts = [
            {"x": a, "sample_weight": b} for a, b in zip(x.split(7), weight.split(7), strict=True)
        ]
        data = parts if form == "list" else Passes(parts)
    layer = KMeansLayer(K, D)
    with pytest.warns(UserWarning, match=message):
        result = layer.fit(
            data, init=init, sample_weight=weight if form == "tensor" else None, generator=seeded()
        )
    assert result.inertia == 0
    assert layer.counts.count_nonzero() == 5


@pytest.mark.parametrize("init", INITS)
def test_initialize_warns_of_repeated_centroids(init: str) -> None:
    layer = KMeansLayer(K, D, batch_shape=(2, 2))
    message = r"problem \(1, 0\): 5 of n_clusters=10 centroids repeat others: .* only 5 samples"
    with pytest.warns(UserWarning, match=message):
        layer.initialize(
            X.view(2, 2, N, D), init, sample_weight=lacking(5).view(2, 2, N), generator=seeded()
        )
    assert len(layer.centroids[1, 0].unique(dim=0)) == 5


def test_no_weight_at_all_is_refused_before_anything_is_done() -> None:
    layer = KMeansLayer(K, D, batch_shape=(4,))
    with pytest.raises(ValueError, match=r"sample_weight should be positive for .* it is for 0"):
        layer.fit(X, sample_weight=torch.zeros(4, N))
    assert not layer.initialized


def test_one_pruned_row_of_many_problems_is_named() -> None:
    x = torch.randn(64, 20, 1, generator=seeded())
    weight = torch.ones(64, 20)
    weight[41] = 0
    layer = KMeansLayer(4, 1, batch_shape=(64,))
    with pytest.warns(UserWarning, match="^problem 41: 4 of n_clusters=4 clusters"):
        layer.fit(x, sample_weight=weight, generator=seeded())


def test_a_warning_names_ten_problems_and_counts_the_rest() -> None:
    centroids, counts = torch.zeros(30, 2, 1), torch.tensor([[1.0, 0.0]] * 30).double()
    counts[:3] = 1
    with pytest.warns(UserWarning, match=r"^problems 3, 4, .*, 12 and 17 more: up to 1 of n_clus"):
        warn_of_surplus(
            centroids, counts, torch.zeros(30).double(), empty_cluster="keep",
            batch_shape=(30,),
        )  # fmt: skip


def test_each_cause_has_a_warning_of_its_own() -> None:
    centroids = torch.tensor([[[1.0], [2.0]]] * 4)
    counts = torch.tensor([[1.0, 0.0]] * 3 + [[1.0, 1.0]]).double()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_surplus(
            centroids, counts, torch.tensor([0.0, 5, 0, 5]).double(), empty_cluster="keep",
            n_weighty=torch.tensor([9, 9, 1, 9]), batch_shape=(2, 2),
        )  # fmt: skip
    told = [str(warning.message) for warning in caught]
    assert [text.partition(":")[0] for text in told] == [
        "problem (1, 0)", "problem (0, 0)", "problem (0, 1)",
    ]  # fmt: skip
    for text, cause in zip(told, ["only 1 samples", "1 distinct rows", "is nearest"], strict=True):
        assert cause in text


def test_problems_have_the_name_of_their_place() -> None:
    assert problem_name(7, (4,)) == "problem 3"
    assert problem_name(5, (2, 3)) == "problem (1, 2)"
