"""Promises of MiniBatchKMeans: the numbers of scikit-learn's, where no start is drawn."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.cluster import MiniBatchKMeans as SklearnMiniBatchKMeans

from kmeans_module import EmptyClusterError, MiniBatchKMeans
from tests.estimators.helpers import OTHER_BATCHES, OTHER_DRAWS

X = np.random.default_rng(0).normal(size=(600, 4)) + np.repeat(np.eye(4) * 5, 150, axis=0)
WEIGHT = np.linspace(0, 2, len(X))
FAR = np.concatenate([X[:6], X[6:8] + 1e3])  # clusters without samples
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "large batches": {"batch_size": 5000},
    "small batches": {"batch_size": 3, "max_iter": 2, "reassignment_ratio": 0},
    "many move": {"reassignment_ratio": 0.5, "batch_size": 30},
    "none moves": {"reassignment_ratio": 0, "init": FAR},
    "empty ones move": {"init": FAR, "batch_size": 64},
    "tolerance": {"tol": 1e-2, "max_no_improvement": None, "batch_size": 40},
    "one pass": {"max_iter": 1, "max_no_improvement": None, "batch_size": 64},
    "no labels": {"compute_labels": False, "batch_size": 64},
    "size of the start": {"init_size": 50, "batch_size": 64},
}


def pair(**options: Any) -> tuple[MiniBatchKMeans, Any]:
    options = {"init": X[:8], "n_init": 1, "random_state": 3, **options}
    return MiniBatchKMeans(8, **options), SklearnMiniBatchKMeans(8, **options)


def assert_alike(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours._counts, theirs._counts, rtol=1e-5)
    assert ours.n_steps_ == theirs.n_steps_
    assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-4)
    assert ours.cluster_centers_.dtype == theirs.cluster_centers_.dtype
    assert hasattr(ours, "labels_") == hasattr(theirs, "labels_")
    if hasattr(ours, "labels_"):
        np.testing.assert_array_equal(ours.labels_, theirs.labels_)
        assert ours.labels_.dtype == theirs.labels_.dtype


@pytest.mark.skipif(OTHER_DRAWS, reason=OTHER_BATCHES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_fit_is_scikit_learns_from_the_same_start(
    options: dict[str, Any], weighted: bool, dtype: Any
) -> None:
    weight = WEIGHT if weighted else None
    ours, theirs = (model.fit(X.astype(dtype), sample_weight=weight) for model in pair(**options))
    assert_alike(ours, theirs)
    assert ours.n_iter_ == theirs.n_iter_
    np.testing.assert_array_equal(*(model.predict(X.astype(dtype)) for model in (ours, theirs)))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("options", [{}, {"init": FAR}, {"reassignment_ratio": 0, "init": FAR}])
@pytest.mark.parametrize("fitted", [False, True])
def test_partial_fit_is_scikit_learns(
    weighted: bool, options: dict[str, Any], fitted: bool
) -> None:
    models = pair(**options)
    for model in models:
        if fitted and OTHER_DRAWS:
            model.partial_fit(X[::2])
        elif fitted:
            model.fit(X[::2])
        for part in np.array_split(np.random.default_rng(1).permutation(len(X)), 9):
            model.partial_fit(X[part], sample_weight=WEIGHT[part] if weighted else None)
    assert_alike(*models)


@pytest.mark.skipif(OTHER_DRAWS, reason=OTHER_BATCHES)
def test_it_says_what_scikit_learn_says(capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for model in pair(batch_size=64, reassignment_ratio=0.5, verbose=1):
        model.fit(X)
        said.append([line[:24] for line in capsys.readouterr().out.splitlines()])
    assert said[0] == said[1]
    assert any(line.startswith("Converged (lack") for line in said[0])
    assert any(line.startswith("[MiniBatchKMeans] Reassi") for line in said[0])


def test_no_parameter_is_another_one_than_in_scikit_learn() -> None:
    ours, theirs = MiniBatchKMeans().get_params(), SklearnMiniBatchKMeans().get_params()
    assert ours == theirs | {"metric": "euclidean", "empty_cluster": "keep"}
    assert list(inspect.signature(MiniBatchKMeans).parameters)[: len(theirs)] == list(
        inspect.signature(SklearnMiniBatchKMeans).parameters
    )


@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random"])
def test_clusters_that_lie_apart_are_found(init: str) -> None:
    x = X + np.repeat(np.eye(4) * 50, 150, axis=0)
    model = MiniBatchKMeans(4, init=init, n_init=10, random_state=0).fit(x)
    assert len({tuple(np.unique(model.labels_[i : i + 150])) for i in range(0, 600, 150)}) == 4
    assert model.score(x) == pytest.approx(-model.inertia_)
    assert 0 < model.n_iter_ <= 100


def test_tensors_give_the_tensors_of_arrays() -> None:
    arrays, tensors = (
        MiniBatchKMeans(8, init=X[:8], random_state=3, batch_size=64) for _ in range(2)
    )
    arrays.fit(X, sample_weight=WEIGHT).partial_fit(X[:9])
    tensors.fit(torch.from_numpy(X), sample_weight=torch.from_numpy(WEIGHT))
    tensors.partial_fit(torch.from_numpy(X[:9]))
    assert torch.equal(tensors.cluster_centers_, torch.from_numpy(arrays.cluster_centers_))
    assert torch.equal(tensors.labels_, torch.from_numpy(arrays.labels_).long())
    assert isinstance(tensors.transform(torch.from_numpy(X)), torch.Tensor)


def test_a_cosine_model_has_unit_centers_whatever_moves() -> None:
    x = np.concatenate([np.abs(X), np.zeros((20, 4))])
    model = MiniBatchKMeans(
        8, metric="cosine", reassignment_ratio=0.9, batch_size=32, random_state=0
    ).fit(x)
    np.testing.assert_allclose((model.cluster_centers_**2).sum(axis=1), 1)
    assert model.predict(x).shape == (620,)


def test_policies_for_clusters_that_weigh_nothing() -> None:
    options = {"init": FAR, "n_init": 1, "reassignment_ratio": 0, "random_state": 0}
    kept = MiniBatchKMeans(8, **options).fit(X)
    np.testing.assert_array_equal(kept.cluster_centers_[6:], FAR[6:])
    for policy in ("relocate", "split"):
        moved = MiniBatchKMeans(8, empty_cluster=policy, **options).fit(X)
        assert np.abs(moved.cluster_centers_).max() < 100
    with pytest.raises(EmptyClusterError, match="2 of 8 clusters have no samples"):
        MiniBatchKMeans(8, empty_cluster="error", **options).fit(X)


def test_a_model_goes_on_after_a_pickle_and_from_assigned_centers() -> None:
    model, whole = (MiniBatchKMeans(8, random_state=0) for _ in range(2))
    for part in np.array_split(X, 6):
        whole.partial_fit(part)
        model = pickle.loads(pickle.dumps(model.partial_fit(part)))
    np.testing.assert_array_equal(model.cluster_centers_, whole.cluster_centers_)
    assert not hasattr(clone(model), "cluster_centers_")
    restored = MiniBatchKMeans(8, random_state=0)
    restored.cluster_centers_ = model.cluster_centers_
    assert restored.partial_fit(X[:100]).n_steps_ == 1
    model.fit(X)
    np.testing.assert_array_equal(model.layer_.counts, model._counts)


def test_a_refused_batch_leaves_a_model_as_it_was() -> None:
    model = MiniBatchKMeans(8, random_state=0).partial_fit(X)
    before = pickle.dumps(model)
    for bad, weight in ((X[:, :2], None), (X * np.nan, None), (X, -WEIGHT), (X, WEIGHT[:3])):
        with pytest.raises(ValueError, match=r"X|sample_weight"):
            model.partial_fit(bad, sample_weight=weight)
    assert pickle.dumps(model) == before
