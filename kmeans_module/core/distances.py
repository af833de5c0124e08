"""Squared distances in torch, and what makes them safe: the one home of all of them.

Each function says whether it subtracts first (exact to rounding) or multiplies first (fast, and
wrong by the rounding of the squared norms).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from kmeans_module.core.guard import readable

# Elements of one chunk's temporaries: a few L2 caches on the CPU, 64 MB on accelerators.
CHUNK_ELEMENTS = {"cpu": 1 << 20, "accelerator": 1 << 24}
# Types that may hold numbers beyond 2^24, and as what the numbers are looked at.
_SIGNED = {
    torch.int32: torch.int32,
    torch.int64: torch.int64,
    torch.uint32: torch.int32,
    torch.uint64: torch.int64,
}
_MOST_OF_FLOAT32 = 1 << 24


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute products as asked: no autocast, no TF32, no bfloat16 passes."""
    with torch.autocast(device.type, enabled=False):
        if torch.compiler.is_compiling():
            yield
            return
        precision = torch.get_float32_matmul_precision()
        if precision != "highest":
            torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            if precision != "highest":
                torch.set_float32_matmul_precision(precision)


def compute_dtype(x: Tensor, centroids: Tensor | torch.dtype) -> torch.dtype:
    """Precision of distances: that of the wider input, at least float32, and float64 for integers
    beyond 2^24, where a look at them costs no wait (on the CPU, not in compiled code)."""
    dtype = declared_dtype(x, centroids)
    if dtype == torch.float32 and x.dtype in _SIGNED and readable(x) and _beyond_float32(x):
        return torch.float64
    return dtype


def declared_dtype(x: Tensor, centroids: Tensor | torch.dtype) -> torch.dtype:
    """:func:`compute_dtype`, whatever the values are."""
    other = centroids if isinstance(centroids, torch.dtype) else centroids.dtype
    if x.dtype == other == torch.float32:
        return torch.float32
    return torch.promote_types(torch.promote_types(x.dtype, other), torch.float32)


def _beyond_float32(x: Tensor) -> bool:
    """Whether integers are beyond 2^24, so that float32 does not tell all of them apart."""
    if not x.numel():
        return False
    signed = x.view(_SIGNED[x.dtype])  # large unsigned numbers are negative
    lowest, highest = (int(bound) for bound in signed.aminmax())
    least = 0 if signed.dtype != x.dtype else -_MOST_OF_FLOAT32
    return lowest < least or highest > _MOST_OF_FLOAT32


def chunk_rows(n: int, k: int, d: int, problems: int, device: torch.device) -> int:
    """Rows per chunk such that the temporaries stay within the budget."""
    budget = CHUNK_ELEMENTS["cpu" if device.type == "cpu" else "accelerator"]
    rows = min(n, budget // max(1, problems * (k + 4 * d)))
    return max(1, min(rows, 1 << 14) if device.type == "cpu" else rows)


def unit_rows(rows: Tensor) -> Tensor:
    """Rows scaled to length 1; zero rows stay zero. Overflows for no finite row."""
    largest = rows.abs().amax(dim=-1, keepdim=True)
    rows = rows / largest.where(largest > 0, 1.0)
    norms: Tensor = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows / norms.where(norms > 0, 1.0)


def pairwise_distances(x: Tensor, centroids: Tensor, *, metric: str = "euclidean") -> Tensor:
    """Squared distance of every sample to every centroid, differentiable; subtracts first.

    Args:
        x: (..., m, d).
        centroids: (..., k, d); leading dimensions broadcast with those of x.
        metric: "euclidean", or "cosine": 1 - cos, and 1 for a zero row.

    Returns:
        (..., m, k).
    """
    dtype = compute_dtype(x, centroids)
    x, centroids = x.to(dtype), centroids.to(dtype)
    with full_precision(x.device):
        if metric == "cosine":
            return _one_minus_cosine(x, centroids)
        exact = "donot_use_mm_for_euclid_dist"
        return torch.cdist(x, centroids, compute_mode=exact).square()


def squared_distances(rows: Tensor, centroids: Tensor, *, metric: str = "euclidean") -> Tensor:
    """Squared distances (..., m, k) of rows (..., m, d) and centroids (..., k, d) by one product.

    An offset that rows and centroids lose keeps large common parts from cancelling; distances
    near 0 have an error of rounding, relative to the squared norms.
    """
    dtype = compute_dtype(rows, centroids)
    rows, centroids = rows.to(dtype), centroids.to(dtype)
    with full_precision(rows.device):
        if metric == "cosine":
            return _one_minus_cosine(rows, centroids)
        offset = centroids.detach().mean(dim=-2, keepdim=True)
        rows, centroids = rows - offset, centroids - offset
        norms = rows.square().sum(-1, keepdim=True) + centroids.square().sum(-1).unsqueeze(-2)
        return (norms - 2 * rows @ centroids.transpose(-1, -2)).clamp(min=0)


def _one_minus_cosine(rows: Tensor, centroids: Tensor) -> Tensor:
    return 1 - unit_rows(rows) @ unit_rows(centroids).transpose(-1, -2)


def nearest(
    rows: Tensor, centroids: Tensor, offset: Tensor, half_norms: Tensor
) -> tuple[Tensor, Tensor]:
    """Labels, and the smallest score, of the rows of one chunk; multiplies first.

    The score ½‖c - o‖² - (x - o)·(c - o) differs from ½‖x - c‖² by a constant of the row,
    so both have the same argmin; the common offset o keeps it from cancelling.

    Args:
        rows: (m, d) or (P, m, d).
        centroids: centroids less the offset, transposed, (P, d, k).
        offset: (P, 1, d).
        half_norms: ½‖c - o‖², (P, 1, k).

    Returns:
        labels (P, m) and scores (P, m).
    """
    with full_precision(rows.device):
        scores = torch.baddbmm(half_norms, rows - offset, centroids, alpha=-1)
    smallest, labels = scores.min(dim=-1)
    return labels, smallest


def few_distances(rows: Tensor, points: Tensor) -> Tensor:
    """Squared distances of rows to a few points; exact to rounding for a single point.

    Args:
        rows: (m, d) or (P, m, d).
        points: (P, p, d).

    Returns:
        (P, m, p).
    """
    offset = points.mean(dim=1, keepdim=True)
    points = points - offset
    norms = points.square().sum(-1).unsqueeze(1)
    rows = (rows - offset).expand(len(points), -1, -1)
    with full_precision(rows.device):
        products = torch.baddbmm(norms, rows, points.transpose(1, 2), alpha=-2)
    return (products + rows.square().sum(-1, keepdim=True)).clamp_(min=0)
