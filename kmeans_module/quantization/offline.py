"""Codebooks fitted to samples that are all there: levels whose centroids add up, rotations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kmeans_module import checks as check
from kmeans_module.core.distances import compute_dtype
from kmeans_module.core.fit import fit
from kmeans_module.core.problem import Problem
from kmeans_module.progress.observer import Observer
from kmeans_module.quantization.beams import search_beams
from kmeans_module.rows import Batch, HeldRows
from kmeans_module.rows.survey import refuse, refuse_nonfinite, refuse_too_few

_RIDGE = 1e-4  # in samples: keeps codes without samples where they are
_STAGES = 10  # numbers of directions, from 2 to d


def training_samples(
    x: object, n_features: int, n_clusters: int, centroids: Tensor, sample_weight: object = None
) -> tuple[Tensor, Tensor | None]:
    """Samples (n, d) to fit codebooks to, in the precision of distances, and their weights (n,),
    without the samples of weight 0.

    Raises:
        ValueError: x of another shape, on another device than the centroids, with fewer rows (of
            positive weight) than clusters, with NaN or infinity, or so large that squares
            overflow; bad weights.
    """
    rows = check.check_samples(x, n_features)
    check.check_device("x", rows, centroids.device)
    if len(rows) < n_clusters:
        raise ValueError(f"n_samples={len(rows)} should be >= n_clusters={n_clusters}")
    rows = rows.to(compute_dtype(rows, centroids))
    weight = check.check_sample_weight(sample_weight, rows)
    if weight is not None and not (weight > 0).all():
        if not rows.isfinite().all():
            refuse_nonfinite(rows, rows.dtype)
        rows, weight = rows[weight > 0], weight[weight > 0]
        if len(rows) < n_clusters:
            raise ValueError(
                f"sample_weight should be positive for n_clusters={n_clusters} samples or more; "
                f"it is for {len(rows)}"
            )
    # Products of all samples are added up before they are divided.
    if not (rows - rows.mean(dim=0)).square().sum().isfinite():
        refuse_nonfinite(rows, rows.dtype)
    return rows, weight


def weighted_mean(x: Tensor, weight: Tensor | None) -> Tensor:
    """Mean (d,) of samples (n, d)."""
    if weight is None:
        return x.mean(dim=0)
    share = weight / weight.sum()
    return (share @ x.to(share.dtype)).to(x.dtype)


def covariance(x: Tensor, weight: Tensor | None, *, correction: int = 0) -> Tensor:
    """Covariance (d, d) float64 of samples (n, d), to a factor where there are weights."""
    d = x.shape[1]
    if weight is None:
        return torch.cov(x.T, correction=correction).double().view(d, d)
    around = (x - weighted_mean(x, weight)).double()
    return around.T @ (around * (weight / weight.sum()).unsqueeze(-1))


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
    sizes: Sequence[int],
    *,
    beam_size: int,
    max_iter: int,
    refinements: int,
    generator: torch.Generator | None = None,
    sample_weight: Tensor | None = None,
    observer: Observer | None = None,
) -> tuple[list[Tensor], Tensor]:
    """Codebooks of a residual quantizer: one after the other, then all together.

    Args:
        x: (n, d).
        sizes: codes of each of L levels, k.
        beam_size: choices kept from level to level when samples are encoded.
        max_iter: Lloyd's iterations of a level at most.
        refinements: times that all levels are fitted together, and all samples encoded.
        generator: None draws from torch's default generator.
        sample_weight: (n,), positive; None for 1.
        observer: whom to tell; None for nobody.

    Returns:
        codebooks (k, d), and the codes of the samples, (n, L).
    """
    left, codebooks = x, list[Tensor]()
    observer = observer or Observer()
    for number, k in enumerate(sizes):
        observer.enters(f"level {number + 1} of {len(sizes)}")
        centroids = fit_progressively(
            left, k, max_iter=max_iter, generator=generator, sample_weight=sample_weight,
            observer=observer,
        )  # fmt: skip
        codebooks.append(centroids)
        codes, left = search_beams(x, codebooks, beam_size=beam_size)
    for number in range(refinements):
        observer.enters(f"refinement {number + 1} of {refinements}")
        observer.says("fitting all levels together")
        codebooks = least_squares(x, codes, codebooks, sample_weight)
        codes, _ = search_beams(x, codebooks, beam_size=beam_size)
    return codebooks, codes


def fit_progressively(
    x: Tensor,
    n_clusters: int,
    *,
    max_iter: int,
    generator: torch.Generator | None = None,
    sample_weight: Tensor | None = None,
    observer: Observer | None = None,
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
        max_iter: iterations in all directions; with fewer of them, at most 5. 0 draws centroids
            in all directions.
        generator: None draws from torch's default generator.
        sample_weight: (n,), positive; None for 1.
        observer: whom to tell; None for nobody.

    Returns:
        centroids, (k, d).
    """
    observer = observer or Observer()
    level = observer.stage
    d = x.shape[1]
    mean = weighted_mean(x, sample_weight)
    spread = covariance(x, sample_weight, correction=1)
    directions = torch.linalg.eigh(spread).eigenvectors.flip(1).to(x)
    coordinates = (x - mean) @ directions
    counts = {min(d, max(2, round(d ** ((i + 1) / _STAGES)))) for i in range(_STAGES)}
    init: Tensor | str = "k-means++"
    for count in sorted(counts) if max_iter else [d]:
        if isinstance(init, Tensor):
            init = torch.nn.functional.pad(init, (0, count - init.shape[-1]))
        observer.max_iter = max_iter if count == d else min(5, max_iter)
        observer.enters(", ".join(filter(None, [level, f"{count} of {d} directions"])))
        part = Batch(coordinates[:, :count].contiguous(), sample_weight)
        init = _k_means(part, n_clusters, init, generator, observer)
    assert isinstance(init, Tensor)
    centroids: Tensor = init @ directions.T + mean
    return centroids


