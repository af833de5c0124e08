"""Promises of the estimators, as scikit-learn's own tests have them: nothing of it is copied."""

from __future__ import annotations

from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import sklearn.cluster
from sklearn.utils.estimator_checks import check_estimator

from kmeans_module import KMeans, MiniBatchKMeans

pytestmark = pytest.mark.filterwarnings("ignore")
try:
    from sklearn.utils._test_common.instance_generator import PER_ESTIMATOR_XFAIL_CHECKS
except ImportError:  # before scikit-learn 1.6 the tags of an estimator said it
    PER_ESTIMATOR_XFAIL_CHECKS = None

# Tests of what is no part of an estimator: functions of scikit-learn, private and public, which
# stay its own; and a private method of its estimators.
NOT_OF_ESTIMATORS = {
    "test_relocate_empty_clusters": "_relocate_empty_clusters_dense",
    "test_minibatch_update_consistency": "_mini_batch_step",
    "test_minibatch_reassign": "_mini_batch_step",
    "test_k_means_function": "k_means",
    "test_euclidean_distance": "_euclidean_dense_dense_wrapper",
    "test_inertia": "_inertia_dense",
    "test_kmeans_plusplus_wrong_params": "kmeans_plusplus",
    "test_kmeans_plusplus_output": "kmeans_plusplus",
    "test_kmeans_plusplus_norms": "kmeans_plusplus",
    "test_kmeans_plusplus_dataorder": "kmeans_plusplus",
    "test_is_same_clustering": "_is_same_clustering",
    "test_sample_weight_init": "KMeans._init_centroids",
    "test_sample_weight_zero": "KMeans._init_centroids",
}
HEAVY = "test_kmeans_elkan_results"  # eight fits of 5,000 sparse rows; run by make test-all


def their_tests() -> ModuleType:
    """scikit-learn's tests of its estimators, with ours in their place."""
    theirs = sklearn.cluster.KMeans, sklearn.cluster.MiniBatchKMeans
    sklearn.cluster.KMeans, sklearn.cluster.MiniBatchKMeans = KMeans, MiniBatchKMeans
    try:
        spec = find_spec("sklearn.cluster.tests.test_k_means")
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sklearn.cluster.KMeans, sklearn.cluster.MiniBatchKMeans = theirs
    return module


THEIRS = {name: test for name, test in vars(their_tests()).items() if name.startswith("test_")}
globals().update({name: test for name, test in THEIRS.items() if name not in NOT_OF_ESTIMATORS})
globals()[HEAVY] = pytest.mark.slow(THEIRS[HEAVY])


@pytest.fixture
def global_random_seed() -> int:
    return 42  # scikit-learn's default


@pytest.fixture(params=[np.float32, np.float64])
def global_dtype(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_tests_are_left_out_only_where_they_call_what_stays_scikit_learns() -> None:
    for name, what in NOT_OF_ESTIMATORS.items():
        called = {part.rpartition(".")[2] for part in what.split(", ")}
        assert called & set(THEIRS[name].__code__.co_names), name
    assert len(THEIRS) - len(NOT_OF_ESTIMATORS) > 40


def first_rows(X: Any, n_clusters: int, random_state: Any) -> Any:
    return X[np.flatnonzero(abs(X).sum(axis=1))[:n_clusters]]  # zeros have no direction


def slow(estimator: Any) -> Any:
    return pytest.param(estimator, marks=pytest.mark.slow)


SETTINGS = (
    KMeans(),
    slow(KMeans(2, max_iter=5, n_init=2)),
    KMeans(2, metric="cosine"),
    KMeans(3, empty_cluster="split", algorithm="elkan"),
    KMeans(3, empty_cluster="keep", init="random", n_init=3),
    KMeans(2, empty_cluster="error"),
    KMeans(2, init="k-means||", tol=0, copy_x=False),
    KMeans(2, init=first_rows, n_init=1, metric="cosine"),
    KMeans(2, random_state=np.random.RandomState(0), verbose=1),
    slow(MiniBatchKMeans()),
    MiniBatchKMeans(2, max_iter=5, batch_size=10, n_init=2),
    MiniBatchKMeans(2, metric="cosine", max_no_improvement=None, max_iter=5),
    MiniBatchKMeans(3, empty_cluster="relocate", reassignment_ratio=0, init="random", max_iter=9),
    slow(MiniBatchKMeans(2, init="k-means||", init_size=30, tol=1e-3, batch_size=20, max_iter=9)),
)


@pytest.mark.parametrize("estimator", SETTINGS, ids=range(len(SETTINGS)))
def test_check_estimator_passes_but_for_what_scikit_learns_own_fails(estimator: Any) -> None:
    theirs = getattr(sklearn.cluster, type(estimator).__name__)
    if PER_ESTIMATOR_XFAIL_CHECKS is None:
        assert estimator._get_tags()["_xfail_checks"] == theirs()._get_tags()["_xfail_checks"]
        check_estimator(estimator)
    else:
        check_estimator(estimator, expected_failed_checks=PER_ESTIMATOR_XFAIL_CHECKS[theirs])
