"""Data that several test files share."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

# Threads that spin while they wait for each other starve a busy machine.
os.environ["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch

from kmeans_module import KMeansLayer, backends
from kmeans_module.core import distances

with suppress(ImportError):  # make test-gpu gets by without it
    from hypothesis import settings

    settings.register_profile("tests", deadline=None, derandomize=True, max_examples=40)
    settings.load_profile("tests")

# The device whose tensors Triton's kernels read: a GPU, or the CPU in the interpreter.
DEVICE = torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda")


class SkippedFolder(pytest.Dir):
    """Test files that cannot be imported here."""

    reason: str

    def collect(self) -> Iterable[pytest.Item]:
        pytest.skip(self.reason, allow_module_level=True)


def without_triton() -> str | None:
    """Why no kernel of Triton runs in this process; None where some do."""
    if DEVICE.type == "cuda" and not os.environ.get("KMEANS_TEST_GPU"):
        return "run by tests/test_triton_process.py and make test-gpu in processes of their own"
    return backends.triton.BACKEND.missing()


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if path.parent != Path(__file__).parent or path.name not in ("triton", "gpu"):
        return None
    reason = without_triton()
    if path.name == "triton":  # compares with the native kernel
        reason = reason or backends.native.BACKEND.missing()
    if reason is None:
        return None
    folder: SkippedFolder = SkippedFolder.from_parent(parent, path=path)
    folder.reason = reason
    return folder


@pytest.fixture(scope="session")
def run_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and the runs of tests/runs.py. Tests change copies."""
    from tests.runs import fit_all

    folder = tmp_path_factory.mktemp("runs")
    fit_all(folder)
    return folder


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(n: int = 600, d: int = 3, centers: int = 6, seed: int = 0) -> torch.Tensor:
    """(n, d) float32 of round clusters."""
    generator = seeded(seed)
    middles = torch.rand(centers, d, generator=generator) * 40 - 20
    own = torch.randint(centers, (n,), generator=generator)
    return middles[own] + 2 * torch.randn(n, d, generator=generator)


def digits() -> torch.Tensor:
    from sklearn.datasets import load_digits  # not at hand where make test-gpu runs

    return torch.from_numpy(load_digits().data[:900]).float()


def data_set(name: str) -> torch.Tensor:
    """(n, d) float32 by name: what k-means meets in the field."""
    generator = seeded(7)
    return {
        "blobs": lambda: blobs(700, 2),
        "uniform": lambda: torch.rand(800, 5, generator=generator),
        "digits": digits,
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
