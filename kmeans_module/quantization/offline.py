"""Codebooks whose centroids add up: one after the other, then all together."""

from __future__ import annotations

import torch
from torch import Tensor

from kmeans_module.core.fit import fit
from kmeans_module.rows.batch import Batch

_RIDGE = 1e-4  # samples of a code that is never used
_STAGES = 10


def fit_progressively(
    x: Tensor, n_clusters: int, *, max_iter: int, generator: torch.Generator | None = None
) -> Tensor:
    """k-means in more and more of the principal directions of x, each start being the last end.

    Residuals have no clusters that k-means++ could find, and a sample that is met exactly by
    earlier levels lies in the middle of all others; a few directions at a time lead to better
    centroids than any start in all of them.

    Source: Liu, Shao & Lu, Generalized residual vector quantization for large scale data, ICME
    2016, section 3.2 (transition clustering).

    Args:
        x: (n, d).
        n_clusters: k.
        max_iter: iterations in all directions; with fewer of them, at most 5.
        generator: None draws from torch's default generator.

    Returns:
        centroids, (k, d).
    """
    d = x.shape[1]
    mean = x.mean(dim=0)
    directions = torch.linalg.eigh(torch.cov(x.T).double().view(d, d)).eigenvectors.flip(1).to(x)
    coordinates = (x - mean) @ directions
    counts = {min(d, max(2, round(d ** ((i + 1) / _STAGES)))) for i in range(_STAGES)}
    init: Tensor | str = "k-means++"
    for count in sorted(counts):
        if isinstance(init, Tensor):
            init = torch.nn.functional.pad(init, (0, count - init.shape[-1]))
        some = coordinates[:, :count].contiguous()
        init = fit(
            Batch(some), n_clusters, init=init,
            max_iter=max_iter if count == d else min(5, max_iter), tol=1e-4, n_init=1,
            n_problems=1, metric="euclidean", empty_cluster="relocate", like=some,
            generator=generator,
        ).centroids[0]  # fmt: skip
    assert isinstance(init, Tensor)
    centroids: Tensor = init @ directions.T + mean
    return centroids


def least_squares(x: Tensor, codes: Tensor, codebooks: Tensor) -> Tensor:
    """The codebooks that, for given codes, leave least of the samples: all levels at once.

    Source: Martinez et al., LSQ++, ECCV 2018, section 3.1.

    Args:
        x: (n, d).
        codes: (n, L).
        codebooks: the present ones, (L, k, d): where codes are not used, they stay.

    Returns:
        (L, k, d).
    """
    levels, k, d = codebooks.shape
    places = (codes + torch.arange(levels, device=codes.device) * k).T  # (L, n)
    exact = codebooks.double()
    counts = exact.new_zeros((levels * k, levels * k))
    ones = exact.new_ones(len(x))
    for row in places:
        for column in places:
            counts.view(-1).index_add_(0, row * (levels * k) + column, ones)
    left = x.double() - exact.view(-1, d)[places].sum(dim=0)
    sums = exact.new_zeros((levels * k, d))
    for row in places:
        sums.index_add_(0, row, left)
    counts.diagonal().add_(_RIDGE)
    change = torch.linalg.solve(counts, sums)
    fitted: Tensor = (exact + change.view_as(exact)).to(codebooks.dtype)
    return fitted
