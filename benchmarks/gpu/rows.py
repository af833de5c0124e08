"""Rows of the cases, made on the device: every contestant gets the same."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.gpu.clock import Absent

PART = 1 << 20  # rows that are drawn at once: a second copy of the data may not fit


def noise(n: int, d: int, k: int, device: torch.device) -> Tensor:
    return torch.randn(n, d, device=device, generator=_generator(device))


def blobs(n: int, d: int, k: int, device: torch.device) -> Tensor:
    """Normal clusters whose centers are three times as far apart as their rows."""
    return _clusters(n, d, k, device, spread=3.0)


def overlapping(n: int, d: int, k: int, device: torch.device) -> Tensor:
    """Normal clusters whose centers are no farther apart than their rows."""
    return _clusters(n, d, k, device, spread=1.0)


def topics(n: int, d: int, k: int, device: torch.device) -> Tensor:
    """Unit vectors of 2,000 topics in 50 groups, with variances that fall off over the features."""
    generator = _generator(device)
    scale = torch.logspace(0, -1, d, device=device)
    groups = torch.randn(50, d, device=device, generator=generator) * scale
    members = torch.randn(2_000, d, device=device, generator=generator) * scale * 0.8
    centers = groups.repeat(40, 1) + members
    x = torch.empty(n, d, device=device)
    for part in x.split(PART):
        topic = torch.randint(2_000, (len(part),), device=device, generator=generator)
        part.normal_(generator=generator).mul_(scale * 0.8).add_(centers[topic])
        part.div_(part.norm(dim=1, keepdim=True))
    return x


def patches(n: int, d: int, k: int, device: torch.device) -> Tensor:
    """All patches of 6 × 6 pixels of scikit-learn's two photographs; n are taken evenly."""
    if importlib.util.find_spec("sklearn") is None:
        raise Absent("scikit-learn, whose photographs these are, is not installed")
    from sklearn.datasets import load_sample_image

    found = []
    for name in ("china.jpg", "flower.jpg"):
        image = torch.tensor(load_sample_image(name), device=device).float() / 255
        found.append(image.unfold(0, 6, 1).unfold(1, 6, 1).reshape(-1, 108))
    x = torch.cat(found)
    return x[:: max(1, len(x) // n)][:n, :d].contiguous()


# By name: what the rows are in words, and how they are made of n, d, k and a device.
ROWS: dict[str, tuple[str, Callable[[int, int, int, torch.device], Tensor]]] = {
    "noise": ("Gaussian noise", noise),
    "blobs": ("blobs", blobs),
    "overlapping": ("overlapping blobs", overlapping),
    "topics": ("topics of two levels", topics),
    "patches": ("patches of two photographs", patches),
}


def chosen(x: Tensor, k: int) -> Tensor:
    """Random rows of x as the initial centroids (k, d), or noise where k exceeds the rows."""
    generator = _generator(x.device, seed=1)
    if k > len(x):
        return torch.randn(k, x.shape[1], device=x.device, generator=generator)
    return x[torch.randperm(len(x), device=x.device, generator=generator)[:k]].clone()


def _clusters(n: int, d: int, k: int, device: torch.device, *, spread: float) -> Tensor:
    generator = _generator(device)
    centers = torch.randn(k, d, device=device, generator=generator) * spread
    x = torch.empty(n, d, device=device)
    for part in x.split(PART):
        cluster = torch.randint(k, (len(part),), device=device, generator=generator)
        part.normal_(generator=generator).add_(centers[cluster])
    return x


def _generator(device: torch.device, *, seed: int = 0) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)
