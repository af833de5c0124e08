"""Promises of KMeans: the numbers, attributes and manners of scikit-learn's own."""

from __future__ import annotations

import inspect
import pickle
import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import base, config_context
from sklearn.base import clone
from sklearn.cluster import KMeans as SklearnKMeans
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

import kmeans_module.estimator
from kmeans_module import KMeans, KMeansLayer, MiniBatchKMeans

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
    assert ours.labels_.dtype == ours.predict(x).dtype == theirs.labels_.dtype


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
    assert repr(copy) == "KMeans(metric='cosine', n_clusters=3, random_state=1)"
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
    is_clusterer = getattr(base, "is_clusterer", lambda it: it._estimator_type == "clusterer")
    assert is_clusterer(KMeans())  # a function since scikit-learn 1.6


def test_restarts_and_seeds_as_in_scikit_learn() -> None:
    auto = KMeans(5, n_init="auto", random_state=0).fit(X)
    assert auto.inertia_ == KMeans(5, n_init=1, random_state=0).fit(X).inertia_
    auto = KMeans(5, init="random", n_init="auto", random_state=0).fit(X)
    assert auto.inertia_ == KMeans(5, init="random", n_init=10, random_state=0).fit(X).inertia_
    states = (KMeans(5, random_state=np.random.RandomState(7)).fit(X) for _ in range(2))
    assert next(states).inertia_ == next(states).inertia_


def test_no_parameter_is_another_one_than_in_scikit_learn() -> None:
    ours, theirs = KMeans().get_params(), SklearnKMeans().get_params()
    assert ours == theirs | {"metric": "euclidean", "empty_cluster": "relocate"}
    assert list(inspect.signature(KMeans).parameters)[: len(theirs)] == list(
        inspect.signature(SklearnKMeans).parameters
    )


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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_cosine_model_is_restored_from_its_centers_to_the_bit(dtype: type) -> None:
    x = np.random.default_rng(0).normal(size=(200, 60)).astype(dtype)
    model, restored = KMeans(20, metric="cosine", random_state=0).fit(x), KMeans(metric="cosine")
    restored.cluster_centers_ = model.cluster_centers_
    np.testing.assert_array_equal(restored.cluster_centers_, model.cluster_centers_)
    np.testing.assert_array_equal(restored.predict(x), model.labels_)


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


@pytest.mark.parametrize("method", ["predict", "transform", "score"])
@pytest.mark.parametrize("columns", ["dcba", "abcx", "abc", "abcde"])
def test_a_frame_of_other_columns_is_refused_as_in_scikit_learn(method: str, columns: str) -> None:
    frame = pd.DataFrame(X, columns=list("abcd"))
    other = pd.DataFrame(X[:, [0, 1, 2, 3, 3][: len(columns)]], columns=list(columns))
    told = []
    for estimator in (KMeans, SklearnKMeans):
        model = estimator(4, random_state=0).fit(frame)
        assert model.feature_names_in_.tolist() == list("abcd")
        getattr(model, method)(frame)
        with pytest.raises(ValueError, match=r"^The feature names should match") as raised:
            getattr(model, method)(other)
        told.append(str(raised.value))
    assert told[0] == told[1]


def test_names_on_one_side_only_are_a_warning_as_in_scikit_learn() -> None:
    frame = pd.DataFrame(X, columns=list("abcd"))
    named, nameless = KMeans(2).fit(frame), KMeans(2).fit(X)
    for unnamed in (X, torch.from_numpy(X)):
        with pytest.warns(UserWarning, match="X does not have valid feature names, but KMeans"):
            named.predict(unnamed)
    with pytest.warns(UserWarning, match="X has feature names, but KMeans was fitted without"):
        nameless.predict(frame)
    assert not hasattr(named.fit(X), "feature_names_in_")


def test_distances_have_names_and_the_form_that_is_asked_for() -> None:
    frame = pd.DataFrame(X, columns=list("abcd"), index=np.arange(600) + 7)
    model = KMeans(3, random_state=0).set_output(transform="pandas")
    distances = model.fit_transform(frame)
    assert list(distances.columns) == ["kmeans0", "kmeans1", "kmeans2"]
    assert list(model.get_feature_names_out()) == list(distances.columns)
    assert (distances.index == frame.index).all()
    np.testing.assert_array_equal(distances, KMeans(3, random_state=0).fit_transform(frame))
    assert isinstance(model.fit(X).transform(torch.from_numpy(X[:3])), pd.DataFrame)


def test_an_estimator_without_centers_is_not_fitted() -> None:
    for call in (
        lambda: KMeans().predict(X), lambda: KMeans().transform(X), lambda: KMeans().score(X),
        lambda: KMeans().get_feature_names_out(), lambda: check_is_fitted(KMeans()),
    ):  # fmt: skip
        with pytest.raises(NotFittedError, match=r"KMeans instance is not fitted yet\. Call 'fit'"):
            call()


def test_weights_are_routed_where_they_are_asked_for() -> None:
    weight = np.linspace(0, 1, len(X))
    with config_context(enable_metadata_routing=True):
        pipe = make_pipeline(
            StandardScaler().set_fit_request(sample_weight=False),
            KMeans(4, random_state=0).set_fit_request(sample_weight=True),
        )
        routed = pipe.fit(X, sample_weight=weight)[-1]
    scaled = StandardScaler().fit_transform(X)
    weighted = KMeans(4, random_state=0).fit(scaled, sample_weight=weight)
    np.testing.assert_array_equal(routed.cluster_centers_, weighted.cluster_centers_)


