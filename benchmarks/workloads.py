"""Data sets of the benchmarks: n samples, d features, k clusters, the initial centroids."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from sklearn.datasets import load_sample_image
from torch import Tensor


class Workload(NamedTuple):
    """What all peers get: the same rows and the same initial centroids, float32."""

    name: str
    x: Tensor
    centroids: Tensor


def _blobs(n: int, d: int, k: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    centers = torch.rand(k, d, generator=generator) * 70 - 35
    labels = torch.randint(k, (n,), generator=generator)
    return centers[labels] + 30**0.5 * torch.randn(n, d, generator=generator)


def _embeddings(n: int, d: int, k: int) -> Tensor:
    """Unit vectors in overlapping groups, with a spectrum that falls off like 1 / rank."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.arange(1, d + 1).rsqrt()
    centers = torch.randn(k, d, generator=generator) * scale
    labels = torch.randint(k, (n,), generator=generator)
    noise = torch.randn(n, d, generator=generator) * scale
    return torch.nn.functional.normalize(centers[labels] + noise, dim=1)


def _pixels() -> Tensor:
    return torch.from_numpy(load_sample_image("china.jpg")).reshape(-1, 3).float() / 255


def _patches() -> Tensor:
    image = torch.from_numpy(load_sample_image("china.jpg")).float() / 255
    patches = image.unfold(0, 8, 2).unfold(1, 8, 2)
    return patches.reshape(-1, 192).contiguous()


def _noise(n: int, d: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0))


def _zipf(n: int, d: int, k: int) -> Tensor:
    """Clusters whose sizes follow Zipf's law."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.rand(k, d, generator=generator) * 70 - 35
    shares = 1.0 / torch.arange(1, k + 1)
    labels = torch.multinomial(shares, n, replacement=True, generator=generator)
    return centers[labels] + 3 * torch.randn(n, d, generator=generator)


WORKLOADS: dict[str, tuple[Callable[[], Tensor], int]] = {
    "blobs-2d-6": (lambda: _blobs(1_000_000, 2, 6), 6),
    "blobs-2d-64": (lambda: _blobs(1_000_000, 2, 64), 64),
    "pixels": (_pixels, 256),
    "blobs-16d-100": (lambda: _blobs(500_000, 16, 100), 100),
    "patches": (_patches, 512),
    "embeddings": (lambda: _embeddings(100_000, 256, 1024), 1024),
    "noise": (lambda: _noise(100_000, 128), 1000),
    "zipf": (lambda: _zipf(300_000, 8, 200), 200),
}


def load(name: str) -> Workload:
    """A workload; its initial centroids are distinct random rows."""
    make, k = WORKLOADS[name]
    x = make()
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))[:k]
    return Workload(name, x, x[rows].clone())
