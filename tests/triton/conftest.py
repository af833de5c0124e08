"""What the tests of Triton's kernels share; see tests/test_triton_process.py and make test-gpu.

In the interpreter the kernels run on tensors of the CPU, slowly: a few dozen rows are enough.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from tests.conftest import DEVICE, seeded

with suppress(ImportError):  # without Triton the tests of this folder are left out
    from kmeans_module.backends.triton.workspace import TritonWorkspace

if TYPE_CHECKING:
    from kmeans_module.core.statistics import ClusterStats


def pytest_configure(config: pytest.Config) -> None:
    # A device does not say so; the interpreter computes by numpy, which does.
    config.addinivalue_line("filterwarnings", "ignore:.* encountered:RuntimeWarning")


def rows_of(n: int, d: int, *, seed: int = 0) -> Tensor:
    """(n, d) float32 in loose groups, so that rows have several centroids nearby."""
    generator = seeded(seed + n + d)
    places = torch.randn(7, d, generator=generator)
    return places[torch.randint(7, (n,), generator=generator)] + torch.randn(
        n, d, generator=generator
    )


def some_of(x: Tensor, k: int, *, seed: int = 0) -> Tensor:
    """k of the rows (n, d) or (P, n, d) as centroids (P, k, d) float32; more often where k > n."""
    rows = x.float() if x.ndim == 3 else x.float().unsqueeze(0)
    index = torch.randint(rows.shape[1], (k,), generator=seeded(seed))
    if k <= rows.shape[1]:
        index = torch.randperm(rows.shape[1], generator=seeded(seed))[:k]
    return rows[:, index].contiguous()


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal, and zeros of one sign; NaN equals NaN."""
    whole = {torch.float32: torch.int32, torch.float64: torch.int64}.get(one.dtype, one.dtype)
    return torch.equal(one.contiguous().view(whole), other.contiguous().view(whole))


def means(stats: ClusterStats, centroids: Tensor) -> Tensor:
    """Where the clusters are next; empty ones stay."""
    moved = (stats.sums / stats.counts.clamp(min=1e-300).unsqueeze(-1)).float()
    return moved.where(stats.counts.unsqueeze(-1) > 0, centroids)


def on_device(x: Tensor) -> Tensor:
    """The same numbers with the same strides."""
    memory = x.as_strided((x.untyped_storage().nbytes() // x.element_size(),), (1,), 0)
    return memory.to(DEVICE).as_strided(x.shape, x.stride(), x.storage_offset())


def to_cpu(value: Any) -> Any:
    """Tensors, and what holds them."""
    if isinstance(value, Tensor):
        return value.cpu()
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: to_cpu(getattr(value, f.name)) for f in fields(value)})
    if isinstance(value, tuple):
        parts = [to_cpu(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


class OnDevice:
    """A TritonWorkspace on the device, that takes and gives tensors of the CPU."""

    def __init__(self, x: Tensor, weight: Tensor | None = None, **options: Any) -> None:
        weight = None if weight is None else weight.to(DEVICE)
        self.workspace = TritonWorkspace(on_device(x), weight, **options)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.workspace, name)
        if not callable(value):
            return to_cpu(value)
        return lambda centroids, **options: to_cpu(value(centroids.to(DEVICE), **options))