def _k_means(
    batch: Batch,
    n_clusters: int,
    init: Tensor | str,
    generator: torch.Generator | None,
    observer: Observer,
) -> Tensor:
    x, rows = batch.x, HeldRows([batch])
    problem = Problem(n_clusters, x.shape[1], dtype=x.dtype, device=x.device)
    moments = rows.moments()
    refuse_too_few(moments, n_clusters)
    refuse(moments, x, problem)
    best = fit(
        rows,
        problem,
        init=init,
        max_iter=observer.max_iter,
        threshold=1e-4 * moments.variance,
        n_init=1,
        generator=generator,
        callback=observer.iteration if observer.listens else None,
        seeding=observer.seeding,
    )
    return best.centroids[0]


def least_squares(
    x: Tensor, codes: Tensor, codebooks: Sequence[Tensor], sample_weight: Tensor | None = None
) -> list[Tensor]:
    """The codebooks of all levels that, for given codes, have the least squared error.

    Source: Martinez et al., LSQ++, ECCV 2018, section 3.1.

    Args:
        x: (n, d).
        codes: (n, L).
        codebooks: the present ones, (k, d) for each of L levels; centroids of codes without
            samples stay.
        sample_weight: of the squared errors, (n,), positive; None for 1.

    Returns:
        (k, d) for each level.
    """
    sizes = [len(book) for book in codebooks]
    first = torch.tensor([0, *sizes[:-1]], device=codes.device).cumsum(dim=0)
    places = (codes + first).T  # (L, n)
    exact = torch.cat(list(codebooks)).double()
    k = len(exact)
    counts = exact.new_zeros((k, k))
    weight = exact.new_ones(len(x)) if sample_weight is None else sample_weight.to(exact)
    for row in places:
        for column in places:
            counts.view(-1).index_add_(0, row * k + column, weight)
    left = x.double() - exact[places].sum(dim=0)
    if sample_weight is not None:
        left = left * weight.unsqueeze(-1)
    sums = exact.new_zeros(exact.shape)
    for row in places:
        sums.index_add_(0, row, left)
    counts.diagonal().add_(_RIDGE * weight.mean())
    change = torch.linalg.solve(counts, sums)
    fitted = (exact + change).to(codebooks[0].dtype)
    return list(torch.split(fitted, sizes))


def principal_rotation(x: Tensor, n_subspaces: int, sample_weight: Tensor | None = None) -> Tensor:
    """Principal directions, dealt out so that the variance of all parts is balanced, (d, d).

    Source: Ge et al., CVPR 2013, section 3.2 (eigenvalue allocation).
    """
    d = x.shape[1]
    values, vectors = torch.linalg.eigh(covariance(x, sample_weight))
    values = values.clamp(min=values.amax() * 1e-12).log()
    values = values - values.amin()  # from 0: a direction never lowers the sum of a part
    parts: list[list[int]] = [[] for _ in range(n_subspaces)]
    for axis in reversed(range(d)):
        open_parts = [part for part in parts if len(part) < d // n_subspaces]
        min(open_parts, key=lambda part: float(values[part].sum())).append(axis)
    order = [axis for part in parts for axis in part]
    rotation: Tensor = vectors[:, order].T.to(x.dtype)
    return rotation
