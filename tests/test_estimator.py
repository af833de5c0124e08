"""The scikit-learn face gives what scikit-learn's own KMeans gives."""

from __future__ import annotations

import pickle
import re
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.base import clone, is_clusterer
from sklearn.cluster import KMeans as SklearnKMeans
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kmeans_module import KMeans, NotInitializedError

X = np.random.default_rng(0).normal(size=(600, 4)) + np.repeat(np.eye(4) * 5, 150, axis=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_same_start_ends_where_scikit_learn_does(dtype: type, weighted: bool) -> None:
    x = X.astype(dtype)
    weight = np.linspace(0.5, 2, len(x)) if weighted else None
    ours = KMeans(6, init=x[:6]).fit(x, sample_weight=weight)
    theirs = SklearnKMeans(6, init=x[:6], n_init=1).fit(x, sample_weight=weight)
    np.testing.assert_array_equal(ours.labels_, theirs.labels_)
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, rtol=1e-4)
    assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-5)
    assert ours.n_iter_ == theirs.n_iter_
    np.testing.assert_array_equal(ours.predict(x), theirs.predict(x))
    np.testing.assert_allclose(ours.transform(x), theirs.transform(x), rtol=1e-3, atol=1e-3)
    assert ours.score(x) == pytest.approx(theirs.score(x), rel=1e-5)
    assert ours.cluster_centers_.dtype == dtype


@pytest.mark.parametrize(
    "dtype",
    ["?", "i1", "u1", "i2", "i4", "i8", "f2", "f4", "f8"],
    ids=lambda kind: np.dtype(kind).name,
)
def test_every_dtype_gives_the_dtypes_of_scikit_learn(dtype: str) -> None:
    x = (X > 1 if dtype == "?" else np.abs(X * 8)).astype(dtype)
    init = X[:6].astype(np.float32 if dtype == "f4" else np.float64) * (1 if dtype == "?" else 8)
    ours = KMeans(6, init=init).fit(x)
    theirs = SklearnKMeans(6, init=init, n_init=1).fit(x)
    assert ours.cluster_centers_.dtype == theirs.cluster_centers_.dtype
    assert ours.transform(x).dtype == theirs.transform(x).dtype
    np.testing.assert_array_equal(ours.labels_, theirs.labels_)
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, rtol=1e-4, atol=1e-6)
    assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-5)
    tensor = KMeans(6, init=init).fit(torch.from_numpy(x))
    assert torch.equal(tensor.cluster_centers_, torch.from_numpy(ours.cluster_centers_))


def test_integers_that_float32_would_merge_are_told_apart() -> None:
    seconds = 1_700_000_000 + np.arange(40).reshape(-1, 1) // 10 * 20
    model = KMeans(4, random_state=0).fit(seconds)
    np.testing.assert_array_equal(np.sort(model.cluster_centers_.ravel()), np.unique(seconds))
    assert model.inertia_ == 0
    assert KMeans(2).fit(torch.eye(4).bfloat16()).cluster_centers_.dtype == torch.float32


def test_arrays_give_arrays_and_tensors_give_tensors() -> None:
    model = KMeans(3, random_state=0)
    assert isinstance(model.fit_predict(X), np.ndarray)
    assert isinstance(model.fit_transform(torch.from_numpy(X)), torch.Tensor)
    assert isinstance(model.predict(X), np.ndarray)


def test_a_seed_repeats_and_none_draws_anew() -> None:
    first, second = (KMeans(5, random_state=3, init="random").fit(X) for _ in range(2))
    np.testing.assert_array_equal(first.cluster_centers_, second.cluster_centers_)
    torch.manual_seed(0)
    anew = [KMeans(5, init="random", max_iter=1).fit(X).inertia_ for _ in range(2)]
    assert anew[0] != anew[1]


def test_clone_and_pipelines_take_it() -> None:
    model = KMeans(3, random_state=1, metric="cosine")
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert copy is not model
    assert make_pipeline(StandardScaler(), copy).fit_predict(X).shape == (600,)
    assert repr(copy) == "KMeans(n_clusters=3, random_state=1, metric='cosine')"
    assert copy.set_params(n_clusters=4).n_clusters == 4


