"""Samples that codes are revived by: drawn in steps that no number of them changes.

Row i of the rows of all ranks gets a key, a hash of i, the seed of the process and the number of
the step; the rows of least key are the samples. Keys are integers: the draws of a state are the
same on every device, whatever ranks hold the rows. Of each few samples the one that is farthest
from its code comes first: where errors are large, codes are wanted.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kmeans_module.core.statistics import accumulator_dtype, gather_rows
from kmeans_module.rows.keyed import hashed
from kmeans_module.rows.ranks import ProcessGroup, all_gather, rank, world_size

MOST = 1024  # samples of a step
_NEVER = torch.iinfo(torch.int64).max
# Odd numbers that set the keys of seeds, steps and problems apart.
OF_SEED, OF_STEP, OF_PROBLEM = 0x9E3779B97F4A7C15, 0x5851F42D4C957F2D, 0x2545F4914F6CDD1D


class Numbering(NamedTuple):
    """How draws tell the rows of a rank from those of the others.

    Attributes:
        before: rows of the ranks before this one.
        seed: the same on all ranks.
    """

    before: int | Tensor
    seed: int | Tensor


class Samples(NamedTuple):
    """At most :data:`MOST` rows, no two of them equal, in the order of their keys.

    Attributes:
        rows: (P, m, d).
        codes: of the rows, (P, m) int64.
        known: which of them are samples, (P, m) bool.
    """

    rows: Tensor
    codes: Tensor
    known: Tensor


def own_seed() -> int:
    """A number of 64 bits for the seed of this process, signed."""
    seed = torch.initial_seed() * OF_SEED % 2**64
    return seed - 2**64 if seed >= 2**63 else seed


def to_share(n: int, like: Tensor, group: ProcessGroup) -> Tensor:
    """What :func:`numbering` makes a numbering of, once it is summed up over the ranks.

    Args:
        n: rows of this rank.
        like: of the device and dtype that the sum has.
        group: the ranks.
    """
    place, world = rank(group), world_size(group)
    numbers = like.new_zeros(world + 2)
    numbers[place].fill_(n)
    if place == 0:
        seed = own_seed()
        numbers[world].fill_(seed >> 32)
        numbers[world + 1].fill_(seed & 0xFFFFFFFF)
    return numbers


def numbering(shared: Tensor, group: ProcessGroup) -> Numbering:
    """The numbering of this rank, from the sums of what the ranks have shared."""
    numbers = shared.long()
    seed = (numbers[-2] << 32) | numbers[-1]
    return Numbering(numbers[: rank(group)].sum(), seed)


def draw(
    rows: Tensor,
    valid: Tensor | None,
    codes: Tensor,
    *,
    most: int,
    step: Tensor,
    numbering: Numbering,
    metric: str,
    dtype: torch.dtype,
    group: ProcessGroup | None = None,
) -> Samples:
    """Samples of a batch.

    Args:
        rows: (P, n, d).
        valid: which rows count, (P, n) bool, or weights by which they are drawn; None for all
            alike.
        codes: of the rows, (P, n).
        most: samples to draw, if there are as many.
        step: number of the step of each problem, (P,) int64.
        numbering: of the rows.
        metric: "cosine" leaves out rows that are 0.
        dtype: of the samples, the same on all ranks.
        group: the ranks that hold the rest of the rows.
    """
    problems, n, _ = rows.shape
    stream = step * OF_STEP + numbering.seed
    if problems > 1:
        stream = stream + torch.arange(problems, device=rows.device) * OF_PROBLEM
    numbers = torch.arange(n, device=rows.device) + numbering.before
    keys = hashed(numbers + stream.unsqueeze(-1))
    if valid is not None:
        weighted = valid.dtype != torch.bool
        keys = by_weight(keys, valid) if weighted else keys.masked_fill(~valid, _NEVER)
    keys, drawn, codes = least(keys, rows, codes, most, dtype, group)
    known = _first_of_equals(drawn)
    if valid is not None or group is not None:
        known = known & (keys != _NEVER)
    if metric == "cosine":
        known = known & (drawn != 0).any(dim=-1)
    return Samples(drawn, codes, known)


def by_weight(keys: Tensor, weight: Tensor) -> Tensor:
    """Keys (P, n) int64 whose least ones are a draw in proportion to weights (P, n), as
    :mod:`kmeans_module.rows.keyed` draws. Equal weights keep the order of the keys."""
    uniform = ((keys >> 12).to(weight.dtype) + ((1 << 51) + 0.5)) / (1 << 52)
    times = torch.log1p(-uniform).neg() / weight
    times = times.clamp(max=torch.finfo(times.dtype).max)  # of weights that are nearly 0
    # Floats that are not negative are in the order of their bits.
    bits = times.view(torch.int64 if times.element_size() == 8 else torch.int32).long()
    return bits.masked_fill(weight <= 0, _NEVER)


def rivals_of(n_clusters: int) -> int:
    """Samples of which the farthest from its code comes first: 4, or 8 where there are more codes
    than samples of a step, so that codes are many for the vectors and crowd where these are."""
    return 4 if n_clusters <= MOST else 8


def far_first(samples: Samples, centroids: Tensor) -> Samples:
    """The same samples in another order: of each few in turn, see :func:`rivals_of`, the one that
    is farthest from its code; then of each of them the second, and so on.

    Uniform draws would put codes where samples are dense. There they lie closer together than an
    encoder moves them within a few steps, and lose their samples to one another; and the error is
    small already. A choice among a few, by the order of their distances alone, does not let far
    outliers take all codes, as a draw in proportion to squared distances would.

    Args:
        samples: m for each problem.
        centroids: that the codes of the samples are of, (P, k, d).

    Returns:
        m samples, and a few more that are not known.
    """
    rows, codes, known = samples
    rivals = rivals_of(centroids.shape[1])
    missing = -rows.shape[1] % rivals
    rows = torch.nn.functional.pad(rows, (0, 0, 0, missing))
    codes = torch.nn.functional.pad(codes, (0, missing))
    known = torch.nn.functional.pad(known, (0, missing))
    exact = accumulator_dtype(rows.device)
    apart = rows.to(exact) - gather_rows(centroids, codes).to(exact)
    away = apart.square().sum(dim=-1).masked_fill(~known, -1).view(len(rows), -1, rivals)
    order = away.sort(dim=-1, descending=True, stable=True).indices
    first = torch.arange(0, rows.shape[1], rivals, device=rows.device)
    order = (order + first.unsqueeze(-1)).mT.flatten(1)
    return Samples(gather_rows(rows, order), codes.gather(-1, order), known.gather(-1, order))


def least(
    keys: Tensor,
    rows: Tensor,
    codes: Tensor,
    most: int,
    dtype: torch.dtype,
    group: ProcessGroup | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys (P, m), rows (P, m, d) and codes (P, m) of the rows of least key, of all ranks."""
    most = min(most, MOST)
    keys, index = keys.topk(min(most, keys.shape[1]), dim=-1, largest=False)
    rows, codes = gather_rows(rows, index).to(dtype), codes.gather(-1, index)
    return (keys, rows, codes) if group is None else _least_of_ranks(keys, rows, codes, most, group)


