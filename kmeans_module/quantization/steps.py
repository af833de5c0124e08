"""The two halves of a training step: what a batch teaches, and the codebook that follows it.

Both are sequences of operations on tensors that depend on no number; the CPU leaves out what
:mod:`kmeans_module.quantization.decisions` tells it does not matter.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from kmeans_module.core.statistics import ClusterStats
from kmeans_module.quantization import learning, revival
from kmeans_module.quantization.codebook_state import CodebookState
from kmeans_module.quantization.decisions import may_be, put
from kmeans_module.quantization.samples import Numbering, draw
from kmeans_module.rows.ranks import ProcessGroup


class Rule(NamedTuple):
    """How a codebook learns; see :class:`kmeans_module.VectorQuantizer`."""

    update: str
    decay: float | None
    smoothing: float
    revive_below: float | None
    metric: str


def record(
    state: CodebookState,
    rule: Rule,
    stats: ClusterStats,
    counts: Tensor,
    rows: Tensor,
    valid: Tensor | None,
    codes: Tensor,
    *,
    are_nearest: bool,
    numbering: Numbering,
    group: ProcessGroup | None,
) -> None:
    """Write what a batch teaches into what the next update brings.

    Args:
        state: of P codebooks.
        rule: of their learning.
        stats: of all ranks.
        counts: whether the batch counts, ().
        rows: of this rank, (P, n, d).
        valid: which rows count, (P, n) bool; None for all.
        codes: of the rows, (P, n).
        are_nearest: whether these are the nearest, and not drawn.
        numbering: of the rows.
        group: the ranks that hold the rest of the rows.
    """
    decay = rule.decay
    gamma = learning.growing_decay(state.counts, stats.counts) if decay is None else decay
    total = gamma * state.counts + stats.counts
    centroids = state.centroids
    if rule.update == "ema":
        centroids = learning.moving_average(
            centroids, state.counts, stats.sums, total,
            decay=gamma, smoothing=rule.smoothing, metric=rule.metric,
        )  # fmt: skip
    if rule.revive_below != 0:
        least = revival.least_counts(total, decay=gamma, threshold=rule.revive_below)
        if may_be((total < least).any()):
            samples = draw(
                rows, valid, codes, most=total.shape[-1], step=state.n_iter, numbering=numbering,
                metric=rule.metric, group=group,
            )  # fmt: skip
            if not are_nearest:
                samples = samples._replace(codes=learning.nearest(samples.rows, state.centroids))
            centroids, total, leaders = revival.revive(
                samples, centroids, total, least, decay=gamma
            )
            put(state.leaders, leaders, counts)
    if centroids is not state.centroids:
        put(state.next_centroids, centroids, counts)
    put(state.next_counts, total, counts)
    state.recorded.copy_(counts)


def apply(state: CodebookState, rule: Rule) -> None:
    """Move the codebooks to what was recorded, if anything was."""
    recorded = state.recorded
    if not may_be(recorded):
        return
    # Centroids that learn by gradient have been moved by the optimizer meanwhile.
    learnt = rule.update == "ema"
    centroids = state.next_centroids if learnt else state.centroids
    if rule.revive_below != 0 and may_be((revived := state.leaders > 0).any()):
        centroids = revival.follow(
            state.next_centroids,
            state.leaders,
            state.centroids.where(revived.unsqueeze(-1), centroids) if learnt else centroids,
            metric=rule.metric,
        )
        state.leaders.zero_()
    if centroids is not state.centroids:
        put(state.centroids, centroids, recorded)
    put(state.counts, state.next_counts, recorded)
    state.n_iter.add_(recorded)
    recorded.zero_()
