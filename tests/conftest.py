"""Data that several test files share."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

# Threads that spin while they wait for each other starve a busy machine.
os.environ["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
from hypothesis import settings
from sklearn.datasets import load_digits

from kmeans_module import KMeansLayer, backends
from kmeans_module.core import distances

settings.register_profile("tests", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("tests")


class SkippedFolder(pytest.Dir):
    """Test files that cannot be imported here."""

    def collect(self) -> Iterable[pytest.Item]:
        pytest.skip(without_interpreter() or "", allow_module_level=True)


def without_interpreter() -> str | None:
    """Why Triton's interpreter does not run kernels in this process; None where it does."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        return "tests/test_triton_process.py runs these in a process of their own"
    return backends.triton.BACKEND.missing() or backends.native.BACKEND.missing()


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if path != Path(__file__).parent / "triton" or without_interpreter() is None:
        return None
    folder: pytest.Collector = SkippedFolder.from_parent(parent, path=path)
    return folder


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(n: int = 600, d: int = 3, centers: int = 6, seed: int = 0) -> torch.Tensor:
    """(n, d) float32 of round clusters."""
    generator = seeded(seed)
    middles = torch.rand(centers, d, generator=generator) * 40 - 20
    own = torch.randint(centers, (n,), generator=generator)
    return middles[own] + 2 * torch.randn(n, d, generator=generator)


def data_set(name: str) -> torch.Tensor:
    """(n, d) float32 by name: what k-means meets in the field."""
    generator = seeded(7)
    return {
        "blobs": lambda: blobs(700, 2),
        "uniform": lambda: torch.rand(800, 5, generator=generator),
        "digits": lambda: torch.from_numpy(load_digits().data[:900]).float(),
        "duplicates": lambda: torch.rand(120, 3, generator=generator).repeat(5, 1),
        "integers": lambda: torch.randint(-20, 20, (600, 4), generator=generator).float(),
    }[name]()


DATA_SETS = ("blobs", "uniform", "digits", "duplicates", "integers")


def layer_at(centroids: torch.Tensor, **options: object) -> KMeansLayer:
    """A layer that holds these centroids, (*batch_shape, k, d)."""
    layer = KMeansLayer(
        *centroids.shape[-2:],
        batch_shape=tuple(centroids.shape[:-2]),
        dtype=centroids.dtype,
        **options,  # type: ignore[arg-type]
    )
    state = {"centroids": centroids, "initialized": torch.tensor(True)}
    layer.load_state_dict({**layer.state_dict(), **state})
    return layer


def brute_force(x: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """Squared distances (n, k), subtracted and squared one by one in float64."""
    return (x.double().unsqueeze(-2) - centroids.double().unsqueeze(-3)).square().sum(-1)


def weights_for(x: torch.Tensor, seed: int = 3) -> torch.Tensor:
    """Weights (n,), a tenth of them 0."""
    weight = torch.rand(len(x), generator=seeded(seed)) * 3
    return weight * (torch.rand(len(x), generator=seeded(seed + 1)) > 0.1)


@pytest.fixture(params=["reference", "native"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Everything by one backend after the other; a further backend is a further value."""
    name: str = request.param
    present = {backend.name: backend for backend in backends.BACKENDS}
    missing = present[name].missing()
    if missing is not None:
        pytest.skip(missing)
    if name != "native":  # which serves the tests unasked
        monkeypatch.setenv("KMEANS_KERNEL", name)
    return name


@pytest.fixture
def tiny_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of a few rows, as if memory were scarce."""
    monkeypatch.setattr(distances, "CHUNK_ELEMENTS", {"cpu": 64, "accelerator": 64})
