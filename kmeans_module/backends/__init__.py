"""How an E-step is computed fast, and the one door to those who compute it.

:func:`backend_for` decides by the rows, the dtype of the centroids and the operation which
backend serves. A further backend is a folder here and a line in BACKENDS.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from kmeans_module.backends import native, operators, reference, triton
from kmeans_module.backends.protocols import Backend, Workspace
from kmeans_module.core.distances import compute_dtype
from kmeans_module.core.guard import differentiated, for_onnx, no_memory, no_plain, under_functorch
from kmeans_module.core.neighbors import Neighbors

__all__ = [
    "BACKENDS",
    "Backend",
    "Workspace",
    "backend_for",
    "beam_search",
    "search",
    "show_backends",
    "sparse_distances",
    "unit_rows",
    "workspace",
]

log = logging.getLogger(__name__)

BACKENDS: tuple[Backend, ...] = (native.BACKEND, triton.BACKEND, reference.BACKEND)

# By the names that KMEANS_KERNEL takes.
_BY_NAME = {backend.name: backend for backend in BACKENDS}


def backend_for(
    x: Tensor,
    dtype: torch.dtype | None = None,
    operation: str = "e_step",
    also: Sequence[Tensor | None] = (),
) -> Backend:
    """The first backend without an obstacle.

    Args:
        x, dtype, operation: as for :meth:`Backend.obstacle`.
        also: further tensors whose memory the operation reads.

    Returns:
        The backend; in a program that is recorded one of torch's operators that call it.

    Raises:
        RuntimeError: the environment variable KMEANS_KERNEL names a backend for the device of x
            that does not take such rows; says why.
    """
    asked = os.environ.get("KMEANS_KERNEL")
    if asked:
        return _asked(asked, x, dtype, operation, also)
    for backend in BACKENDS:
        obstacle = backend.obstacle(x, dtype, operation)
        if obstacle is None:
            return _eager_or_operators(backend, x, operation, also)
        if not torch.compiler.is_compiling():
            log.debug("%s by another backend than %s: %s", operation, backend.name, obstacle)
    raise AssertionError("the reference takes whatever there is")


def workspace(
    x: Tensor,
    sample_weight: Tensor | None = None,
    *,
    metric: str = "euclidean",
    dtype: torch.dtype | None = None,
    once: bool = False,
    centroids: Tensor | None = None,
) -> Workspace:
    """Get ready for repeated E-steps on the rows x.

    Args:
        x: samples, (n, d) shared by all problems or (P, n, d).
        sample_weight: (n,) or (P, n); None for weight 1.
        metric: "euclidean" or "cosine".
        dtype: of the centroids; None for that of x.
        once: whether one E-step is all, so that keeping anything for the next does not pay.
        centroids: those of the E-step, where a caller hands in some that may be of any kind.

    Returns:
        What computes E-steps on these rows; it reads their memory, which must not change meanwhile.
    """
    if centroids is not None:
        dtype = centroids.dtype
    backend = backend_for(x, dtype, also=(sample_weight, centroids))
    if not torch.compiler.is_compiling():
        log.debug("E-steps by the %s backend", backend.name)
    return backend.workspace(x, sample_weight, metric=metric, dtype=dtype, once=once)


def unit_rows(x: Tensor) -> Tensor:
    """Rows at length 1, zero rows as they are.

    They are what distances under the cosine metric take: that of a row to itself is 0.

    Args:
        x: rows (..., d), of float32 or float64.

    Returns:
        (..., d).
    """
    return backend_for(x, operation="unit").unit_rows(x)


def sparse_distances(x: Tensor, centroids: Tensor, *, metric: str) -> Tensor:
    """Squared distances, or 1 - cos, of sparse rows to all centroids.

    Gradients, which only the reference knows, flow to the centroids.

    Args:
        x: rows (n, d), of layout torch.sparse_csr.
        centroids: (k, d).
        metric: "euclidean" or "cosine".

    Returns:
        (n, k).
    """
    backend: Backend = reference.BACKEND
    if not differentiated(centroids):
        backend = backend_for(x, centroids.dtype, also=(centroids,))
    return backend.sparse_distances(x, centroids, metric=metric)


def beam_search(x: Tensor, codebooks: Tensor, *, beam_size: int) -> tuple[Tensor, Tensor]:
    """The codes whose centroids add up nearest to each sample, as a beam search finds them.

    Levels are chosen one after the other; a beam keeps the best few choices so far (Babenko &
    Lempitsky, Additive quantization, CVPR 2014, section 3; Liu et al., Improved residual vector
    quantization, arXiv:1509.05195).

    A level keeps the choices with the least Σ(r - c)², r being what the levels before left;
    ties go to the choices of lower rank there, then to the lowest code. So a beam of 1 takes the
    labels of the residuals.

    Args:
        x: (n, d).
        codebooks: (L, k, d), L levels.
        beam_size: choices kept at each level, at least 1.

    Returns:
        codes (n, L) int64, and what they leave of the samples, (n, d), in the wider dtype of
        both, at least float32.
    """
    dtype = compute_dtype(x, codebooks)
    x, codebooks = x.to(dtype), codebooks.to(dtype)
    backend = backend_for(x, codebooks.dtype, "beam", (codebooks,))
    return backend.beam_search(x, codebooks, beam_size=beam_size)


def search(x: Tensor, centroids: Tensor, m: int, *, metric: str) -> Neighbors:
    """The m nearest centroids of each row, by the sum that decides in E-steps.

    Args:
        x: rows, (n, d) shared by all problems or (P, n, d).
        centroids: (P, k, d).
        m: from 1 to k.
        metric: "euclidean" or "cosine".

    Returns:
        distances, in the wider dtype of both, at least float32, and labels, (P, n, m).
    """
    backend = backend_for(x, centroids.dtype, "search", (centroids,))
    return backend.search(x, centroids, m, metric=metric)


def show_backends() -> str:
    """Which backends there are, for which tensors, and why others are not.

    Returns:
        A line of text for each backend; before them one where KMEANS_KERNEL is set.

    Example:
        >>> print(show_backends().splitlines()[-1])
        reference: for any device; there
    """
    lines = [
        f"{backend.name}: for {backend.device}; {backend.missing() or 'there'}"
        for backend in BACKENDS
    ]
    asked = os.environ.get("KMEANS_KERNEL")
    if asked:
        lines.insert(0, f"KMEANS_KERNEL={asked} is set")
    return "\n".join(lines)


def _eager_or_operators(
    backend: Backend, x: Tensor, operation: str, also: Sequence[Tensor | None]
) -> Backend:
    """The backend itself, or torch's operators where it must not take a pointer."""
    if no_memory(x) is None:
        if all(tensor is None or no_plain(tensor) is None for tensor in also):
            return backend
    elif for_onnx():
        return operators.ONNX_BACKEND
    if operation not in ("e_step", "beam", "search"):
        return reference.BACKEND
    # Plain torch can be compiled and traced, but what it writes in place has no vmap.
    if backend is reference.BACKEND and not under_functorch():
        return reference.BACKEND
    return operators.BACKEND


def _asked(
    asked: str,
    x: Tensor,
    dtype: torch.dtype | None,
    operation: str,
    also: Sequence[Tensor | None],
) -> Backend:
    """The backend that KMEANS_KERNEL names, for tensors of its device; else the usual one."""
    backend = _BY_NAME.get(asked)
    if backend is None:
        raise ValueError(f"KMEANS_KERNEL should be one of {', '.join(_BY_NAME)}; got {asked}")
    if not torch.compiler.is_compiling():
        log.debug("KMEANS_KERNEL=%s is set", asked)
    if not backend.serves(x.device):
        backend = next(b for b in BACKENDS if b.obstacle(x, dtype, operation) is None)
    elif (obstacle := backend.obstacle(x, dtype, operation)) is not None:
        if operation in backend.operations:
            raise RuntimeError(f"KMEANS_KERNEL={asked}, but {obstacle}")
        backend = reference.BACKEND
    return _eager_or_operators(backend, x, operation, also)
