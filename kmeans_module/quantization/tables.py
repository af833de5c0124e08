"""Look-up tables: what a query is to every centroid, once, for any number of codes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kmeans_module.core.distances import compute_dtype, full_precision


def padded(codebooks: Sequence[Tensor]) -> Tensor:
    """Codebooks (k, d) of levels as one tensor (L, k, d): k is the largest, and the others end in
    NaN."""
    k = max(len(book) for book in codebooks)
    with full_precision(codebooks[0].device):
        return torch.stack(
            [
                book
                if len(book) == k
                else torch.nn.functional.pad(book, (0, 0, 0, k - len(book)), value=torch.nan)
                for book in codebooks
            ]
        )


def inner_products(queries: Tensor, codebooks: Tensor) -> Tensor:
    """Tables (q, L, k) of the inner products of queries (q, d) and codebooks (L, k, d), in the
    wider dtype of both, at least float32."""
    dtype = compute_dtype(queries, codebooks)
    with full_precision(queries.device):
        return torch.einsum("qd,lkd->qlk", queries.to(dtype), codebooks.to(dtype))


def looked_up(tables: Tensor, codes: Tensor) -> Tensor:
    """Sums of the entries of tables (q, m, k) that codes (n, m) of int64 name, (q, n)."""
    total = tables.new_zeros((tables.shape[0], codes.shape[0]))
    for part in range(codes.shape[-1]):
        total = total + tables[:, part, codes[:, part]]
    return total


def distances_to_sums(queries: Tensor, codebooks: Sequence[Tensor], codes: Tensor) -> Tensor:
    """Squared distances of queries to sums of centroids, from tables.

    Args:
        queries: (q, d).
        codebooks: (k, d) for each of L levels.
        codes: (n, L) int64; -1 adds nothing.

    Returns:
        (q, n), in the wider dtype of queries and codebooks, at least float32.
    """
    dtype = compute_dtype(queries, codebooks[0])
    # Queries and the first level lose a common offset, which would cancel.
    offset = codebooks[0].to(dtype).mean(dim=0)
    # A centroid of 0 comes last, where code -1 finds it.
    k = max(len(book) for book in codebooks)
    books = [
        torch.nn.functional.pad(book.to(dtype), (0, 0, 0, k + 1 - len(book))) for book in codebooks
    ]
    books[0] = books[0] - offset
    queries = queries.to(dtype) - offset
    products = looked_up(inner_products(queries, torch.stack(books)), codes)
    sums = torch.stack([book[codes[:, level]] for level, book in enumerate(books)]).sum(dim=0)
    norms = queries.square().sum(dim=-1, keepdim=True) + sums.square().sum(dim=-1)
    return (norms - 2 * products).clamp(min=0)
