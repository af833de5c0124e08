"""k-means++ under way, on rows over batches and ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from kmeans_module.core.seeding import least

if TYPE_CHECKING:
    from kmeans_module.rows.draws import HeldDraws


class Rounds:
    """See :class:`kmeans_module.core.rows.Rounds`.

    Args:
        draws: the rows as seeding sees them.
        center: the first one, (P, 1, d).
        numbers: in [0, 1) that decide the draws of each round, (rounds, P, m).
    """

    def __init__(self, draws: HeldDraws, center: Tensor, numbers: Tensor) -> None:
        self._draws = draws
        # In one tensor: between the large ones of a round, small ones that stay would keep the
        # allocator from using memory again, as much of it as there are rows for every center.
        problems, _, d = center.shape
        self._centers = center.new_empty((problems, 1 + len(numbers), d))
        self._centers[:, :1] = center
        self._n = 1
        self._numbers = iter(numbers)
        self._candidates = center

    @property
    def centers(self) -> Tensor:
        return self._centers[:, : self._n]

    def lower(self) -> None:
        self._draws.lower(self._centers[:, self._n - 1 : self._n])

    def draw(self) -> None:
        self._candidates = self._draws.candidates(next(self._numbers))

    def choose(self) -> None:
        best = least(self._draws.potentials(self._candidates))
        index = best.view(-1, 1, 1).expand(-1, 1, self._candidates.shape[-1])
        self._centers[:, self._n : self._n + 1] = self._candidates.gather(1, index)
        self._n += 1
