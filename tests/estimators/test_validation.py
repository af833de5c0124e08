"""Promises of what the estimators take: what scikit-learn's take, refused in its words; tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.cluster import KMeans as SklearnKMeans
from sklearn.cluster import MiniBatchKMeans as SklearnMiniBatchKMeans

from kmeans_module import KMeans, MiniBatchKMeans
from tests.estimators.helpers import OTHER_DRAWS

X = np.random.default_rng(0).integers(0, 50, (40, 3)).astype(np.float64)
PAIRS = ((KMeans, SklearnKMeans), (MiniBatchKMeans, SklearnMiniBatchKMeans))


def with_value(value: Any, dtype: Any = float) -> np.ndarray:
    x = X.astype(dtype)
    x[5, 1] = value
    return x


ODD: dict[str, Any] = {
    "scalar": 3.0,
    "one dimension": X[0],
    "one dimension of text": np.array(["a", "b"]),
    "three dimensions": X[None],
    "no rows": X[:0],
    "no columns": X[:, :0],
    "nothing": [],
    "fewer rows than clusters": X[:1],
    "NaN": with_value(np.nan),
    "infinity": with_value(-np.inf),
    "NaN of float32": with_value(np.nan).astype(np.float32),
    "complex": X + 1j,
    "text": X.astype(str),
    "words": np.full((40, 3), "a"),
    "bytes": X.astype(bytes),
    "objects": X.astype(object),
    "None within": with_value(None, object),
    "text among numbers": with_value("7", object),
    "word among numbers": with_value("seven", object),
    "dictionary among numbers": with_value({}, object),
    "integers": X.astype(int),
    "long double": X.astype(np.longdouble),
    "float16": X.astype(np.float16),
    "huge integers": (X + 2**63).astype(np.uint64),
    "Fortran order": np.asfortranarray(X),
    "negative strides": X[::-1, ::-1],
    "big-endian": X.astype(">f8"),
    "dates": X.astype("M8[s]"),
    "durations": X.astype("m8[s]"),
    "records": np.zeros(4, "i4,f8"),
    "ragged": [[1, 2], [3]],
    "lists": X.tolist(),
    "none": None,
    "word": "x",
    "dictionary": {"a": [1, 2]},
    "set": {1, 2},
    "class": KMeans,
    "frame": pd.DataFrame(X, columns=list("abc")),
    "nullable frame": pd.DataFrame(X, columns=list("abc")).convert_dtypes(),
    "frame with NA": pd.DataFrame(with_value(np.nan), columns=list("abc")).convert_dtypes(),
    "frame of texts": pd.DataFrame({"a": ["x", "y"], "b": [1, 2]}),
    "names of two kinds": pd.DataFrame(X, columns=["a", 1, "b"]),
    "series": pd.Series(X[0]),
}


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, or what it raises."""
    try:
        return call()
    except Exception as error:
        message = str(error).replace("\n", " ")
        return type(error), message.split("0x")[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("pair", PAIRS, ids=["KMeans", "MiniBatchKMeans"])
def test_odd_data_end_as_they_do_in_scikit_learn(pair: Any, kind: str) -> None:
    given = ODD[kind]

    def calls(estimator: Any) -> list[Any]:
        model, fitted = (estimator(2, init=X[:2], n_init=1, random_state=0) for _ in range(2))
        getattr(fitted, fit)(X)
        return [
            outcome(lambda: getattr(model, fit)(given).labels_),
            outcome(lambda: getattr(model, "feature_names_in_", np.array("none")).astype(str)),
            *(
                outcome(lambda name=name: getattr(fitted, name)(given))
                for name in ("predict", "transform", "score")
            ),
            *([outcome(lambda: fitted.partial_fit(given).cluster_centers_)] if mini else []),
        ]

    mini = pair[0] is MiniBatchKMeans
    fit = "partial_fit" if mini and OTHER_DRAWS else "fit"
    for ours, theirs in zip(*map(calls, pair), strict=True):
        if isinstance(theirs, tuple):
            assert ours == theirs
        elif np.asarray(theirs).dtype.kind == "f":
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
        else:
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("estimator", [KMeans, MiniBatchKMeans])
def test_masked_values_are_refused_where_numpy_would_read_what_lies_beneath(
    estimator: Any,
) -> None:
    masked = np.ma.array(X, mask=X[4, 1] == X)
    fitted = estimator(2, random_state=0).fit(np.ma.array(X, mask=False))
    for call in (fitted.fit, fitted.predict, fitted.transform, fitted.score):
        with pytest.raises(ValueError, match=r"^X should have no masked value; "):
            call(masked)
    weight = np.ma.array(np.ones(len(X)), mask=X[:, 0] == X[2, 0])
    for call in (fitted.fit, fitted.score):
        with pytest.raises(ValueError, match=r"^sample_weight should have no masked value"):
            call(X, sample_weight=weight)


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("pair", PAIRS, ids=["KMeans", "MiniBatchKMeans"])
def test_weights_are_refused_as_in_scikit_learn(pair: Any, tensor: bool) -> None:
    x = torch.from_numpy(X) if tensor else X
    model = pair[0](2, init=X[:2], n_init=1, random_state=0)
    for weight in (np.ones(3), np.ones((40, 2)), np.full(40, np.nan), ["a"] * 40, np.zeros(40)):
        with pytest.raises((TypeError, ValueError)) as raised:
            model.fit(x, sample_weight=weight)
        taken = OTHER_DRAWS and isinstance(weight, np.ndarray) and not weight.any()
        if not tensor and not taken:
            with pytest.raises(type(raised.value)) as theirs:
                pair[1](2, init=X[:2], n_init=1).fit(X, sample_weight=weight)
            assert str(raised.value) == str(theirs.value)
    with pytest.raises(ValueError, match="sample_weight should be >= 0; 40 weights are negative"):
        model.fit(x, sample_weight=-np.ones(40))
    plain = model.fit(x).cluster_centers_
    for weight in (2.0, np.full(40, 2), [3] * 40, torch.ones(40), pd.Series(np.ones(40))):
        if not (tensor and isinstance(weight, pd.Series)):
            np.testing.assert_allclose(model.fit(x, sample_weight=weight).cluster_centers_, plain)


TENSORS: dict[str, tuple[Any, type[Exception], str]] = {
    "one dimension": (torch.ones(3), ValueError, "Expected 2D tensor, got 1D tensor instead: use"),
    "three dimensions": (torch.ones(1, 4, 3), ValueError, "Expected 2D tensor, got 3D"),
    "no rows": (torch.ones(0, 3), ValueError, "with 0 sample(s) (shape=(0, 3)) while a minimum"),
    "no columns": (torch.ones(4, 0), ValueError, "with 0 feature(s) (shape=(4, 0))"),
    "other columns": (torch.ones(4, 2), ValueError, "X has 2 features, but KMeans is expecting 3"),
    "NaN": (torch.full((4, 3), torch.nan), ValueError, "Input X contains NaN or infinity."),
    "complex": (torch.ones(4, 3) * 1j, TypeError, "X should hold real numbers"),
    "meta": (torch.ones(4, 3, device="meta"), ValueError, "it is on meta, where there are none"),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_that_are_no_samples_are_refused(kind: str) -> None:
    given, error, message = TENSORS[kind]
    fitted = KMeans(2, random_state=0).fit(X)
    for call in (fitted.predict, fitted.transform, fitted.score):
        with pytest.raises(error) as raised:
            call(given)
        assert message in str(raised.value)
    if kind != "other columns":
        with pytest.raises(error) as raised:
            KMeans(2).fit(given)
        assert message in str(raised.value)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8]
)
@pytest.mark.parametrize("estimator", [KMeans, MiniBatchKMeans])
def test_tensors_of_every_dtype_are_clustered_as_arrays(estimator: Any, dtype: torch.dtype) -> None:
    x = torch.from_numpy(X).to(dtype)
    model = estimator(3, init=X[:3], n_init=1, random_state=0).fit(x)
    single = dtype in (torch.float32, torch.bfloat16)
    assert model.cluster_centers_.dtype == (torch.float32 if single else torch.float64)
    array = x.float().numpy() if single else x.double().numpy()
    arrays = estimator(3, init=X[:3], n_init=1, random_state=0).fit(array)
    np.testing.assert_allclose(model.cluster_centers_, arrays.cluster_centers_, rtol=1e-5)
    np.testing.assert_array_equal(model.labels_, arrays.labels_)
    np.testing.assert_array_equal(arrays.predict(x), arrays.predict(array))
    np.testing.assert_array_equal(model.predict(array), arrays.predict(array))


