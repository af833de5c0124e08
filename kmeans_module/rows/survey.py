"""The survey of the data: moments of the rows in one pass, and what they make impossible."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from kmeans_module.backends import backend_for
from kmeans_module.core.distances import MOST_INTEGER_OF_FLOAT32, compute_dtype
from kmeans_module.core.problem import Problem
from kmeans_module.core.rows import Moments
from kmeans_module.core.sparse import is_sparse, rows_of_numbers
from kmeans_module.core.statistics import accumulator_dtype
from kmeans_module.rows.batch import Batch
from kmeans_module.rows.ranks import ErrorElsewhere, ProcessGroup, all_gather, all_sum

_SCAN_ELEMENTS = 1 << 21


class Survey:
    """Moments of batches that come one after the other, by Chan's update of the variance.

    Args:
        n_problems: P where problems have rows of their own, else 1.
        n_features: d.
        metric: "cosine" for the moments of rows of length 1.
        device: of the rows.
        stay: whether the batches stay in memory until the end, so that one wait for a device
            tells of all of them.
    """

    def __init__(
        self,
        *,
        n_problems: int,
        n_features: int,
        metric: str,
        device: torch.device,
        stay: bool = False,
    ) -> None:
        self.stay = stay
        self.metric = metric
        self.n_problems = n_problems
        exact = accumulator_dtype(device)
        self.low = torch.full((n_features,), math.inf, dtype=exact, device=device)
        self.high = -self.low
        # Rows of positive weight, (P, 1); mean, and sum of squares about it, (P, d).
        self.count: Tensor | None = None
        self.mean = self.squares = self.low.new_zeros((n_problems, n_features))
        self.n_samples = 0
        self.nonfinite = Nonfinite()
        # Of batches that stay: whether all is finite, and where to look otherwise.
        self._finite: list[Tensor] = []
        self._batches: list[tuple[Tensor, int]] = []

    def add(self, batch: Batch, start: int) -> None:
        """Take a batch whose first row has the number ``start``."""
        x, weight = batch.x, batch.sample_weight
        n = x.shape[-2]
        if not n:
            return
        backend = backend_for(x, operation="moments")
        low, high, sums = backend.moments(x, weight, None, metric=self.metric)
        finite = torch.cat([low, high, sums.view(-1)]).isfinite().all()
        if self.stay:
            self._finite.append(finite)
            self._batches.append((x, start))
        elif not bool(finite):
            self.nonfinite.look(x, start)
        self.n_samples += n
        if weight is None:
            count = sums.new_full((1, 1), n)
        else:
            count = (weight > 0).sum(dim=-1, keepdim=True).to(sums).view(-1, 1)
        mean = sums / count.clamp(min=1)
        squares = backend.moments(x, weight, mean, metric=self.metric)[2]
        if self.count is None:
            self.low, self.high = low, high
            self.count, self.mean, self.squares = count, mean, squares
            return
        self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        total = self.count + count
        gap, share = mean - self.mean, count / total.clamp(min=1)
        self.squares = self.squares + squares + gap.square() * (self.count * share)
        self.mean = torch.where(self.count > 0, self.mean + gap * share, mean)
        self.count = total

    def finish(self, group: ProcessGroup | None) -> Moments:
        """The moments over all ranks."""
        count = self.mean.new_zeros((1, 1)) if self.count is None else self.count
        low, high = self.low, self.high
        if group is None:
            extent = self._read(low, high, count)
            variance = (self.squares / count.clamp(min=1)).mean(dim=-1)
            return Moments(
                self.n_samples, count[:, 0], low, high, self.mean, variance, str(self.nonfinite),
                *extent,
            )  # fmt: skip
        spans = all_gather(torch.stack([low, -high]), group)
        low, high = spans[:, 0].amin(dim=0), -spans[:, 1].amin(dim=0)
        extent = self._read(low, high, count)
        text = str(self.nonfinite)
        sizes = torch.tensor([self.n_samples, int(bool(text))], device=low.device)
        n_samples, n_bad = (int(size) for size in all_sum([sizes], group)[0])
        mean, squares = (
            value.expand(self.n_problems, -1).contiguous() for value in (self.mean, self.squares)
        )
        count = count.expand(self.n_problems, 1)
        total, sums = all_sum([count.contiguous(), mean * count], group)
        joint = sums / total.clamp(min=1)
        (squares,) = all_sum([squares + count * (mean - joint).square()], group)
        variance = (squares / total.clamp(min=1)).mean(dim=-1)
        text = text or (ELSEWHERE if n_bad else "")
        extent = extent._replace(some_weigh=bool(total.any()))
        return Moments(n_samples, total[:, 0], low, high, joint, variance, text, *extent)

    def _read(self, low: Tensor, high: Tensor, count: Tensor) -> Extent:
        """What the host has to know, with one wait; looks for what is not finite."""
        numbers = [count.any(), *self._finite]
        if low.numel():
            numbers += [(high - low).abs().amax(), torch.maximum(-low, high).amax()]
        else:
            numbers += [count.new_zeros(()), count.new_zeros(())]
        some_weigh, *finite, widest, largest = torch.stack([n.to(low) for n in numbers]).tolist()
        for is_finite, batch in zip(finite, self._batches, strict=True):
            if not is_finite:
                self.nonfinite.look(*batch)
        self._finite, self._batches = [], []
        return Extent(widest, largest, bool(some_weigh))


class Extent(NamedTuple):
    """See :class:`kmeans_module.core.rows.Moments`."""

    widest: float
    largest: float
    some_weigh: bool


# In place of the text where the rows that are not finite are another rank's.
ELSEWHERE = "another rank's rows"


class Nonfinite:
    """Rows that hold NaN or infinity: how many, and the number of the first."""

    def __init__(self) -> None:
        self.count, self.first = 0, -1

    def look(self, x: Tensor, start: int = 0) -> Nonfinite:
        """Search rows (..., n, d), the first of which has the number ``start``."""
        if is_sparse(x):
            x = (
                x.values()
                .new_zeros(x.shape[0])
                .index_put_((rows_of_numbers(x),), x.values() * 0, accumulate=True)
                .unsqueeze(-1)
            )  # NaN where a row holds NaN or infinity
        for offset, rows in _chunks(x):
            bad = ~rows.isfinite().all(dim=-1)
            bad = bad.flatten(0, -2).any(dim=0) if bad.ndim > 1 else bad
            n_bad = int(bad.sum())
            if n_bad and not self.count:
                self.first = start + offset + int(bad.to(torch.uint8).argmax())
            self.count += n_bad
        return self

    def __str__(self) -> str:
        if not self.count:
            return ""
        hold = "1 row holds" if self.count == 1 else f"{self.count} rows hold"
        return f"x should be finite; {hold} NaN or infinity, the first is row {self.first}"


def refuse_nonfinite(x: Tensor, dtype: torch.dtype, name: str = "x") -> None:
    """Raise for distances that came out NaN or infinite, with the cause."""
    cause = str(Nonfinite().look(x)).replace("x should", f"{name} should", 1)
    raise ValueError(
        cause or f"squared distances overflow {dtype}: scale {name} down or use float64"
    )


def refuse(moments: Moments, example: Tensor, problem: Problem) -> None:
    """Raise for data that no centroids of this dtype can be found for.

    Args:
        moments: of the rows.
        example: a tensor of the rows' dtype.
        problem: what is asked for.

    Raises:
        ValueError: NaN or infinity (how many rows, and the first), or distances overflow.
    """
    if moments.nonfinite:
        if moments.nonfinite == ELSEWHERE:
            raise ErrorElsewhere("x")
        raise ValueError(moments.nonfinite)
    if not moments.n_samples:
        return
    widest, largest = moments.widest, moments.largest
    dtype = compute_dtype(example, problem.dtype)
    exact = 2 / torch.finfo(dtype).eps
    if not example.is_floating_point() and largest > exact:
        wider = "" if dtype == torch.float64 else ", or use a layer of float64"
        raise ValueError(
            f"x holds integers up to {largest:.6g}, which overflow the {exact:.6g} that {dtype} "
            f"tells apart: subtract an offset{wider}"
        )
    if problem.metric != "euclidean":
        return
    limit = math.sqrt(torch.finfo(dtype).max / max(1, moments.low.numel())) / 2
    if 0 < widest < math.sqrt(torch.finfo(dtype).tiny) / 16:
        raise ValueError(
            f"x spans {widest:.3g}: squared distances underflow {dtype}; scale x up or use float64"
        )
    if widest > limit:
        raise ValueError(
            f"x spans {widest:.3g}: squared distances overflow {dtype}; scale x down or use float64"
        )
    if largest > torch.finfo(problem.dtype).max:
        raise ValueError(
            f"x reaches {largest:.3g}: centroids overflow {problem.dtype}; "
            "scale x down or use a layer of a wider dtype"
        )


def dtype_for(example: Tensor, moments: Moments) -> torch.dtype:
    """The dtype of centroids for rows: float64 for rows of it, and for integers beyond 2^24.

    Args:
        example: a tensor of the rows' dtype.
        moments: of the rows.
    """
    wide = example.dtype == torch.float64
    if not example.is_floating_point() and moments.low.numel():
        largest = float(torch.maximum(moments.low.abs(), moments.high.abs()).max())
        wide = largest > MOST_INTEGER_OF_FLOAT32
    return accumulator_dtype(example.device) if wide else torch.float32


def refuse_too_few(moments: Moments, n_clusters: int) -> None:
    """Raise where there are fewer samples than clusters, or where none weighs anything.

    A problem with fewer samples of positive weight than clusters gets unused clusters.
    """
    if moments.n_samples < n_clusters:
        raise ValueError(f"n_samples={moments.n_samples} should be >= n_clusters={n_clusters}")
    if not moments.some_weigh:
        raise ValueError(
            f"sample_weight should be positive for n_clusters={n_clusters} samples at least; "
            "it is for 0"
        )


def _chunks(x: Tensor) -> Iterator[tuple[int, Tensor]]:
    size = max(1, _SCAN_ELEMENTS // max(1, x.numel() // max(1, x.shape[-2])))
    for start in range(0, x.shape[-2], size):
        rows = x[..., start : start + size, :]
        yield start, rows.to(torch.uint8) if rows.dtype == torch.bool else rows
