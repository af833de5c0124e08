"""Steps of codebooks: launches of the kernels of samples, codebook and following."""

from __future__ import annotations

import struct
from typing import NamedTuple

import torch
from torch import Tensor

from kmeans_module.backends.triton import launch
from kmeans_module.backends.triton.kernels import codebook, following, samples

_PROGRAMS = 32  # that add up the spread of a codebook


class Drawn(NamedTuple):
    """Samples of P problems: rows (P, m, d), their codes (P, m), and which of them are samples,
    (P, m) int8."""

    rows: Tensor
    codes: Tensor
    known: Tensor


@launch.on_device_of_first
def look(
    rows: Tensor,
    valid: Tensor | None,
    steps: Tensor,
    numbers: tuple[int, int] | Tensor | None,
    factors: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """What is bad among rows, and their keys.

    Args:
        rows: (P, n, d).
        valid: which of them count, (P, n) bool; None for all.
        steps: number of the step of each problem, (P,).
        numbers: rows before the first, and the seed, also (2,) int64; None if no keys are wanted.
        factors: of steps and of problems.

    Returns:
        how many rows are not finite, of any problem, and n less the first one, (2,) int64; and
        keys (P, n) int64.
    """
    problems, n, d = rows.shape
    draws, shared = numbers is not None, isinstance(numbers, Tensor)
    found = torch.zeros(2, dtype=torch.int64, device=rows.device)
    keys = torch.empty((problems, n if draws else 0), dtype=torch.int64, device=rows.device)
    counts = keys if valid is None else valid.view(torch.uint8)
    given = numbers if isinstance(numbers, tuple) else (0, 0)
    features = min(64, launch.power_of_two(d))
    size = max(16, 2048 // features)
    samples.look[(-(-n // size),)](
        rows, counts, steps, numbers if shared else found, found, keys, *rows.stride(),
        *counts.stride(), problems, n, d, *given, *factors,
        rows=size, features=features, draws=draws, masked=valid is not None, shared=shared,
        num_warps=4,
    )  # fmt: skip
    return found, keys


@launch.on_device_of_first
def known_of(rows: Tensor, keys: Tensor, *, unit: bool) -> Tensor:
    """Which of the rows (P, m, d) of least keys (P, m) are samples, unlike those before them."""
    problems, m, d = rows.shape
    known = torch.empty((problems, m), dtype=torch.int8, device=rows.device)
    size = 32
    samples.find_known[(-(-m // size), problems)](
        rows.contiguous(), keys, known, m, d,
        rows=size, others=64, features=min(64, launch.power_of_two(d)), unit=unit, num_warps=4,
    )  # fmt: skip
    return known


@launch.on_device_of_first
def record(
    centroids: Tensor,
    counts: Tensor,
    sums: Tensor,
    batch: Tensor,
    bad: Tensor,
    found: Tensor,
    drawn: Drawn | None,
    into: tuple[Tensor, ...],
    n: int,
    *,
    averages: bool,
    decay: float | None,
    smoothing: float,
    threshold: float | None,
    skips: bool,
    unit: bool,
    rivals: int,
) -> None:
    """Write what a batch teaches.

    Args:
        centroids, counts: of the codebooks, (P, k, d) float32 and (P, k) float64.
        sums, batch: of the samples of each code, (P, k, d) and how many they are, (P, k); float64.
        bad: whether the batch is not finite on some rank, () bool.
        found: of :func:`look`.
        drawn: samples that codes may be revived by; None where none is.
        into: next centroids and counts, leaders, recorded, skipped, refused.
        n: rows.
        averages: whether centroids are moving averages.
        decay: None where it grows.
        smoothing: of counts.
        threshold: of dead codes, in samples of a batch; None for a tenth of an even share.
        skips: whether bad batches are counted, and not refused.
        unit: whether centroids have unit length.
        rivals: samples of which the farthest from its code comes first.
    """
    next_centroids, next_counts, leaders, recorded, skipped, refused = into
    problems, k, d = centroids.shape
    device, revives = centroids.device, drawn is not None
    m = drawn.rows.shape[1] if drawn else 0
    rows, codes, known = drawn or (centroids, leaders, leaders)
    places = torch.empty((problems, k), dtype=torch.int32, device=device)
    order = _far_first(drawn, centroids, rivals) if drawn else leaders
    nth = torch.empty((problems, m), dtype=torch.int32, device=device)
    facts = torch.empty((problems, 4), dtype=torch.float64, device=device)
    width = min(8192, launch.power_of_two(k, 16))
    codebook.weigh[(problems,)](
        counts, batch, known, order, bad.view(torch.uint8), found, next_counts, places, nth, facts,
        recorded.view(torch.uint8), skipped, refused, k, m, order.shape[1], n,
        _bits(decay), _bits(threshold), size=width, growing=decay is None,
        even=threshold is None, revives=revives, skips=skips,
        num_warps=min(16, max(4, width // 256)),
    )  # fmt: skip
    size, features = 8, min(128, launch.power_of_two(d))
    codebook.learn[(-(-k // size), problems)](
        centroids, counts, batch, sums, rows, codes, places, nth, facts, next_centroids, leaders,
        k, d, m, _bits(smoothing), rows=size, features=features, averages=averages,
        revives=revives, unit=unit, num_warps=4,
    )  # fmt: skip


def _far_first(drawn: Drawn, centroids: Tensor, rivals: int) -> Tensor:
    """Places of the samples in the order in which codes take them, (P, m or a few more)."""
    (problems, m, d), k = drawn.rows.shape, centroids.shape[1]
    groups = -(-m // rivals)
    order = torch.empty((problems, groups * rivals), dtype=torch.int32, device=centroids.device)
    size = 4 * rivals
    samples.far_first[(-(-groups // 4), problems)](
        drawn.rows, drawn.codes, drawn.known, centroids, order, m, k, d, groups,
        rows=size, features=min(64, launch.power_of_two(d)), rivals=rivals, num_warps=4,
    )  # fmt: skip
    return order


@launch.on_device_of_first
def apply(
    centroids: Tensor,
    counts: Tensor,
    next_centroids: Tensor,
    next_counts: Tensor,
    leaders: Tensor,
    recorded: Tensor,
    *,
    averages: bool,
    unit: bool,
) -> Tensor:
    """Take over what was recorded: counts (P, k) in place, centroids (P, k, d) are returned."""
    problems, k, d = centroids.shape
    flag = recorded.view(torch.uint8)
    features, size = min(128, launch.power_of_two(d)), 32
    per_program = -(-k // (_PROGRAMS * size)) * size
    programs = -(-k // per_program)
    partial = torch.empty((problems, programs, d + 1), dtype=torch.float64, device=centroids.device)
    following.add_spread[(programs, problems)](
        centroids, next_centroids, leaders, flag, partial, k, d, per_program,
        rows=size, features=features, averages=averages, num_warps=4,
    )  # fmt: skip
    moved, size = torch.empty_like(centroids), 8
    following.follow[(-(-k // size), problems)](
        centroids, next_centroids, leaders, flag, partial, moved, counts, next_counts, k, d,
        programs, rows=size, features=features, averages=averages, unit=unit, num_warps=4,
    )  # fmt: skip
    return moved


def _bits(number: float | None) -> int:
    """The bits of a float64 number, which kernels would take as a float32."""
    bits: int = struct.unpack("<q", struct.pack("<d", number or 0.0))[0]
    return bits
