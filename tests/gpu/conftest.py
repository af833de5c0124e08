"""What the tests of a CUDA device share.

They need torch, numpy and pytest, nothing else. With TRITON_INTERPRET=1 those that only compute run
in Triton's interpreter, on less data, so that they can be tried without a GPU.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kmeans_module.backends import native
from tests.conftest import DEVICE, seeded

on_cuda = pytest.mark.skipif(DEVICE.type != "cuda", reason="the interpreter is no device")
needs_native = pytest.mark.skipif(
    native.BACKEND.missing() is not None, reason=str(native.BACKEND.missing())
)


def few(n: int, most: int = 40) -> int:
    """As many on a device; in the interpreter a few."""
    return n if DEVICE.type == "cuda" else min(n, most)


def noise(n: int, d: int, seed: int = 0) -> Tensor:
    """(n, d) float32."""
    return torch.randn(n, d, generator=seeded(seed))


def assert_nearest(x: Tensor, labels: Tensor, centroids: Tensor, sample: int = 2_000) -> None:
    """Labels of a sample of the rows, by distances in float64: no other centroid is nearer beyond
    what rounding of a distance in float32 takes."""
    index = torch.randperm(len(x), generator=seeded(5))[:sample].to(x.device)
    rows, centroids = x[index].double(), centroids.to(x.device).double()
    own = (rows - centroids[labels.to(x.device)[index]]).square().sum(-1)
    least = torch.full_like(own, torch.inf)
    for part in centroids.split(max(1, 20_000 // x.shape[1])):
        distances = (rows.unsqueeze(1) - part).square().sum(-1)
        least = torch.minimum(least, distances.amin(dim=1))
    assert bool((own <= least * (1 + 1e-5)).all())
