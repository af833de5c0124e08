r"""Soft assignment: how much of each cluster is in a sample, differentiable.

.. math:: q_{ij} \propto \exp(-\|x_i - c_j\|^2 / T) \qquad\text{or}\qquad
          q_{ij} \propto (1 + \|x_i - c_j\|^2 / \nu)^{-(\nu + 1) / 2}

The first is the softmax of the distances at a temperature T, the second Student's t kernel with
ν degrees of freedom (Xie, Girshick & Farhadi, Unsupervised deep embedding for clustering
analysis, ICML 2016, equation 1).

Nothing of size (n, k) is kept for the backward pass: samples go through in chunks, which are
computed again there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kmeans_module.core.distances import chunk_rows, squared_distances
from kmeans_module.core.guard import for_other_inputs, readable, under_functorch
from kmeans_module.core.sparse import is_sparse, part_of, rows_in
from kmeans_module.core.words import shown

KERNELS = ("softmax", "student-t")


def soft_shares(
    x: Tensor,
    centroids: Tensor,
    *,
    temperature: float,
    kernel: str,
    metric: str,
) -> Tensor:
    """See :func:`kmeans_module.functional.soft_assign`."""
    check_soft(temperature, kernel)

    def shares(rows: Tensor, centroids: Tensor) -> Tensor:
        distances = squared_distances(rows, centroids, metric=metric)
        return shares_of(distances, temperature, kernel)

    return in_chunks(shares, x, centroids)[0]


def shares_of(distances: Tensor, temperature: float, kernel: str) -> Tensor:
    """Shares of the clusters in samples at squared distances (..., k)."""
    if kernel == "softmax":
        return (distances / -temperature).softmax(dim=-1)
    weights = (1 + distances / temperature).log() * (-(temperature + 1) / 2)
    return weights.softmax(dim=-1)


def check_soft(temperature: object, kernel: object = "softmax") -> None:
    """Refuse what no soft assignment can be made of."""
    if not isinstance(kernel, str) or kernel not in KERNELS:
        raise ValueError(f"kernel should be one of {', '.join(KERNELS)}; got {shown(kernel)}")
    # A tensor of one element may be learned; its value is looked at where that costs no wait.
    if isinstance(temperature, Tensor) and temperature.numel() == 1:
        if not readable(temperature):
            return
        temperature = temperature.item()
    if isinstance(temperature, bool) or not isinstance(temperature, Real):
        raise TypeError(f"temperature should be a number; got {shown(temperature)}")
    try:
        number = float(temperature)
    except OverflowError:
        number = math.inf
    if not 0 < number < math.inf:
        raise ValueError(f"temperature should be more than 0 and finite; got {shown(temperature)}")


def in_chunks(
    function: Callable[..., Tensor | tuple[Tensor, ...]], x: Tensor, centroids: Tensor
) -> tuple[Tensor, ...]:
    """``function(rows, centroids)`` for some rows after the others, joined along the rows.

    Where gradients are wanted a chunk keeps its rows alone, and is computed again for the
    backward pass, with the same random numbers.

    Args:
        function: of rows (..., m, d) and centroids; gives a tensor (..., m, any), or several.
        x: (..., n, d).
        centroids: (..., k, d).

    Returns:
        What the function gives, for all rows.
    """
    if for_other_inputs():
        whole = function(x, centroids)
        return whole if isinstance(whole, tuple) else (whole,)
    problems = centroids.shape[:-2].numel()
    k, d = centroids.shape[-2:]
    size = chunk_rows(x.shape[-2], k, d, problems, x.device)
    # torch.func has no hooks for what a checkpoint saves: it keeps all of it.
    wanted = torch.is_grad_enabled() and (x.requires_grad or centroids.requires_grad)
    wanted = wanted and not under_functorch()

    def of_rows(rows: Tensor, centroids: Tensor) -> Tensor | tuple[Tensor, ...]:
        return function(rows_in(rows, slice(None)), centroids)  # sparse ones are dense in here only

    chunks = []
    for rows in _split(x, max(size, 1)):
        part = (
            checkpoint(of_rows, rows, centroids, use_reentrant=False)
            if wanted
            else of_rows(rows, centroids)
        )
        chunks.append(part if isinstance(part, tuple) else (part,))
    return tuple(
        parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2)
        for parts in zip(*chunks, strict=True)
    )


def _split(x: Tensor, size: int) -> Sequence[Tensor]:
    if not is_sparse(x):
        return torch.split(x, size, dim=-2)
    return [part_of(x, slice(first, first + size)) for first in range(0, max(len(x), 1), size)]
