"""Promises of the estimators for sparse rows: what the same rows give with their zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import coo_array, csc_matrix, csr_array, csr_matrix
from sklearn.cluster import KMeans as SklearnKMeans

from kmeans_module import KMeans, MiniBatchKMeans

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(300, 20)) * (RANDOM.random((300, 20)) < 0.2)
X[::3, :5] += 3
WEIGHT = RANDOM.random(300)

FORMS: dict[str, Any] = {
    "matrix": csr_matrix,
    "array": csr_array,
    "columns": csc_matrix,
    "coordinates": coo_array,
    "tensor": lambda x: torch.from_numpy(x).to_sparse_csr(),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "model",
    [
        KMeans(5, random_state=0), KMeans(5, random_state=0, init="random", n_init=2),
        KMeans(5, random_state=0, init="k-means||"), KMeans(5, random_state=0, metric="cosine"),
        MiniBatchKMeans(5, random_state=0, batch_size=40),
        MiniBatchKMeans(5, random_state=0, batch_size=40, reassignment_ratio=0.5, tol=1e-3),
        MiniBatchKMeans(5, random_state=0, batch_size=40, metric="cosine", init="random"),
    ],
    ids=lambda model: str(model).replace(" ", "")[:60],
)  # fmt: skip
def test_sparse_rows_give_what_dense_rows_give(form: str, dtype: Any, model: Any) -> None:
    dense = X.astype(dtype)
    sparse = FORMS[form](dense)
    given = torch.from_numpy(dense) if form == "tensor" else dense
    found = []
    for x in (sparse, given):
        model.fit(x, sample_weight=WEIGHT)
        found.append(
            (model.cluster_centers_, model.labels_, model.predict(sparse), model.predict(given),
             model.transform(x), model.score(x, sample_weight=WEIGHT), model.inertia_)
        )  # fmt: skip
    tolerance = 1e-4 if dtype == np.float32 else 1e-9
    for ours, plain in zip(*found, strict=True):
        assert type(ours) is type(plain)
        np.testing.assert_allclose(ours, plain, rtol=tolerance, atol=tolerance)
    assert model.cluster_centers_.dtype == given.dtype


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("form", ["array", "tensor"])
def test_batches_of_sparse_rows_are_those_of_dense_rows(form: str) -> None:
    models = [MiniBatchKMeans(5, random_state=0) for _ in range(2)]
    for part in np.array_split(X, 5):
        models[0].partial_fit(FORMS[form](part))
        models[1].partial_fit(torch.from_numpy(part) if form == "tensor" else part)
    np.testing.assert_allclose(models[0].cluster_centers_, models[1].cluster_centers_)


def test_functions_are_given_the_sparse_rows_and_may_return_some() -> None:
    def dense(x: Any, n_clusters: int, random_state: Any) -> Any:
        return sparse(x, n_clusters, random_state).toarray()

    def sparse(x: Any, n_clusters: int, random_state: Any) -> Any:
        assert isinstance(x, csr_array)
        return x[:n_clusters]

    theirs = SklearnKMeans(5, init=dense, n_init=1).fit(csr_array(X))
    for init in (dense, sparse):
        ours = KMeans(5, init=init, n_init=1).fit(csr_array(X))
        np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_)
        np.testing.assert_array_equal(ours.labels_, theirs.labels_)
        assert ours.n_iter_ == theirs.n_iter_


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_sparse_rows_that_are_not_finite_are_refused(value: float) -> None:
    bad = X.copy()
    bad[3, 1] = value
    for model in (KMeans(3), MiniBatchKMeans(3)):
        for form in ("array", "tensor"):
            with pytest.raises(ValueError, match="Input X contains"):
                model.fit(FORMS[form](bad))