def test_a_pipeline_predicts_and_a_search_compares() -> None:
    pipe = make_pipeline(StandardScaler(), KMeans(3, random_state=0)).fit(X)
    assert pipe.predict(X[:9]).shape == (9,)
    assert pipe.transform(X[:9]).shape == (9, 3)
    assert pipe.score(X) < 0
    assert "KMeans" in pipe._repr_html_()
    search = GridSearchCV(pipe, {"kmeans__n_clusters": [2, 5]}, cv=3).fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_params_ == {"kmeans__n_clusters": 5}
    assert is_clusterer(KMeans())


def test_restarts_and_seeds_as_in_scikit_learn() -> None:
    auto = KMeans(5, n_init="auto", random_state=0).fit(X)
    assert auto.inertia_ == KMeans(5, n_init=1, random_state=0).fit(X).inertia_
    auto = KMeans(5, init="random", n_init="auto", random_state=0).fit(X)
    assert auto.inertia_ == KMeans(5, init="random", n_init=10, random_state=0).fit(X).inertia_
    states = (KMeans(5, random_state=np.random.RandomState(7)).fit(X) for _ in range(2))
    assert next(states).inertia_ == next(states).inertia_


def test_bad_calls_say_what_is_wrong() -> None:
    with pytest.raises(NotInitializedError, match="call fit"):
        KMeans().predict(X)
    with pytest.raises(ValueError, match=r"x should have shape \(n_samples, n_features\)"):
        KMeans().fit(X[0])
    with pytest.raises(ValueError, match="parameter should be one of n_clusters"):
        KMeans().set_params(clusters=3)
    with pytest.raises(ValueError, match="n_init should be one of auto"):
        KMeans(n_init="often").fit(X)
    with pytest.raises(TypeError, match=r"sparse; use x.toarray\(\)"):
        KMeans().fit(csr_matrix(X))
    for method in ("predict", "transform", "score"):
        with pytest.raises(ValueError, match=r"got \(4,\); use x.reshape\(1, -1\) for one sample"):
            getattr(KMeans(3).fit(X), method)(X[0])
    with pytest.raises(TypeError, match="it is NoneType"):
        KMeans().fit(None)
    with pytest.raises(ValueError, match="n_samples=600 should be >= n_clusters=601"):
        KMeans(601).fit(X)


CENTERS = np.eye(4) * 5


@pytest.mark.parametrize("fitted", [True, False])
@pytest.mark.parametrize("make", [np.array, torch.tensor, np.ndarray.tolist, np.float32])
@pytest.mark.parametrize("n_clusters", [4, 2])
def test_assigned_centers_are_what_a_model_predicts_by(
    fitted: bool, make: Any, n_clusters: int
) -> None:
    theirs = SklearnKMeans(4, init=CENTERS, n_init=1, max_iter=1).fit(X)
    theirs.cluster_centers_ = CENTERS
    model = KMeans(n_clusters, random_state=0)
    if fitted:
        model.fit(X[:50, :3])
    model.cluster_centers_ = make(CENTERS)
    for again in (model, pickle.loads(pickle.dumps(model)), deepcopy(model)):
        np.testing.assert_array_equal(again.predict(X), theirs.predict(X))
        np.testing.assert_allclose(again.transform(X), theirs.transform(X), rtol=1e-5)
        assert again.score(X) == pytest.approx(theirs.score(X))
        np.testing.assert_array_equal(again.cluster_centers_, CENTERS)
        assert again.n_features_in_ == 4
    assert isinstance(model.cluster_centers_, torch.Tensor) == (make is torch.tensor)


def test_centers_edited_in_place_are_what_a_model_predicts_by() -> None:
    for model in (KMeans(4, init=CENTERS).fit(X), deepcopy(KMeans(4, init=CENTERS).fit(X))):
        before = model.predict(X)
        model.cluster_centers_[:] = model.cluster_centers_[::-1].copy()
        np.testing.assert_array_equal(model.predict(X), 3 - before)


