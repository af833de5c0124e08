"""Quality of k-means++ after convergence, against scikit-learn's, paired over seeds."""

from __future__ import annotations

import math
import statistics
import warnings

import torch
from sklearn.cluster import KMeans

from benchmarks.workloads import WORKLOADS
from kmeans_module import KMeansLayer


def seeding(workloads: list[str], *, n_seeds: int = 20, n: int = 5_000) -> list[dict[str, object]]:
    """Mean log ratio of the inertia on a part of each workload, with two standard errors."""
    print(f"log(inertia / scikit-learn's) over {n_seeds} seeds: mean ± 2 standard errors")
    figures: list[dict[str, object]] = []
    for name in workloads or WORKLOADS:
        make, k = WORKLOADS[name]
        x = make()
        x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(2))[:n]].clone()
        k = min(k, 100)
        line = f"{name:<15}"
        row: dict[str, object] = {"workload": name}
        for init in ("k-means++", "k-means||", "random"):
            ratios = []
            for seed in range(n_seeds):
                layer = KMeansLayer(k, x.shape[1])
                generator = torch.Generator().manual_seed(seed)
                ours = float(layer.fit(x, init=init, generator=generator).inertia)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    theirs = KMeans(k, n_init=1, random_state=seed).fit(x.numpy()).inertia_
                ratios.append(math.log(ours / theirs))
            error = 2 * statistics.stdev(ratios) / math.sqrt(n_seeds)
            line += f"   {init} {statistics.mean(ratios):+.4f} ± {error:.4f}"
            row[init] = [statistics.mean(ratios), error]
        print(line, flush=True)
        figures.append(row)
    return figures
