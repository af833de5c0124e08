"""The E-step on CUDA devices, in Triton: exact, with the labels of the native kernel.

Screening in half precision leaves out centroids that cannot win, with a rigorous margin; among
the others the sum decides that decides on the CPU, in the same order of operations, so that for
given centroids labels have the same bits on both. Sums of clusters are integers, which add up to
the same in any order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kmeans_module.backends import reference
from kmeans_module.backends.triton import launch
from kmeans_module.core.distances import beyond_float32, declared_dtype
from kmeans_module.core.neighbors import Neighbors
from kmeans_module.core.sparse import is_sparse

if TYPE_CHECKING:
    from kmeans_module.backends.triton.workspace import TritonWorkspace

_NARROW = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16)
_WIDE = (torch.int32, torch.int64, torch.uint32)
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_MOST_FEATURES = 1 << 16


class TritonBackend:
    """See :class:`kmeans_module.backends.Backend`."""

    name = "triton"
    device = "cuda"
    operations: tuple[str, ...] = ("e_step", "codebook", "unit", "search")

    def missing(self) -> str | None:
        return launch.missing()

    def serves(self, device: torch.device) -> bool:
        """Whether kernels can read tensors of a device."""
        return device.type == ("cpu" if launch.interpreted() else "cuda")

    def obstacle(
        self, x: Tensor, dtype: torch.dtype | None = None, operation: str = "e_step"
    ) -> str | None:
        if not self.serves(x.device):
            return f"x is on {x.device.type}"
        missing = self.missing()
        if missing is not None:
            return missing
        if is_sparse(x):
            return "x is sparse"
        if operation not in self.operations:
            return f"{operation} is left to torch"
        if x.dtype not in (*_FLOATS, *_NARROW, *_WIDE):
            return f"x is {x.dtype}"
        distances = declared_dtype(x, x.dtype if dtype is None else dtype)
        if distances != torch.float32:
            return f"distances are computed in {distances}"
        if x.device.type == "cuda":
            major, minor = launch.capability(x.device.index or 0)
            if (major, minor) < launch.LEAST_CAPABILITY:
                return f"the device has compute capability {major}.{minor}, less than 8.0"
        if not 0 < x.shape[-1] <= _MOST_FEATURES or not x.shape[-2]:
            return f"x has shape {tuple(x.shape)}"
        if x.shape[:-1].numel() > launch.MOST_ROWS:
            return f"x has {x.shape[:-1].numel()} rows"
        if x.ndim == 3 and len(x) > launch.MOST_PROBLEMS:
            return f"x holds the rows of {len(x)} problems"
        if x.dtype in _WIDE and beyond_float32(x):
            return "x holds integers beyond 2^24, which float32 does not tell apart"
        return None

    def workspace(
        self,
        x: Tensor,
        sample_weight: Tensor | None,
        *,
        metric: str,
        dtype: torch.dtype | None = None,
        once: bool,
    ) -> TritonWorkspace:
        from kmeans_module.backends.triton.workspace import TritonWorkspace

        return TritonWorkspace(x, sample_weight, metric=metric, once=once)

    def unit_rows(self, x: Tensor) -> Tensor:
        from kmeans_module.backends.triton.seeding import unit_rows

        return unit_rows(x)

    def search(self, x: Tensor, centroids: Tensor, m: int, *, metric: str) -> Neighbors:
        from kmeans_module.backends.triton.neighbors import search

        return search(x, centroids, m, metric=metric)

    sparse_distances = staticmethod(reference.BACKEND.sparse_distances)
    beam_search = staticmethod(reference.BACKEND.beam_search)
    draw = staticmethod(reference.BACKEND.draw)
    block_sums = staticmethod(reference.BACKEND.block_sums)
    search_sums = staticmethod(reference.BACKEND.search_sums)
    moments = staticmethod(reference.BACKEND.moments)


BACKEND = TritonBackend()
