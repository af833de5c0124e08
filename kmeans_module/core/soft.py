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

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kmeans_module.backends import compute_dtype, full_precision, unit_rows
from kmeans_module.backends.reference import chunk_rows

KERNELS = ("softmax", "student-t")


def soft_assign(
    x: Tensor,
    centroids: Tensor,
    *,
    temperature: float = 1.0,
    kernel: str = "softmax",
    metric: str = "euclidean",
) -> Tensor:
    """Shares of the clusters in each sample; gradients flow to samples and centroids.

    Args:
        x: (..., m, d).
        centroids: (..., k, d); leading dimensions broadcast with those of x.
        temperature: T of "softmax", degrees of freedom of "student-t"; more than 0.
        kernel: one of KERNELS.
        metric: "euclidean", or "cosine": distances 1 - cos.

    Returns:
        (..., m, k); each row sums to 1.

    Raises:
        ValueError: unknown kernel, temperature not above 0.

    Example:
        >>> import torch
        >>> soft_assign(torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [2.0]]))
        tensor([[0.5000, 0.5000],
                [0.9820, 0.0180]])
    """
    check_soft(temperature, kernel)

    def shares(rows: Tensor, centroids: Tensor) -> Tensor:
        distances = squared_distances(rows, centroids, metric=metric)
        if kernel == "softmax":
            return (distances / -temperature).softmax(dim=-1)
        weights = (1 + distances / temperature).log() * (-(temperature + 1) / 2)
        return weights.softmax(dim=-1)

    return in_chunks(shares, x, centroids)[0]


def check_soft(temperature: float, kernel: str = "softmax") -> None:
    """Refuse what no soft assignment can be made of."""
    if kernel not in KERNELS:
        raise ValueError(f"kernel should be one of {', '.join(KERNELS)}; got {kernel!r}")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature should be more than 0 and finite; got {temperature!r}")


def squared_distances(rows: Tensor, centroids: Tensor, *, metric: str = "euclidean") -> Tensor:
    """Distances (..., m, k) by one product of rows (..., m, d) and centroids (..., k, d).

    An offset that both lose keeps large common parts from cancelling; distances near 0 have
    an error of rounding, relative to the squared norms.
    """
    dtype = compute_dtype(rows, centroids)
    rows, centroids = rows.to(dtype), centroids.to(dtype)
    with full_precision(rows.device):
        if metric == "cosine":
            return 1 - unit_rows(rows) @ unit_rows(centroids).transpose(-1, -2)
        offset = centroids.detach().mean(dim=-2, keepdim=True)
        rows, centroids = rows - offset, centroids - offset
        norms = rows.square().sum(-1, keepdim=True) + centroids.square().sum(-1).unsqueeze(-2)
        return (norms - 2 * rows @ centroids.transpose(-1, -2)).clamp(min=0)


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
    problems = centroids.shape[:-2].numel()
    k, d = centroids.shape[-2:]
    size = chunk_rows(x.shape[-2], k, d, problems, x.device)
    wanted = torch.is_grad_enabled() and (x.requires_grad or centroids.requires_grad)
    chunks = []
    for rows in torch.split(x, max(size, 1), dim=-2):
        part = (
            checkpoint(function, rows, centroids, use_reentrant=False)
            if wanted
            else function(rows, centroids)
        )
        chunks.append(part if isinstance(part, tuple) else (part,))
    return tuple(
        parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2)
        for parts in zip(*chunks, strict=True)
    )
