"""Codebooks fitted to samples that are all there: levels whose centroids add up, rotations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kmeans_module import checks as check
from kmeans_module.backends import beam_search
from kmeans_module.core.distances import compute_dtype
from kmeans_module.core.fit import fit
from kmeans_module.core.problem import Problem
from kmeans_module.progress import Watch
from kmeans_module.rows import Batch, HeldRows
from kmeans_module.rows.survey import refuse, refuse_nonfinite, refuse_too_few

_RIDGE = 1e-4  # in samples: keeps codes without samples where they are
_STAGES = 10  # numbers of directions, from 2 to d


def training_samples(x: object, n_features: int, n_clusters: int, centroids: Tensor) -> Tensor:
    """Samples (n, d) to fit codebooks to, in the precision of distances.

    Raises:
        ValueError: x of another shape, on another device than the centroids, with fewer rows than
            clusters, with NaN or infinity, or so large that squares overflow.
    """
    rows = check.check_samples(x, n_features)
    check.check_device("x", rows, centroids.device)
    if len(rows) < n_clusters:
        raise ValueError(f"n_samples={len(rows)} should be >= n_clusters={n_clusters}")
    rows = rows.to(compute_dtype(rows, centroids))
    # Products of all samples are added up before they are divided.
    if not (rows - rows.mean(dim=0)).square().sum().isfinite():
        refuse_nonfinite(rows, rows.dtype)
    return rows


@contextmanager
def unchanged_by_failures(quantizer: nn.Module) -> Iterator[None]:
    """Give a quantizer its state back where an error or an interruption ends a fit."""
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    try:
        yield
    except BaseException:
        quantizer.load_state_dict(before)
        raise


def fit_levels(
    x: Tensor,
    n_clusters: int,
    n_levels: int,
    *,
    beam_size: int,
    max_iter: int,
    refinements: int,
    generator: torch.Generator | None = None,
    watch: Watch | None = None,
) -> tuple[Tensor, Tensor]:
    """Codebooks of a residual quantizer: one after the other, then all together.

    Args:
        x: (n, d).
        n_clusters: k.
        n_levels: L.
        beam_size: choices kept from level to level when samples are encoded.
        max_iter: Lloyd's iterations of a level at most.
        refinements: times that all levels are fitted together, and all samples encoded.
        generator: None draws from torch's default generator.
        watch: whom to tell; None for nobody.

    Returns:
        codebooks (L, k, d), and the codes of the samples, (n, L).
    """
    left, codebooks = x, x.new_empty((0, n_clusters, x.shape[1]))
    watch = watch or Watch()
    for number in range(n_levels):
        watch.enters(f"level {number + 1} of {n_levels}")
        centroids = fit_progressively(
            left, n_clusters, max_iter=max_iter, generator=generator, watch=watch
        )
        codebooks = torch.cat([codebooks, centroids.unsqueeze(0)])
        codes, left = beam_search(x, codebooks, beam_size=beam_size)
    for number in range(refinements):
        watch.enters(f"refinement {number + 1} of {refinements}")
        watch.says("fitting all levels together")
        codebooks = least_squares(x, codes, codebooks)
        codes, _ = beam_search(x, codebooks, beam_size=beam_size)
    return codebooks, codes


def fit_progressively(
    x: Tensor,
    n_clusters: int,
    *,
    max_iter: int,
    generator: torch.Generator | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """k-means in more and more of the principal directions of x, each start being the last end.

    What earlier levels leave of samples has no clusters that k-means++ could find: the residual
    of a sample that earlier levels decode exactly is 0, the mean of all residuals. A few
    directions at a time lead to better centroids than any start in all directions.

    Source: Liu, Shao & Lu, Generalized residual vector quantization for large scale data, ICME
    2016, section 3.2 (transition clustering).

    Args:
        x: (n, d).
        n_clusters: k.
        max_iter: iterations in all directions; with fewer of them, at most 5.
        generator: None draws from torch's default generator.
        watch: whom to tell; None for nobody.

    Returns:
        centroids, (k, d).
    """
    watch = watch or Watch()
    level = watch.stage
    d = x.shape[1]
    mean = x.mean(dim=0)
    directions = torch.linalg.eigh(torch.cov(x.T).double().view(d, d)).eigenvectors.flip(1).to(x)
    coordinates = (x - mean) @ directions
    counts = {min(d, max(2, round(d ** ((i + 1) / _STAGES)))) for i in range(_STAGES)}
    init: Tensor | str = "k-means++"
    for count in sorted(counts):
        if isinstance(init, Tensor):
            init = torch.nn.functional.pad(init, (0, count - init.shape[-1]))
        watch.max_iter = max_iter if count == d else min(5, max_iter)
        watch.enters(", ".join(filter(None, [level, f"{count} of {d} directions"])))
        init = _k_means(coordinates[:, :count].contiguous(), n_clusters, init, generator, watch)
    assert isinstance(init, Tensor)
    centroids: Tensor = init @ directions.T + mean
    return centroids


def _k_means(
    x: Tensor,
    n_clusters: int,
    init: Tensor | str,
    generator: torch.Generator | None,
    watch: Watch,
) -> Tensor:
    rows = HeldRows([Batch(x)])
    problem = Problem(n_clusters, x.shape[1], dtype=x.dtype, device=x.device)
    moments = rows.moments()
    refuse_too_few(moments, n_clusters)
    refuse(moments, x, problem)
    best = fit(
        rows,
        problem,
        init=init,
        max_iter=watch.max_iter,
        threshold=1e-4 * moments.variance,
        n_init=1,
        generator=generator,
        callback=watch.iteration if watch.listens else None,
        seeding=watch.seeding,
    )
    return best.centroids[0]


def least_squares(x: Tensor, codes: Tensor, codebooks: Tensor) -> Tensor:
    """The codebooks of all levels that, for given codes, have the least squared error.

    Source: Martinez et al., LSQ++, ECCV 2018, section 3.1.

    Args:
        x: (n, d).
        codes: (n, L).
        codebooks: the present ones, (L, k, d); centroids of codes without samples stay.

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


def principal_rotation(x: Tensor, n_subspaces: int) -> Tensor:
    """Principal directions, dealt out so that the variance of all parts is balanced, (d, d).

    Source: Ge et al., CVPR 2013, section 3.2 (eigenvalue allocation).
    """
    d = x.shape[1]
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0).double().view(d, d))
    values = values.clamp(min=values.amax() * 1e-12).log()
    values = values - values.amin()  # from 0: a direction never lowers the sum of a part
    parts: list[list[int]] = [[] for _ in range(n_subspaces)]
    for axis in reversed(range(d)):
        open_parts = [part for part in parts if len(part) < d // n_subspaces]
        min(open_parts, key=lambda part: float(values[part].sum())).append(axis)
    order = [axis for part in parts for axis in part]
    rotation: Tensor = vectors[:, order].T.to(x.dtype)
    return rotation