def test_assigned_centers_do_not_follow_the_array_that_they_came_from() -> None:
    centers = CENTERS.copy()
    model = KMeans(4)
    model.cluster_centers_ = centers
    labels = model.predict(X)
    centers[:] = 0
    np.testing.assert_array_equal(model.predict(X), labels)


@pytest.mark.parametrize(
    ("centers", "error", "message"),
    [
        (CENTERS[0], ValueError, "should have shape (n_clusters, n_features); got (4,)"),
        (CENTERS[:0], ValueError, "got (0, 4)"),
        (CENTERS * np.nan, ValueError, "should be finite; they hold NaN or infinity"),
        (CENTERS.astype(str), TypeError, "should hold numbers"),
        (None, TypeError, "it is NoneType"),
    ],
)
def test_centers_that_are_none_are_refused_and_leave_the_model(
    centers: Any, error: type[Exception], message: str
) -> None:
    model = KMeans(3, random_state=0).fit(X)
    labels = model.predict(X)
    with pytest.raises(error, match=re.escape(message)) as raised:
        model.cluster_centers_ = centers
    assert str(raised.value).startswith("cluster_centers_ ")
    np.testing.assert_array_equal(model.predict(X), labels)


def test_there_are_no_centers_before_fit() -> None:
    assert not hasattr(KMeans(), "cluster_centers_")
    assert not hasattr(clone(KMeans().fit(X)), "cluster_centers_")
    model = KMeans(2, metric="cosine")
    model.cluster_centers_ = np.array([[3.0, 0.0], [0.0, 2.0]])
    np.testing.assert_array_equal(model.cluster_centers_, np.eye(2))
    with pytest.raises(ValueError, match="should have no zero row with metric='cosine'"):
        model.cluster_centers_ = np.zeros((2, 2))


def test_parameters_set_after_fit_hold_for_the_next_fit_as_in_scikit_learn() -> None:
    ours, theirs = KMeans(4, init=CENTERS).fit(X), SklearnKMeans(4, init=CENTERS, n_init=1).fit(X)
    ours.set_params(n_clusters=2, metric="cosine", max_iter=1)
    theirs.set_params(n_clusters=2)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    np.testing.assert_allclose(ours.transform(X), theirs.transform(X))


class Frame:
    """A frame as NumPy sees it."""

    def __init__(self, columns: list[Any], values: np.ndarray) -> None:
        self.columns, self.values = columns, values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.values


@pytest.mark.parametrize("method", ["predict", "transform", "score"])
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("dcba", "must be in the same order as they were in fit; expected a, b, c, d; got d, c, b"),
        ("abcx", "unseen at fit time: x; seen at fit time, yet now missing: d"),
        ("abc", "seen at fit time, yet now missing: d"),
        ("abcde", "unseen at fit time: e"),
        ("abcc", "seen at fit time, yet now missing: d"),
    ],
)
def test_a_frame_of_other_columns_is_refused(method: str, columns: str, message: str) -> None:
    model = KMeans(4, random_state=0).fit(Frame(list("abcd"), X))
    assert model.feature_names_in_.tolist() == list("abcd")
    getattr(model, method)(Frame(list("abcd"), X))
    with pytest.raises(ValueError, match=f"^The feature names should match .*{message}"):
        getattr(model, method)(Frame(list(columns), X[:, [0, 1, 2, 3, 3][: len(columns)]]))


def test_names_on_one_side_only_are_a_warning_as_in_scikit_learn() -> None:
    named, nameless = KMeans(2).fit(Frame(list("abcd"), X)), KMeans(2).fit(X)
    with pytest.warns(UserWarning, match="X does not have valid feature names, but KMeans"):
        named.predict(X)
    with pytest.warns(UserWarning, match="X has feature names, but KMeans was fitted without"):
        nameless.predict(Frame(list("abcd"), X))
    assert not hasattr(named.fit(X), "feature_names_in_")
