"""Sparse rows, made like TF-IDF of documents, beside scikit-learn's KMeans on the same matrix."""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse import csr_matrix
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import TfidfTransformer

from benchmarks.machine import rest, same_threads
from kmeans_module import KMeansLayer
from kmeans_module.arrays import as_tensor

N, D, WORDS, TOPICS = 11_000, 20_000, 100, 40
TIMED = ("iterations", "default fit", "labels")
WORKLOADS = {"20 clusters": 20, "100 clusters": 100}


def documents(n: int, d: int, *, words: int = WORDS, topics: int = TOPICS) -> csr_matrix:
    """TF-IDF (n, d) float32 at unit length: words by Zipf's law, three of five those of a topic."""
    generator = np.random.default_rng(0)
    orders = np.stack([generator.permutation(d) for _ in range(topics)])
    row = np.repeat(np.arange(n), 1 + generator.poisson(words, n))
    rank = np.minimum(d ** generator.random(len(row)), d - 1).astype(np.int64)
    topic = generator.integers(topics, size=n)[row]
    word = np.where(generator.random(len(row)) < 0.6, orders[topic, rank], rank)
    counts = csr_matrix((np.ones(len(row), np.float32), (row, word)), (n, d))
    return TfidfTransformer().fit_transform(counts)


def run(options: argparse.Namespace) -> list[dict[str, object]]:
    """Median seconds of fits and of labels, and how many labels are equal from the same start."""
    x = documents(max(200, round(N * options.scale)), D).astype(options.dtype)
    title = f"{x.shape[0]:,} × {x.shape[1]:,}, {x.nnz / x.shape[0]:.0f} words each"
    print(f"{title}, {torch.get_num_threads()} threads, median of {options.repeats}\n")
    print(f"{'':<16}{'':<28}{'ours, s':>10}{'sklearn, s':>12}{'× faster':>10}")
    rows = []
    for name in options.workloads or WORKLOADS:
        row = _compared(x, WORKLOADS[name], options)
        rows.append({"workload": name, "title": title, **row})
        for what in TIMED:
            ours, theirs = row[what]
            print(f"{name:<16}{what:<28}{ours:>10.3f}{theirs:>12.3f}{theirs / ours:>10.1f}")
    return rows


def _compared(x: csr_matrix, k: int, options: argparse.Namespace) -> dict[str, object]:
    rows = as_tensor(x, sparse=True)
    start = x[np.random.default_rng(1).choice(x.shape[0], k, replace=False)].toarray()
    at_most = options.iterations
    found: dict[str, list[tuple[float, float]]] = {
        "iterations": [],
        "default fit": [],
        "labels": [],
    }
    for seed in range(options.repeats):
        layer = KMeansLayer(k, x.shape[1], dtype=rows.dtype)
        model = KMeans(k, random_state=seed)
        ours = _seconds(layer.fit, rows, seed=seed), _seconds(layer, rows)
        theirs = _seconds(model.fit, x), _seconds(model.predict, x)
        found["default fit"].append((ours[0], theirs[0]))
        found["labels"].append((ours[1], theirs[1]))
        model = KMeans(k, init=start, tol=0, max_iter=at_most)
        from_start = {"init": torch.from_numpy(start), "tol": 0, "max_iter": at_most}
        found["iterations"].append(
            (_seconds(layer.fit, rows, **from_start), _seconds(model.fit, x))
        )
    medians = {
        what: [statistics.median(times) for times in zip(*pairs, strict=True)]
        for what, pairs in found.items()
    }
    equal = float((layer(rows).numpy() == model.labels_).mean())
    return {"equal_labels": equal, **medians}


def _seconds(work: Callable[..., object], *arguments: object, **options: object) -> float:
    with warnings.catch_warnings(), same_threads():
        warnings.simplefilter("ignore")
        rest()
        begin = time.perf_counter()
        work(*arguments, **options)
        return time.perf_counter() - begin
