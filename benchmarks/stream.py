"""Peak memory of LitKMeans over a generating loader, each fit in a process of its own (Linux)."""

from __future__ import annotations

import argparse
import itertools
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.memory import STATUS, peak_bytes

N_CLUSTERS = 10
N_EPOCHS = 2
INITS = ("random", "k-means||", "k-means++")


def run(options: argparse.Namespace) -> list[dict[str, object]]:
    """MB above the start of the fit, for each init, number of features and number of batches."""
    if not STATUS.exists():
        raise SystemExit("memory is measured through /proc, which this system lacks")
    size = round(options.batch_mb * options.scale * 2**20)
    threads = torch.get_num_threads()
    print(f"peak MB of LitKMeans above its start, batches of {size / 2**20:.3g} MB of float32\n")
    print(f"{'':<24}" + "".join(f"{f'{n} batches':>14}" for n in options.batches))
    rows = []
    for d, init in itertools.product(options.features, INITS):
        line = f"{f'{d} features, {init}':<24}"
        for n_batches in options.batches:
            arguments = [init, *map(str, (d, n_batches, size, threads))]
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-m", "benchmarks.stream", *arguments],
                capture_output=True, check=True, cwd=Path(__file__).parents[1],
            )  # fmt: skip
            beyond = int(done.stdout) / 2**20
            rows.append(
                {
                    "init": init, "features": d, "batches": n_batches, "batch_mb": size / 2**20,
                    "data_mb": n_batches * size / 2**20, "beyond_mb": beyond,
                }
            )  # fmt: skip
            line += f"{beyond:>14.1f}"
        print(line, flush=True)
    return rows


class Generated:
    """Batches of normal rows that are made anew in every pass.

    Args:
        n_batches: in a pass.
        n_rows: in a batch.
        n_features: of a row.
    """

    def __init__(self, n_batches: int, n_rows: int, n_features: int) -> None:
        self.n_batches, self.n_rows, self.n_features = n_batches, n_rows, n_features

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(0)
        for _ in range(self.n_batches):
            yield torch.randn(self.n_rows, self.n_features, generator=generator)


def measure(init: str, n_features: int, n_batches: int, batch_bytes: int, threads: int) -> int:
    """Bytes that two epochs need at their peak above what the process held before."""
    from lightning.pytorch import Trainer

    from kmeans_module import LitKMeans

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    data = Generated(n_batches, max(N_CLUSTERS, batch_bytes // 4 // n_features), n_features)
    lit = LitKMeans(N_CLUSTERS, n_features, init=init)
    trainer = Trainer(
        max_epochs=N_EPOCHS, logger=False, enable_checkpointing=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    torch.rand(1000, 1000) @ torch.rand(1000, 1000)  # starts the threads
    return peak_bytes(lambda: trainer.fit(lit, data))


if __name__ == "__main__":
    print(measure(sys.argv[1], *map(int, sys.argv[2:])))
