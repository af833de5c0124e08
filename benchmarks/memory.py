"""Peak memory of a default fit beyond its data, each in a process of its own (Linux)."""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.workloads import WORKLOADS, load
from kmeans_module import KMeansLayer

STATUS = Path("/proc/self/status")


def run(options: argparse.Namespace) -> list[dict[str, object]]:
    """MB beyond the data against the limit: half the data, 64 B a sample, 64 MB a thread."""
    if not STATUS.exists():
        raise SystemExit("memory is measured through /proc, which this system lacks")
    threads = torch.get_num_threads()
    print(f"peak MB of a fit beyond its data, {threads} threads\n")
    print(f"{'':<46}{'data':>10}{'beyond':>10}{'limit':>10}")
    rows = []
    for name in options.workloads or WORKLOADS:
        work = load(name, scale=options.scale, dtype=getattr(torch, options.dtype))
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "x.npy"
            np.save(file, work.x.numpy())
            code = [sys.executable, "-W", "ignore", "-m", "benchmarks.memory", str(file)]
            numbers = [str(work.k), str(options.iterations), str(threads)]
            done = subprocess.run(
                [*code, *numbers], capture_output=True, check=True,
                cwd=Path(__file__).parents[1],
            )  # fmt: skip
        beyond = json.loads(done.stdout)
        limit = work.x.nbytes // 2 + 64 * len(work.x) + 64 * 2**20 * threads
        row = {
            "workload": name, "title": f"{work.title}, {work.shape}",
            "data_mb": work.x.nbytes / 2**20, "beyond_mb": beyond / 2**20,
            "limit_mb": limit / 2**20,
        }  # fmt: skip
        rows.append(row)
        print(
            f"{row['title']:<46}{row['data_mb']:>10.1f}{row['beyond_mb']:>10.1f}"
            f"{row['limit_mb']:>10.1f}" + (" EXCEEDED" if beyond > limit else ""),
            flush=True,
        )
    return rows


def measure(file: str, k: int, iterations: int, threads: int) -> int:
    """Bytes that a fit of this file needs at its peak beyond what the process held before."""
    torch.set_num_threads(threads)
    x = torch.from_numpy(np.load(file))
    # Loads the libraries and starts the threads, on other data of as many features.
    KMeansLayer(2, x.shape[1], dtype=x.dtype).fit(torch.rand(64, x.shape[1], dtype=x.dtype))
    layer = KMeansLayer(k, x.shape[1], dtype=x.dtype)
    return peak_bytes(lambda: layer.fit(x, max_iter=iterations))


def peak_bytes(work: Callable[[], object]) -> int:
    """What some work needs at its peak beyond what the process holds before."""
    with contextlib.suppress(OSError):  # elsewhere the peak is that since the process began
        Path("/proc/self/clear_refs").write_text("5")
    before = _kilobytes("VmRSS")
    work()
    return 1024 * (_kilobytes("VmHWM") - before)


def _kilobytes(field: str) -> int:
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


if __name__ == "__main__":
    print(measure(sys.argv[1], *map(int, sys.argv[2:])))
