"""Draws without replacement in one pass: the rows of least key, whatever batches and ranks.

Row i gets the key -log(u_i) / mass_i, where u_i comes from a hash of a seed and the number of the
row; the m rows of least key are a draw in proportion to the masses (Efraimidis & Spirakis,
Weighted random sampling with a reservoir, IPL 97, 2006). They merge like any statistic.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from kmeans_module.core.generators import Generators, drawn, n_restarts, place_of
from kmeans_module.core.sparse import is_sparse, part_of, rows_at, rows_of_numbers
from kmeans_module.core.statistics import accumulator_dtype, gather_rows
from kmeans_module.rows.batch import Batch, row_numbers, weighs
from kmeans_module.rows.ranks import ProcessGroup, all_gather, broadcast

_ROWS = 1 << 17  # hashed together
# Of splitmix64 (Steele, Lea & Flood, OOPSLA 2014), as signed numbers.
_GAMMA, _FIRST, _SECOND = -7046029254386353131, -4658895280553007687, -7723592293110705685


class KeyedDraw:
    """m distinct rows for each of P problems, drawn in proportion to masses.

    Args:
        m: rows to draw.
        seeds: of the keys, (P,) int64, alike on all ranks.
        n_features: d.
        dtype: of the rows.
    """

    def __init__(self, m: int, seeds: Tensor, *, n_features: int, dtype: torch.dtype) -> None:
        self.m, self.seeds = m, seeds
        problems, device = len(seeds), seeds.device
        accumulator = accumulator_dtype(device)
        # In any order; slots that nothing has filled yet have the key infinity.
        self.keys = torch.full((problems, m), torch.inf, dtype=accumulator, device=device)
        self.rows = torch.zeros((problems, m, n_features), dtype=dtype, device=device)
        self.weights = torch.zeros((problems, m), dtype=accumulator, device=device)

    def add(self, rows: Tensor, weights: Tensor | None, masses: Tensor, numbers: Tensor) -> None:
        """Take the rows of a batch.

        Args:
            rows: (n, d) or (P, n, d).
            weights: that go with the drawn rows, (n,) or (P, n); None for 1.
            masses: (P, n); 0 for rows that are not drawn.
            numbers: of the rows in the data, (n,) int64.
        """
        for first in range(0, masses.shape[-1], _ROWS):
            part = slice(first, first + _ROWS)
            keys = self._keys(masses[:, part], numbers[part])
            for p in range(len(keys)):
                own_rows = rows[p, part] if rows.ndim == 3 else part_of(rows, part)
                own_weights = weights[p] if weights is not None and weights.ndim == 2 else weights
                self._take(p, keys[p], own_rows, None if own_weights is None else own_weights[part])

    def _take(self, p: int, keys: Tensor, rows: Tensor, weights: Tensor | None) -> None:
        """Let rows (n, d) of problem p take the slots of rows with greater keys (n,)."""
        if keys.device.type == "cpu":
            self._take_few(p, keys, rows, weights)
        else:
            self._take_at_once(p, keys, rows, weights)

    def _take_at_once(self, p: int, keys: Tensor, rows: Tensor, weights: Tensor | None) -> None:
        """In tensors of fixed sizes: no device makes the host wait."""
        self.keys[p], least = torch.cat([self.keys[p], keys]).topk(self.m, largest=False)
        stays, old, new = least < self.m, least.clamp(max=self.m - 1), least - self.m
        new = new.clamp(min=0)
        taken = rows_at(rows, new).to(self.rows.dtype)
        self.rows[p] = self.rows[p, old].where(stays.unsqueeze(-1), taken)
        own = 1.0 if weights is None else weights[new].to(self.weights.dtype)
        self.weights[p] = self.weights[p, old].where(stays, own)

    def _take_few(self, p: int, keys: Tensor, rows: Tensor, weights: Tensor | None) -> None:
        """By themselves, since they are few in later batches."""
        below = (keys < self.keys[p].max()).nonzero().squeeze(-1)
        if not len(below):
            return
        all_keys = torch.cat([self.keys[p], keys[below]])
        least = all_keys.topk(self.m, largest=False, sorted=False).indices
        stays = torch.zeros(self.m, dtype=torch.bool, device=keys.device)
        stays[least[least < self.m]] = True
        slots = (~stays).nonzero().squeeze(-1)
        new = below[least[least >= self.m] - self.m]
        self.keys[p, slots] = keys[new]
        self.rows[p, slots] = rows_at(rows, new).to(self.rows.dtype)
        self.weights[p, slots] = 1.0 if weights is None else weights[new].to(self.weights.dtype)

    def finish(self, group: ProcessGroup | None) -> tuple[Tensor, Tensor, Tensor]:
        """Over all ranks, least key first: rows (P, m, d), weights and validity (P, m), where
        slots that no row with mass has filled are not valid."""
        keys, rows, weights = self.keys, self.rows, self.weights
        if group is not None:
            keys = all_gather(keys, group).transpose(0, 1).flatten(1)
            rows = all_gather(rows, group).transpose(0, 1).flatten(1, 2)
            weights = all_gather(weights, group).transpose(0, 1).flatten(1)
        order = keys.argsort(dim=-1, stable=True)[:, : self.m]
        keys = keys.gather(-1, order)
        return gather_rows(rows, order), weights.gather(-1, order), keys.isfinite()

    def _keys(self, masses: Tensor, numbers: Tensor) -> Tensor:
        accumulator = self.keys.dtype
        # 52 bits of the hash, in the middle of their interval: neither 0 nor 1
        bits = hashed(numbers + hashed(self.seeds).unsqueeze(-1)) >> 12 & ((1 << 52) - 1)
        uniform = (bits.to(accumulator) + 0.5) / (1 << 52)
        masses = masses.to(accumulator)
        keys = uniform.log().neg() / masses
        keys = keys.clamp(max=torch.finfo(accumulator).max)  # of masses that are nearly 0
        return keys.where(masses > 0, torch.inf)


def hashed(numbers: Tensor) -> Tensor:
    """64 bits that look random for each of the int64 numbers: splitmix64."""
    mixed = numbers * _GAMMA
    mixed = (mixed ^ (mixed >> 30 & (1 << 34) - 1)) * _FIRST
    mixed = (mixed ^ (mixed >> 27 & (1 << 37) - 1)) * _SECOND
    return mixed ^ (mixed >> 31 & (1 << 33) - 1)


def row_hashes(rows: Tensor) -> Tensor:
    """A number for the values of each row (..., n, d), (..., n) int64: equal rows have the same,
    of other rows 1 in 2^64 has."""
    d = rows.shape[-1]
    places = hashed(torch.arange(d, device=rows.device))
    if is_sparse(rows):
        return _sparse_hashes(rows, places)
    size = max(1, _ROWS // max(1, d * rows.shape[:-2].numel()))
    parts = torch.split(rows, size, dim=-2)
    return torch.cat([hashed(_bits(part) + places).sum(dim=-1) for part in parts], dim=-1)


def _bits(numbers: Tensor) -> Tensor:
    numbers = numbers + 0.0  # -0 is 0
    return numbers.view(torch.int64 if numbers.element_size() == 8 else torch.int32).long()


def _sparse_hashes(rows: Tensor, places: Tensor) -> Tensor:
    """Those of the dense rows: what zeros add depends on their places alone, modulo 2^64."""
    own = places[rows.col_indices().long()]
    differences = hashed(_bits(rows.values()) + own) - hashed(own)
    hashes = hashed(places).sum().expand(rows.shape[0]).clone()
    return hashes.index_add_(0, rows_of_numbers(rows), differences)


def where_first(values: Tensor) -> Tensor:
    """Which of the values (n,) have not come before, (n,) bool."""
    order = values.argsort(stable=True)
    ordered = values[order]
    first = torch.ones_like(values, dtype=torch.bool)
    first[order[1:]] = ordered[1:] != ordered[:-1]
    return first


def all_unlike(rows: Tensor) -> bool:
    """Whether no two of the rows of a problem, (P, n, d), are equal."""
    if rows.numel() * rows.shape[1] <= _ROWS:  # hashes of few rows take longer than all pairs
        equal = (rows.unsqueeze(1) == rows.unsqueeze(2)).all(dim=-1)
        return int(equal.sum()) == rows.shape[:2].numel()
    hashes = row_hashes(rows).sort(dim=-1).values
    return bool((hashes[:, 1:] != hashes[:, :-1]).all())


class DistinctRows:
    """m rows for each of P problems, no two of them equal, from one keyed draw after the other.

    Equal rows are one row that weighs as much as they together: the first of them that is drawn
    stands for all.

    Args:
        m: rows for each problem.
        n_problems: P.
        first: rows (P, c, d) to begin with; None for none.

    Attributes:
        rows: that are taken, (c, d) for each problem.
        wants_more: whether another draw may bring some.
    """

    def __init__(self, m: int, n_problems: int, first: Tensor | None = None) -> None:
        self.m = m
        self.n_problems = n_problems
        self.rows: list[Tensor] = []
        self.hashes: list[Tensor] = []
        self.wants_more = True
        if first is not None:
            self.take(first, torch.ones_like(first[..., 0], dtype=torch.bool))

    @property
    def lacks(self) -> bool:
        """Whether a problem has fewer than m rows."""
        return not self.rows or any(len(rows) < self.m for rows in self.rows)

    def take(self, rows: Tensor, valid: Tensor) -> None:
        """Take the rows (P, c, d) of a draw that are valid, (P, c), and unlike each other; they
        are unlike those of the draws before."""
        before = self.rows or [rows[p, :0] for p in range(self.n_problems)]
        self.rows, self.hashes, self.wants_more = [], [], False
        for p in range(self.n_problems):
            drawn = torch.cat([before[p], rows[p][valid[p]]])
            is_full = len(drawn) == len(before[p]) + rows.shape[1]
            hashes = row_hashes(drawn)
            first = where_first(hashes)
            self.rows.append(drawn[first][: self.m])
            self.hashes.append(hashes[first][: self.m])
            self.wants_more |= is_full and len(self.rows[p]) < self.m

    def unlike(self, weights: Tensor, rows: Tensor) -> Tensor:
        """Weights (P, n) of rows (n, d) or (P, n, d), 0 for those that are taken already."""
        hashes = row_hashes(rows)
        taken = [
            torch.isin(hashes if hashes.ndim == 1 else hashes[p], self.hashes[p])
            for p in range(self.n_problems)
        ]
        return weights.masked_fill(torch.stack(taken), 0)

    def finish(self) -> Tensor:
        """(P, m, d); the first row is repeated where there are too few, 0 where there is none."""
        filled = []
        for rows in self.rows:
            first = rows[:1] if len(rows) else rows.new_zeros(1, rows.shape[-1])
            filled.append(torch.cat([rows, first.expand(self.m - len(rows), -1)]))
        return torch.stack(filled)


def draw_seeds(
    problems: int,
    generator: Generators,
    device: torch.device,
    group: ProcessGroup | None,
) -> Tensor:
    """A seed of keyed draws for each problem, (P,) int64, the same on all ranks."""
    place, each = place_of(generator), problems // n_restarts(generator)

    def draw(generator: torch.Generator | None) -> Tensor:
        return torch.randint(2**62, (each,), device=place, generator=generator)

    numbers = drawn(draw, generator)
    return broadcast(numbers.to(device, non_blocking=True), group)


def repeat_first(rows: Tensor, valid: Tensor, m: int, *, otherwise: Tensor | None = None) -> Tensor:
    """Rows (P, m', d) made m by repeating the first in place of those that are not valid, or of
    ``otherwise`` (P, c, d) where none is."""
    if otherwise is not None:
        rows = rows.where(valid[:, :1, None], otherwise[:, :1].to(rows.dtype))
        valid = valid | ~valid[:, :1]
    rows = rows.where(valid.unsqueeze(-1), rows[:, :1])
    missing = m - rows.shape[1]
    return torch.cat([rows, rows[:, :1].expand(-1, missing, -1)], dim=1) if missing else rows


def keyed_sample(
    batches: Iterable[Batch],
    m: int,
    seeds: Tensor,
    group: ProcessGroup | None,
    *,
    example: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """At most m rows drawn uniformly from those of positive weight.

    Args:
        batches: one pass over the rows of this rank, with their starts.
        m: rows to draw.
        seeds: of the draw for each problem, (P,).
        group: the ranks that hold the rest.
        example: no rows, (0, d), of the dtype that the rows of all ranks have.

    Returns:
        (P, m, d), their weights (P, m), and which of them are rows, (P, m): a problem with fewer
        rows of positive weight leaves slots.
    """
    draw = KeyedDraw(m, seeds, n_features=example.shape[-1], dtype=example.dtype)
    for batch in batches:
        weight = batch.sample_weight
        draw.add(batch.x, weight, weighs(batch, len(seeds)), row_numbers(batch))
    return draw.finish(group)


def uniform_sample(
    batches: Iterable[Batch],
    m: int,
    seeds: Tensor,
    group: ProcessGroup | None,
    *,
    example: Tensor,
) -> tuple[Tensor, Tensor]:
    """:func:`keyed_sample` of as many rows as every problem has, (P, m, d), and their weights."""
    rows, weights, valid = keyed_sample(batches, m, seeds, group, example=example)
    m = int(valid.sum(dim=-1).min())
    return rows[:, :m], weights[:, :m]
