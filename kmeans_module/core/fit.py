"""From samples to centroids: survey the data, initialise, iterate, keep the best restart."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from kmeans_module.backends import compute_dtype, prepare
from kmeans_module.checks import raise_nonfinite, scan
from kmeans_module.core.empty_clusters import rounding
from kmeans_module.core.lloyd import LloydResult, NonFiniteInertiaError, lloyd
from kmeans_module.core.seeding import Init, initialize_centroids
from kmeans_module.rows.batch import Batch
from kmeans_module.rows.ranks import (
    ProcessGroup,
    all_gather,
    all_sum_stats,
    errors_shared,
    rank,
)

# Labels of the restarts that run together: more of them cost memory, fewer cost calls.
_RESTARTS_ELEMENTS = 1 << 20


def survey(
    batches: Sequence[Batch],
    *,
    n_clusters: int,
    n_problems: int,
    metric: str,
    like: Tensor,
    process_group: ProcessGroup | None = None,
) -> tuple[list[Batch], Tensor]:
    """Refuse data that cannot be clustered; number the rows of ranks that hold one batch each.

    Args:
        batches: of this rank; x is (n, d), shared by the problems, or (P, n, d).
        n_clusters: k.
        n_problems: P.
        metric: "euclidean" or "cosine".
        like: a tensor of the layer's dtype and device.
        process_group: the ranks that hold the rest of the rows.

    Returns:
        The batches, and the mean variance of the features (P,), what ``tol`` is relative to.

    Raises:
        ValueError: fewer samples (of positive weight) than clusters, NaN, infinity, overflow.
    """
    n_samples, n_weighty = 0, 0
    for batch in batches:
        n_samples += batch.x.shape[-2]
        if batch.sample_weight is None:
            n_weighty += batch.x.shape[-2]
        elif batch.sample_weight.numel():
            n_weighty += int((batch.sample_weight > 0).sum(dim=-1).min())
    sizes = all_gather(torch.tensor([n_samples, n_weighty], device=like.device), process_group)
    n_samples, n_weighty = (int(total) for total in sizes.sum(dim=0))
    if len(batches) == 1:
        before = int(sizes[: rank(process_group), 0].sum())
        batches = [batches[0]._replace(start=before)]
    with errors_shared(process_group):
        if n_samples < n_clusters:
            raise ValueError(f"n_samples={n_samples} should be >= n_clusters={n_clusters}")
        if n_weighty < n_clusters:
            raise ValueError(
                f"sample_weight should be positive for n_clusters={n_clusters} samples at least; "
                f"it is for {n_weighty}"
            )
        variance = scan(
            batches, n_problems=n_problems, metric=metric, like=like, group=process_group
        )
    return list(batches), variance


def fit(
    batch: Batch,
    n_clusters: int,
    *,
    init: Init,
    max_iter: int,
    tol: float,
    n_init: int,
    n_problems: int,
    metric: str,
    empty_cluster: str,
    like: Tensor,
    generator: torch.Generator | None = None,
    process_group: ProcessGroup | None = None,
) -> LloydResult:
    """The best of ``n_init`` runs of Lloyd's algorithm on this rank's rows.

    ``batch`` holds x as (n, d), shared by the problems, or (P, n, d); an ``init`` that is a
    tensor (k, d) or (P, k, d) needs one run only.
    See :meth:`kmeans_module.KMeansLayer.fit` for the other arguments.
    """
    (batch,), variance = survey(
        [batch], n_clusters=n_clusters, n_problems=n_problems, metric=metric, like=like,
        process_group=process_group,
    )  # fmt: skip
    workspace = prepare(batch.x, batch.sample_weight, metric=metric)
    n_init = 1 if isinstance(init, Tensor) else n_init
    together = 1
    shared = batch.x.ndim == 2 and (batch.sample_weight is None or batch.sample_weight.ndim == 1)
    if workspace.together and n_init > 1 and shared and not callable(init):
        n_samples = int(all_gather(variance.new_tensor([batch.x.shape[-2]]), process_group).sum())
        together = min(n_init, max(1, _RESTARTS_ELEMENTS // (n_problems * max(1, n_samples))))
    best: LloydResult | None = None
    for first in range(0, n_init, together):
        restarts = min(together, n_init - first)
        centroids = initialize_centroids(
            [batch], n_clusters, init=init, n_problems=restarts * n_problems, metric=metric,
            like=like, generator=generator, process_group=process_group,
            workspaces=[workspace],
        )  # fmt: skip
        try:
            found = lloyd(
                workspace, centroids, max_iter=max_iter,
                threshold=(tol * variance).repeat(restarts), empty_cluster=empty_cluster,
                metric=metric, process_group=process_group, start=batch.start,
            )  # fmt: skip
        except NonFiniteInertiaError:
            raise_nonfinite(batch.x, compute_dtype(batch.x, centroids))
            raise
        if restarts > 1:
            found = _best_restart(found, n_problems)
        if n_init > together:  # the workspace's next E-step would overwrite the labels
            found = found._replace(labels=found.labels.clone())
        best = found if best is None else _better(best, found)
    best = cast("LloydResult", best)
    if together > 1:
        # Ties within rounding fall as they do in a call on these problems alone.
        step = workspace.e_step(best.centroids, start=batch.start)
        stats, _ = all_sum_stats(step.stats, process_group)
        best.history[:, -1] = stats.inertia
        best = best._replace(labels=step.labels, counts=stats.counts, inertia=stats.inertia)
    return best._replace(history=_resize(best.history, int(best.n_iter.max()) + 1))


def _best_restart(found: LloydResult, n_problems: int) -> LloydResult:
    """For each problem the restart of lowest inertia, the first of equals."""
    restart = found.inertia.view(-1, n_problems).argmin(dim=0)
    index = restart * n_problems + torch.arange(n_problems, device=restart.device)
    return LloydResult(*(field[index] for field in found))


def _better(old: LloydResult, new: LloydResult) -> LloydResult:
    """For each problem the result of lower inertia; histories are drawn out to one length."""
    length = max(old.history.shape[1], new.history.shape[1])
    old, new = (result._replace(history=_resize(result.history, length)) for result in (old, new))
    better = new.inertia < old.inertia
    return LloydResult(
        *(b.where(better.view(-1, *[1] * (a.ndim - 1)), a) for a, b in zip(old, new, strict=True))
    )


def _resize(history: Tensor, length: int) -> Tensor:
    """(P, length): cut, or drawn out by the last inertia."""
    columns = torch.arange(length, device=history.device).clamp(max=history.shape[1] - 1)
    return history[:, columns]


def warn_of_surplus(
    centroids: Tensor, counts: Tensor, inertia: Tensor, *, empty_cluster: str, stacklevel: int
) -> None:
    """Say how many clusters were left without samples, and why.

    Args:
        centroids: (P, k, d).
        counts: (P, k).
        inertia: (P,).
        empty_cluster: the policy.
        stacklevel: of the caller.
    """
    n_clusters = counts.shape[-1]
    empty = int((counts == 0).sum(dim=-1).max())
    if not empty:
        return
    negligible = rounding(counts, centroids.dtype).square() * counts
    squared_norms = centroids.to(counts).square().sum(dim=-1)
    if (inertia > (negligible * squared_norms).sum(dim=-1)).any():
        cause = "no sample is nearest to their centroids"
    else:
        cause = f"x has only {n_clusters - empty} distinct rows"
    warnings.warn(
        f"{empty} of n_clusters={n_clusters} clusters have no samples: {cause} "
        f"(empty_cluster={empty_cluster!r})",
        stacklevel=stacklevel + 1,
    )
