"""The machine of a run: its speed, its threads, the versions of what is measured."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import torch


class Roofline(NamedTuple):
    """Bytes per second that a sum reads, operations per second of a matrix product."""

    bandwidth: float
    flops: float

    @classmethod
    def measure(cls, dtype: torch.dtype, *, size: int = 2048) -> Roofline:
        """The best of several, with torch's threads."""
        data = torch.ones(16 * size * size, dtype=dtype)  # far more than the caches hold
        a = torch.rand(size, size, dtype=dtype)
        out = torch.empty_like(a)
        reading = _best_seconds(data.sum, 20)
        product = _best_seconds(lambda: torch.mm(a, a, out=out), 5)
        return cls(data.nbytes / reading, 2 * size**3 / product)

    def read_ms(self, n: int, d: int, itemsize: int) -> float:
        """Milliseconds to read the data once."""
        return 1e3 * n * d * itemsize / self.bandwidth

    def product_ms(self, n: int, d: int, k: int) -> float:
        """Milliseconds of the 2·n·k·d operations of all inner products."""
        return 1e3 * 2 * n * d * k / self.flops


def _best_seconds(work: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def rest() -> None:
    """Wait until the threads of the library before have stopped waiting busily for more work."""
    time.sleep(0.3)


def same_threads() -> AbstractContextManager[object]:
    """As many threads as torch has, for every OpenMP and BLAS that is loaded by now."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(torch.get_num_threads())


def version(package: str) -> str | None:
    """Of an installed package; None where it is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def describe() -> dict[str, object]:
    """What the figures of a run depend on."""
    return {"cpu": _cpu(), "threads": torch.get_num_threads(), "torch": torch.__version__}


def rounded(value: object) -> object:
    """Floats to five digits, all the way down."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
