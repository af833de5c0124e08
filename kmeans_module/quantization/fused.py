"""A training step in few launches, where the Triton kernels serve; see :mod:`steps` for torch."""

from __future__ import annotations

import torch
from torch import Tensor

from kmeans_module.backends import backend_for
from kmeans_module.quantization import decisions, learning, samples
from kmeans_module.quantization.codebook_state import CodebookState
from kmeans_module.quantization.rule import Rule
from kmeans_module.rows.ranks import ProcessGroup


def serves(state: CodebookState, rows: Tensor | None = None, valid: Tensor | None = None) -> bool:
    """Whether a step of a codebook, on these rows (P, n, d), is one for the kernels: they take a
    mask (P, n), no weights."""
    if learning.is_weighted(valid):
        return False
    centroids = state.centroids
    rows = centroids if rows is None else rows
    return (
        decisions.decides_on_device(centroids)
        and rows.dtype == centroids.dtype == torch.float32
        and rows.shape[1] > 0
        and centroids.is_contiguous()
        and backend_for(rows, centroids.dtype, "codebook").name == "triton"
    )


def record(
    state: CodebookState,
    rule: Rule,
    rows: Tensor,
    valid: Tensor | None,
    codes: Tensor | None,
    group: ProcessGroup | None,
) -> Tensor:
    """What :func:`kmeans_module.quantization.steps.record` does."""
    from kmeans_module.backends.triton import codebook

    stats, codes = learning.statistics(rows, valid, codes, state.centroids)
    revives, factors = rule.revive_below != 0, (samples.OF_STEP, samples.OF_PROBLEM)
    unit, drawn, keys = rule.metric == "cosine", None, state.leaders
    if group is None:
        numbers = (0, samples.own_seed()) if revives else None
        found, keys = codebook.look(rows, valid, state.n_iter, numbers, factors)
        bad = found[0] > 0
    else:
        found, _ = codebook.look(rows, valid, state.n_iter, None, factors)
        stats, bad, _, numbering = learning.of_all_ranks(
            stats, found[0] > 0, rows.shape[1], valid, group
        )
        if revives:
            shared = torch.stack([torch.as_tensor(number) for number in numbering])
            _, keys = codebook.look(rows, valid, state.n_iter, shared, factors)
    if revives:
        keys, least, own = samples.least(
            keys, rows, codes, state.counts.shape[-1], rows.dtype, group
        )
        if rule.draws_codes:
            own = learning.nearest(least, state.centroids)
        drawn = codebook.Drawn(
            least.contiguous(), own.contiguous(), codebook.known_of(least, keys, unit=unit)
        )
    codebook.record(
        state.centroids, state.counts, stats.sums, stats.counts, bad, found, drawn,
        (state.next_centroids, state.next_counts, state.leaders, state.recorded, state.skipped,
         state.refused),
        rows.shape[1], averages=rule.update == "ema", decay=rule.decay, smoothing=rule.smoothing,
        threshold=rule.revive_below, skips=rule.nonfinite == "skip", unit=unit,
        rivals=samples.rivals_of(state.counts.shape[-1]),
    )  # fmt: skip
    return codes


def apply(state: CodebookState, rule: Rule) -> None:
    """What :func:`kmeans_module.quantization.steps.apply` does."""
    from kmeans_module.backends.triton import codebook

    moved = codebook.apply(
        state.centroids, state.counts, state.next_centroids, state.next_counts, state.leaders,
        state.recorded, averages=rule.update == "ema", unit=rule.metric == "cosine",
    )  # fmt: skip
    state.centroids.copy_(moved)
    state.n_iter.add_(state.recorded)
    state.leaders.zero_()
    state.recorded.zero_()
