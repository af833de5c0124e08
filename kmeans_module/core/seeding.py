"""Where the centroids start.

``random`` takes distinct rows, ``k-means++`` spreads the centres by squared distance (Arthur
& Vassilvitskii, SODA 2007, greedy as in their section 5), ``k-means||`` does so in a few passes
for data in batches (Bahmani et al., VLDB 2012). All of them draw rows in proportion to
``sample_weight``, and find the same centroids whatever batches and ranks hold the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from reprlib import repr as brief

import torch
from torch import Tensor

from kmeans_module.backends import Workspace, prepare, unit_rows
from kmeans_module.core.lloyd import lloyd
from kmeans_module.rows.batch import Batch
from kmeans_module.rows.ranks import ProcessGroup, all_sum, broadcast, errors_shared, rank
from kmeans_module.rows.sharded import Rows

INITS = ("k-means++", "k-means||", "random")

# For each centre of k-means++. More than the usual 2 + ln k: they are measured together, and fits
# end lower.
_CANDIDATES = 16

InitFunction = Callable[[Tensor, int, "torch.Generator | None"], Tensor]
Init = str | Tensor | InitFunction


def initialize_centroids(
    batches: Sequence[Batch],
    n_clusters: int,
    *,
    init: Init,
    n_problems: int,
    metric: str,
    like: Tensor,
    generator: torch.Generator | None = None,
    process_group: ProcessGroup | None = None,
    workspaces: Sequence[Workspace] | None = None,
) -> Tensor:
    """Initial centroids of P independent problems.

    Args:
        batches: the rows of this rank; x is (n, d), shared by the problems, or (P, n, d).
        n_clusters: k.
        init: one of INITS, a tensor (k, d) or (P, k, d), or a function of the rows of the
            first rank, ``init(x, n_clusters, generator)``, that returns such a tensor.
        n_problems: P.
        metric: "euclidean" or "cosine".
        like: a tensor of the layer's dtype and device.
        generator: what the draws come from; None for torch's default.
        process_group: the ranks that hold the rest of the rows.
        workspaces: of the batches, where they exist already.

    Returns:
        (P, k, d), in the dtype of ``like``.

    Raises:
        ValueError: fewer samples than clusters, unknown init, or an init of another shape.
    """
    d = batches[0].x.shape[-1]
    with errors_shared(process_group):
        if isinstance(init, str) and init not in INITS:
            raise ValueError(
                f"init should be one of {', '.join(INITS)}, a tensor or a callable; got {init!r}"
            )
        if not isinstance(init, str):
            given: object = init
            if callable(init):
                x = torch.cat([batch.x for batch in batches], dim=-2)
                first = rank(process_group) == 0
                given = init(x, n_clusters, generator) if first else like.new_zeros(n_clusters, d)
            start = _check_given(given, n_problems, n_clusters, d, like)
            if metric == "cosine" and not callable(init) and bool((start == 0).all(-1).any()):
                raise ValueError('init should have no zero row where metric="cosine"')
    if not isinstance(init, str):
        start = start.repeat(n_problems // len(start), 1, 1)
        return _in_metric(broadcast(start, process_group), metric)
    rows = Rows(
        batches, n_problems=n_problems, metric=metric, like=like,
        generator=generator, group=process_group, workspaces=workspaces,
    )  # fmt: skip
    find = {"random": random, "k-means++": kmeans_plus_plus, "k-means||": kmeans_parallel}[init]
    return _in_metric(find(rows, n_clusters).to(like.dtype), metric)


def _in_metric(centroids: Tensor, metric: str) -> Tensor:
    return unit_rows(centroids) if metric == "cosine" else centroids


def _check_given(init: object, n_problems: int, k: int, d: int, like: Tensor) -> Tensor:
    if not isinstance(init, Tensor):
        raise TypeError(f"init should be a name, a tensor or a callable; got {brief(init)}")
    if init.is_complex():
        raise TypeError(f"init should hold real numbers; got {init.dtype}")
    if (
        init.ndim not in (2, 3)
        or init.shape[-2:] != (k, d)
        or (init.ndim == 3 and n_problems % len(init))
    ):
        raise ValueError(f"init should have shape {(k, d)}; got {tuple(init.shape)}")
    init = init.to(like)
    if not bool(init.isfinite().all()):
        raise ValueError(f"init should be finite in {like.dtype}; it contains NaN or infinity")
    return init if init.ndim == 3 else init.unsqueeze(0)


def random(rows: Rows, n_clusters: int) -> Tensor:
    """Distinct rows, drawn one after the other in proportion to their weight, (P, k, d)."""
    masses = [rows.weight(i).clone() for i in range(len(rows.batches))]
    chosen = [torch.empty(0, dtype=torch.int64, device=rows.device)] * rows.n_problems
    while any(len(positions) < n_clusters for positions in chosen):
        drawn = rows.draw(masses, n_clusters)
        rows.mark(masses, drawn)
        for p, positions in enumerate(drawn):
            chosen[p] = torch.cat([chosen[p], _first_occurrences(positions)])[:n_clusters]
    return rows.take(torch.stack(chosen))


def _first_occurrences(values: Tensor) -> Tensor:
    """The values without repetitions, in the order in which they come."""
    order = values.argsort(stable=True)
    ordered = values[order]
    repeated = torch.zeros_like(values, dtype=torch.bool)
    repeated[order[1:]] = ordered[1:] == ordered[:-1]
    return values[~repeated]


def kmeans_plus_plus(rows: Rows, n_clusters: int) -> Tensor:
    """Greedy k-means++: of 16 rows drawn by squared distance to the nearest centre, the one that
    lowers the potential most becomes the next centre, (P, k, d)."""
    weights = [rows.weight(i) for i in range(len(rows.batches))]
    center = rows.take(rows.draw(weights, 1))
    centers = [center]
    nearest = _nothing_near(rows)
    for _ in range(1, n_clusters):
        rows.lower(nearest, center)
        candidates = rows.take(_draw_far(rows, nearest, weights, _CANDIDATES))
        best = rows.potentials(nearest, candidates).argmin(dim=-1)
        center = candidates[torch.arange(rows.n_problems, device=rows.device), best].unsqueeze(1)
        centers.append(center)
    return torch.cat(centers, dim=1)


def kmeans_parallel(rows: Rows, n_clusters: int, *, n_rounds: int = 5) -> Tensor:
    """k-means||: in each of a few passes k rows are drawn by squared distance, all at once;
    k-means++ and Lloyd's algorithm reduce them, weighted by their clusters, to (P, k, d)."""
    weights = [rows.weight(i) for i in range(len(rows.batches))]
    centers = rows.take(rows.draw(weights, 1))
    candidates = [centers]
    nearest = _nothing_near(rows)
    for _ in range(n_rounds):
        rows.lower(nearest, centers)
        centers = rows.take(_draw_far(rows, nearest, weights, n_clusters))
        candidates.append(centers)
    found = torch.cat(candidates, dim=1)
    counts = torch.zeros(found.shape[:2], dtype=rows.accumulator, device=rows.device)
    for batch in rows.batches:
        workspace = prepare(batch.x, batch.sample_weight, metric=rows.metric)
        counts += workspace.e_step(found).stats.counts
    (counts,) = all_sum([counts], rows.group)
    few = Rows(
        [Batch(found, counts)], n_problems=rows.n_problems, metric=rows.metric, like=found,
        generator=rows.generator, group=None,
    )  # fmt: skip
    seeds = broadcast(kmeans_plus_plus(few, n_clusters), rows.group)
    workspace = prepare(found, counts, metric=rows.metric)
    return lloyd(workspace, seeds, metric=rows.metric, max_iter=10).centroids


def _nothing_near(rows: Rows) -> list[Tensor]:
    return [
        torch.full(
            (rows.n_problems, batch.x.shape[-2]), math.inf, dtype=rows.dtype, device=rows.device
        )
        for batch in rows.batches
    ]


def _draw_far(rows: Rows, nearest: list[Tensor], weights: list[Tensor], m: int) -> Tensor:
    """Positions (P, m) drawn by weight × squared distance; by weight where all are 0."""
    weighted = [
        near if batch.sample_weight is None and rows.metric == "euclidean" else near * weight
        for near, weight, batch in zip(nearest, weights, rows.batches, strict=True)
    ]
    return rows.draw(weighted, m, otherwise=weights)
