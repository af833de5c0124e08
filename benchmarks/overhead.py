"""What ``import kmeans_module`` costs beyond torch, and an iteration beyond the layer's."""

from __future__ import annotations

import argparse
import logging
import statistics
import subprocess
import sys
import tempfile
import time
import warnings


def run(options: argparse.Namespace) -> list[dict[str, object]]:
    """Import time as a ratio, Lightning's share in milliseconds per iteration."""
    return [{"import": _import_ratio(options.repeats), **_lightning(options)}]


def _import_ratio(repeats: int) -> float:
    def seconds(module: str) -> float:
        code = (
            f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter()-t)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        return float(done.stdout)

    seconds("kmeans_module")
    ratios = [seconds("kmeans_module") / seconds("torch") for _ in range(repeats)]
    ratio = statistics.median(ratios)
    print(f"import kmeans_module / import torch: {ratio:.3f} (median of {repeats} pairs)")
    return ratio


def _lightning(options: argparse.Namespace) -> dict[str, float]:
    from lightning.pytorch import Trainer
    from lightning.pytorch.loggers import TensorBoardLogger

    from kmeans_module import KMeansLayer
    from kmeans_module.data import BlobDataModule
    from kmeans_module.training.lit_kmeans import LitKMeans

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    figures = {}
    iterations = options.iterations
    for size in (250, 25_000):
        per_cluster = max(20, round(size * options.scale))
        data = BlobDataModule(samples_per_cluster=per_cluster, variance=300.0)
        extra = []
        for _ in range(options.repeats):
            layer = KMeansLayer(30, 2)
            begin = time.perf_counter()
            result = layer.fit(data.x, init="random", max_iter=iterations, tol=0)
            bare = (time.perf_counter() - begin) / int(result.n_iter)
            with tempfile.TemporaryDirectory() as folder:
                trainer = Trainer(
                    max_epochs=iterations, logger=TensorBoardLogger(folder),
                    limit_val_batches=0, enable_progress_bar=False, accelerator="cpu",
                    enable_model_summary=False, default_root_dir=folder,
                )  # fmt: skip
                lit = LitKMeans(30, 2, init="random", tol=0)
                begin = time.perf_counter()
                trainer.fit(lit, data)
                driven = (time.perf_counter() - begin) / int(lit.kmeans.n_iter)
            extra.append(1e3 * (driven - bare))
        n = len(data.x)
        figures[f"ms, {n:,} × 2"] = ms = statistics.median(extra)
        print(f"trainer.fit beyond layer.fit, {n:,} × 2, k = 30: {ms:.1f} ms/iteration")
    return figures
