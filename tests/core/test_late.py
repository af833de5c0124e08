"""Promises of runs that the host looks at late: told in order, and never looked at too often."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kmeans_module import EmptyClusterError
from kmeans_module.core.late import FIRST_LOOK, Look, watch
from kmeans_module.core.lloyd import Iteration, NonFiniteInertiaError


class FakeLoop:
    """A device that ends after so many passes, for two problems of three clusters.

    Args:
        ends: passes, the last of which sees that all has converged.
        capacity: passes between two looks.
        fault: what the last pass meets, "nonfinite" or "empty".
    """

    def __init__(self, ends: int, *, capacity: int = 64, fault: str = "") -> None:
        self.ends, self.capacity, self.fault = ends, capacity, fault
        self.passes = self.looked = 0
        self.launches: list[int] = []
        self.counts = torch.tensor([[1.0, 2.0, 3.0], [3.0, 0.0, 3.0]], dtype=torch.float64)
        self.centroids = torch.zeros(2, 3, 1)
        self.inertia = torch.zeros(2)
        self.n_iter, self.converged = torch.zeros(2).long(), torch.ones(2).bool()

    def advance(self, passes: int) -> None:
        assert passes <= self.capacity
        self.launches.append(passes)
        self.passes = min(self.ends, self.passes + passes)

    def look(self) -> Look:
        new = torch.arange(self.looked, self.passes).double()
        self.looked = self.passes
        numbers = new.view(-1, 1, 1).expand(-1, 2, 3)
        done = self.passes == self.ends
        return Look(
            done=done, nonfinite=done and self.fault == "nonfinite",
            empty=done and self.fault == "empty", some_empty=False, n_iter=self.passes - 1,
            numbers=numbers.numpy(), inertia=numbers[..., 0],
            counts=self.counts.expand(len(new), -1, -1),
        )  # fmt: skip

    def close(self) -> None:
        """Nothing."""


@pytest.mark.parametrize("every", [None, 1, 7, 1000])
@pytest.mark.parametrize("capacity", [1, 5, 64])
@pytest.mark.parametrize("ends", [1, 2, FIRST_LOOK, FIRST_LOOK + 1, 200])
def test_iterations_are_told_in_their_order(ends: int, capacity: int, every: int | None) -> None:
    loop, told = FakeLoop(ends, capacity=capacity), list[Iteration]()
    outcome = watch(loop, max_iter=1000, callback=told.append, callback_every=every)
    assert [iteration.number for iteration in told] == list(range(1, ends))
    assert [float(iteration.inertia[0]) for iteration in told] == list(range(ends - 1))  # type: ignore[index]
    assert outcome.history.tolist() == [list(range(ends))] * 2
    assert outcome.n_iter == ends - 1
    assert max(loop.launches) <= min(capacity, every or capacity)


def test_looks_become_rarer() -> None:
    loop = FakeLoop(150)
    watch(loop, max_iter=1000)
    assert loop.launches == [24, 48, 64, 64]


@pytest.mark.parametrize("max_iter", [1, 5, FIRST_LOOK - 1, FIRST_LOOK, 100])
def test_no_pass_is_launched_after_the_one_that_measures(max_iter: int) -> None:
    loop = FakeLoop(10_000)
    watch(loop, max_iter=max_iter)
    assert sum(loop.launches) == max_iter + 1


@pytest.mark.parametrize(
    ("fault", "error", "match"),
    [
        ("nonfinite", NonFiniteInertiaError, "not finite"),
        ("empty", EmptyClusterError, r"1 of 3 clusters have no samples \(clusters 1\)"),
    ],
)
def test_a_fault_is_raised_after_the_passes_before_it_were_told(
    fault: str, error: type[Exception], match: str
) -> None:
    told: list[int] = []

    def tell(iteration: Iteration) -> None:
        told.append(iteration.number)

    with pytest.raises(error, match=match):
        watch(FakeLoop(4, fault=fault), max_iter=100, callback=tell)
    assert told == [1, 2, 3]


def test_numbers_that_are_told_are_on_the_host() -> None:
    told: list[Iteration] = []
    watch(FakeLoop(3), max_iter=10, callback=told.append)
    for value in (told[0].inertia, told[0].shift, told[0].moved):
        assert isinstance(value, Tensor)
        assert value.device.type == "cpu"
        assert value.shape == (2,)
