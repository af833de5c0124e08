"""What the tests of kernels share."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from kmeans_module.backends.native import library, row_directions
from kmeans_module.backends.native.directions import Directions
from kmeans_module.backends.native.library import loaded
from kmeans_module.backends.native.memory import Memory

needs_native = pytest.mark.skipif(
    library() is None, reason="the package was installed without a C++ compiler"
)
# Run by test_triton_compiled.py in processes that have Triton; doctests would import them.
collect_ignore = ["triton_loops.py", "triton_targets.py"]
INSTRUCTION_SETS = ("baseline", "avx2", "avx512")


def use(name: str) -> bool:
    """Serve by the loops of an instruction set (csrc/abi/testing.h); False where there is none."""
    kernels = library()
    return kernels is not None and kernels.km_use_instruction_set(name.encode()) == 0


def share_visited(memory: Memory) -> float:
    """Of the pairs of a row and a centroid, by the last E-step (csrc/abi/testing.h)."""
    hook = loaded().km_share_visited
    hook.restype, hook.argtypes = ctypes.c_double, (ctypes.c_void_p,)
    share: float = hook(memory.handle)
    return share


@pytest.fixture(params=INSTRUCTION_SETS)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    if not use(request.param):
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    assert any(use(name) for name in reversed(INSTRUCTION_SETS))  # back to the best


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def brute_force(x: Tensor, centroids: Tensor) -> Tensor:
    """Squared distances in float64, (n, k)."""
    return (x.double().unsqueeze(1) - centroids.double()).square().sum(-1)


KINDS = (
    "structured", "noise", "ties", "duplicates", "blobs", "far groups", "offset", "tiny", "huge",
)  # fmt: skip


def data_of(kind: str, n: int, d: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(n + d)
    x = torch.randn(n, d, generator=generator, dtype=dtype)
    if kind == "ties":
        return torch.randint(0, 3, (n, d), generator=generator).to(dtype)
    if kind == "duplicates":
        return x[torch.randint(0, n // 3, (n,), generator=generator)]
    if kind == "blobs":
        return x[torch.randint(0, 20, (n,), generator=generator)] * 30 + x
    if kind == "far groups":  # as far apart as rounding of coordinates blurs what is within
        return x / 8 + torch.randint(0, 2, (n, 1), generator=generator) * 50
    if kind in ("structured", "offset", "tiny", "huge"):
        x = x * torch.arange(1, d + 1).rsqrt()
    return x * {"tiny": 1e-15, "huge": 1e17}.get(kind, 1.0) + (1e3 if kind == "offset" else 0.0)


def measure_along(monkeypatch: pytest.MonkeyPatch, p: int) -> None:
    """Searches measure along so many directions, whether that pays or not."""

    def find(rows: Tensor, *_: object, **__: object) -> Directions:
        center = rows.float().mean(dim=0)
        apart = rows.double() - center
        principal = torch.linalg.eigh(apart.T @ apart).eigenvectors.flip(-1)[:, :p]
        return Directions(principal.T.float().contiguous(), center)

    monkeypatch.setattr(row_directions, "worthwhile", lambda *_, **__: p > 0)
    monkeypatch.setattr(row_directions, "find_directions", find)
    monkeypatch.setattr(row_directions, "find_directions_for_seeding", find)
