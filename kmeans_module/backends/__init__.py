"""How an E-step is computed fast, and the one door to those who compute it.

:func:`backend_for` decides by the rows, the dtype of the centroids and the operation which
backend serves. A further backend is a folder here and a line in BACKENDS.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from kmeans_module.backends import native, operators, reference, triton
from kmeans_module.core.distances import compute_dtype
from kmeans_module.core.guard import differentiated, for_onnx, no_memory, no_plain, under_functorch
from kmeans_module.core.neighbors import Neighbors
from kmeans_module.core.rows import Rounds
from kmeans_module.core.scale import Scale
from kmeans_module.core.statistics import ClusterStats, EStep

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


class Workspace(Protocol):
    """E-steps, and seeding, on fixed rows; P independent problems in one call.

    Attributes:
        labels: of the last E-step, (P, n) int64; the next one may overwrite them.
        changed: labels that differ from those of the E-step before, (P,); n after the first.
        together: whether problems on the same rows take less time, or less memory for each, in
            one call than one after the other.
    """

    changed: Tensor
    together: bool

    @property
    def labels(self) -> Tensor: ...

    def assign(self, centroids: Tensor) -> tuple[Tensor, Tensor | bool]:
        """Labels (P, n) alone, and whether every row had a finite distance, ()."""

    def e_step(self, centroids: Tensor, *, start: int = 0) -> EStep:
        """Assign every row to the nearest of the centroids (P, k, d) and sum up the clusters.

        The next call may overwrite labels and distances.
        """

    def statistics(
        self, centroids: Tensor, *, start: int = 0, farthest: bool = True
    ) -> ClusterStats:
        """:meth:`e_step` for a loop that needs no distances: it may be faster.

        Without ``farthest`` those samples are not sought either, where a cluster is empty.
        """

    def rounds(self, center: Tensor, numbers: Tensor, drawn_by: Tensor | None) -> Rounds | None:
        """For seeding: k-means++ in rounds that never wait for the host; None where those of the
        caller, by the two methods below, are as good.

        Args:
            center: the first one, (P, 1, d).
            numbers: in [0, 1) that decide the draws, (rounds, P, m).
            drawn_by: weights by which rows are drawn, (P, n); None for weight 1.
        """

    def sums_of(self, labels: Tensor, k: int) -> ClusterStats:
        """Sums and counts of the k clusters of given labels (P, n), wherever centroids are; the
        inertia is NaN. An E-step after it may start afresh."""

    def potentials(self, nearest: Tensor, candidates: Tensor) -> Tensor:
        """For seeding: what nearest (P, n) would sum up to with each candidate (P, m, d)."""

    def lower(self, nearest: Tensor, center: Tensor) -> None:
        """For seeding: lower the distances nearest (P, n) by those to a center (P, 1, d)."""


class Backend(Protocol):
    """One way to compute; what it cannot serve it says in words.

    Attributes:
        name: as in KMEANS_KERNEL.
        device: the type of device whose tensors it serves, or "any device".
        operations: those that are its own; the others it leaves to torch.
    """

    name: str
    device: str
    operations: tuple[str, ...]

    def missing(self) -> str | None:
        """Why it can serve nothing on this machine; None where it can."""

    def serves(self, device: torch.device) -> bool:
        """Whether it reads tensors on such a device."""

    def obstacle(
        self, x: Tensor, dtype: torch.dtype | None = None, operation: str = "e_step"
    ) -> str | None:
        """Why it does not take such rows; None where it does.

        Args:
            x: rows (n, d) or (P, n, d); numbers (P, n) for "sums".
            dtype: of the centroids; None for that of the rows.
            operation: "e_step" (and seeding), "codebook" (steps of quantizers), "unit", "beam",
                "search", "sums" or "moments".
        """

    def workspace(
        self,
        x: Tensor,
        sample_weight: Tensor | None,
        *,
        metric: str,
        dtype: torch.dtype | None = None,
        once: bool,
    ) -> Workspace:
        """See :func:`workspace`."""

    def beam_search(self, x: Tensor, codebooks: Tensor, *, beam_size: int) -> tuple[Tensor, Tensor]:
        """See :func:`beam_search`."""

    def search(self, x: Tensor, centroids: Tensor, m: int, *, metric: str) -> Neighbors:
        """See :func:`search`."""

    def unit_rows(self, x: Tensor) -> Tensor:
        """See :func:`unit_rows`."""

    def sparse_distances(self, x: Tensor, centroids: Tensor, *, metric: str) -> Tensor:
        """See :func:`sparse_distances`."""

    def draw(self, mass: Tensor, size: int, numbers: Tensor) -> tuple[Tensor, bool]:
        """Columns (P, m) of mass (P, n), none negative, drawn in proportion to it; and whether no
        problem lacks mass, for which True stands where the answer would keep the host waiting.

        It goes by sums of blocks of ``size``; numbers (P, m) float64 in [0, 1) decide.
        """

    def block_sums(self, mass: Tensor, size: int, scale: Scale) -> Tensor:
        """Sums of consecutive blocks, each of ``size``, of (P, n) numbers that a scale makes
        integers of: (P, n_blocks) int64."""

    def search_sums(
        self, mass: Tensor, size: int, scale: Scale, blocks: Tensor, target: Tensor
    ) -> Tensor:
        """Where the cumulative sum of these integers exceeds the targets (P, m): (P, m) indices;
        beyond the total, the last one of a number that is not 0."""

    def moments(
        self, x: Tensor, sample_weight: Tensor | None, center: Tensor | None, *, metric: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Extent and sums of the features of rows (n, d) or (P, n, d), all float64.

        Args:
            x: rows.
            sample_weight: (n,) or (P, n), or None; rows of weight 0 do not count in sums.
            center: (P, d) or (1, d), or None.
            metric: "cosine" for sums of rows scaled to length 1.

        Returns:
            smallest and largest value of each feature (d,), without a center; and the sums
            (P, d) or (1, d) of the values or, about a center, of squared differences, which are
            not finite where a value is not.
        """


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
    """
    if centroids is not None:
        dtype = centroids.dtype
    backend = backend_for(x, dtype, also=(sample_weight, centroids))
    if not torch.compiler.is_compiling():
        log.debug("E-steps by the %s backend", backend.name)
    return backend.workspace(x, sample_weight, metric=metric, dtype=dtype, once=once)


def unit_rows(x: Tensor) -> Tensor:
    """Rows (..., d) of float32 or float64 at length 1, zero rows as they are.

    They are what distances under the cosine metric take: that of a row to itself is 0.
    """
    return backend_for(x, operation="unit").unit_rows(x)


def sparse_distances(x: Tensor, centroids: Tensor, *, metric: str) -> Tensor:
    """Squared distances, or 1 - cos, of sparse rows (n, d) to all centroids (k, d): (n, k).

    Gradients, which only the reference knows, flow to the centroids.
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
    """Which backends there are, for which tensors, and why others are not: some lines of text.

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
