"""The trajectory of a fit, kept small: a sample of the rows, the centroids of each iteration."""

from __future__ import annotations

import torch
from torch import Tensor

from kmeans_module.figures.arrays import evenly

MAX_ELEMENTS = 1 << 23  # numbers in the centroids of all frames: 32 MiB


class Trajectory:
    """Records frames: the centroids after 0, 1, 2, ... iterations.

    When the memory for them is used up every other frame is dropped, but never the first or
    the latest.

    Args:
        max_points: rows of the sample at most.
        max_frames: frames at most.

    Attributes:
        iterations: number of each frame.
    """

    def __init__(self, *, max_points: int = 2_000, max_frames: int = 200) -> None:
        self.max_points = max_points
        self.max_frames = max_frames
        self.iterations: list[int] = []
        self._rows: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._centroids: list[Tensor] = []
        self._inertia: dict[int, float] = {}

    @property
    def x(self) -> Tensor:
        """The sample, (m, d), on the CPU."""
        rows = torch.cat(self._rows)
        return rows[torch.from_numpy(evenly(len(rows), self.max_points))]

    @property
    def target(self) -> Tensor | None:
        """True labels of the sample, (m,) int64, where those of all its rows are known."""
        if len(self._targets) < len(self._rows):
            return None
        targets = torch.cat(self._targets)
        return targets[torch.from_numpy(evenly(len(targets), self.max_points))]

    @property
    def centroids(self) -> Tensor:
        """The centroids of all frames, (T, k, d) float32 on the CPU."""
        return torch.stack(self._centroids)

    @property
    def inertia(self) -> Tensor:
        """Inertia of the centroids of all frames, (T,) float64; NaN where it was not measured."""
        values = [self._inertia.get(i, torch.nan) for i in self.iterations]
        return torch.tensor(values, dtype=torch.float64)

    def sample(self, rows: Tensor, *, n_batches: float, target: Tensor | None = None) -> None:
        """Add the share of one batch to the sample.

        Args:
            rows: of the batch, (n, d).
            n_batches: number of batches that share the sample; inf where it is not known.
            target: true labels of the rows, (n,), where they are known.
        """
        share = int(max(1, self.max_points // n_batches))
        kept = torch.from_numpy(evenly(len(rows), share)).to(rows.device)
        self._rows.append(rows[kept].detach().cpu())
        if target is not None:
            self._targets.append(target[kept].detach().cpu())

    def replace_sample(self, rows: Tensor, target: Tensor | None = None) -> None:
        """Take other rows for the sample.

        Args:
            rows: (n, d), on the CPU.
            target: their true labels, (n,), where they are known.
        """
        self._rows = [rows]
        self._targets = [] if target is None else [target]

    def record(self, iteration: int, centroids: Tensor) -> None:
        """Add a frame.

        Args:
            iteration: iterations so far.
            centroids: after them, (k, d).
        """
        self.iterations.append(iteration)
        self._centroids.append(centroids.detach().to("cpu", torch.float32, copy=True))
        limit = max(3, min(self.max_frames, MAX_ELEMENTS // centroids.numel()))
        if len(self.iterations) > limit:
            kept = sorted({*range(0, len(self.iterations), 2), len(self.iterations) - 1})
            self.iterations = [self.iterations[i] for i in kept]
            self._centroids = [self._centroids[i] for i in kept]

    def measured(self, iteration: int, inertia: float) -> None:
        """Note the inertia of a frame.

        Args:
            iteration: iterations of the frame.
            inertia: of its centroids.
        """
        self._inertia[iteration] = inertia
