"""k-means of each library, from given centroids, for a number of iterations."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks import draws
from benchmarks.machine import same_threads, version
from benchmarks.workloads import Workload
from kmeans_module import KMeansLayer

OURS = "kmeans_module"


class Run(NamedTuple):
    """One run: seconds, iterations, final centroids."""

    seconds: float
    n_iter: int
    centroids: Tensor


class Peer(NamedTuple):
    """A library: how it runs, and what it cannot do."""

    package: str
    run: Callable[[Workload, int], Run]
    float64: bool = True
    exact: bool = True


def kmeans_module(work: Workload, iterations: int) -> Run:
    layer = KMeansLayer(work.k, work.x.shape[1], dtype=work.x.dtype)
    start = work.centroids
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        begin = time.perf_counter()
        result = layer.fit(work.x, init=start, max_iter=iterations, tol=0)
        seconds = time.perf_counter() - begin
    return Run(seconds, int(result.n_iter), layer.centroids)


def scikit_learn(work: Workload, iterations: int) -> Run:
    from sklearn.cluster import KMeans

    start = work.centroids.numpy()
    return _fit(KMeans(len(start), init=start, n_init=1, max_iter=iterations, tol=0), work)


def sklearnex(work: Workload, iterations: int) -> Run:
    from sklearnex.cluster import KMeans

    start = work.centroids.numpy()
    threads = torch.get_num_threads()  # its own, which threadpoolctl does not know
    model = KMeans(
        len(start), init=start, n_init=1, max_iter=iterations, tol=0, n_jobs=threads
    )  # fmt: skip
    return _fit(model, work)


def _fit(model: object, work: Workload) -> Run:
    rows = work.x.numpy()
    with warnings.catch_warnings(), same_threads():
        warnings.simplefilter("ignore")
        begin = time.perf_counter()
        model.fit(rows)
        seconds = time.perf_counter() - begin
    return Run(seconds, int(model.n_iter_), torch.from_numpy(model.cluster_centers_))


def faiss(work: Workload, iterations: int) -> Run:
    import faiss as library

    n, d = work.x.shape
    model = library.Kmeans(  # its defaults would sample
        d, work.k, niter=iterations, nredo=1,
        max_points_per_centroid=n, min_points_per_centroid=1,
    )  # fmt: skip
    rows, start = work.x.numpy(), work.centroids.numpy()
    with same_threads():
        begin = time.perf_counter()
        model.train(rows, init_centroids=start)
        seconds = time.perf_counter() - begin
    return Run(seconds, len(model.iteration_stats), torch.from_numpy(np.array(model.centroids)))


def superkmeans(work: Workload, iterations: int) -> Run:
    # Prunes by a statistical test where there are many features, hence is approximate.
    from superkmeans import SuperKMeans

    n, d = work.x.shape
    model = SuperKMeans(
        work.k, d, hierarchical=False, iters=iterations, sampling_fraction=1.0, seed=draws.SEED,
        early_termination=False, n_threads=torch.get_num_threads(),
    )  # fmt: skip
    rows = draws.placed(work, draws.superkmeans(n, work.k)).numpy()
    with same_threads():
        begin = time.perf_counter()
        centroids = model.train(rows)
        seconds = time.perf_counter() - begin
    return Run(seconds, len(model.iteration_stats), torch.from_numpy(centroids))


def fastkmeans(work: Workload, iterations: int) -> Run:
    from fastkmeans import FastKMeans

    n, d = work.x.shape
    model = FastKMeans(d, work.k, niter=iterations, tol=0, gpu=False, seed=draws.SEED)
    rows = draws.placed(work, draws.fastkmeans(n, work.k)).numpy()
    begin = time.perf_counter()
    model.train(rows)
    seconds = time.perf_counter() - begin
    # With a tol of 0 it never stops before the last iteration.
    return Run(seconds, iterations, torch.from_numpy(model.centroids))


def pt_kmeans(work: Workload, iterations: int) -> Run:
    import pt_kmeans as library

    logging.getLogger("pt_kmeans").setLevel(logging.ERROR)
    start = work.centroids
    begin = time.perf_counter()
    centroids, _ = library.kmeans(  # without chunks it takes three times as long
        work.x, work.k, max_iters=iterations, tol=0.0, chunk_size=4_096,
        initial_centers=start,
    )  # fmt: skip
    # With a tol of 0 it never stops before the last iteration.
    return Run(time.perf_counter() - begin, iterations, centroids)


PEERS: dict[str, Peer] = {
    OURS: Peer("kmeans-module", kmeans_module),
    "scikit-learn": Peer("scikit-learn", scikit_learn),
    "sklearnex": Peer("scikit-learn-intelex", sklearnex),
    "faiss": Peer("faiss-cpu", faiss, float64=False),
    "superkmeans": Peer("superkmeans", superkmeans, float64=False, exact=False),
    "fastkmeans": Peer("fastkmeans", fastkmeans, float64=False),
    "pt-kmeans": Peer("pt-kmeans", pt_kmeans),
}


def choose(names: list[str] | None, dtype: torch.dtype) -> dict[str, Peer]:
    """The peers of these names (None: all) that can run here; says which cannot."""
    chosen = {}
    for name in names or PEERS:
        peer = PEERS[name]
        if name != OURS and version(peer.package) is None:
            print(f"without {name}: {peer.package} is not installed")
        elif dtype == torch.float64 and not peer.float64:
            print(f"without {name}: it is for float32")
        else:
            chosen[name] = peer
    return chosen


def inertia(x: Tensor, centroids: Tensor) -> float:
    """Sum of squared distances in float64, by brute force."""
    centroids = centroids.double()
    norms = centroids.square().sum(dim=1)
    total = 0.0
    for rows in x.split(max(1, 10_000_000 // len(centroids))):
        exact = rows.double()
        labels = torch.addmm(norms, exact, centroids.T, alpha=-2).argmin(dim=1)
        total += float((exact - centroids[labels]).square().sum())
    return total
