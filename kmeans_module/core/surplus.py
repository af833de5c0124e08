"""Warnings of clusters without samples, by problem and cause."""

from __future__ import annotations

import torch
from torch import Tensor

from kmeans_module.core.empty_clusters import problem_name, rounding
from kmeans_module.core.warn import warn

_SHOWN = 10  # problems that a warning names


def warn_of_surplus(
    centroids: Tensor,
    counts: Tensor,
    inertia: Tensor,
    *,
    empty_cluster: str,
    n_weighty: Tensor | None = None,
    batch_shape: tuple[int, ...] = (),
    given: torch.dtype | None = None,
    used: torch.dtype | None = None,
) -> None:
    """Say how many clusters were left without samples, and why; one warning for each cause.

    Args:
        centroids: (P, k, d).
        counts: (P, k).
        inertia: (P,).
        empty_cluster: the policy.
        n_weighty: samples of positive weight, (P,) or (1,); None if nobody knows.
        batch_shape: of the problems, to name them.
        given, used: dtypes in which the rows came and were clustered: where that is narrower, it
            may be what makes rows equal.
    """
    n_clusters = counts.shape[-1]
    empty = (counts == 0).sum(dim=-1)
    if not bool(empty.any()):
        return
    distinct = "x has only {used} distinct rows"
    if n_weighty is None:
        n_weighty = torch.full_like(inertia, torch.inf)
    if given is not None and used is not None and given.itemsize > used.itemsize:
        distinct = f"{distinct} in {used}, to which its {given} is rounded"
    lacks_weight = n_weighty.expand_as(inertia) < n_clusters
    negligible = rounding(counts, centroids.dtype).square() * counts
    squared_norms = centroids.to(counts).square().sum(dim=-1)
    on_centroids = inertia <= (negligible * squared_norms).sum(dim=-1)
    for cause, mask in (
        ("sample_weight is positive for only {weighty} samples", lacks_weight),
        (distinct, on_centroids & ~lacks_weight),
        ("no sample is nearest to their centroids", ~on_centroids & ~lacks_weight),
    ):
        problems = ((empty > 0) & mask).nonzero().flatten().tolist()
        if problems:
            most = int(empty[problems].max())
            weighty = int(n_weighty.expand_as(inertia)[problems].nan_to_num().min())
            why = cause.format(weighty=weighty, used=n_clusters - most)
            text = f"{most} of n_clusters={n_clusters} clusters have no samples: {why}"
            text = f"{text} (empty_cluster={empty_cluster!r})"
            _warn(problems, text, batch_shape)


def warn_of_weights(
    n_weighty: Tensor, n_clusters: int, *, batch_shape: tuple[int, ...] = ()
) -> None:
    """Say which problems have fewer samples of positive weight, (P,), than centroids to draw."""
    problems = (n_weighty < n_clusters).nonzero().flatten().tolist()
    if problems:
        fewest = int(n_weighty[problems].min())
        text = (
            f"{n_clusters - fewest} of n_clusters={n_clusters} centroids repeat others: "
            f"sample_weight is positive for only {fewest} samples"
        )
        _warn(problems, text, batch_shape)


def _warn(problems: list[int], text: str, batch_shape: tuple[int, ...]) -> None:
    if batch_shape:
        names = [problem_name(problem, batch_shape) for problem in problems[:_SHOWN]]
        if len(problems) > 1:
            names = [f"problems {', '.join(name.removeprefix('problem ') for name in names)}"]
            text = f"up to {text}"
        rest = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        text = f"{names[0]}{rest}: {text}"
    warn(text)
