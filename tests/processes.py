"""Ranks for tests: processes that start in a fraction of a second."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp

# Imported once, by the server from which all ranks are forked; it runs nothing else.
multiprocessing.set_forkserver_preload(
    ["torch.distributed", "lightning.pytorch", "kmeans_module.cli", "kmeans_module.quantization"]
)


def run_ranks(work: Callable[..., object], args: tuple[Any, ...], n_ranks: int) -> None:
    """``work(rank, *args)`` in as many processes; an error of one of them is raised here.

    Processes of a fork server end without Python's finalization. In one that finalizes, a thread of
    gloo that still gives a tensor back may abort.
    """
    mp.start_processes(work, args, nprocs=n_ranks, start_method="forkserver")  # type: ignore[no-untyped-call]
