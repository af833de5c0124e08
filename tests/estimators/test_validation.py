"""Promises of what the estimators take: what scikit-learn's take, refused in its words; tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans as SklearnKMeans
from sklearn.cluster import MiniBatchKMeans as SklearnMiniBatchKMeans

from kmeans_module import KMeans, MiniBatchKMeans

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
        model = estimator(2, init=X[:2], n_init=1, random_state=0)
        fitted = estimator(2, init=X[:2], n_init=1, random_state=0).fit(X)
        return [
            outcome(lambda: model.fit(given).labels_),
            outcome(lambda: getattr(model, "feature_names_in_", np.array("none")).astype(str)),
            *(
                outcome(lambda name=name: getattr(fitted, name)(given))
                for name in ("predict", "transform", "score")
            ),
            *([outcome(lambda: fitted.partial_fit(given).cluster_centers_)] if mini else []),
        ]

    mini = pair[0] is MiniBatchKMeans
    for ours, theirs in zip(*map(calls, pair), strict=True):
        if isinstance(theirs, tuple):
            assert ours == theirs
        elif np.asarray(theirs).dtype.kind == "f":
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
        else:
            np.testing.assert_array_equal(ours, theirs)