@pytest.mark.parametrize("tensors", [False, True])
def test_a_file_of_joblib_is_no_larger_than_scikit_learns(tmp_path: Path, tensors: bool) -> None:
    ours = KMeans(8, random_state=0).fit(torch.from_numpy(X) if tensors else X)
    joblib.dump(ours, tmp_path / "ours.joblib")
    joblib.dump(SklearnKMeans(8, random_state=0).fit(X), tmp_path / "theirs.joblib")
    sizes = [(tmp_path / f"{name}.joblib").stat().st_size for name in ("ours", "theirs")]
    assert sizes[0] < (4 if tensors else 1.1) * sizes[1]
    again = joblib.load(tmp_path / "ours.joblib")
    np.testing.assert_array_equal(again.predict(X), ours.predict(X))
    assert repr(again) == repr(ours)


@pytest.mark.parametrize("tensors", [False, True])
def test_a_pickle_from_before_the_first_release_is_read(tensors: bool) -> None:
    """It held a layer, and had no version and fewer parameters."""
    layer = KMeansLayer(4, 4, dtype=torch.float64)
    layer.fit(torch.from_numpy(X), init=torch.from_numpy(CENTERS))
    labels = layer(torch.from_numpy(X))
    model = KMeans.__new__(KMeans)
    state = {
        "n_clusters": 4, "init": "k-means++", "n_init": 1, "max_iter": 300, "tol": 1e-4,
        "random_state": None, "metric": "euclidean", "empty_cluster": "relocate", "layer_": layer,
        "_tensors": tensors, "labels_": labels if tensors else labels.numpy(),
        "inertia_": 1.0, "n_iter_": 2, "n_features_in_": 4,
    }  # fmt: skip
    model.__setstate__(pickle.loads(pickle.dumps(state)))
    assert isinstance(model.cluster_centers_, torch.Tensor) == tensors
    np.testing.assert_array_equal(model.cluster_centers_, layer.centroids)
    np.testing.assert_array_equal(model.predict(X), labels)
    assert clone(model).get_params() == KMeans(4, n_init=1).get_params()
    assert model.labels_.dtype == (torch.int64 if tensors else np.int32)


def test_a_pickle_says_by_which_version_it_was_written() -> None:
    model = KMeans(4, random_state=0).fit(X)
    state = model.__getstate__()
    assert state["_kmeans_module_version"] == kmeans_module.__version__
    again = pickle.loads(pickle.dumps(model))
    assert vars(again).keys() == vars(model).keys()
    with pytest.warns(UserWarning, match=r"pickled by kmeans_module 99\.0; .* is older"):
        KMeans().__setstate__(state | {"_kmeans_module_version": "99.0"})
    assert kmeans_module.estimator.KMeans is KMeans, "the name in older pickles"


@pytest.mark.parametrize("algorithm", ["lloyd", "elkan"])
def test_what_is_said_is_what_scikit_learn_says(
    algorithm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for tol in (1e-2, 0):
        for estimator in (KMeans, SklearnKMeans):
            model = estimator(6, init=X[:6], n_init=1, tol=tol, verbose=1, algorithm=algorithm).fit(
                X
            )
            assert model.n_iter_ > 2
            said.append(capsys.readouterr().out)
    for ours, theirs in (said[:2], said[2:]):
        own, other = (
            [re.sub(r"[-.0-9e]+", "#", line) for line in text.splitlines()]
            for text in (ours, theirs)
        )
        own = [line.replace(" within tolerance.", " within tolerance #") for line in own]
        assert [line[:25] for line in own] == [line[:25] for line in other]


def test_x_is_neither_copied_nor_changed() -> None:
    x = X.copy()
    for copy_x in (True, False):
        KMeans(3, copy_x=copy_x, random_state=0).fit(x)
        np.testing.assert_array_equal(x, X)


def test_warnings_point_at_the_call() -> None:
    with pytest.warns(ConvergenceWarning, match=r"distinct clusters \(2\) found smaller") as warned:
        KMeans(3, random_state=0).fit(X[[0, 0, 1, 1]])
    assert warned[0].filename == __file__
    with pytest.warns(RuntimeWarning, match="init_size=3 should be larger than") as warned:
        MiniBatchKMeans(5, init_size=3, random_state=0).fit(X)
    assert warned[0].filename == __file__


def test_algorithms_give_the_same() -> None:
    fits = [KMeans(5, algorithm=name, random_state=0).fit(X) for name in ("lloyd", "elkan")]
    np.testing.assert_array_equal(fits[0].cluster_centers_, fits[1].cluster_centers_)
    with pytest.warns(RuntimeWarning, match="algorithm='elkan' doesn't make sense for a single"):
        KMeans(1, algorithm="elkan").fit(X)


def test_without_scikit_learn_one_line_says_how_to_get_it() -> None:
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "from kmeans_module import *\n"
        "import kmeans_module\n"
        "assert not hasattr(kmeans_module, 'nothing') and 'KMeansLayer' in dir()\n"
        "for name in ('KMeans', 'MiniBatchKMeans'):\n"
        "    try: getattr(kmeans_module, name)\n"
        "    except ImportError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert "need scikit-learn>=1.5: pip install 'kmeans-module[sklearn]'" in line
        assert "kmeans_module.kmeans and KMeansLayer do without it" in line
