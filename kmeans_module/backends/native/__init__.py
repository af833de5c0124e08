"""The E-step in C++ (csrc/): exact, for rows of float32 or float64 on the CPU.

Whatever is discarded on the way, one fixed-order sum of (x - c)² decides, so that for given
centroids a label depends on the row alone: not on batch, rank, thread or earlier calls.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kmeans_module.backends.native import calls
from kmeans_module.backends.native.library import INSTALLED, library
from kmeans_module.backends.native.workspace import NativeWorkspace

MAX_BEAMS = 64  # choices that a beam search keeps


class NativeBackend:
    """See :class:`kmeans_module.backends.Backend`."""

    name = "native"
    device = "cpu"

    def missing(self) -> str | None:
        # A tracing compiler cannot load the library: it has to know beforehand.
        there = INSTALLED if torch.compiler.is_compiling() else library() is not None
        return None if there else "there is no native kernel: no C++ compiler built it"

    def obstacle(
        self, x: Tensor, dtype: torch.dtype | None = None, operation: str = "e_step"
    ) -> str | None:
        if x.device.type != "cpu":
            return f"x is on {x.device.type}"
        if x.dtype not in (torch.float32, torch.float64):
            return f"x is {x.dtype}"
        if dtype is not None and torch.promote_types(x.dtype, dtype) != x.dtype:
            return f"x is {x.dtype}, the centroids are {dtype}"
        if operation == "beam" and x.dtype not in (torch.float32, torch.float64):
            return f"beam search takes float32 or float64; x is {x.dtype}"
        return self.missing()

    def workspace(
        self, x: Tensor, sample_weight: Tensor | None, *, metric: str, once: bool
    ) -> NativeWorkspace:
        return NativeWorkspace(x, sample_weight, metric=metric, once=once)

    beam_search = staticmethod(calls.beam_search)
    block_sums = staticmethod(calls.block_sums)
    search_sums = staticmethod(calls.search_sums)
    moments = staticmethod(calls.moments)


BACKEND = NativeBackend()
