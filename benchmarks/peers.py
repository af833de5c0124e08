"""k-means of each library, from given centroids, for a number of iterations."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kmeans_module import KMeansLayer


class Run(NamedTuple):
    """One run: seconds, iterations, final centroids."""

    seconds: float
    n_iter: int
    centroids: Tensor


def kmeans_module(x: Tensor, centroids: Tensor, iterations: int) -> Run:
    layer = KMeansLayer(*centroids.shape)
    begin = time.perf_counter()
    result = layer.fit(x, init=centroids, max_iter=iterations, tol=0)
    return Run(time.perf_counter() - begin, int(result.n_iter), layer.centroids)


def scikit_learn(x: Tensor, centroids: Tensor, iterations: int) -> Run:
    from sklearn.cluster import KMeans

    model = KMeans(
        len(centroids), init=centroids.numpy(), n_init=1, max_iter=iterations, tol=0,
        algorithm="lloyd",
    )  # fmt: skip
    rows = x.numpy()
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(rows)
    return Run(time.perf_counter() - begin, model.n_iter_, torch.from_numpy(model.cluster_centers_))


def faiss(x: Tensor, centroids: Tensor, iterations: int) -> Run:
    import faiss as library

    library.omp_set_num_threads(torch.get_num_threads())
    model = library.Kmeans(
        x.shape[1], len(centroids), niter=iterations, nredo=1,
        max_points_per_centroid=len(x), min_points_per_centroid=1,
    )  # fmt: skip
    rows, start = x.numpy(), centroids.numpy()
    begin = time.perf_counter()
    model.train(rows, init_centroids=start)
    seconds = time.perf_counter() - begin
    return Run(seconds, len(model.iteration_stats), torch.from_numpy(np.array(model.centroids)))


PEERS: dict[str, Callable[[Tensor, Tensor, int], Run]] = {
    "kmeans_module": kmeans_module,
    "scikit-learn": scikit_learn,
    "faiss": faiss,
}


def inertia(x: Tensor, centroids: Tensor) -> float:
    """Sum of squared distances in float64, by brute force."""
    total = 0.0
    size = max(1, 20_000_000 // len(centroids))
    for rows in x.split(size):
        exact = "donot_use_mm_for_euclid_dist"
        distances = torch.cdist(rows.double(), centroids.double(), compute_mode=exact)
        total += float(distances.amin(dim=1).square().sum())
    return total
