"""Lloyd's algorithm: E-step and M-step by turns, until nothing moves."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kmeans_module.backends import Workspace
from kmeans_module.core.empty_clusters import raise_if_empty
from kmeans_module.functional import m_step
from kmeans_module.rows.ranks import ProcessGroup, all_sum_stats


class LloydResult(NamedTuple):
    """Outcome for P problems; labels and inertia are those of the centroids.

    Attributes:
        centroids: (P, k, d).
        labels: of this rank's rows, (P, n) int64.
        counts: weight of each cluster, (P, k) float64.
        inertia: (P,) float64.
        n_iter: iterations, (P,) int64.
        converged: (P,) bool.
        history: inertia of the centroids before each iteration, and at last of those
            returned, (P, T) float64; a problem that ended earlier repeats its last.
    """

    centroids: Tensor
    labels: Tensor
    counts: Tensor
    inertia: Tensor
    n_iter: Tensor
    converged: Tensor
    history: Tensor


class NonFiniteInertiaError(ValueError):
    """Distances came out NaN or infinite: the caller knows the data and says why."""


@torch.no_grad()
def lloyd(
    workspace: Workspace,
    centroids: Tensor,
    *,
    max_iter: int = 300,
    threshold: Tensor | None = None,
    empty_cluster: str = "relocate",
    metric: str = "euclidean",
    process_group: ProcessGroup | None = None,
    start: int = 0,
) -> LloydResult:
    """Iterate until no label changes, the shift is within the threshold, or max_iter.

    Args:
        workspace: of this rank's rows.
        centroids: initial, (P, k, d).
        max_iter: iterations at most.
        threshold: shift Σ‖c_new - c_old‖² that counts as standing still, (P,); None for 0.
        empty_cluster: policy, see :func:`kmeans_module.functional.update_centroids`.
        metric: "euclidean" or "cosine".
        process_group: the ranks that hold the rest of the rows.
        start: number of this rank's first row in the whole data.

    Raises:
        NonFiniteInertiaError: distances are NaN or infinite.
        EmptyClusterError: by the policy "error".
    """
    problems = len(centroids)
    limit = np.zeros(problems) if threshold is None else threshold.cpu().numpy()
    active = np.ones(problems, dtype=bool)
    converged = np.zeros(problems, dtype=bool)
    n_iter = np.zeros(problems, dtype=np.int64)
    refilled = np.ones(problems, dtype=bool)
    history: list[Tensor] = []
    shift = centroids.new_full((problems,), torch.inf, dtype=torch.float32)

    for iteration in range(max_iter + 1):
        step = workspace.e_step(centroids, start=start, distances=False)
        stats, (changed,) = all_sum_stats(step.stats, process_group, also=[workspace.changed])
        empty = (stats.counts == 0).sum(dim=-1)
        # The only wait for the device in an iteration.
        report = torch.stack([v.to(stats.inertia) for v in (stats.inertia, changed, empty, shift)])
        report = report.cpu()
        inertia, n_changed, n_empty, shifts = report.numpy()
        if not np.isfinite(inertia).all():
            raise NonFiniteInertiaError("the inertia is not finite")
        some_empty = bool(n_empty.any())
        if empty_cluster == "error" and some_empty:
            raise_if_empty(stats.counts)
        history.append(report[0])
        same_labels = active & (n_changed == 0) & ~refilled
        still = active & (shifts <= limit)
        n_iter[active] = iteration
        n_iter[same_labels & ~still] = min(iteration + 1, max_iter)
        converged |= same_labels | still
        active &= ~converged
        if iteration == max_iter or not active.any():
            break
        refilled = (n_empty > 0) & (empty_cluster in ("relocate", "split"))
        moved, _, shift = m_step(
            centroids, stats, empty_cluster=empty_cluster, metric=metric, some_empty=some_empty
        )
        if not active.all():
            moves = torch.from_numpy(active).to(centroids.device)
            moved = moved.where(moves.view(-1, 1, 1), centroids)
        centroids = moved

    device = centroids.device
    return LloydResult(
        centroids, step.labels, stats.counts, stats.inertia,
        torch.from_numpy(n_iter).to(device), torch.from_numpy(converged).to(device),
        torch.stack(history, dim=-1).to(device),
    )  # fmt: skip
