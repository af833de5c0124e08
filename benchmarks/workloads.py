"""Data sets of the benchmarks: n samples, d features, k clusters, the initial centroids."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_sample_image
from torch import Tensor


class Workload(NamedTuple):
    """What all peers get: the same samples, of which some are the initial centroids."""

    name: str
    title: str
    x: Tensor
    rows: Tensor

    @property
    def centroids(self) -> Tensor:
        return self.x[self.rows]

    @property
    def k(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> str:
        n, d = self.x.shape
        return f"{n:,} × {d}, k = {self.k:,}"


def blobs(n: int, d: int, k: int) -> Tensor:
    """Normal clusters of equal weight; the centers are uniform."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.rand(k, d, generator=generator) * 70 - 35
    labels = torch.randint(k, (n,), generator=generator)
    noise = torch.randn(n, d, generator=generator)
    return noise.mul_(30**0.5).add_(centers[labels])


def _embeddings(n: int, d: int, k: int) -> Tensor:
    """Unit vectors in overlapping groups, with a spectrum that falls off like 1 / rank."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.arange(1, d + 1).rsqrt()
    centers = torch.randn(k, d, generator=generator) * scale
    labels = torch.randint(k, (n,), generator=generator)
    noise = torch.randn(n, d, generator=generator) * scale
    return torch.nn.functional.normalize(centers[labels] + noise, dim=1)


def _photograph() -> Tensor:
    return torch.tensor(load_sample_image("china.jpg")).float() / 255


def _pixels() -> Tensor:
    return _photograph().reshape(-1, 3)


def _patches() -> Tensor:
    patches = _photograph().unfold(0, 8, 2).unfold(1, 8, 2)
    return patches.reshape(-1, 192).contiguous()


def noise(n: int, d: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0))


def zipf(n: int, d: int, k: int) -> Tensor:
    """Clusters whose sizes follow Zipf's law."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.rand(k, d, generator=generator) * 70 - 35
    shares = 1.0 / torch.arange(1, k + 1)
    labels = torch.multinomial(shares, n, replacement=True, generator=generator)
    return centers[labels] + 3 * torch.randn(n, d, generator=generator)


class _Source(NamedTuple):
    title: str
    make: Callable[[], Tensor]
    k: int


WORKLOADS: dict[str, _Source] = {
    "blobs-2d-6": _Source("blobs", lambda: blobs(1_000_000, 2, 6), 6),
    "blobs-2d-64": _Source("blobs", lambda: blobs(1_000_000, 2, 64), 64),
    "pixels": _Source("pixels of a photograph", _pixels, 256),
    "blobs-16d-100": _Source("blobs", lambda: blobs(500_000, 16, 100), 100),
    "patches": _Source("patches of a photograph", _patches, 512),
    "embeddings": _Source("unit vectors", lambda: _embeddings(100_000, 256, 1024), 1024),
    "noise": _Source("Gaussian noise", lambda: noise(100_000, 128), 1000),
    "zipf": _Source("cluster sizes by Zipf's law", lambda: zipf(300_000, 8, 200), 200),
}


def load(name: str, *, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Workload:
    """A workload; below a scale of 1 every so many rows of it, and no more than n / 8 clusters."""
    if name not in WORKLOADS:
        raise SystemExit(f"workloads are {', '.join(WORKLOADS)}; got {name}")
    title, make, k = WORKLOADS[name]
    x = make()[:: round(1 / scale)].to(dtype).contiguous()
    return start(name, title, x, min(k, len(x) // 8))


def start(name: str, title: str, x: Tensor, k: int) -> Workload:
    """A workload of these samples; random ones of them, no two alike, are its centroids."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    for candidates in (order[: 4 * k], order):
        # Equal centroids would make empty clusters, which every library fills in its own way.
        _, first = np.unique(x[candidates].numpy(), axis=0, return_index=True)
        if len(first) >= k:
            break
    return Workload(name, title, x, candidates[torch.from_numpy(first).sort().values[:k]])
