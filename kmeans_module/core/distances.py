"""Squared distances in torch, and what makes them safe: the one home of all of them.

Each function says whether it subtracts first (exact to rounding) or multiplies first (fast, and
wrong by the rounding of the squared norms).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from kmeans_module.core.guard import differentiated, for_onnx, no_memory, recorded
from kmeans_module.core.sparse import numbers_of

# Elements of one chunk's temporaries: a few L2 caches on the CPU, 64 MB on accelerators.
CHUNK_ELEMENTS = {"cpu": 1 << 20, "accelerator": 1 << 24}
# Types that may hold numbers beyond 2^24, and as what the numbers are looked at.
_SIGNED = {
    torch.int32: torch.int32,
    torch.int64: torch.int64,
    torch.uint32: torch.int32,
    torch.uint64: torch.int64,
}
# Every integer up to this one is a float32 (KM_MOST_INTEGER_OF_FLOAT in csrc/abi/native.h).
MOST_INTEGER_OF_FLOAT32 = 1 << 24


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute products as asked: no autocast, no TF32, no bfloat16 passes."""
    if device.type == "meta":  # knows no autocast
        yield
        return
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
    beyond 2^24, where they can be looked at (not in compiled code)."""
    dtype = declared_dtype(x, centroids)
    if dtype == torch.float32 and x.dtype in _SIGNED and not no_memory(x) and beyond_float32(x):
        return torch.float64
    return dtype


def declared_dtype(x: Tensor, centroids: Tensor | torch.dtype) -> torch.dtype:
    """:func:`compute_dtype`, whatever the values are."""
    other = centroids if isinstance(centroids, torch.dtype) else centroids.dtype
    if x.dtype == other == torch.float32:
        return torch.float32
    return torch.promote_types(torch.promote_types(x.dtype, other), torch.float32)


def beyond_float32(x: Tensor) -> bool:
    """Whether integers are beyond 2^24, so that float32 does not tell all of them apart. An
    accelerator is waited for."""
    x = numbers_of(x)
    if x.dtype not in _SIGNED or not x.numel():
        return False
    signed = x.view(_SIGNED[x.dtype])  # large unsigned numbers are negative
    lowest, highest = (int(bound) for bound in signed.aminmax())
    least = 0 if signed.dtype != x.dtype else -MOST_INTEGER_OF_FLOAT32
    return lowest < least or highest > MOST_INTEGER_OF_FLOAT32


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


def at_unit_length(centroids: Tensor) -> Tensor:
    """Centroids (..., d) scaled to length 1 in float64; those that have it, but for the rounding of
    their dtype, as they are."""
    wide = centroids.float() if centroids.device.type == "mps" else centroids.double()
    squares = wide.square().sum(dim=-1, keepdim=True)
    stay = (squares - 1).abs() <= 8 * torch.finfo(centroids.dtype).eps
    return centroids.where(stay, unit_rows(wide).to(centroids.dtype))


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
        if not differentiated(x, centroids) or recorded():
            return _squared(x, centroids)
        # torch 2.14 gives `apply` a type, older versions do not.
        distances: Tensor = _SquaredDistances.apply(  # type: ignore[no-untyped-call, unused-ignore]
            x, centroids
        )
        return distances


def _squared(x: Tensor, centroids: Tensor) -> Tensor:
    if for_onnx():  # whose distances have no such mode
        return (x.unsqueeze(-2) - centroids.unsqueeze(-3)).square().sum(dim=-1)
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(x, centroids, compute_mode=exact).square()


class _SquaredDistances(torch.autograd.Function):
    """:func:`_squared` with derivatives of every order: torch.cdist has first ones only, none
    forwards, and those that torch.func.vmap takes of it are wrong."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, centroids: Tensor) -> Tensor:
        return _squared(x, centroids)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        saved = ctx.saved_tensors  # checkpointing lets them be asked for once
        x, centroids = _centered(*saved)
        gradient, to_x, to_centroids = gradients[0].to(x.dtype), None, None
        with full_precision(x.device):
            if ctx.needs_input_grad[0]:
                to_x = _pulled(gradient, x, centroids)
                to_x = to_x.sum_to_size(saved[0].shape).to(saved[0].dtype)
            if ctx.needs_input_grad[1]:
                to_centroids = _pulled(gradient.mT, centroids, x)
                to_centroids = to_centroids.sum_to_size(saved[1].shape).to(saved[1].dtype)
        return to_x, to_centroids

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        dtype = ctx.saved_tensors[0].dtype
        x, centroids = _centered(*ctx.saved_tensors)
        x_tangent, centroid_tangent = (None if t is None else t.to(x.dtype) for t in tangents)
        change = x.new_zeros(())
        with full_precision(x.device):
            if x_tangent is not None:
                along = (x * x_tangent).sum(dim=-1, keepdim=True)
                change = change + along - x_tangent @ centroids.mT
            if centroid_tangent is not None:
                along = (centroids * centroid_tangent).sum(dim=-1).unsqueeze(-2)
                change = change + along - x @ centroid_tangent.mT
        return (2 * change).to(dtype)


