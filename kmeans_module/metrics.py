"""torchmetrics of clusterings: states of constant size, merged over ranks by sums."""

# No postponed annotations: torch.jit.script takes the types of the states from these.

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torchmetrics import Metric

from kmeans_module.checks import check_integer, check_sample_weight, check_tensor
from kmeans_module.core.guard import require_values
from kmeans_module.core.statistics import accumulator_dtype


class ExactMetric(Metric):
    """A metric whose states keep their precision: counts in half precision would stand still."""

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Module:
        """Move the states with the module, but not to another precision."""

        def moved(state: Tensor) -> Tensor:
            there = fn(state)
            return there if there.dtype == state.dtype else state.to(there.device)

        return super()._apply(moved, exclude_state)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot one or several values, by default that of :meth:`compute`; see torchmetrics."""
        return self._plot(val, ax)

    def check_device(self, name: str, value: Tensor) -> None:
        """Refuse an argument on another device than the states."""
        if value.device != self.device:
            raise ValueError(
                f"{name} is on {value.device}, the metric is on {self.device}: move it by to()"
            )


class Inertia(ExactMetric):
    """Weighted sum of squared distances of samples to their centroid.

    Args:
        kwargs: of :class:`torchmetrics.Metric`.

    Shape:
        - ``update(distances, sample_weight=None)``: squared distances (n,), weights (n,); of
          several problems (\\*, n), with weights of the same shape or (n,).
        - ``compute()``: () float64.

    Example:
        >>> import torch
        >>> metric = Inertia()
        >>> metric.update(torch.tensor([1.0, 4.0]))
        >>> metric.update(torch.tensor([2.0]), torch.tensor([3.0]))
        >>> metric.compute()
        tensor(11., dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    total: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # MPS has no float64, and a metric lives on the CPU before it moves there.
        exact = torch.float32 if torch.backends.mps.is_available() else torch.float64
        self.add_state("total", torch.zeros((), dtype=exact), dist_reduce_fx="sum")

    def update(self, distances: Tensor, sample_weight: Tensor | None = None) -> None:
        """Add samples.

        Args:
            distances: squared distances (n,); of several problems (*, n).
            sample_weight: (n,), or of the shape of distances; None for weight 1.

        Raises:
            ValueError: weights of another shape, or negative; another device than the metric's.
            TypeError: no real numbers.
        """
        distances = check_tensor("distances", distances)
        self.check_device("distances", distances)
        if distances.ndim == 0:
            raise ValueError("distances should have shape (n,), one for each sample; got ()")
        weight = check_sample_weight(
            sample_weight, distances.unsqueeze(-1), tuple(distances.shape[:-1])
        )
        distances = distances.to(self.total.dtype)
        if weight is not None:
            distances = distances * weight
        self.total = self.total + distances.sum()

    def compute(self) -> Tensor:
        """The sum so far.

        Returns:
            () float64 (float32 on MPS), over all ranks.
        """
        return self.total


class ClusterUsage(ExactMetric):
    """How evenly clusters, or the codes of a codebook, are used.

    Args:
        n_clusters: number of clusters, k.
        kwargs: of :class:`torchmetrics.Metric`.

    Shape:
        - ``update(labels)``: integers of any shape, from 0 to k - 1; -1, which stands for no
          cluster, is not counted.
        - ``compute()``: dict of () tensors: ``used``, the share of clusters that have samples,
          and ``perplexity``, exp of the entropy of the cluster sizes, from 1 to k.

    Example:
        >>> import torch
        >>> metric = ClusterUsage(n_clusters=4)
        >>> metric.update(torch.tensor([0, 0, 1, 1]))
        >>> {name: round(value.item(), 3) for name, value in metric.compute().items()}
        {'used': 0.5, 'perplexity': 2.0}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    counts: Tensor

    def __init__(self, n_clusters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n_clusters = check_integer("n_clusters", n_clusters, minimum=1)
        zeros = torch.zeros(self.n_clusters, dtype=torch.int64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")

    def update(self, labels: Tensor) -> None:
        """Count labels.

        Args:
            labels: integers of any shape, from 0 to k - 1; -1 is not counted.

        Raises:
            ValueError: a label below -1, or k and more; another device than the metric's.
            TypeError: labels that are no integers.
            RuntimeError: labels without values, as in a trace.
        """
        labels = check_tensor("labels", labels)
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise TypeError(f"labels should be integers; got {labels.dtype}")
        self.check_device("labels", labels)
        require_values("ClusterUsage.update", labels)
        if not labels.numel():
            return
        # int64 first: 127 + 1 is no int8.
        labels = labels.flatten().to(torch.int64)
        lowest, highest = torch.stack(labels.aminmax()).tolist()
        if lowest < -1 or highest >= self.n_clusters:
            raise ValueError(
                f"labels should be from 0 to {self.n_clusters - 1}, or -1 for no cluster; "
                f"got {lowest} to {highest}"
            )
        self.counts = self.counts + torch.bincount(labels + 1, minlength=self.n_clusters + 1)[1:]

    def compute(self) -> dict[str, Tensor]:
        """Shares so far; NaN before any sample.

        Returns:
            ``used`` and ``perplexity``, () float32 each, over all ranks.
        """
        counts = self.counts.to(accumulator_dtype(self.counts.device))
        entropy = torch.special.entr(counts / counts.sum()).sum()
        return {"used": (counts > 0).float().mean(), "perplexity": entropy.exp().float()}
