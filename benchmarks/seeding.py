"""Quality of k-means++ after convergence, against scikit-learn's, paired over seeds."""

from __future__ import annotations

import argparse
import math
import statistics
import warnings

import torch
from sklearn.cluster import KMeans

from benchmarks.fit import two_errors
from benchmarks.workloads import WORKLOADS, load
from kmeans_module import KMeansLayer


def run(options: argparse.Namespace) -> list[dict[str, object]]:
    """Mean log ratio of the inertia on a part of each workload, with two standard errors."""
    n_seeds = options.seeds
    print(f"log(inertia / scikit-learn's) over {n_seeds} seeds: mean ± 2 standard errors")
    figures: list[dict[str, object]] = []
    for name in options.workloads or WORKLOADS:
        x = load(name, scale=options.scale, dtype=getattr(torch, options.dtype)).x
        rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))[: options.rows]
        x = x[rows]
        k = min(WORKLOADS[name].k, 100, len(x) // 8)
        line = f"{name:<15}"
        row: dict[str, object] = {"workload": name}
        for init in ("k-means++", "k-means||", "random"):
            ratios = []
            for seed in range(n_seeds):
                layer = KMeansLayer(k, x.shape[1], dtype=x.dtype)
                generator = torch.Generator().manual_seed(seed)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    ours = float(layer.fit(x, init=init, generator=generator).inertia)
                    theirs = KMeans(k, n_init=1, random_state=seed).fit(x.numpy()).inertia_
                ratios.append(math.log(ours / theirs))
            mean, error = statistics.mean(ratios), two_errors(ratios)
            line += f"   {init} {mean:+.4f} ± {error:.4f}"
            row[init] = [mean, error]
        print(line, flush=True)
        figures.append(row)
    return figures
