"""The default fit, seeding included, against scikit-learn's, paired over seeds."""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings

import torch
from sklearn.cluster import KMeans

from benchmarks.machine import rest, same_threads
from benchmarks.peers import inertia
from benchmarks.workloads import WORKLOADS, Workload, load
from kmeans_module import KMeansLayer


def run(options: argparse.Namespace) -> list[dict[str, object]]:
    """Median ratio of the times, mean log ratio of the inertias with two standard errors."""
    dtype = getattr(torch, options.dtype)
    print(f"default fit, {torch.get_num_threads()} threads, {options.seeds} seeds\n")
    print(f"{'':<46}{'ours, s':>10}{'sklearn, s':>12}{'× faster':>10}   log(inertia ratio)")
    rows = []
    for name in options.workloads or WORKLOADS:
        work = load(name, scale=options.scale, dtype=dtype)
        ours, theirs, logs = _paired(work, options.seeds)
        row = {
            "workload": name, "title": f"{work.title}, {work.shape}", "seeds": options.seeds,
            "seconds": statistics.median(ours), "sklearn_seconds": statistics.median(theirs),
            "speedup": statistics.median(b / a for a, b in zip(ours, theirs, strict=True)),
            "log_inertia": statistics.mean(logs), "two_errors": two_errors(logs),
        }  # fmt: skip
        rows.append(row)
        print(
            f"{row['title']:<46}{row['seconds']:>10.3f}{row['sklearn_seconds']:>12.3f}"
            f"{row['speedup']:>10.1f}   {row['log_inertia']:+.4f} ± {row['two_errors']:.4f}",
            flush=True,
        )
    return rows


def _paired(work: Workload, seeds: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds of ours, seconds of scikit-learn, log of the inertia ratio, for each seed."""
    k, d = work.k, work.x.shape[1]
    rows = work.x.numpy()
    ours, theirs, logs = [], [], []
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        layer = KMeansLayer(k, d, dtype=work.x.dtype)
        model = KMeans(k, random_state=seed)
        with warnings.catch_warnings(), same_threads():
            warnings.simplefilter("ignore")
            rest()
            begin = time.perf_counter()
            layer.fit(work.x, generator=generator)
            ours.append(time.perf_counter() - begin)
            rest()
            begin = time.perf_counter()
            model.fit(rows)
            theirs.append(time.perf_counter() - begin)
        # Recomputed, so that neither library is taken at its word.
        found = torch.from_numpy(model.cluster_centers_)
        logs.append(math.log(inertia(work.x, layer.centroids) / inertia(work.x, found)))
    return ours, theirs, logs


def two_errors(values: list[float]) -> float:
    """Two standard errors of the mean."""
    return 2 * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
