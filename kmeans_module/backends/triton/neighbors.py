"""The nearest centroids on the device: torch screens, and the sum decides that does in E-steps."""

from __future__ import annotations

import torch
from torch import Tensor

from kmeans_module.backends.neighbors import torch_search
from kmeans_module.backends.triton.seeding import unit_rows
from kmeans_module.backends.triton.workspace import TritonWorkspace
from kmeans_module.core.neighbors import Neighbors


def search(x: Tensor, centroids: Tensor, m: int, *, metric: str) -> Neighbors:
    """See :func:`kmeans_module.backends.search`."""
    return torch_search(x, centroids, m, metric=metric, measure=_measure, unit_rows=unit_rows)


def _measure(rows: Tensor, centroids: Tensor, candidates: Tensor) -> Tensor:
    space = TritonWorkspace(rows.contiguous(), once=True)
    space.active = torch.ones(len(rows), dtype=torch.int8, device=rows.device)
    centroids = centroids.contiguous()
    measured = []
    for labels in candidates.unbind(dim=-1):
        space.codes = labels.clamp(min=0).to(torch.int32)
        measured.append(space.measure(centroids))
    return torch.stack(measured, dim=-1).where(candidates >= 0, torch.inf)
