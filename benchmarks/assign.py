"""Labels of new data: the layer's forward against faiss and scikit-learn, interleaved."""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import rest, same_threads, version
from benchmarks.peers import OURS
from benchmarks.workloads import WORKLOADS, load
from kmeans_module import KMeansLayer

Assign = Callable[[], np.ndarray]


def run(options: argparse.Namespace) -> list[dict[str, object]]:
    """Medians in milliseconds, and how many labels equal ours."""
    dtype = getattr(torch, options.dtype)
    print(f"assign, {torch.get_num_threads()} threads, median ms of {options.repeats}\n")
    print(f"{'':<46}{OURS:>14}{'faiss':>14}{'scikit-learn':>14}{'× faster':>10}   equal labels")
    rows = []
    for name in options.workloads or WORKLOADS:
        work = load(name, scale=options.scale, dtype=dtype)
        ms, equal = _measure(work.x, _centroids(work.x, work.centroids), options.repeats)
        others = [value for peer, value in ms.items() if peer != OURS]
        row = {
            "workload": name, "title": f"{work.title}, {work.shape}", "ms": ms,
            "speedup": min(others) / ms[OURS], "equal": equal,
        }  # fmt: skip
        rows.append(row)
        cells = "".join(
            f"{ms[peer]:>14.1f}" if peer in ms else f"{'-':>14}"
            for peer in (OURS, "faiss", "scikit-learn")
        )
        same = ", ".join(f"{peer} {fraction:.6f}" for peer, fraction in equal.items())
        print(f"{row['title']:<46}{cells}{row['speedup']:>10.2f}   {same}", flush=True)
    return rows


def _centroids(x: Tensor, start: Tensor) -> Tensor:
    """Those of a fit that is nearly done, as new data meets them."""
    layer = KMeansLayer(*start.shape, dtype=x.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer.fit(x, init=start, max_iter=5)
    return layer.centroids.clone()


def _measure(
    x: Tensor, centroids: Tensor, repeats: int
) -> tuple[dict[str, float], dict[str, float]]:
    assigns = {OURS: _ours(x, centroids), "scikit-learn": _scikit_learn(x, centroids)}
    if version("faiss-cpu") and x.dtype == torch.float32:
        assigns["faiss"] = _faiss(x, centroids)
    labels = {name: assign() for name, assign in assigns.items()}  # warms up
    seconds: dict[str, list[float]] = {name: [] for name in assigns}
    for _ in range(repeats):
        for name, assign in assigns.items():
            rest()
            with same_threads():
                begin = time.perf_counter()
                assign()
                seconds[name].append(time.perf_counter() - begin)
    equal = {
        name: float((found == labels[OURS]).mean())
        for name, found in labels.items()
        if name != OURS
    }
    return {name: 1e3 * statistics.median(found) for name, found in seconds.items()}, equal


def _ours(x: Tensor, centroids: Tensor) -> Assign:
    layer = KMeansLayer(*centroids.shape, dtype=x.dtype)
    layer.initialize(x, init=centroids)
    return lambda: layer(x).numpy()


def _scikit_learn(x: Tensor, centroids: Tensor) -> Assign:
    from sklearn.cluster import KMeans

    rows, start = x.numpy(), centroids.numpy()
    # Fitted to its own centroids, each of which then is its own mean.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = KMeans(len(start), init=start, n_init=1, max_iter=1).fit(start)
    model.cluster_centers_ = start
    return lambda: model.predict(rows)


def _faiss(x: Tensor, centroids: Tensor) -> Assign:
    import faiss

    index = faiss.IndexFlatL2(x.shape[1])
    index.add(centroids.numpy())
    rows = x.numpy()
    return lambda: index.search(rows, 1)[1][:, 0]
