"""Codebooks of many codes in training: how many are used, what a step and its revival cost.

An autoencoder of small perceptrons learns overlapping patches of two photographs, or points of
Gaussian clusters, a sixteenth of a vector for each code and step. A code is used that is nearest
to at least one of all patches, in evaluation. The peer takes a few steps of the same network; what
it would need for all of them is extrapolated.
"""

from __future__ import annotations

import argparse
import pkgutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.machine import same_threads
from benchmarks.memory import STATUS
from benchmarks.peers import OURS

PEER = "vector-quantize-pytorch"
N_FEATURES, WIDTH = 16, 64
LEARNING_RATE = 1e-3
VECTORS = 16  # codes for each vector of a step
EVERY = 200  # steps between two looks at all patches
TIMED = 10  # steps of the peer
CHUNK = 16_384  # patches of an evaluation at once
# Functions of the package that revive codes, and nothing else.
REVIVAL = ("steps.draw", "steps.far_first", "revival.revive", "revival.follow")


class Source(NamedTuple):
    """What is learnt: n vectors, and those of some numbers, (m,) -> (m, d)."""

    n: int
    rows: Callable[[Tensor], Tensor]


class Trial(NamedTuple):
    """A codebook, what it learns from, and how."""

    title: str
    n_clusters: int
    source: Callable[[int], Source]
    update: str


class Course(NamedTuple):
    """What a training run gave.

    Attributes:
        used: for every look at all patches the step, the share of the codes that are used, and
            the mean squared error of the reconstruction.
        seconds: of all steps, without these looks.
        revival: seconds of them that revived codes.
    """

    used: list[tuple[int, float, float]]
    seconds: float
    revival: float