def _least_of_ranks(
    keys: Tensor, rows: Tensor, codes: Tensor, most: int, group: ProcessGroup
) -> tuple[Tensor, Tensor, Tensor]:
    """The rows of least key of all ranks, in one collective."""
    missing = most - keys.shape[1]
    if missing:
        keys = torch.cat([keys, keys.new_full((len(keys), missing), _NEVER)], dim=-1)
        rows = torch.nn.functional.pad(rows, (0, 0, 0, missing))
        codes = torch.nn.functional.pad(codes, (0, missing))
    parts = [keys.unsqueeze(-1), codes.unsqueeze(-1), rows]
    sizes = [part.shape[-1] * part.element_size() for part in parts]
    sent = torch.cat([part.contiguous().view(torch.uint8) for part in parts], dim=-1)
    received = all_gather(sent, group).transpose(0, 1).flatten(1, 2)
    keys, codes, rows = (
        part.contiguous().view(own.dtype)
        for part, own in zip(torch.split(received, sizes, dim=-1), parts, strict=True)
    )
    keys, index = keys.squeeze(-1).topk(most, dim=-1, largest=False)
    return keys, gather_rows(rows, index), codes.squeeze(-1).gather(-1, index)


def _first_of_equals(rows: Tensor) -> Tensor:
    """Which of the rows (P, m, d) equal none before them, (P, m) bool.

    Equal rows have the same sum of their features with unlike weights; others do not, but for one
    pair in 2^50 or so, the second of which is left out.
    """
    exact = accumulator_dtype(rows.device)
    places = torch.arange(1, rows.shape[-1] + 1, device=rows.device, dtype=exact)
    value, order = (rows * places.sqrt()).sum(dim=-1).sort(dim=-1, stable=True)
    first = torch.ones_like(order, dtype=torch.bool)
    return first.scatter_(-1, order[:, 1:], value[:, 1:] != value[:, :-1])
