"""The E-step as operators of torch: what compiled, exported, traced and fake code holds.

Code that must not see a pointer sees one opaque node instead; when it runs on real tensors, the
native or the Triton kernels serve where they take the rows, and the torch reference elsewhere.
Nothing that an operator returns has a gradient, as in eager code.

Shapes: x is (n, d) shared by all problems or (P, n, d), centroids (P, k, d), weights (n,) or
(P, n).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kmeans_module.backends.native import BACKEND as NATIVE
from kmeans_module.backends.native import NativeBackend
from kmeans_module.backends.native.library import library
from kmeans_module.backends.native.sparse import NativeSparseWorkspace
from kmeans_module.backends.native.workspace import NativeWorkspace
from kmeans_module.backends.reference import BACKEND as REFERENCE
from kmeans_module.backends.reference import ReferenceBackend, ReferenceWorkspace
from kmeans_module.backends.triton import BACKEND as TRITON
from kmeans_module.backends.triton import TritonBackend
from kmeans_module.core.distances import declared_dtype
from kmeans_module.core.nearest import Screen
from kmeans_module.core.neighbors import Neighbors
from kmeans_module.core.statistics import (
    MAX_FARTHEST,
    ClusterStats,
    EStep,
    Farthest,
    accumulator_dtype,
    no_farthest,
    space_rows,
)

if TYPE_CHECKING:
    from kmeans_module.backends.triton.workspace import TritonWorkspace


def _backend(
    x: Tensor, dtype: torch.dtype, operation: str = "e_step"
) -> NativeBackend | TritonBackend | ReferenceBackend:
    """Whose kernels take such rows."""
    # A compiler that folds constants runs operators while it compiles: both questions are asked.
    if NATIVE.obstacle(x, dtype, operation) is None and library() is not None:
        return NATIVE
    return TRITON if TRITON.obstacle(x, dtype, operation) is None else REFERENCE


def _workspace(
    x: Tensor, sample_weight: Tensor | None, centroids: Tensor, metric: str
) -> NativeWorkspace | NativeSparseWorkspace | TritonWorkspace | ReferenceWorkspace:
    backend = _backend(x, centroids.dtype)
    return backend.workspace(x, sample_weight, metric=metric, dtype=centroids.dtype, once=True)


@torch.library.custom_op(
    "kmeans_module::assign",
    mutates_args=(),
    schema="(Tensor x, Tensor centroids, str metric) -> Tensor",
)
def assign(x: Tensor, centroids: Tensor, metric: str) -> Tensor:
    """Labels of the nearest centroids, (P, n) int64."""
    return _workspace(x, None, centroids, metric).assign(centroids)[0]


@assign.register_fake
def _(x: Tensor, centroids: Tensor, metric: str) -> Tensor:
    return x.new_empty((centroids.shape[0], x.shape[-2]), dtype=torch.int64)


@torch.library.custom_op(
    "kmeans_module::e_step",
    mutates_args=(),
    schema=(
        "(Tensor x, Tensor? sample_weight, Tensor centroids, str metric, SymInt start) -> "
        f"({', '.join(['Tensor'] * 10)})"
    ),
)
def e_step(
    x: Tensor, sample_weight: Tensor | None, centroids: Tensor, metric: str, start: int
) -> tuple[Tensor, ...]:
    """labels, distances, sums, counts, inertia, and the fields of Farthest, which say that
    there are no samples where no cluster is empty."""
    step = _workspace(x, sample_weight, centroids, metric).e_step(centroids, start=start)
    stats, d = step.stats, x.shape[-1]
    farthest = stats.farthest
    if farthest is None:
        farthest = no_farthest(
            step.labels, step.distances, n_features=d, m=min(centroids.shape[1], MAX_FARTHEST)
        )
    # Integers beyond 2^24 are searched in float64, but a recorded dtype depends on no values.
    distances = step.distances.to(declared_dtype(x, centroids))
    farthest = farthest._replace(
        distances=farthest.distances.to(distances.dtype), rows=farthest.rows.to(distances.dtype)
    )
    return (step.labels, distances, stats.sums, stats.counts, stats.inertia, *farthest)


@e_step.register_fake
def _(
    x: Tensor, sample_weight: Tensor | None, centroids: Tensor, metric: str, start: int
) -> tuple[Tensor, ...]:
    problems, k, d = centroids.shape
    exact = accumulator_dtype(x.device)
    labels = x.new_empty((problems, x.shape[-2]), dtype=torch.int64)
    distances = torch.empty_like(labels, dtype=declared_dtype(x, centroids))
    farthest = no_farthest(labels, distances, n_features=d, m=min(k, MAX_FARTHEST))
    return (
        labels,
        distances,
        x.new_empty((problems, k, d), dtype=exact),
        x.new_empty((problems, k), dtype=exact),
        x.new_empty((problems,), dtype=exact),
        *farthest,
    )


@torch.library.custom_op(
    "kmeans_module::beam_search",
    mutates_args=(),
    schema="(Tensor x, Tensor codebooks, SymInt beam_size) -> (Tensor, Tensor)",
)
def beam_search(x: Tensor, codebooks: Tensor, beam_size: int) -> tuple[Tensor, Tensor]:
    """Codes (n, L), and what they leave of the rows (n, d); see
    :func:`kmeans_module.backends.beam_search`."""
    return _backend(x, codebooks.dtype, "beam").beam_search(x, codebooks, beam_size=beam_size)


@beam_search.register_fake
def _(x: Tensor, codebooks: Tensor, beam_size: int) -> tuple[Tensor, Tensor]:
    codes = x.new_empty((x.shape[0], codebooks.shape[0]), dtype=torch.int64)
    return codes, torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op(
    "kmeans_module::search",
    mutates_args=(),
    schema="(Tensor x, Tensor centroids, SymInt m, str metric) -> (Tensor, Tensor)",
)
def search(x: Tensor, centroids: Tensor, m: int, metric: str) -> tuple[Tensor, Tensor]:
    """Distances and labels of the m nearest centroids, (P, n, m)."""
    found = _backend(x, centroids.dtype, "search").search(x, centroids, m, metric=metric)
    # Integers beyond 2^24 are searched in float64, but a recorded dtype depends on no values.
    return found.distances.to(declared_dtype(x, centroids)), found.labels


@search.register_fake
def _(x: Tensor, centroids: Tensor, m: int, metric: str) -> tuple[Tensor, Tensor]:
    labels = x.new_empty((centroids.shape[0], x.shape[-2], m), dtype=torch.int64)
    return torch.empty_like(labels, dtype=declared_dtype(x, centroids)), labels


def _without_gradient(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.mark_non_differentiable(*(output if isinstance(output, tuple) else (output,)))


def _no_backward(ctx: Any, *gradients: Any) -> tuple[None, ...]:
    return (None,) * len(ctx.needs_input_grad)


for _operator in (assign, e_step, beam_search, search):
    _operator.register_autograd(_no_backward, setup_context=_without_gradient)


def _calls(x: Tensor, dim: int | None, size: int) -> Tensor:
    """The tensors of all calls of a vmap, (B, ...); repeated where they share it."""
    return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


def _problems(x: Tensor, dim: int | None, size: int, problems: int, own: int) -> Tensor:
    """What the problems of all calls have, (B · P, ...), or what all of them share.

    Args:
        x: of one call (P, ...), or shared by its problems; and the dimension of the calls.
        dim: this dimension; None where the calls share x.
        size: calls, B.
        problems: of one call, P.
        own: dimensions of x for one call whose problems do not share it.
    """
    if dim is None and x.ndim < own:
        return x
    x = _calls(x, dim, size)
    if x.ndim == own:
        x = x.unsqueeze(1).expand(size, problems, *x.shape[1:])
    return x.flatten(0, 1)


@assign.register_vmap
def _(info: Any, dims: Any, x: Tensor, centroids: Tensor, metric: str) -> tuple[Tensor, int]:
    centroids = _calls(centroids, dims[1], info.batch_size)
    size, problems = centroids.shape[:2]
    x = _problems(x, dims[0], size, problems, own=3)
    return assign(x, centroids.flatten(0, 1), metric).unflatten(0, (size, problems)), 0


@e_step.register_vmap
def _(
    info: Any,
    dims: Any,
    x: Tensor,
    sample_weight: Tensor | None,
    centroids: Tensor,
    metric: str,
    start: int,
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    centroids = _calls(centroids, dims[2], info.batch_size)
    size, problems = centroids.shape[:2]
    x = _problems(x, dims[0], size, problems, own=3)
    if sample_weight is not None:
        sample_weight = _problems(sample_weight, dims[1], size, problems, own=2)
    step = e_step(x, sample_weight, centroids.flatten(0, 1), metric, start)
    return tuple(tensor.unflatten(0, (size, problems)) for tensor in step), (0,) * len(step)


@beam_search.register_vmap
def _(
    info: Any, dims: Any, x: Tensor, codebooks: Tensor, beam_size: int
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    every = (_calls(t, dim, info.batch_size) for t, dim in zip((x, codebooks), dims, strict=False))
    results = [beam_search(*call, beam_size) for call in zip(*every, strict=True)]
    return tuple(map(torch.stack, zip(*results, strict=True))), (0, 0)


@search.register_vmap
def _(
    info: Any, dims: Any, x: Tensor, centroids: Tensor, m: int, metric: str
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    centroids = _calls(centroids, dims[1], info.batch_size)
    size, problems = centroids.shape[:2]
    x = _problems(x, dims[0], size, problems, own=3)
    found = search(x, centroids.flatten(0, 1), m, metric)
    return tuple(tensor.unflatten(0, (size, problems)) for tensor in found), (0, 0)


class OperatorWorkspace(ReferenceWorkspace):
    """A workspace whose steps are operators, each of which starts afresh."""

    def assign(self, centroids: Tensor) -> tuple[Tensor, Tensor | bool]:
        # What is recorded does not look for NaN.
        return assign(self.x, centroids, self.metric), True

    def _step(self, centroids: Tensor, start: int, wants_farthest: bool) -> EStep:
        labels, to_nearest, sums, counts, inertia, *farthest = e_step(
            self.x, self.sample_weight, centroids, self.metric, start
        )
        self._count_changed(labels)
        stats = ClusterStats(sums, counts, inertia, Farthest(*farthest))
        return EStep(labels, to_nearest, stats)


class OperatorBackend(ReferenceBackend):
    """What stands in for a backend of pointers where no pointer may be taken."""

    name = "operators"
    workspace_type = OperatorWorkspace

    def beam_search(self, x: Tensor, codebooks: Tensor, *, beam_size: int) -> tuple[Tensor, Tensor]:
        codes, left = beam_search(x, codebooks, beam_size)
        return codes, left

    def search(self, x: Tensor, centroids: Tensor, m: int, *, metric: str) -> Neighbors:
        return Neighbors(*search(x, centroids, m, metric))


class OnnxWorkspace(ReferenceWorkspace):
    """Labels by the operators that ONNX knows, for any number of rows."""

    def assign(self, centroids: Tensor) -> tuple[Tensor, Tensor | bool]:
        rows = space_rows(
            self.x, slice(None), metric=self.metric, dtype=declared_dtype(self.x, centroids)
        )
        screen = Screen(centroids.to(rows.dtype))
        return self._without_zero_rows(screen.decide_in_a_fixed_graph(rows), rows), True

    def _step(self, centroids: Tensor, start: int, wants_farthest: bool) -> EStep:
        raise NotImplementedError(
            "an E-step cannot be exported to ONNX: export forward, transform, encode or decode"
        )


class OnnxBackend(ReferenceBackend):
    """What stands in for all backends in an export to ONNX, which knows no operators of ours."""

    name = "onnx"
    workspace_type = OnnxWorkspace


BACKEND = OperatorBackend()
ONNX_BACKEND = OnnxBackend()