def _centered(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64 (float32 on MPS) and less a common offset: a product of them then keeps of
    float32 what a difference does, also between centroids that lie far apart."""
    wide = torch.float32 if x.device.type == "mps" else torch.float64
    x, centroids = x.to(wide), centroids.to(wide)
    offset = central(centroids.detach())
    return x - offset, centroids - offset


def _pulled(gradient: Tensor, points: Tensor, others: Tensor) -> Tensor:
    """2 Σ_j g_ij (p_i - o_j), (..., m, d), of g (..., m, k): one product gives both of its sums."""
    ones = others.new_ones((*others.shape[:-1], 1))
    sums = gradient @ torch.cat([others, ones], dim=-1)
    return 2 * (points * sums[..., -1:] - sums[..., :-1])


def squared_distances(rows: Tensor, centroids: Tensor, *, metric: str = "euclidean") -> Tensor:
    """Squared distances (..., m, k) of rows (..., m, d) and centroids (..., k, d) by one product.

    An offset that rows and centroids lose keeps large common parts from cancelling; distances
    near 0 have an error of rounding, relative to the squared norms about the central centroid.
    """
    dtype = compute_dtype(rows, centroids)
    rows, centroids = rows.to(dtype), centroids.to(dtype)
    with full_precision(rows.device):
        if metric == "cosine":
            return _one_minus_cosine(rows, centroids)
        offset = central(centroids.detach())
        rows, centroids = rows - offset, centroids - offset
        norms = rows.square().sum(-1, keepdim=True) + centroids.square().sum(-1).unsqueeze(-2)
        return (norms - 2 * rows @ centroids.transpose(-1, -2)).clamp(min=0)


def _one_minus_cosine(rows: Tensor, centroids: Tensor) -> Tensor:
    return (1 - unit_rows(rows) @ unit_rows(centroids).transpose(-1, -2)).clamp(min=0)


def squared_norms(difference: Tensor) -> Tensor:
    """Σ(x - c)² (...) of differences (..., d)."""
    if for_onnx():  # which does not know vecdot
        return difference.square().sum(dim=-1)
    with full_precision(difference.device):
        squared: Tensor = torch.linalg.vecdot(difference, difference)
    return squared


def central(points: Tensor) -> Tensor:
    """Of points (..., k, d) the one nearest to their mean, (..., 1, d): an offset that a few far
    points do not carry away, as they do the mean."""
    apart = (points - points.mean(dim=-2, keepdim=True)).square().sum(-1)
    index = apart.argmin(dim=-1, keepdim=True).unsqueeze(-1)
    return points.gather(-2, index.expand(*index.shape[:-1], points.shape[-1]))


def few_distances(rows: Tensor, points: Tensor) -> Tensor:
    """Squared distances of rows to a few points; to a single point it subtracts first.

    To several it multiplies in float64 (float32 on MPS), about one of the points: few products
    are no work, and what rounding takes of the distances of float32 is nothing.

    Args:
        rows: (m, d) or (P, m, d).
        points: (P, p, d), of the dtype of the rows.

    Returns:
        (P, m, p).
    """
    if points.shape[1] == 1:
        return squared_norms(rows - points).unsqueeze(-1)
    wide = torch.float32 if rows.device.type == "mps" else torch.float64
    offset = central(points).to(wide)
    centered, others = rows.to(wide) - offset, points.to(wide) - offset
    norms = others.square().sum(-1).unsqueeze(1)
    with full_precision(rows.device):
        products = torch.baddbmm(norms, centered, others.transpose(1, 2), alpha=-2)
    distances = products + centered.square().sum(-1, keepdim=True)
    return distances.clamp_(min=0).to(rows.dtype)
