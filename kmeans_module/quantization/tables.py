"""Look-up tables: what a query is to every centroid, once, for any number of codes."""

from __future__ import annotations

from torch import Tensor


def looked_up(tables: Tensor, codes: Tensor) -> Tensor:
    """Sums of the entries of tables (q, m, k) that codes (n, m) name, (q, n)."""
    total = tables.new_zeros((tables.shape[0], codes.shape[0]))
    for part in range(codes.shape[-1]):
        total = total + tables[:, part, codes[:, part]]
    return total
