"""How well labels agree with true ones, for any number of rows."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from kmeans_module.core.statistics import accumulator_dtype


class Agreement(Metric):
    """Adjusted Rand index and normalized mutual information of two labelings.

    What is kept is the contingency table, which does not grow with the rows. torchmetrics has
    both scores, but keeps all labels; its AdjustedRandScore multiplies numbers of pairs in
    int64, which overflows beyond about 65,000 rows (-2.2 for 0.49 at 200,000), and its
    NormalizedMutualInfoScore is of float32, and 0 for a single cluster of a single class.

    Shape:
        - ``update(labels, target)``: int64, both (n,).
        - ``compute()``: dict of () float64: ``adjusted_rand`` (Hubert & Arabie, J. Classif. 2,
          1985) and ``normalized_mutual_info`` (by the mean of the entropies), as
          scikit-learn defines them; both are 1 for no rows.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    table: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("table", [], dist_reduce_fx="cat")

    def update(self, labels: Tensor, target: Tensor) -> None:
        """Count pairs of labels."""
        new = cells(labels.long(), target.long(), torch.ones_like(labels, dtype=torch.int64))
        self.table = [cells(*torch.cat([*self.table, new]).unbind(1))]

    def compute(self) -> dict[str, Tensor]:
        """The scores so far."""
        # A list before ranks are merged, a tensor after.
        parts = list(self.table) if len(self.table) else [torch.empty((0, 3), dtype=torch.int64)]
        table = torch.cat([part.view(-1, 3) for part in parts]).cpu()
        labels, target, sizes = cells(*table.unbind(1)).unbind(1)
        scores = {
            "adjusted_rand": adjusted_rand(labels, target, sizes),
            "normalized_mutual_info": normalized_mutual_info(labels, target, sizes),
        }
        exact = accumulator_dtype(self.device)
        return {
            name: torch.tensor(score, dtype=exact, device=self.device)
            for name, score in scores.items()
        }


def cells(labels: Tensor, target: Tensor, sizes: Tensor) -> Tensor:
    """The cells of a contingency table that are not empty, (m, 3): label, true label, rows.

    Args:
        labels, target: (n,) int64.
        sizes: rows with these labels, (n,) int64.
    """
    rows, row = numbered(labels)
    columns, column = numbered(target)
    width = max(1, len(columns))
    filled, place = numbered(row * width + column)
    totals = torch.zeros_like(filled).index_add(0, place, sizes)
    return torch.stack([rows[filled // width], columns[filled % width], totals], dim=1)


def adjusted_rand(labels: Tensor, target: Tensor, sizes: Tensor) -> float:
    """Of the cells of a contingency table, each (m,) int64."""
    n = int(sizes.sum())
    # Sums of squares are at most n², which int64 holds for 3e9 rows; their products are at most
    # n⁴, which it does not hold for 65,536: Python's integers do not overflow.
    both = int(sizes.square().sum())
    same_label, same_target = (int(totals(x, sizes).square().sum()) for x in (labels, target))
    together = both - n
    only_target, only_label = same_target - both, same_label - both
    apart = n * n - same_label - same_target + both
    if not only_label and not only_target:
        return 1.0
    agreeing = 2 * (together * apart - only_label * only_target)
    chance = (together + only_label) * (only_label + apart)
    return agreeing / (chance + (together + only_target) * (only_target + apart))


def normalized_mutual_info(labels: Tensor, target: Tensor, sizes: Tensor) -> float:
    """Of the cells of a contingency table, each (m,) int64."""
    of_label, of_target = totals(labels, sizes).double(), totals(target, sizes).double()
    if len(of_label) <= 1 and len(of_target) <= 1:
        return 1.0
    n, shares = float(sizes.sum()), sizes.double() / sizes.sum()
    label, column = numbered(labels)[1], numbered(target)[1]
    expected = of_label[label].log() + of_target[column].log() - math.log(n)
    information = float((shares * (sizes.double().log() - expected)).sum())
    if information <= torch.finfo(torch.float64).eps:
        return 0.0
    entropies = [float(torch.special.entr(part / n).sum()) for part in (of_label, of_target)]
    return min(1.0, 2 * information / sum(entropies))


def totals(labels: Tensor, sizes: Tensor) -> Tensor:
    """Rows of each label, in ascending order of the labels."""
    names, place = numbered(labels)
    return torch.zeros_like(names).index_add(0, place, sizes)


def numbered(labels: Tensor) -> tuple[Tensor, Tensor]:
    """The different labels in ascending order, and the place of each label (n,) among them."""
    names, place = labels.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    return names, place
