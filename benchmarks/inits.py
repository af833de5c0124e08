"""Inertia of k-means|| against k-means++ after convergence, over seeds."""

from __future__ import annotations

import argparse
import math
import statistics
import warnings
from collections.abc import Callable

import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_sample_image
from torch import Tensor

from benchmarks.workloads import blobs, noise, zipf
from kmeans_module import KMeansLayer

OURS, REFERENCE, PEER = "k-means||", "k-means++", "scikit-learn"
MAX_PEER_CLUSTERS = 100  # beyond, its k-means++ takes most of the time


def _patches(n: int) -> Tensor:
    """Patches of 8 × 8 pixels of both photographs that scikit-learn ships."""
    parts = []
    for name in ("china.jpg", "flower.jpg"):
        image = torch.tensor(load_sample_image(name)).float() / 255
        parts.append(image.unfold(0, 8, 4).unfold(1, 8, 4).reshape(-1, 192))
    x = torch.cat(parts)
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(1))[:n]].contiguous()


DATA: dict[str, tuple[str, Callable[[int], Tensor]]] = {
    "noise": ("Gaussian noise", lambda n: noise(n, 128)),
    "blobs": ("blobs", lambda n: blobs(n, 16, 100)),
    "zipf": ("cluster sizes by Zipf's law", lambda n: zipf(n, 8, 200)),
    "patches": ("patches of two photographs", _patches),
}


def run(options: argparse.Namespace) -> list[dict[str, object]]:
    """Ratio of the mean inertias less 1, with two standard errors, for each data set and k."""
    print(f"mean inertia over {options.seeds} seeds / that of {REFERENCE} - 1, ± 2 standard errors")
    figures: list[dict[str, object]] = []
    for name in options.workloads or DATA:
        if name not in DATA:
            raise SystemExit(f"workloads are {', '.join(DATA)}; got {name}")
        title, make = DATA[name]
        x = make(round(options.rows * options.scale))
        for k in options.ks:
            found = _inertias(x, k, options)
            row: dict[str, object] = {
                "workload": name, "title": f"{title}, {len(x):,} × {x.shape[1]}", "k": k
            }  # fmt: skip
            line = f"{row['title']}, k = {k:,}".ljust(52)
            for init in (OURS, PEER):
                if init in found:
                    row[init] = ratio, error = _excess(found[init], found[REFERENCE])
                    line += f"   {init} {100 * ratio:+.2f} ± {100 * error:.2f} %"
            figures.append({key: _listed(value) for key, value in row.items()})
            print(line, flush=True)
    return figures


def _inertias(x: Tensor, k: int, options: argparse.Namespace) -> dict[str, list[float]]:
    """Final inertias for each seed, by what chose the initial centroids."""
    found: dict[str, list[float]] = {REFERENCE: [], OURS: []}
    has_peer = k <= MAX_PEER_CLUSTERS and not options.no_sklearn
    if has_peer:
        found[PEER] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(options.seeds):
            for init in (REFERENCE, OURS):
                layer = KMeansLayer(k, x.shape[1])
                generator = torch.Generator().manual_seed(seed)
                result = layer.fit(x, init=init, max_iter=options.iterations, generator=generator)
                found[init].append(float(result.inertia))
            if has_peer:
                model = KMeans(k, n_init=1, max_iter=options.iterations, random_state=seed)
                found[PEER].append(float(model.fit(x.numpy()).inertia_))
    return found


def _excess(values: list[float], reference: list[float]) -> tuple[float, float]:
    """Ratio of the means less 1, and two standard errors of it; the samples are independent."""
    mean = statistics.mean(reference)
    ratio = statistics.mean(values) / mean - 1
    if len(values) < 2:
        return ratio, math.nan
    spread = statistics.variance(values) + statistics.variance(reference)
    return ratio, 2 * math.sqrt(spread / len(values)) / mean


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
