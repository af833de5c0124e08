"""What the tests of Triton's kernels in its interpreter share; see tests/test_triton_process.py.

The kernels run on tensors of the CPU here, slowly: a few dozen rows are enough.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from tests.conftest import seeded

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