class Network(nn.Module):
    """An encoder, a quantizer, a decoder, and Adam."""

    def __init__(self, quantizer: nn.Module, d: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(d, WIDTH), nn.GELU(), nn.Linear(WIDTH, N_FEATURES)
        )  # fmt: skip
        self.quantizer = quantizer
        self.decoder = nn.Sequential(
            nn.Linear(N_FEATURES, WIDTH), nn.GELU(), nn.Linear(WIDTH, d)
        )  # fmt: skip
        self.optimizer = torch.optim.Adam(self.parameters(), LEARNING_RATE)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes (n,), squared error of the reconstruction (n,), and loss of the codebook ()."""
        quantized, codes, loss = self.quantizer(self.encoder(x))
        return codes, (self.decoder(quantized) - x).square().mean(dim=-1), loss.sum()

    def step(self, x: Tensor) -> None:
        _, errors, loss = self(x)
        self.optimizer.zero_grad()
        (errors.mean() + loss).backward()
        self.optimizer.step()


def run(options: argparse.Namespace) -> list[dict[str, object]]:
    """Usage, seconds and memory of each trial."""
    rows: list[dict[str, object]] = []
    for name in options.workloads or trials():
        trial = trials()[name]
        trial = trial._replace(n_clusters=max(64, round(trial.n_clusters * options.scale)))
        vectors = trial.n_clusters // VECTORS
        title = f"{trial.title}, {trial.n_clusters:,} codes, {vectors:,} vectors a step"
        print(f"{title}, {options.steps:,} steps", flush=True)
        network, course = train(trial, options.steps, show=_show)
        milliseconds = _compare(network, trial) if name == "photographs" else {}
        memory = {}
        if STATUS.exists() and name == "photographs":
            memory = {peer: _peak(peer, trial.n_clusters) for peer in (OURS, PEER)}
            memory["vectors × codes"] = 4 * vectors * trial.n_clusters / 2**20
        rows.append({
            "workload": name, "title": title, "steps": options.steps,
            "used": course.used, "step_ms": 1e3 * course.seconds / options.steps,
            "revival_ms": 1e3 * course.revival / options.steps,
            "ms": milliseconds, "timed_steps": TIMED, "memory_mb": memory,
            "extrapolated_s": {k: v * options.steps / 1e3 for k, v in milliseconds.items()},
        })  # fmt: skip
        _report(rows[-1])
    return rows


def train(
    trial: Trial,
    steps: int,
    *,
    seed: int = 0,
    every: int = EVERY,
    show: Callable[[int, float, float], None] | None = None,
) -> tuple[Network, Course]:
    """Train an autoencoder with a codebook of ours, by its defaults."""
    from kmeans_module import VectorQuantizer

    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    source = trial.source(trial.n_clusters)
    quantizer = VectorQuantizer(trial.n_clusters, N_FEATURES, update=trial.update)
    network = Network(quantizer, source.rows(torch.zeros(1, dtype=torch.int64)).shape[1])
    used: list[tuple[int, float, float]] = []
    seconds = 0.0
    with _revival_timed() as revival:
        for step in range(1, steps + 1):
            chosen = torch.randint(source.n, (trial.n_clusters // VECTORS,), generator=generator)
            x = source.rows(chosen)
            begin = time.perf_counter()
            network.step(x)
            seconds += time.perf_counter() - begin
            if step % every == 0 or step == steps:
                used.append((step, *evaluate(network, source, trial.n_clusters)))
                if show:
                    show(*used[-1])
    return network, Course(used, seconds, sum(revival))


@torch.no_grad()
def evaluate(network: Network, source: Source, n_clusters: int) -> tuple[float, float]:
    """The share of the codes that are used, and the mean squared error, of all vectors."""
    network.eval()
    used = torch.zeros(n_clusters, dtype=torch.bool)
    error = 0.0
    for chosen in torch.arange(source.n).split(CHUNK):
        codes, errors, _ = network(source.rows(chosen))
        used[codes] = True
        error += errors.sum().item()
    network.train()
    return used.float().mean().item(), error / source.n


@contextmanager
def _revival_timed() -> Iterator[list[float]]:
    """Seconds of each call of what revives codes."""
    seconds = list[float]()

    def timed(work: Callable[..., Any]) -> Callable[..., Any]:
        def timing(*arguments: Any, **options: Any) -> Any:
            begin = time.perf_counter()
            try:
                return work(*arguments, **options)
            finally:
                seconds.append(time.perf_counter() - begin)

        return timing

    with ExitStack() as patches:
        for name in REVIVAL:
            whole = f"kmeans_module.quantization.{name}"
            work = pkgutil.resolve_name(whole)
            patches.enter_context(mock.patch(whole, timed(work)))
        yield seconds


def _compare(network: Network, trial: Trial) -> dict[str, float]:
    """Median milliseconds of a step of a trained network of ours and of the peer's, in turn."""
    source = trial.source(trial.n_clusters)
    networks = {
        OURS: network,
        PEER: Network(peer(trial.n_clusters), network.decoder[-1].out_features),
    }
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(TIMED + 1):
        x = source.rows(torch.randint(source.n, (trial.n_clusters // VECTORS,)))
        for name, made in networks.items():
            with same_threads():
                begin = time.perf_counter()
                made.step(x)
                seconds[name].append(time.perf_counter() - begin)
    return {name: 1e3 * statistics.median(found[1:]) for name, found in seconds.items()}


def peer(n_clusters: int) -> nn.Module:
    """The peer's quantizer, which revives codes too."""
    from vector_quantize_pytorch import VectorQuantize

    made: nn.Module = VectorQuantize(
        dim=N_FEATURES, codebook_size=n_clusters, decay=0.99, threshold_ema_dead_code=0.01,
        rotation_trick=False,
    )  # fmt: skip
    return made


def _peak(name: str, n_clusters: int) -> float:
    """MB that a quantizer, its start and a few steps need, in a process of their own."""
    code = [sys.executable, "-W", "ignore", "-m", "benchmarks.many_codes", name, str(n_clusters)]
    done = subprocess.run(code, capture_output=True, check=True, cwd=Path(__file__).parents[1])
    return float(done.stdout) / 2**20


def _measure_peak(name: str, n_clusters: int) -> int:
    from benchmarks.memory import peak_bytes
    from kmeans_module import VectorQuantizer

    vectors = n_clusters // VECTORS

    def steps(k: int, n: int, times: int) -> None:
        network = Network(VectorQuantizer(k, N_FEATURES) if name == OURS else peer(k), 192)
        for _ in range(times):
            network.step(torch.randn(n, 192))

    steps(64, 64, 2)  # the libraries, once, on little
    # A codebook of ours starts from as many vectors as there are codes.
    return peak_bytes(lambda: steps(n_clusters, vectors, VECTORS + 2 if name == OURS else 2))


def _show(step: int, used: float, error: float) -> None:
    print(f"    step {step:>5}: {used:>8.2%} used, error {error:.5f}", flush=True)


def _report(row: dict[str, Any]) -> None:
    print(f"    a step {row['step_ms']:.1f} ms, of it revival {row['revival_ms']:.1f} ms")
    for name, found in row["ms"].items():
        print(
            f"    {name:<26}{found:>10.1f} ms a step, {row['extrapolated_s'][name]:.0f} s for all "
            f"of them (extrapolated from {row['timed_steps']})"
        )
    for name, found in row["memory_mb"].items():
        print(f"    {name:<26}{found:>10.0f} MB")


def trials() -> dict[str, Trial]:
    """The promise, and others that say whether it was a special case."""
    patches = "patches of two photographs"
    return {
        "photographs": Trial(patches, 65_536, lambda k: photographs(), "ema"),
        "gradient": Trial(f"{patches}, by gradient", 16_384, lambda k: photographs(), "gradient"),
        "clusters": Trial("points of Gaussian clusters", 16_384, clusters, "ema"),
    }


def photographs(size: int = 8) -> Source:
    """All overlapping patches of scikit-learn's photographs, (3 · size²) from -1 to 1."""
    from sklearn.datasets import load_sample_images

    images = torch.stack([torch.tensor(image) for image in load_sample_images().images])
    windows = (images / 127.5 - 1).unfold(1, size, 1).unfold(2, size, 1)
    _, height, width = windows.shape[:3]

    def rows(chosen: Tensor) -> Tensor:
        image, place = chosen // (height * width), chosen % (height * width)
        return windows[image, place // width, place % width].flatten(1)

    return Source(2 * height * width, rows)


def clusters(n_clusters: int) -> Source:
    """Points of a cluster for each 16 codes, 8 points for each code, in 192 dimensions."""
    generator = torch.Generator().manual_seed(0)
    n, n_middles = 8 * n_clusters, max(1, n_clusters // 16)
    middles = torch.randn(n_middles, 192, generator=generator) * 2
    points = middles[torch.randint(n_middles, (n,), generator=generator)]
    points += torch.randn(n, 192, generator=generator) * 0.3
    return Source(n, points.__getitem__)


if __name__ == "__main__":
    print(_measure_peak(sys.argv[1], int(sys.argv[2])))
