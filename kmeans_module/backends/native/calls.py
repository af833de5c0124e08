"""Calls of the compiled library that need no workspace."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from kmeans_module.backends.beam import torch_beam_search
from kmeans_module.backends.moments import torch_moments
from kmeans_module.backends.native.interface import (
    ELEMENTS,
    MOST_BEAMS,
    RowsStruct,
    SparseStruct,
)
from kmeans_module.backends.native.library import address, aligned, loaded, packed
from kmeans_module.backends.sparse import sparse_moments
from kmeans_module.core.distances import compute_dtype, declared_dtype
from kmeans_module.core.guard import no_plain, transformed
from kmeans_module.core.neighbors import Neighbors, of_unit_rows, ranked
from kmeans_module.core.scale import Scale
from kmeans_module.core.sparse import is_sparse, with_numbers

# Numbers of rows, or of their results, that a search for neighbors holds at a time.
_NUMBERS = 1 << 22


def rows_struct(
    x: Tensor,
    weight: Tensor | None,
    metric: str,
    dtype: torch.dtype,
    beyond: ctypes.c_int32 | None = None,
) -> RowsStruct:
    """km_rows, the C view of the rows of one problem.

    Args:
        x: rows, (n, d), aligned.
        weight: weights, (n,), packed and of float64; None for weight 1.
        metric: "euclidean" or "cosine".
        dtype: that distances are computed in, float32 or float64.
        beyond: becomes 1 where dtype is float32 and a row holds an integer beyond 2^24. The caller
            keeps it alive, as long as the struct.
    """
    return RowsStruct(
        x.data_ptr(),
        *x.shape,
        *x.stride(),
        None if weight is None else weight.data_ptr(),
        dtype == torch.float64,
        metric == "cosine",
        ELEMENTS[x.dtype],
        None if beyond is None else ctypes.addressof(beyond),
    )


def rows_structs(
    x: Tensor, weight: Tensor | None, metric: str, dtype: torch.dtype, beyond: ctypes.c_int32
) -> list[RowsStruct]:
    """km_rows of each problem; a single one where all problems share rows and weights.

    Args:
        x: rows, (n, d) or (P, n, d), aligned.
        weight: weights, (n,) or (P, n); see :func:`rows_struct` for the rest.
    """
    if x.ndim == 2 and (weight is None or weight.ndim == 1):
        return [rows_struct(x, weight, metric, dtype, beyond)]
    problems = len(x) if x.ndim == 3 else len(weight)  # type: ignore[arg-type]
    return [
        rows_struct(
            x if x.ndim == 2 else x[p],
            weight if weight is None or weight.ndim == 1 else weight[p],
            metric,
            dtype,
            beyond,
        )
        for p in range(problems)
    ]


def sparse_struct(
    starts: Tensor, columns: Tensor, values: Tensor, weight: Tensor | None, d: int, metric: str
) -> SparseStruct:
    """km_sparse, the C view of sparse rows.

    Args:
        starts: (n + 1,) int64.
        columns: (m,) int32.
        values: (m,) of the type that distances are computed in, float32 or float64.
        weight: as for :func:`rows_struct`.
        d: features.
        metric: "euclidean" or "cosine".
    """
    return SparseStruct(
        starts.data_ptr(),
        columns.data_ptr(),
        values.data_ptr(),
        len(starts) - 1,
        d,
        None if weight is None else weight.data_ptr(),
        values.dtype == torch.float64,
        metric == "cosine",
    )


def kernel_centroids(centroids: Tensor, d: int, dtype: torch.dtype) -> Tensor:
    """Centroids (P, k, d) as the kernel reads them, for rows of d features searched in a dtype."""
    obstacle = no_plain(centroids)
    if obstacle is not None:
        raise TypeError(f"centroids are no plain tensor as the rows are: {obstacle}")
    if centroids.shape[-1] != d:
        raise ValueError(f"rows have {d} features, centroids {centroids.shape[-1]}")
    if centroids.dtype == dtype:
        return packed(centroids)
    if torch.promote_types(centroids.dtype, dtype) != dtype:
        raise TypeError(f"rows are searched in {dtype}, centroids are {centroids.dtype}")
    return packed(centroids.to(dtype))


def refuse_modes() -> None:
    """Refuse to go on with rows that were prepared in eager code where a mode of torch (fake
    tensors, functorch, tracing) has come up since: the results of a call would have no memory.

    Raises:
        RuntimeError: such a mode is active; names it.
    """
    mode = transformed()
    if mode is not None:
        raise RuntimeError(f"rows prepared in eager code meet them again where {mode}")


def beam_search(x: Tensor, codebooks: Tensor, *, beam_size: int) -> tuple[Tensor, Tensor]:
    """See :func:`kmeans_module.backends.beam_search`; more than MOST_BEAMS are left to torch."""
    if beam_size > MOST_BEAMS:
        return torch_beam_search(x, codebooks, beam_size=beam_size)
    x, codebooks = packed(x), packed(codebooks)
    levels, k, _ = codebooks.shape
    codes = torch.empty((len(x), levels), dtype=torch.int64, device="cpu")
    left = torch.empty_like(x)
    if loaded().km_beam_search(
        x.data_ptr(), x.dtype == torch.float64, *x.shape, codebooks.data_ptr(), levels, k,
        beam_size, codes.data_ptr(), left.data_ptr(), torch.get_num_threads(),
    ):  # fmt: skip
        raise MemoryError(f"no memory for a beam search of {tuple(x.shape)} rows")
    return codes, left


def search(x: Tensor, centroids: Tensor, m: int, *, metric: str) -> Neighbors:
    """See :func:`kmeans_module.backends.search`."""
    problems, k, d = centroids.shape
    n, dtype = x.shape[-2], compute_dtype(x, centroids)
    centroids = packed(centroids.to(dtype))
    distances = torch.empty((problems, n, m), dtype=dtype, device="cpu")
    labels = torch.empty((problems, n, m), dtype=torch.int64, device="cpu")
    size = max(1, _NUMBERS // max(d, k if m > MOST_BEAMS else m))
    for first in range(0, n, size):
        part = slice(first, min(first + size, n))
        rows = x[..., part, :].to(dtype)
        rows = unit_rows(rows) if metric == "cosine" else packed(rows)
        for p in range(problems):
            of_problem = rows[p] if rows.ndim == 3 else rows
            neighbors = _search_rows(of_problem, centroids[p], m)
            if metric == "cosine":
                neighbors = of_unit_rows(neighbors, of_problem)
            distances[p, part], labels[p, part] = neighbors
    return Neighbors(distances, labels)


def _search_rows(rows: Tensor, centroids: Tensor, m: int) -> Neighbors:
    """The m nearest of centroids (k, d) of each of rows (n, d), both contiguous: (n, m)."""
    n, k = len(rows), len(centroids)
    if m > MOST_BEAMS:  # more than the kernel keeps: all distances, MOST_BEAMS centroids at a time
        measured = rows.new_empty((n, k))
        for first in range(0, k, MOST_BEAMS):
            together = centroids[first : first + MOST_BEAMS]
            ordered = _search_rows(rows, together, len(together))
            measured.scatter_(1, first + ordered.labels, ordered.distances)
        return ranked(measured, torch.arange(k, device="cpu").expand(n, k), m)
    labels = torch.empty((n, m), dtype=torch.int64, device="cpu")
    neighbors = Neighbors(rows.new_empty((n, m)), labels)
    if loaded().km_neighbors(
        rows.data_ptr(), rows.dtype == torch.float64, *rows.shape, centroids.data_ptr(), k, m,
        labels.data_ptr(), neighbors.distances.data_ptr(), torch.get_num_threads(),
    ):  # fmt: skip
        raise MemoryError(f"no memory to search {tuple(rows.shape)} rows")
    return neighbors


def unit_rows(x: Tensor) -> Tensor:
    """See :func:`kmeans_module.backends.unit_rows`."""
    if is_sparse(x):
        return _sparse_unit_rows(x)
    rows = aligned(x.reshape(-1, x.shape[-1]))
    unit = torch.empty(rows.shape, dtype=x.dtype, device="cpu")
    struct = rows_struct(rows, None, "cosine", x.dtype)
    if loaded().km_load(struct, unit.data_ptr(), torch.get_num_threads()):
        raise MemoryError(f"no memory for {tuple(x.shape)} rows at unit length")
    return unit.view(x.shape)


def _sparse_unit_rows(x: Tensor) -> Tensor:
    starts, columns = packed(x.crow_indices().long()), packed(x.col_indices().int())
    values = packed(x.values())
    unit = torch.empty_like(values)
    struct = sparse_struct(starts, columns, values, None, x.shape[1], "cosine")
    if loaded().km_sparse_unit(struct, unit.data_ptr(), torch.get_num_threads()):
        raise MemoryError(f"no memory for {tuple(x.shape)} rows at unit length")
    return with_numbers(x, unit)


def draw(mass: Tensor, size: int, numbers: Tensor) -> tuple[Tensor, bool]:
    """See :meth:`kmeans_module.backends.Backend.draw`."""
    mass, numbers = packed(mass), packed(numbers)
    positions = torch.empty(numbers.shape, dtype=torch.int64, device="cpu")
    library, n, threads = loaded(), mass.shape[1], torch.get_num_threads()
    all_have = True
    for p, largest in enumerate(mass.amax(dim=-1).tolist()):
        all_have &= largest > 0
        if library.km_draw(
            address(mass, p), mass.dtype == torch.float64, n, size, *Scale.of_number(largest, n),
            address(numbers, p), numbers.shape[1], address(positions, p), threads,
        ):  # fmt: skip
            raise MemoryError(f"no memory for draws from {n} numbers")
    return positions, all_have


def block_sums(mass: Tensor, size: int, scale: Scale) -> Tensor:
    """Sums of consecutive blocks of numbers (P, n) as integers: (P, n_blocks) int64."""
    mass = packed(mass)
    problems, n = mass.shape
    sums = torch.empty((problems, -(-n // size)), dtype=torch.int64, device="cpu")
    library = loaded()
    for p, exponent in enumerate(scale.exponents.tolist()):
        if library.km_block_sums(
            address(mass, p), mass.dtype == torch.float64, n, size, exponent, scale.bits,
            address(sums, p), torch.get_num_threads(),
        ):  # fmt: skip
            raise MemoryError(f"no memory for the sums of {n} numbers")
    return sums


def search_sums(mass: Tensor, size: int, scale: Scale, blocks: Tensor, target: Tensor) -> Tensor:
    """Where the cumulative sums of numbers (P, n) as integers exceed the targets (P, m)."""
    mass = packed(mass)
    positions = torch.empty(target.shape, dtype=torch.int64, device="cpu")
    blocks, target = packed(blocks), packed(target)
    library = loaded()
    for p, exponent in enumerate(scale.exponents.tolist()):
        if library.km_search_sums(
            address(mass, p), mass.dtype == torch.float64, mass.shape[1], size, exponent,
            scale.bits, address(blocks, p), address(target, p), target.shape[1],
            address(positions, p),
        ):  # fmt: skip
            raise MemoryError(f"no memory to search {mass.shape[1]} numbers")
    return positions


def moments(
    x: Tensor, sample_weight: Tensor | None, center: Tensor | None, *, metric: str
) -> tuple[Tensor, Tensor, Tensor]:
    """See :meth:`kmeans_module.backends.Backend.moments`; several problems are left to torch."""
    if is_sparse(x):
        unit = None
        if metric == "cosine":
            unit = _sparse_unit_rows(x.to(torch.promote_types(x.dtype, torch.float32)))
        return sparse_moments(x, sample_weight, center, unit)
    several = x.ndim > 2 or (sample_weight is not None and sample_weight.ndim > 1)
    if several or metric != "euclidean" or (center is not None and len(center) > 1):
        return torch_moments(x, sample_weight, center, metric=metric)
    x = aligned(x)
    low, high, sums = torch.empty((3, x.shape[1]), dtype=torch.float64, device="cpu")
    if sample_weight is not None:
        sample_weight = packed(sample_weight.to(torch.float64))
    origin = None if center is None else packed(center)
    dtype, beyond = declared_dtype(x, torch.float32), ctypes.c_int32()
    while True:
        if loaded().km_spread(
            rows_struct(x, sample_weight, metric, dtype, beyond),
            None if origin is None else origin.data_ptr(), low.data_ptr(), high.data_ptr(),
            sums.data_ptr(), torch.get_num_threads(),
        ):  # fmt: skip
            raise MemoryError(f"no memory to survey {tuple(x.shape)} rows")
        if not beyond.value:
            break
        dtype, beyond.value = torch.float64, 0
    if not bool(sums.isfinite().all()):  # only torch says where NaN and infinity are
        return torch_moments(x, sample_weight, center, metric=metric)
    return low, high, sums.unsqueeze(0)
