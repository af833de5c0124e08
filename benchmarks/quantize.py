"""Codebooks in training against vector-quantize-pytorch, codebooks fitted offline against faiss."""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.machine import same_threads
from benchmarks.memory import STATUS
from benchmarks.peers import OURS
from benchmarks.workloads import load

PEER = "vector-quantize-pytorch"
# Vectors, features, codes, levels.
SIZES = {
    "vq-64-1024": (8192, 64, 1024, 1),
    "vq-64-8192": (8192, 64, 8192, 1),
    "vq-256-1024": (8192, 256, 1024, 1),
    "rvq-64-1024": (8192, 64, 1024, 8),
}
OFFLINE = ("patches", "embeddings", "noise")
SAMPLES = {"PQ": 50_000, "RQ": 20_000}  # faiss takes long for the latter
SEEDS = 3
BATCHES = 8


def run(options: argparse.Namespace) -> list[dict[str, object]]:
    """Training steps, evaluation, peak memory; then product and residual quantizers."""
    names = options.workloads or [*SIZES, *OFFLINE]
    rows = [_network(name, options) for name in names if name in SIZES]
    return rows + [row for name in names if name in OFFLINE for row in _offline(name, options)]


def quantizer(name: str, size: tuple[int, int, int, int]) -> nn.Module:
    """Ours or the peer's, set up alike: moving averages, straight-through, k codes."""
    _, d, k, levels = size
    if name == OURS:
        from kmeans_module import ResidualQuantizer, VectorQuantizer

        options = {"decay": 0.8, "estimator": "straight-through", "commitment": 1.0}
        if levels > 1:
            return ResidualQuantizer(k, d, levels, **options)
        return VectorQuantizer(k, d, **options)
    from vector_quantize_pytorch import ResidualVQ, VectorQuantize

    options = {"dim": d, "codebook_size": k, "decay": 0.8, "rotation_trick": False}
    return ResidualVQ(num_quantizers=levels, **options) if levels > 1 else VectorQuantize(**options)


def _network(name: str, options: argparse.Namespace) -> dict[str, object]:
    n, d, k, levels = SIZES[name]
    size = (max(64, round(n * options.scale)), d, max(8, round(k * options.scale)), levels)
    batches = _batches(size)
    milliseconds: dict[str, dict[str, float]] = {}
    for what in ("train", "eval"):
        steps = {peer: _step(quantizer(peer, size), batches, what) for peer in (OURS, PEER)}
        seconds: dict[str, list[float]] = {peer: [] for peer in steps}
        for repeat in range(options.repeats + 1):
            for peer, step in steps.items():
                with same_threads():
                    begin = time.perf_counter()
                    step()
                    if repeat:
                        seconds[peer].append(time.perf_counter() - begin)
        milliseconds[what] = {
            peer: 1e3 * statistics.median(found) for peer, found in seconds.items()
        }
    memory = {peer: _peak(peer, size) for peer in (OURS, PEER)} if STATUS.exists() else {}
    title = f"{size[0]:,} × {d}, {size[2]:,} codes" + (f", {levels} levels" if levels > 1 else "")
    print(title)
    for what, found in milliseconds.items():
        print(
            f"    {what:<7}{found[OURS]:>9.1f} ms{found[PEER]:>10.1f} ms"
            f"{found[PEER] / found[OURS]:>8.1f} ×", flush=True,
        )  # fmt: skip
    if memory:
        print(
            f"    memory {memory[OURS]:>9.0f} MB{memory[PEER]:>10.0f} MB"
            f"{memory[PEER] / max(memory[OURS], 1):>8.1f} ×", flush=True,
        )  # fmt: skip
    return {"workload": name, "title": title, "ms": milliseconds, "memory_mb": memory}