@pytest.mark.parametrize("estimator", [KMeans, MiniBatchKMeans])
def test_a_function_starts_where_it_says_and_draws_from_the_random_state(estimator: Any) -> None:
    seen: list[Any] = []

    def init(X: Any, n_clusters: int, random_state: np.random.RandomState) -> Any:
        seen.append((type(X), X.shape, random_state.randint(1000)))
        return X[random_state.choice(len(X), n_clusters, replace=False)]

    model = estimator(3, init=init, n_init=4, random_state=0).fit(X)
    draws = [draw for *_, draw in seen]
    assert len(set(draws)) == 4
    assert {kind for kind, *_ in seen} == {np.ndarray}
    seen.clear()
    estimator(3, init=init, n_init=4, random_state=0).fit(torch.from_numpy(X))
    assert {kind for kind, *_ in seen} == {torch.Tensor}
    seen.clear()
    again = estimator(3, init=init, n_init=4, random_state=0).fit(X)
    assert [draw for *_, draw in seen] == draws
    np.testing.assert_array_equal(again.cluster_centers_, model.cluster_centers_)
    for wrong, message in (
        (lambda X, k, random_state: X[: k + 1], r"initial centers \(4, 3\) does not match the num"),
        (lambda X, k, random_state: X[:k, :2], r"does not match the number of features of the da"),
        (lambda X, k, random_state: X[:k] * np.nan, "NaN"),
        (lambda X, k, random_state: None, "2D array"),
    ):
        with pytest.raises(ValueError, match=message):
            estimator(3, init=wrong, n_init=1).fit(X)


