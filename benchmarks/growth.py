"""Milliseconds per iteration against the number of samples and of clusters."""

from __future__ import annotations

import argparse
import statistics

import torch

from benchmarks.peers import kmeans_module
from benchmarks.workloads import blobs, load, start

SIZES = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
CLUSTERS = (64, 128, 256, 512, 1024, 2048, 4096)
STRUCTURED = ("blobs-16d-100", "pixels")


def run(options: argparse.Namespace) -> list[dict[str, object]]:
    """One row for each point of the two curves."""
    rows = []
    print(f"{torch.get_num_threads()} threads, median of {options.repeats}")
    for size in (size for size in SIZES if size <= options.max_n):
        x = blobs(round(size * options.scale), 16, 100).to(getattr(torch, options.dtype))
        rows.append(_point("n", "blobs, 16 features, k = 100", x, 100, options))
    for name in STRUCTURED:
        work = load(name, scale=options.scale, dtype=getattr(torch, options.dtype))
        n, d = work.x.shape
        title = f"{work.title}, {n:,} × {d}"
        rows += [_point("k", title, work.x, k, options) for k in CLUSTERS if 8 * k <= n]
    return rows


def _point(
    against: str, title: str, x: torch.Tensor, k: int, options: argparse.Namespace
) -> dict[str, object]:
    work = start(title, title, x, k)
    kmeans_module(work, 1)
    runs = [kmeans_module(work, options.iterations) for _ in range(options.repeats)]
    ms = statistics.median(1e3 * one.seconds / one.n_iter for one in runs)
    print(f"{work.title:<40}{work.shape:<32}{ms:>10.2f} ms", flush=True)
    return {"against": against, "title": title, "n": len(x), "k": k, "ms": ms}