def _batches(size: tuple[int, int, int, int]) -> list[Tensor]:
    """Vectors (1, n, d) of a few batches: one alone a codebook would learn by heart."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn((1, *size[:2]), generator=generator) for _ in range(BATCHES)]


def _step(module: nn.Module, batches: list[Tensor], what: str) -> Callable[[], object]:
    module.train()
    module(batches[0])  # initializes
    module.train(what == "train")
    turn = itertools.cycle(batches)

    def train() -> None:
        rows = next(turn).clone().requires_grad_()
        quantized, _, loss = module(rows)
        (quantized.square().mean() + loss.sum()).backward()

    def evaluate() -> None:
        with torch.no_grad():
            module(next(turn))

    return train if what == "train" else evaluate


def _peak(peer: str, size: tuple[int, int, int, int]) -> float:
    """MB that a quantizer, its start and a few training steps need, in a process of their own."""
    code = [sys.executable, "-W", "ignore", "-m", "benchmarks.quantize", peer, json.dumps(size)]
    done = subprocess.run(code, capture_output=True, check=True, cwd=Path(__file__).parents[1])
    return float(done.stdout) / 2**20


def _measure_peak(peer: str, size: tuple[int, int, int, int]) -> int:
    from benchmarks.memory import peak_bytes

    batches = _batches(size)
    # The libraries, once, on little.
    small = (64, size[1], 8, size[3])
    _step(quantizer(peer, small), _batches(small), "train")()

    def train() -> None:
        step = _step(quantizer(peer, size), batches, "train")
        for _ in range(3):
            step()

    return peak_bytes(train)


def _offline(name: str, options: argparse.Namespace) -> list[dict[str, object]]:
    import faiss

    from kmeans_module import ProductQuantizer, ResidualQuantizer

    work = load(name, scale=options.scale)
    d = work.x.shape[1]

    def theirs(x: Tensor, kind: str, seed: int) -> tuple[float, float, float]:
        if kind == "PQ":
            made = faiss.ProductQuantizer(d, 8, 8)
            made.cp.seed = seed
        else:
            made = faiss.ResidualQuantizer(d, 8, 8)
            made.cp.seed = seed
        numbers = x.numpy()
        begin = time.perf_counter()
        made.train(numbers)
        trained = time.perf_counter()
        codes = made.compute_codes(numbers)
        encoded = time.perf_counter()
        error = float(np.square(made.decode(codes) - numbers).sum(axis=1).mean())
        return trained - begin, encoded - trained, error

    def ours(x: Tensor, kind: str, seed: int) -> tuple[float, float, float]:
        made = (ProductQuantizer if kind == "PQ" else ResidualQuantizer)(256, d, 8)
        # As many beams as faiss keeps by default.
        options = {} if kind == "PQ" else {"beam_size": 5}
        begin = time.perf_counter()
        made.fit(x, generator=torch.Generator().manual_seed(seed))
        trained = time.perf_counter()
        codes = made.encode(x, **options)
        encoded = time.perf_counter()
        error = float((made.decode(codes) - x).square().sum(dim=1).mean())
        return trained - begin, encoded - trained, error

    rows: list[dict[str, object]] = []
    for kind, most in SAMPLES.items():
        x = work.x[:: max(1, len(work.x) // most)][:most].contiguous()
        found: dict[str, list[tuple[float, float, float]]] = {OURS: [], "faiss": []}
        for seed in range(SEEDS):
            for peer, make in ((OURS, ours), ("faiss", theirs)):
                with same_threads():
                    found[peer].append(make(x, kind, seed))
        mean = {
            peer: [statistics.fmean(values) for values in zip(*figures, strict=True)]
            for peer, figures in found.items()
        }
        title = f"{kind} of 8 × 256 codes, {work.title}, {len(x):,} × {d}"
        print(title)
        for what, i in (("fit s", 0), ("encode s", 1), ("error", 2)):
            a, b = mean[OURS][i], mean["faiss"][i]
            print(f"    {what:<9}{a:>10.4g}{b:>10.4g}{b / a:>8.2f} ×", flush=True)
        rows.append({"workload": name, "title": title, "mean": mean})
    return rows


if __name__ == "__main__":
    print(_measure_peak(sys.argv[1], tuple(json.loads(sys.argv[2]))))
