"""Promises of layers and indexes of faiss: each is made from the other, and finds the same."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch

from kmeans_module import KMeansLayer, NotInitializedError
from tests.conftest import blobs, seeded

X = blobs(400, 8)
C = X[:16] + 0.1 * torch.randn(16, 8, generator=seeded())
METRICS = ("euclidean", "cosine")


def layer_of(metric: str) -> KMeansLayer:
    return KMeansLayer.from_centroids(C, metric=metric)


@pytest.mark.parametrize("metric", METRICS)
def test_a_search_of_the_flat_index_finds_our_labels(metric: str) -> None:
    pytest.importorskip("faiss")
    layer = layer_of(metric)
    distances, labels = layer.to_faiss().search(X.numpy(), 1)
    assert labels[:, 0].tolist() == layer(X).tolist()
    if metric == "euclidean":
        expected = layer.e_step(X).distances
        torch.testing.assert_close(
            torch.from_numpy(distances[:, 0]), expected, rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("metric", METRICS)
def test_an_ivf_index_is_ready_and_its_lists_are_our_clusters(metric: str) -> None:
    pytest.importorskip("faiss")
    layer = layer_of(metric)
    index = layer.to_faiss("ivf")
    assert index.is_trained
    assert index.ntotal == 0
    x = torch.nn.functional.normalize(X) if metric == "cosine" else X
    index.add(x.numpy())
    sizes = [index.invlists.list_size(label) for label in range(16)]
    assert sizes == torch.bincount(layer(X), minlength=16).tolist()
    index.nprobe = 16
    _, found = index.search(x[:9].numpy(), 1)
    assert found[:, 0].tolist() == list(range(9))


@pytest.mark.parametrize("kind", ["flat", "ivf"])
@pytest.mark.parametrize("metric", METRICS)
def test_a_layer_comes_back_from_its_index(metric: str, kind: str) -> None:
    pytest.importorskip("faiss")
    layer = layer_of(metric)
    again = KMeansLayer.from_faiss(layer.to_faiss(kind), empty_cluster="keep")
    assert torch.equal(again.centroids, layer.centroids)
    assert again.metric == metric
    assert again.empty_cluster == "keep"


def theirs(name: str) -> tuple[Any, np.ndarray]:
    """Something of faiss that holds centroids, and the centroids that are nearest to X in it."""
    faiss = pytest.importorskip("faiss")
    limits = {"niter": 3, "seed": 1, "min_points_per_centroid": 1}
    if name in ("Kmeans", "spherical Kmeans"):
        kmeans = faiss.Kmeans(8, 16, spherical=name != "Kmeans", **limits)
        kmeans.train(X.numpy())
        return kmeans, kmeans.assign(X.numpy())[1]
    if name == "Clustering":
        clustering, index = faiss.Clustering(8, 16), faiss.IndexFlatL2(8)
        clustering.niter, clustering.min_points_per_centroid = 3, 1
        clustering.train(X.numpy(), index)
        return clustering, index.search(X.numpy(), 1)[1][:, 0]
    factories = {"HNSW": "IVF16_HNSW8,Flat", "IVFPQ": "IVF16,PQ4x4", "flat": "Flat"}
    metric = faiss.METRIC_INNER_PRODUCT if name == "by product" else faiss.METRIC_L2
    index = faiss.index_factory(8, factories.get(name, "IVF16,Flat"), metric)
    if name == "flat":
        index.add(C.numpy())
        return index, index.search(X.numpy(), 1)[1][:, 0]
    faiss.ParameterSpace().set_index_parameter(index, "verbose", 0)
    index.cp.min_points_per_centroid = 1
    if name == "IVFPQ":
        index.pq.cp.min_points_per_centroid = 1
    index.train(X.numpy())
    quantizer = faiss.downcast_index(index.quantizer)
    if name == "HNSW":
        flat = faiss.IndexFlatL2(8)
        flat.add(quantizer.reconstruct_n(0, 16))
        quantizer = flat
    return index, quantizer.search(X.numpy(), 1)[1][:, 0]


@pytest.mark.parametrize(
    "name",
    ["Kmeans", "spherical Kmeans", "Clustering", "flat", "IVF", "by product", "HNSW", "IVFPQ"],
)
def test_a_layer_of_theirs_finds_what_they_find(name: str) -> None:
    index, labels = theirs(name)
    layer = KMeansLayer.from_faiss(index)
    assert layer(X).tolist() == labels.tolist()
    assert layer.metric == ("cosine" if name in ("spherical Kmeans", "by product") else "euclidean")


def test_what_holds_no_centroids_of_ours_is_refused() -> None:
    faiss = pytest.importorskip("faiss")
    empty = [faiss.IndexFlatL2(3), faiss.Kmeans(3, 4), faiss.Clustering(3, 4)]
    empty.append(faiss.IndexIVFFlat(faiss.IndexFlatL2(3), 3, 4))
    long = faiss.IndexFlatIP(3)
    long.add(np.ones((2, 3), dtype=np.float32))
    cases: list[tuple[Any, type[Exception], str]] = [
        *(
            (index, ValueError, "index should hold centroids; the .* has none yet")
            for index in empty
        ),
        (long, ValueError, "inner product, .* lengths from 1.73 to 1.73"),
        (faiss.IndexFlat(3, faiss.METRIC_L1), ValueError, "should rank by squared distance"),
        (faiss.IndexPQ(4, 2, 4), TypeError, "flat or an IVF index of faiss, .*; got IndexPQ"),
        (faiss.index_factory(4, "OPQ2,IVF2,Flat"), TypeError, "got IndexPreTransform"),
        (np.zeros((3, 3)), TypeError, "got ndarray"),
    ]
    for index, kind, message in cases:
        with pytest.raises(kind, match=message) as error:
            KMeansLayer.from_faiss(index)
        assert "\n" not in str(error.value)


def test_what_faiss_cannot_hold_is_refused() -> None:
    pytest.importorskip("faiss")
    with pytest.raises(NotInitializedError):
        KMeansLayer(3, 2).to_faiss()
    with pytest.raises(ValueError, match=r"holds one problem, the layer has batch_shape=\(2,\)"):
        KMeansLayer.from_centroids(torch.stack([C, C])).to_faiss()
    with pytest.raises(ValueError, match="kind should be one of flat, ivf; got 'pq'"):
        layer_of("euclidean").to_faiss("pq")
    with pytest.raises(ValueError, match="faiss holds float32, in which the centroids overflow"):
        KMeansLayer.from_centroids(np.array([[1e60]])).to_faiss()


def test_without_faiss_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    needs = r"needs faiss: pip install faiss-cpu, or 'kmeans-module\[faiss\]'$"
    with pytest.raises(ImportError, match=rf"^to_faiss {needs}"):
        layer_of("euclidean").to_faiss()
    with pytest.raises(ImportError, match=rf"^from_faiss {needs}"):
        KMeansLayer.from_faiss(None)
