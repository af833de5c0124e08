"""What the tests of rows share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any


class Passes:
    """Batches that are made anew in every pass, and counted.

    Args:
        batches: of each pass.
        change: batches of pass 0, 1, ... from those of the first; None for the same.
        stable: whether the order is declared to be the same in every pass.
    """

    def __init__(
        self,
        batches: Sequence[Any],
        *,
        change: Callable[[Sequence[Any], int], Sequence[Any]] | None = None,
        stable: bool = False,
    ) -> None:
        self.batches = batches
        self.change = change
        self.stable = stable
        self.passes = 0

    def __iter__(self) -> Iterator[Any]:
        number = self.passes
        self.passes += 1
        yield from self.batches if self.change is None else self.change(self.batches, number)
