"""The two halves of a training step: what a batch teaches, and the codebook that follows it.

Both are sequences of operations on tensors that depend on no number; the CPU leaves out what
:mod:`kmeans_module.quantization.decisions` tells it does not matter.
"""

from __future__ import annotations

from torch import Tensor

from kmeans_module.quantization import learning, revival
from kmeans_module.quantization.codebook_state import CodebookState
from kmeans_module.quantization.decisions import may_be, put, refuse
from kmeans_module.quantization.rule import Rule
from kmeans_module.quantization.samples import draw, far_first
from kmeans_module.rows.ranks import ProcessGroup


def record(
    state: CodebookState,
    rule: Rule,
    rows: Tensor,
    valid: Tensor | None,
    codes: Tensor | None,
    group: ProcessGroup | None,
) -> Tensor:
    """Write what a batch teaches into what the next update brings.

    Args:
        state: of P codebooks.
        rule: of their learning.
        rows: of this rank, (P, n, d).
        valid: which rows count, (P, n) bool, or how much, floats; None for all alike.
        codes: of the rows, (P, n); None for the nearest.
        group: the ranks that hold the rest of the rows.

    Returns:
        The codes.

    Raises:
        ValueError: on the CPU, a row of some rank is not finite.
    """
    stats, codes = learning.statistics(rows, valid, codes, state.centroids)
    bad = learning.not_finite(rows, valid, stats)
    stats, bad, unit, numbering = learning.of_all_ranks(stats, bad, rows.shape[1], valid, group)
    if may_be(bad):
        if rule.nonfinite == "skip":
            state.skipped.add_(bad)
        else:
            refuse(state.refused, bad, rows)
    counts = ~bad & (stats.counts.sum() > 0)
    if not may_be(counts):
        return codes
    gamma: float | Tensor | None = rule.decay
    if gamma is None:
        gamma = learning.growing_decay(state.counts, stats.counts, unit)
    total = gamma * state.counts + stats.counts
    centroids = state.centroids
    if rule.update == "ema":
        centroids = learning.moving_average(
            centroids, state.counts, stats.sums, total,
            decay=gamma, smoothing=rule.smoothing * unit, metric=rule.metric,
        )  # fmt: skip
    if rule.revive_below != 0:
        threshold = None if rule.revive_below is None else rule.revive_below * unit
        least = revival.least_counts(total, decay=gamma, threshold=threshold)
        if may_be((total < least).any()):
            samples = draw(
                rows, valid, codes, most=total.shape[-1], step=state.n_iter, numbering=numbering,
                metric=rule.metric, dtype=state.next_centroids.dtype, group=group,
            )  # fmt: skip
            if rule.draws_codes:
                samples = samples._replace(codes=learning.nearest(samples.rows, state.centroids))
            n = stats.counts.sum(dim=-1, keepdim=True) / unit
            centroids, total, leaders = revival.revive(
                far_first(samples, state.centroids), centroids, total, least, decay=gamma,
                lives=revival.batches_to_live(n, total.shape[-1]),
            )  # fmt: skip
            put(state.leaders, leaders, counts)
    if centroids is not state.centroids:
        put(state.next_centroids, centroids, counts)
    put(state.next_counts, total, counts)
    state.recorded.copy_(counts)
    return codes


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
