"""How data arrive: what a loader hands out, as a Batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

_FORMS = (
    "a batch should be a tensor (n, n_features), (tensor, labels), a Batch, or a dict with 'x' "
    "and perhaps 'target' and 'sample_weight'"
)
_WEIGHT_NAMES = ("weight", "weights")


class Batch(NamedTuple):
    """Rows of one step, on one rank.

    Attributes:
        x: samples, (n, d).
        sample_weight: weights, (n,), or None for weight 1.
        target: true labels where the data know them, (n,) int64.
        start: position of the first row in the order over all ranks, in which the rows of a
            batch are consecutive; None for rows in the order of their arrival, rank by rank.
        index: row numbers in the data set, (n,) int64; None where they are
            ``start, start + 1, ...`` (nothing was shuffled).
        handle: what names the batch in every pass: a loader that gives one promises that the
            tensors stay as they are, and what was learned about their rows is found again.

    Example:
        >>> import torch
        >>> from kmeans_module import Batch, KMeansLayer
        >>> heavy = Batch(torch.tensor([[0.0], [3.0]]), sample_weight=torch.tensor([1.0, 2.0]))
        >>> KMeansLayer(n_clusters=1, n_features=1).fit([heavy]).inertia
        tensor(6., dtype=torch.float64)
    """

    x: Tensor
    sample_weight: Tensor | None = None
    target: Tensor | None = None
    start: int | None = None
    index: Tensor | None = None  # type: ignore[assignment]  # nobody searches a batch: tuple.index
    handle: Hashable | None = None


def as_batch(data: Any, batch_of: Callable[[Any], Any] | None = None) -> Batch:
    """The rows, weights and true labels of what a loader hands out.

    Args:
        data: a tensor (n, d), (tensor, labels), a :class:`~kmeans_module.Batch`, or a dictionary
            with "x" and perhaps "target" and "sample_weight".
        batch_of: makes one of these of anything else.

    Returns:
        The batch; its tensors are not copied.

    Raises:
        ValueError: data of another form; in particular a tuple whose second element is of
            floats, which could be weights.
    """
    if batch_of is not None:
        data = batch_of(data)
    if isinstance(data, Batch):
        return data
    target = weight = None
    if isinstance(data, Mapping):
        odd = [name for name in _WEIGHT_NAMES if name in data]
        if odd:
            raise ValueError(f"{_FORMS}; got {odd[0]!r}: weights are named 'sample_weight'")
        x, target, weight = (data.get(name) for name in ("x", "target", "sample_weight"))
    elif isinstance(data, tuple | list) and data:
        x, target = data[0], _labels(data)
    else:
        x = data
    if not isinstance(x, Tensor) or x.ndim != 2:
        shape = f" of shape {tuple(x.shape)}" if isinstance(x, Tensor) else ""
        raise ValueError(f"{_FORMS}; got a {type(x).__name__}{shape}; batch_of= can make one")
    if isinstance(target, Tensor) and target.shape != x.shape[:1]:
        raise ValueError(
            f"labels of a batch should have shape {tuple(x.shape[:1])}, one per row; "
            f"got {tuple(target.shape)}"
        )
    return Batch(x, weight, target)


def _labels(data: tuple[Any, ...] | list[Any]) -> Tensor | None:
    """The second element of a batch, which has to be labels."""
    if len(data) == 1:
        return None
    if len(data) > 2:
        raise ValueError(f"{_FORMS}; got {len(data)} elements; batch_of= can choose among them")
    labels = data[1]
    if labels is None:
        return None
    kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
    if not isinstance(labels, Tensor) or labels.is_floating_point():
        raise ValueError(
            f"{_FORMS}; got (tensor, {kind}), whose second element could be weights: hand in a "
            "dict, or say with batch_of="
        )
    return labels


class OneDtype:
    """Refuses rows of another dtype than the first ones."""

    def __init__(self) -> None:
        self.dtype: torch.dtype | None = None

    def __call__(self, x: Tensor) -> Tensor:
        self.dtype = self.dtype or x.dtype
        if x.dtype != self.dtype:
            raise ValueError(f"all batches should be of one dtype, {self.dtype}; got {x.dtype}")
        return x


def row_numbers(batch: Batch) -> Tensor:
    """The number of each row in its data set, (n,) int64: draws and ties go by it."""
    if batch.index is not None:
        return batch.index
    first, n = batch.start or 0, batch.x.shape[-2]
    return torch.arange(first, first + n, device=batch.x.device)


def weighs(batch: Batch, n_problems: int) -> Tensor:
    """1 for rows of positive weight, 0 for others, (P, n)."""
    x, weight = batch.x, batch.sample_weight
    if weight is None:
        return torch.ones((n_problems, x.shape[-2]), device=x.device)
    return (weight > 0).float().expand(n_problems, -1)
