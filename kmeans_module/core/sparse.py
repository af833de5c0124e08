"""Sparse rows: tensors (n, d) of layout torch.sparse_csr, which are never made dense as a whole.

The functions take dense rows too, so that what needs a few rows need not ask what they are.
"""

from __future__ import annotations

import warnings
from functools import cache

import torch
from torch import Tensor


def is_sparse(x: Tensor) -> bool:
    """Whether rows are of layout torch.sparse_csr."""
    return x.layout == torch.sparse_csr


def csr_rows(starts: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Sparse rows of a shape (n, d), whose memory is that of the parts.

    Args:
        starts: where each row begins among the values, and where the last one ends, (n + 1,).
        columns: feature of each value, ascending in a row, (m,).
        values: (m,).
        shape: (n, d).
    """
    _hear_of_beta()
    return torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)


@cache
def _hear_of_beta() -> None:
    """Let torch say once, to nobody, that sparse CSR tensors are in beta state."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0], [], [], (0, 0), check_invariants=False)


def numbers_of(x: Tensor) -> Tensor:
    """The numbers that are in memory: of sparse rows the values, else the rows."""
    return x.values() if is_sparse(x) else x


def with_numbers(x: Tensor, numbers: Tensor) -> Tensor:
    """Rows with other numbers than :func:`numbers_of` says."""
    if not is_sparse(x):
        return numbers
    return csr_rows(x.crow_indices(), x.col_indices(), numbers, (x.shape[0], x.shape[1]))


def no_rows(x: Tensor) -> Tensor:
    """A dense tensor (0, d) of the dtype and on the device of rows (..., n, d)."""
    return torch.empty((0, x.shape[-1]), dtype=x.dtype, device=x.device)


def rows_of_numbers(x: Tensor) -> Tensor:
    """The row of each value of sparse rows, (m,) int64."""
    return _repeated(x.crow_indices()[1:].long(), len(x.values()))


def nonzero_rows(x: Tensor) -> Tensor:
    """Whether a row (..., n, d) holds anything but zeros, (..., n) bool."""
    if not is_sparse(x):
        return (x != 0).any(dim=-1)
    nonzero = torch.zeros(x.shape[0], dtype=torch.bool, device=x.device)
    nonzero[rows_of_numbers(x)[x.values() != 0]] = True
    return nonzero


def part_of(x: Tensor, part: slice) -> Tensor:
    """A slice of the rows (..., n, d), sparse where they are; it shares their memory."""
    if not is_sparse(x):
        return x[..., part, :]
    first, last, _ = part.indices(x.shape[0])
    last = max(first, last)
    if (first, last) == (0, x.shape[0]):
        return x
    starts = x.crow_indices()[first : last + 1]
    begin, end = int(starts[0]), int(starts[-1])
    return csr_rows(
        starts - begin, x.col_indices()[begin:end], x.values()[begin:end],
        (last - first, x.shape[1]),
    )  # fmt: skip


def rows_in(x: Tensor, part: slice) -> Tensor:
    """A slice of the rows (..., n, d), dense."""
    x = part_of(x, part)
    if not is_sparse(x):
        return x
    return _dense(rows_of_numbers(x), x.col_indices(), x.values(), tuple(x.shape))


def rows_at(x: Tensor, index: Tensor) -> Tensor:
    """Rows of (n, d) at an index (...), dense: (..., d)."""
    if not is_sparse(x):
        return x.index_select(0, index.flatten()).view(*index.shape, x.shape[-1])
    return rows_in(sparse_rows_at(x, index.flatten()), slice(None)).view(*index.shape, x.shape[1])


def sparse_rows_at(x: Tensor, index: Tensor) -> Tensor:
    """Sparse rows of (n, d) at an index (m,), sparse: (m, d)."""
    starts, columns = x.crow_indices().long(), x.col_indices()
    first = starts[index]
    counts = starts[index + 1] - first
    ends = counts.cumsum(0)
    rows = _repeated(ends, int(ends[-1]) if len(ends) else 0)
    places = torch.arange(len(rows), device=x.device) + (first - ends + counts)[rows]
    bounds = torch.cat([ends.new_zeros(1), ends]).to(columns.dtype)
    return csr_rows(bounds, columns[places], x.values()[places], (len(index), x.shape[1]))


def _repeated(ends: Tensor, size: int) -> Tensor:
    """Each index i so often that its last place is before ends[i]: (size,) int64.

    torch.repeat_interleave wakes up all threads, however little there is to do.
    """
    marks = torch.zeros(size + 1, dtype=torch.int64, device=ends.device)
    marks.index_add_(0, ends, torch.ones_like(ends))
    return marks[:size].cumsum(0)


def _dense(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor (n, d) with values at rows and columns, and zeros."""
    dense = values.new_zeros(shape[0] * shape[1])
    dense[rows * shape[1] + columns] = values
    return dense.view(shape)
