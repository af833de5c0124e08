"""Rows: all rows of a job, wherever they are. What k-means needs of its data, in one protocol.

Seeding, Lloyd's algorithm and the survey of the data are written over these operations once; a
tensor, batches over ranks and a loader are implementations, in :mod:`kmeans_module.rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from kmeans_module.core.generators import Generators
from kmeans_module.core.late import Loops
from kmeans_module.core.problem import Problem
from kmeans_module.core.statistics import ClusterStats, EStep


class Moments(NamedTuple):
    """What one pass tells of the rows, over all ranks.

    Attributes:
        n_samples: rows.
        n_weighty: rows of positive weight of each problem, (P,), or (1,) where problems share
            them.
        low, high: smallest and largest value of each feature, (d,) float64.
        mean: of each feature over the rows of positive weight, (P, d) float64.
        variance: mean over the features of their variance, (P,) float64.
        nonfinite: says how many rows hold NaN or infinity, and the first; "" if none does.
        widest: the largest range of a feature.
        largest: the largest value of a feature, whatever its sign.
        some_weigh: whether a row of any problem has a positive weight.
    """

    n_samples: int
    n_weighty: Tensor
    low: Tensor
    high: Tensor
    mean: Tensor
    variance: Tensor
    nonfinite: str
    widest: float
    largest: float
    some_weigh: bool


class Search(Protocol):
    """What one run learns about its rows: bounds, last labels. It never changes a result.

    Attributes:
        problem: what is asked for.
        together: whether problems on the same rows take less time in one call than in turns.
        holds: whether labels are held, so that problems together cost memory.
    """

    problem: Problem

    @property
    def together(self) -> bool: ...

    @property
    def holds(self) -> bool: ...

    def loops(self) -> Loops | None:
        """Who goes through all rows without the host; None where passes come from here."""

    def begin_pass(self) -> None:
        """Before the batches of a pass are handed to :meth:`step`."""

    def step(self, batch: Any, centroids: Tensor) -> tuple[ClusterStats, Tensor]:
        """An E-step of one batch with centroids (P, k, d).

        Returns:
            Statistics, and the labels that moved since the last pass, (P,); NaN if not known.
        """

    def end_pass(self) -> None:
        """After them; refuses a pass that is not the one before."""

    def labels(self) -> Tensor | None:
        """Labels of the last pass, (P, n) int64, of this rank's rows; None where none is kept."""


class Draws(Protocol):
    """Rows as seeding sees them. Draws are the same whatever batches and ranks hold the rows."""

    @property
    def n_problems(self) -> int: ...

    def distinct(self, m: int, *, first: Tensor | None = None) -> Tensor:
        """Distinct rows, drawn one after the other in proportion to weight, (P, m, d); equal
        rows count as one, and the first is repeated where there are too few.

        Args:
            m: rows to draw.
            first: rows (P, c, d) that come before, each once.
        """

    def by_distance(self, centers: Tensor | None, m: int) -> Tensor:
        """Distinct rows (P, m, d) drawn by weight × squared distance to the nearest center.

        Args:
            centers: that are added to those of the calls before, (P, c, d); None to draw by
                weight.
            m: rows to draw; where fewer have a distance, the first one is repeated.
        """

    def masses(self, centers: Tensor) -> Tensor:
        """Weight of the rows nearest to each of the centers (P, c, d): (P, c) float64."""

    def standing_for(self, x: Tensor, sample_weight: Tensor | None) -> HeldDraws:
        """Draws of this generator from other rows (n, d) or (P, n, d) with weights (n,) or
        (P, n), alike on all ranks."""

    def in_memory(self, n: int) -> HeldDraws:
        """The rows for draws that go through them again and again: themselves where they are in
        memory or no more than n, else a uniform sample of n rows."""


class HeldDraws(Protocol):
    """Draws from rows in memory, for k-means++."""

    @property
    def n_problems(self) -> int: ...

    def rounds(self, n_clusters: int, m: int) -> Rounds:
        """Begin k-means++ with a center that is drawn by weight, m candidates for each other."""


class Rounds(Protocol):
    """k-means++ under way, a center each round; no round makes the host wait for a device."""

    @property
    def centers(self) -> Tensor:
        """All so far, (P, c, d)."""

    def lower(self) -> None:
        """Lower the squared distances to the nearest center by those to the last one."""

    def draw(self) -> None:
        """Draw the candidates by weight × squared distance to the nearest center."""

    def choose(self) -> None:
        """Make that candidate a center which lowers the potential most: the weighted sum of the
        distances to the nearest center. See :func:`kmeans_module.core.seeding.least`."""


class Rows(Protocol):
    """The data of a job and nothing else: immutable, shareable, for any number of clusters.

    Attributes:
        n_features: features of a row, d.
        n_problems: P where each problem has rows of its own, else 1.
        shared: whether all problems have the same rows and weights.
        stable: whether every pass brings the rows in the same order.
    """

    @property
    def stable(self) -> bool: ...

    @property
    def n_features(self) -> int: ...

    @property
    def n_problems(self) -> int: ...

    @property
    def shared(self) -> bool: ...

    def __iter__(self) -> Iterator[Any]:
        """One pass over the batches of this rank."""

    def moments(self, metric: str = "euclidean") -> Moments:
        """Extent, mean and variance of the rows; for "cosine" those of rows of length 1."""

    def search(self, problem: Problem) -> Search:
        """Memory for a run of E-steps."""

    def draws(self, problem: Problem, generator: Generators, search: Search | None = None) -> Draws:
        """The rows as seeding sees them, with what a search knows of them already."""

    def merge(
        self, stats: ClusterStats, also: Sequence[Tensor]
    ) -> tuple[ClusterStats, list[Tensor]]:
        """Statistics, and other numbers of one dtype, of the rows of all ranks."""

    def from_first(self, make: Callable[[], Any]) -> Any:
        """What the first rank makes, on all ranks."""

    def excerpt(self, n: int, generator: torch.Generator | None) -> Tensor:
        """The rows of all ranks in one tensor (..., n, d), in their order; of a stream or of
        several ranks that hold more than n, a uniform sample of n of positive weight."""

    def e_step(self, centroids: Tensor, *, metric: str = "euclidean") -> EStep:
        """One E-step of this rank's rows with centroids (P, k, d)."""

    def labels(self, centroids: Tensor, *, metric: str = "euclidean") -> Iterator[Tensor]:
        """Labels (P, n) of one batch after the other; (n,) for centroids (k, d)."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Rows:
        """The rows after a function of (..., n, d) that treats each row alone."""

    def sample(
        self, m: int, generator: torch.Generator | None = None, *, seed: int | None = None
    ) -> Tensor:
        """m distinct rows drawn uniformly from those of positive weight, (P, m, d).

        Args:
            m: rows to draw; fewer come where there are fewer.
            generator: None draws from torch's default generator.
            seed: an integer in place of a generator.
        """
