"""The E-step in C++ (csrc/): exact, for rows of floats, integers or bool on the CPU.

Whatever is discarded on the way, one fixed-order sum of (x - c)² decides, so that for given
centroids a label depends on the row alone: not on batch, rank, thread or earlier calls. Rows of
half precision and integers are converted block by block: the results are those of ``x.float()``,
or of ``x.double()`` where integers exceed 2^24.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kmeans_module.backends.native import calls
from kmeans_module.backends.native.interface import ELEMENTS
from kmeans_module.backends.native.library import INSTALLED, library
from kmeans_module.backends.native.sparse import NativeSparseWorkspace
from kmeans_module.backends.native.workspace import NativeWorkspace
from kmeans_module.core.sparse import is_sparse

_MOST_SPARSE_FEATURES = torch.iinfo(torch.int32).max  # the type of columns in km_sparse


class NativeBackend:
    """See :class:`kmeans_module.backends.Backend`."""

    name = "native"
    device = "cpu"
    operations: tuple[str, ...] = ("e_step", "unit", "beam", "search", "sums", "moments")

    def missing(self) -> str | None:
        # A tracing compiler cannot load the library: it has to know beforehand.
        there = INSTALLED if torch.compiler.is_compiling() else library() is not None
        return None if there else "there is no native kernel: no C++ compiler built it"

    def serves(self, device: torch.device) -> bool:
        return device.type == "cpu"

    def obstacle(
        self, x: Tensor, dtype: torch.dtype | None = None, operation: str = "e_step"
    ) -> str | None:
        if x.device.type != "cpu":
            return f"x is on {x.device.type}"
        if x.dtype not in ELEMENTS:
            return f"x is {x.dtype}"
        if is_sparse(x):
            if operation not in ("e_step", "unit", "moments"):
                return f"x is sparse; {operation} takes dense numbers"
            if x.shape[-1] > _MOST_SPARSE_FEATURES:
                return f"x has {x.shape[-1]} features"
        if operation == "beam" and x.dtype not in (torch.float32, torch.float64):
            return f"beam search takes float32 or float64; x is {x.dtype}"
        if operation == "sums" and x.dtype not in (torch.float32, torch.float64):
            return f"sums are of float32 or float64; x is {x.dtype}"
        return self.missing()

    def workspace(
        self,
        x: Tensor,
        sample_weight: Tensor | None,
        *,
        metric: str,
        dtype: torch.dtype | None = None,
        once: bool,
    ) -> NativeWorkspace | NativeSparseWorkspace:
        if is_sparse(x):
            return NativeSparseWorkspace(x, sample_weight, metric=metric, dtype=dtype)
        return NativeWorkspace(x, sample_weight, metric=metric, dtype=dtype, once=once)

    def sparse_distances(self, x: Tensor, centroids: Tensor, *, metric: str) -> Tensor:
        space = NativeSparseWorkspace(x, metric=metric, dtype=centroids.dtype)
        return space.distances(centroids)

    unit_rows = staticmethod(calls.unit_rows)
    beam_search = staticmethod(calls.beam_search)
    search = staticmethod(calls.search)
    draw = staticmethod(calls.draw)
    block_sums = staticmethod(calls.block_sums)
    search_sums = staticmethod(calls.search_sums)
    moments = staticmethod(calls.moments)


BACKEND = NativeBackend()
