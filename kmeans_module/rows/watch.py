"""Whether every pass over a stream brings the same rows; large batches in parts."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kmeans_module.rows.batch import Batch
from kmeans_module.rows.ranks import ProcessGroup, all_sum

PART_ROWS = 1 << 18  # of a large batch, taken together
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def parts_of(batch: Batch) -> Iterator[Batch]:
    """Views of the rows of a batch, few enough that what is made for each of them is small."""
    n = batch.x.shape[-2]
    if n <= PART_ROWS:
        yield batch
        return
    for first in range(0, n, PART_ROWS):
        part = slice(first, first + PART_ROWS)
        weight = batch.sample_weight
        yield Batch(
            batch.x[part],
            None if weight is None else weight[part],
            start=(batch.start or 0) + first,
            index=None if batch.index is None else batch.index[part],
        )


class Watch:
    """Whether a pass brings what the pass before brought: rows, counted, and a checksum of the
    first feature of the rows that weigh something, which no order of the rows changes.

    Args:
        group: the ranks that hold the rest.
        same: whether a pass has to bring the rows of the one before; else only some rows.
    """

    def __init__(self, group: ProcessGroup | None, *, same: bool = True) -> None:
        self.group = group
        self.same = same
        self.expected: list[int] | None = None
        self._passing: Tensor | None = None

    def begin(self) -> None:
        """Before the first batch of a pass."""
        self._passing = None

    def see(self, batch: Batch) -> None:
        """Count a batch."""
        for part in parts_of(batch):
            column = part.x[:, 0].contiguous()
            bits = column.view(_BITS[column.element_size()])
            if part.sample_weight is not None:
                bits = bits * (part.sample_weight > 0)
            checksum = bits.sum(dtype=torch.int64)
            seen = torch.stack([checksum.new_full((), len(column)), checksum])
            self._passing = seen if self._passing is None else self._passing + seen

    def end(self) -> None:
        """After the last batch of a pass.

        Raises:
            ValueError: the pass brought other rows than the one before, or none.
        """
        none = torch.zeros(2, dtype=torch.int64, device="cpu")
        seen = none if self._passing is None else self._passing
        n_rows, checksum = all_sum([seen], self.group)[0].tolist()
        self._passing = None
        if self.expected is None:
            self.expected = [n_rows, checksum]
            return
        before = self.expected[0]
        if n_rows == 0 and before:
            raise ValueError(
                f"the second pass over the batches brought no rows, the first {before}: hand in "
                "a loader, a list or a class whose __iter__ starts again, not an iterator"
            )
        if not self.same:
            return
        if n_rows != before:
            raise ValueError(
                f"a pass over the batches brought {n_rows} rows, the one before {before}: "
                "every pass has to bring the same"
            )
        if checksum != self.expected[1]:
            raise ValueError(
                f"a pass over the batches brought other values in its {n_rows} rows than the one "
                "before: every pass has to bring the same (in any order)"
            )
