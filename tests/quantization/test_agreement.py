"""Promises over ranks: codebooks that differ are refused by name, before they would wait."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from kmeans_module import VectorQuantizer
from tests.conftest import blobs
from tests.processes import run_ranks

# Of rank 0 and rank 1.
DIFFERENT: dict[str, list[dict[str, Any]]] = {
    "codebook": [{}, {"n_clusters": 9}],
    "dtype": [{}, {"dtype": torch.float64}],
    "update": [{}, {"update": "gradient"}],
    "decay": [{}, {"decay": 0.5}],
}


def work(rank: int, folder: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2,
        timeout=timedelta(seconds=20),
    )  # fmt: skip
    found = {}
    for name, options in DIFFERENT.items():
        chosen = {"n_clusters": 8, **options[rank]}
        quantizer = VectorQuantizer(n_features=3, **chosen)
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            quantizer(blobs(30 + rank, 3).to(quantizer.codebook.centroids.dtype))
        found[name] = str(caught.value)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_codebooks_that_differ_between_ranks_are_refused_by_name(tmp_path: Path) -> None:
    run_ranks(work, (str(tmp_path),), 2)
    for rank in range(2):
        for name, message in torch.load(tmp_path / f"{rank}.pt").items():
            assert message.startswith(f"{name} should be the same on all ranks; it is "), message