@pytest.mark.parametrize("estimator", [KMeans, MiniBatchKMeans])
def test_an_array_to_start_from_is_not_changed(estimator: Any) -> None:
    start = X[:3].copy()
    for init in (start, torch.from_numpy(start), start.tolist()):
        for x in (X, torch.from_numpy(X)):
            estimator(3, init=init, n_init=1, random_state=0).fit(x)
            np.testing.assert_array_equal(init, X[:3])
    for bad in (X[:2], X[:3, :2], np.ones(3)):
        for x in (X, torch.from_numpy(X)):
            with pytest.raises(ValueError, match=r"initial centers|Expected 2D"):
                estimator(3, init=bad, n_init=1).fit(x)
    with pytest.warns(RuntimeWarning, match="Explicit initial center position passed") as warned:
        estimator(3, init=start, n_init=2, random_state=0).fit(X)
    assert warned[0].filename == __file__


@pytest.mark.parametrize(
    "make",
    [np.random.RandomState, np.random.default_rng, lambda s: torch.Generator().manual_seed(s)],
    ids=["RandomState", "default_rng", "torch"],
)
@pytest.mark.parametrize("estimator", [KMeans, MiniBatchKMeans])
def test_a_generator_repeats_and_moves_on(estimator: Any, make: Callable[[int], Any]) -> None:
    def inertia(state: Any) -> float:
        options = {"n_init": 1} if estimator is KMeans else {"batch_size": 5}
        model = estimator(5, init="random", max_iter=1, random_state=state, **options)
        return float(model.fit(X).inertia_)

    state, again = make(7), make(7)
    first = inertia(state)
    assert inertia(again) == first
    assert any(inertia(state) != first for _ in range(3))


@pytest.mark.parametrize("estimator", [KMeans, MiniBatchKMeans])
def test_none_draws_from_the_global_state_of_the_library_that_the_data_are_of(
    estimator: Any,
) -> None:
    def centers(x: Any, seed_all: Callable[[int], Any]) -> Any:
        seed_all(3)
        return estimator(8, init="random", n_init=1, max_iter=1).fit(x).cluster_centers_

    seeded_numpy = [centers(X, np.random.seed) for _ in range(2)]
    np.testing.assert_array_equal(*seeded_numpy)
    assert not np.array_equal(centers(X, torch.manual_seed), centers(X, torch.manual_seed))
    seeded_torch = [centers(torch.from_numpy(X), torch.manual_seed) for _ in range(2)]
    assert torch.equal(*seeded_torch)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_clusters", 0), ("n_clusters", np.float64(3)), ("init", "kmeans"), ("init", 3),
        ("n_init", 0), ("n_init", "often"), ("max_iter", -1), ("max_iter", 2.5), ("tol", -1),
        ("tol", "1"), ("verbose", -1), ("random_state", -1), ("random_state", 0.5),
        ("random_state", "1"), ("random_state", np.random.SeedSequence(1)), ("metric", "manhattan"),
        ("empty_cluster", "drop"), ("copy_x", 3), ("algorithm", "full"), ("batch_size", 0),
        ("compute_labels", None), ("max_no_improvement", -1), ("init_size", 0),
        ("reassignment_ratio", -0.1),
    ],
)  # fmt: skip
def test_parameters_are_checked_by_scikit_learns_constraints(name: str, value: Any) -> None:
    for estimator in (KMeans, MiniBatchKMeans):
        if name in estimator().get_params():
            for method in ("fit", "partial_fit")[: 1 + hasattr(estimator, "partial_fit")]:
                with pytest.raises(ValueError, match=f"The '{name}' parameter of") as raised:
                    getattr(estimator(**{name: value}), method)(X)
                assert type(raised.value).__name__ == "InvalidParameterError"


def test_numbers_of_numpy_are_numbers() -> None:
    options = {"random_state": np.int32(3), "tol": np.float32(0), "n_init": np.uint8(2)}
    ours = KMeans(np.int64(4), max_iter=np.int16(9), init=np.str_("random"), **options).fit(X)  # type: ignore[arg-type]
    plain = KMeans(4, max_iter=9, random_state=3, tol=0, n_init=2, init="random").fit(X)
    np.testing.assert_array_equal(ours.cluster_centers_, plain.cluster_centers_)


@pytest.mark.parametrize("estimator", [KMeans, MiniBatchKMeans])
def test_no_iterations_label_by_the_start(estimator: Any) -> None:
    model = estimator(3, init=X[:3], n_init=1, max_iter=0).fit(X)
    assert model.n_iter_ == 0
    np.testing.assert_array_equal(model.cluster_centers_, X[:3])
    np.testing.assert_array_equal(model.labels_, model.predict(X))
    assert model.inertia_ == pytest.approx(-model.score(X))
