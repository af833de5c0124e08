"""Which rows a library starts from that takes no centroids, so that these can be put there."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from benchmarks.workloads import Workload

SEED = 0


def placed(work: Workload, drawn: Tensor) -> Tensor:
    """The samples in such an order that the initial centroids are the rows ``drawn``."""
    order = torch.empty(len(work.x), dtype=torch.int64)
    others = torch.ones(len(work.x), dtype=torch.bool)
    free = others.clone()
    others[work.rows] = False
    free[drawn] = False
    order[drawn] = work.rows
    order[free] = others.nonzero().squeeze(1)
    return work.x[order]


def fastkmeans(n: int, k: int) -> Tensor:
    """It seeds torch and takes the first of a random permutation."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(SEED))[:k]


def superkmeans(n: int, k: int) -> Tensor:
    """It takes the first of what libstdc++'s std::shuffle makes of 0, 1, ..."""
    return torch.tensor(_shuffled(n)[:k])


@lru_cache(maxsize=1)
def _shuffled(n: int) -> list[int]:
    mersenne = np.random.MT19937()
    mersenne._legacy_seeding(SEED)  # that of std::mt19937
    bits = iter(mersenne.random_raw(n + 1_000).tolist())
    order = list(range(n))
    first = 1
    if n < 2**16:  # few enough that one draw of 32 bits serves two swaps
        if n % 2 == 0:
            _swap(order, 1, _below(2, bits))
            first = 2
        for i in range(first, n, 2):
            a, b = divmod(_below((i + 1) * (i + 2), bits), i + 2)
            _swap(order, i, a)
            _swap(order, i + 1, b)
    else:
        for i in range(first, n):
            _swap(order, i, _below(i + 1, bits))
    return order


def _below(bound: int, bits: object) -> int:
    """A uniform integer by Lemire's method."""
    while True:
        product = next(bits) * bound
        low = product % 2**32
        if low >= bound or low >= 2**32 % bound:
            return product >> 32


def _swap(order: list[int], i: int, j: int) -> None:
    order[i], order[j] = order[j], order[i]
