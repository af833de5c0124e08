"""Promise of LitKMeans: no epoch is held, however many batches it has."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.processes import run_ranks

BATCH, FEATURES = 8 << 20, 16  # bytes, features


class Generated:
    """Batches of 8 MB that are made when they are asked for."""

    def __init__(self, n_batches: int) -> None:
        self.n_batches = n_batches

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(0)
        for _ in range(self.n_batches):
            yield torch.randn(BATCH // 4 // FEATURES, FEATURES, generator=generator)


def peak() -> int:
    """Most memory that this process had so far, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def measure(rank: int, folder: str, n_batches: int, init: str) -> None:
    from kmeans_module import LitKMeans
    from tests.end_to_end.helpers import quiet_trainer

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    before = peak()
    lit = LitKMeans(10, init=init)
    quiet_trainer(max_epochs=2).fit(lit, Generated(n_batches))
    Path(folder, f"{n_batches}").write_text(str(peak() - before))


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("init", ["random", "k-means||", "k-means++"])
def test_memory_does_not_grow_with_the_batches(init: str, tmp_path: Path) -> None:
    for n_batches in (4, 24):
        run_ranks(measure, (str(tmp_path), n_batches, init), 1)
    few, many = (int(Path(tmp_path, str(n_batches)).read_text()) for n_batches in (4, 24))
    assert many - few <= 32, "an epoch of 24 batches is 192 MB"
    assert many < 150
