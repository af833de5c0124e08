"""Draws without replacement in one pass: the rows of least key, whatever batches and ranks.

Row i gets the key -log(u_i) / mass_i, where u_i comes from a hash of a seed and the number of the
row; the m rows of least key are a draw in proportion to the masses (Efraimidis & Spirakis,
Weighted random sampling with a reservoir, IPL 97, 2006). They merge like any statistic.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kmeans_module.core.statistics import accumulator_dtype, gather_rows
from kmeans_module.rows.ranks import ProcessGroup, all_gather

_ROWS = 1 << 18  # hashed together
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
        self.keys = torch.empty((problems, 0), dtype=accumulator, device=device)
        self.rows = torch.empty((problems, 0, n_features), dtype=dtype, device=device)
        self.weights = torch.empty((problems, 0), dtype=accumulator, device=device)

    def add(self, rows: Tensor, weights: Tensor | None, masses: Tensor, start: int) -> None:
        """Take the rows of a batch.

        Args:
            rows: (n, d) or (P, n, d).
            weights: that go with the drawn rows, (n,) or (P, n); None for 1.
            masses: (P, n); 0 for rows that are not drawn.
            start: number of the first row.
        """
        for first in range(0, masses.shape[-1], _ROWS):
            part = slice(first, first + _ROWS)
            self._add(
                rows[..., part, :], None if weights is None else weights[..., part],
                masses[:, part], start + first,
            )  # fmt: skip

    def _add(self, rows: Tensor, weights: Tensor | None, masses: Tensor, start: int) -> None:
        keys = self._keys(masses, start)
        if keys.shape[-1] > self.m:
            keys, least = keys.topk(self.m, dim=-1, largest=False)
        else:
            least = torch.arange(keys.shape[-1], device=keys.device).expand_as(keys)
        drawn = gather_rows(rows, least) if rows.ndim == 3 else rows[least]
        if weights is None:
            weighs = torch.ones_like(keys)
        else:
            weighs = weights.expand(len(keys), -1).gather(-1, least).to(self.weights)
        self._keep(
            torch.cat([self.keys, keys], dim=-1),
            torch.cat([self.rows, drawn.to(self.rows)], dim=1),
            torch.cat([self.weights, weighs], dim=-1),
        )

    def finish(self, group: ProcessGroup | None) -> tuple[Tensor, Tensor, Tensor]:
        """Over all ranks, least key first: rows (P, m', d), weights and validity (P, m'), where
        rows without mass are not valid; m' is less than m where there are fewer rows."""
        if group is not None:
            missing = self.m - self.keys.shape[-1]
            pad = torch.nn.functional.pad
            keys = all_gather(pad(self.keys, (0, missing), value=torch.inf), group)
            rows = all_gather(pad(self.rows, (0, 0, 0, missing)), group)
            weights = all_gather(pad(self.weights, (0, missing)), group)
            self._keep(
                keys.transpose(0, 1).flatten(1),
                rows.transpose(0, 1).flatten(1, 2),
                weights.transpose(0, 1).flatten(1),
            )
        order = self.keys.argsort(dim=-1, stable=True)
        keys = self.keys.gather(-1, order)
        return gather_rows(self.rows, order), self.weights.gather(-1, order), keys.isfinite()

    def _keep(self, keys: Tensor, rows: Tensor, weights: Tensor) -> None:
        """The m of least key of all that there are."""
        if keys.shape[-1] > self.m:
            keys, least = keys.topk(self.m, dim=-1, largest=False)
            rows, weights = gather_rows(rows, least), weights.gather(-1, least)
        self.keys, self.rows, self.weights = keys, rows, weights

    def _keys(self, masses: Tensor, start: int) -> Tensor:
        n = masses.shape[-1]
        numbers = torch.arange(start, start + n, device=masses.device)
        accumulator = self.keys.dtype
        # 53 bits of the hash, in the middle of their interval: neither 0 nor 1
        bits = _hash(numbers + _hash(self.seeds).unsqueeze(-1)) >> 11 & ((1 << 53) - 1)
        uniform = (bits.to(accumulator) + 0.5) / (1 << 53)
        masses = masses.to(accumulator)
        keys = uniform.log().neg() / masses
        return keys.where(masses > 0, torch.inf)


def _hash(numbers: Tensor) -> Tensor:
    """64 bits that look random for each of the int64 numbers: splitmix64."""
    mixed = numbers * _GAMMA
    mixed = (mixed ^ (mixed >> 30 & (1 << 34) - 1)) * _FIRST
    mixed = (mixed ^ (mixed >> 27 & (1 << 37) - 1)) * _SECOND
    return mixed ^ (mixed >> 31 & (1 << 33) - 1)
