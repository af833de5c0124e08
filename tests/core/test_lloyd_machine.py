"""Promises of the state machine: passes in batches, saved at any moment, told as they are."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor

from kmeans_module import EmptyClusterError, KMeansLayer
from kmeans_module.core.lloyd import Iteration, Lloyd, NonFiniteInertiaError
from kmeans_module.core.minibatch import MiniBatch
from kmeans_module.core.problem import Problem
from kmeans_module.rows import Batch, HeldRows
from kmeans_module.rows.held import HeldSearch
from tests.conftest import blobs, data_set, layer_at, seeded

X = data_set("uniform")
CUTS = [300, 1, 250, 249]
LIMIT = 12


def rows_in_parts(x: Tensor) -> HeldRows:
    return HeldRows([Batch(part) for part in x.split(CUTS)])


def starts(n_problems: int, n_empty: int = 2) -> Tensor:
    """(P, 9, 5), some of them so far away that their clusters are empty."""
    near = [X[p * 50 : p * 50 + 9].clone() for p in range(n_problems)]
    centroids = torch.stack(near)
    centroids[:, 9 - n_empty :] += 1e3
    return centroids


class Machine:
    """What drives a state machine: its rows, and their memory."""

    def __init__(self, kind: str, centroids: Tensor, threshold: Tensor | None) -> None:
        self.kind, self.threshold = kind, threshold
        self.problem = Problem(*centroids.shape[1:], len(centroids))
        self.rows = rows_in_parts(X)
        self.search: HeldSearch = self.rows.search(self.problem)
        self.lloyd = self.new(centroids)

    def new(self, centroids: Tensor) -> Lloyd:
        if self.kind == "lloyd":
            return Lloyd(self.problem, centroids, threshold=self.threshold)
        counts = torch.zeros(centroids.shape[:2], dtype=torch.float64)
        return MiniBatch(self.problem, centroids, counts, threshold=self.threshold)

    def resume(self) -> None:
        """Save to a file, and go on in another machine that knows nothing yet."""
        file = io.BytesIO()
        torch.save(self.lloyd.state_dict(), file)
        file.seek(0)
        other = self.new(torch.zeros_like(self.lloyd.centroids))
        other.load_state_dict(torch.load(file, weights_only=True))
        self.lloyd = other

    def run(self, save: tuple[int, int] | None = None) -> list[Iteration]:
        """Passes until all has converged; saved before a batch of a pass, or before its end."""
        told = []
        for number in range(LIMIT):
            self.lloyd.begin_pass()
            for place, batch in enumerate(self.rows):
                if save == (number, place):
                    self.resume()
                self.lloyd.add(*self.search.step(batch, self.lloyd.centroids))
            if save == (number, len(CUTS)):
                self.resume()
            told.append(self.lloyd.end_pass())
            if self.lloyd.finished:
                break
        return told


def assert_same(ours: Machine, theirs: Machine, found: Any, expected: Any) -> None:
    assert torch.equal(ours.lloyd.centroids, theirs.lloyd.centroids)
    for name in ("n_iter", "converged", "active"):
        assert (getattr(ours.lloyd, name) == getattr(theirs.lloyd, name)).all(), name
    assert ours.lloyd.passes == theirs.lloyd.passes
    for one, other in zip(found, expected, strict=True):
        assert one.number == other.number
        for name in ("inertia", "shift", "moved", "counts"):
            torch.testing.assert_close(
                getattr(one, name), getattr(other, name), rtol=0, atol=0, equal_nan=True, msg=name
            )


@pytest.mark.parametrize("kind", ["lloyd", "mini-batch"])
@pytest.mark.parametrize("n_problems", [1, 2])
@pytest.mark.parametrize("place", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("number", [0, 1, 4])
def test_a_run_saved_in_mid_pass_ends_with_the_same_bits(
    kind: str, n_problems: int, place: int, number: int
) -> None:
    threshold = torch.full((n_problems,), 1e-3)
    whole, saved = (Machine(kind, starts(n_problems), threshold) for _ in range(2))
    expected = whole.run()
    found = saved.run(save=(number, place))
    assert len(expected) > number
    assert_same(saved, whole, found, expected)


def test_a_saved_state_is_not_changed_by_the_run_that_goes_on() -> None:
    machine = Machine("lloyd", starts(1), None)
    machine.lloyd.begin_pass()
    machine.lloyd.add(*machine.search.step(machine.rows.batches[0], machine.lloyd.centroids))
    state = machine.lloyd.state_dict()
    kept = {name: value.clone() for name, value in state.items() if isinstance(value, Tensor)}
    sums = state["partial"]["sums"].clone()
    machine.run()
    for name, value in kept.items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(state["partial"]["sums"], sums)


def test_a_state_of_nothing_but_a_start_can_be_loaded() -> None:
    machine = Machine("lloyd", starts(1), None)
    machine.resume()
    expected = Machine("lloyd", starts(1), None)
    assert_same(machine, expected, machine.run(), expected.run())


def test_batches_of_a_pass_are_one_pass_of_the_whole() -> None:
    centroids = starts(1)
    parts, whole = Machine("lloyd", centroids, None), Machine("lloyd", centroids, None)
    whole.rows = HeldRows([Batch(X)])
    whole.search = whole.rows.search(whole.problem)
    found, expected = parts.run(), whole.run()
    assert len(found) == len(expected)
    torch.testing.assert_close(parts.lloyd.centroids, whole.lloyd.centroids)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.moved, other.moved, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(one.counts, other.counts)


def test_iterations_are_numbered_and_the_first_does_not_know_what_moved() -> None:
    told = Machine("lloyd", starts(1), None).run()
    assert [iteration.number for iteration in told] == list(range(1, len(told) + 1))
    assert told[0].moved.isnan().all()
    for iteration in told[1:]:
        assert iteration.moved.isfinite().all()
    assert all(iteration.seconds > 0 for iteration in told)


def test_moved_counts_the_labels_that_changed() -> None:
    centroids, last = starts(1), None
    machine = Machine("lloyd", centroids, None)
    for iteration in machine.run():
        labels = layer_at(centroids[0])(X)
        if last is not None:
            assert iteration.moved.item() == (labels != last).sum()
        assert iteration.counts[0].sum() == len(X)
        assert torch.equal(iteration.counts[0], torch.bincount(labels, minlength=9).double())
        stats = layer_at(centroids[0]).e_step(X).stats
        torch.testing.assert_close(iteration.inertia[0], stats.inertia)
        layer = layer_at(centroids[0])
        torch.testing.assert_close(iteration.shift[0], layer.m_step(stats))
        centroids, last = layer.centroids.clone().unsqueeze(0), labels


@pytest.mark.parametrize("tol", [0.0, 1e-4, 1e-2])
@pytest.mark.parametrize("max_iter", [1, 3, 300])
@pytest.mark.parametrize("batch_shape", [(), (2,)])
def test_a_callback_is_told_every_iteration(
    tol: float, max_iter: int, batch_shape: tuple[int, ...]
) -> None:
    told: list[Iteration] = []
    layer = KMeansLayer(9, 5, batch_shape=batch_shape)
    init = starts(2, n_empty=0)
    found = layer.fit(
        X, init=init if batch_shape else init[0], tol=tol, max_iter=max_iter, callback=told.append
    )
    n_iter = int(found.n_iter.max())
    assert [iteration.number for iteration in told] == list(range(1, n_iter + 1))
    inertias = torch.stack([iteration.inertia for iteration in told], dim=-1)
    assert torch.equal(inertias, found.history[..., :n_iter])
    assert (inertias.diff(dim=-1) <= 0).all()
    for iteration in told:
        assert iteration.inertia.shape == iteration.shift.shape == batch_shape
        assert iteration.moved.shape == batch_shape
        assert iteration.counts.shape == (*batch_shape, 9)


def test_a_callback_is_told_of_every_restart() -> None:
    told: list[Iteration] = []
    KMeansLayer(9, 5).fit(
        X, n_init=3, init="random", generator=seeded(), max_iter=4, tol=0, callback=told.append
    )
    numbers = [iteration.number for iteration in told]
    assert numbers in ([1, 2, 3, 4], [1, 2, 3, 4] * 3), "together, or one after the other"


def test_a_look_at_the_shift_ends_a_run_that_stands_still() -> None:
    x, limit = blobs(300, 5), 1e6
    problem = Problem(4, 5)
    rows = HeldRows([Batch(x)])
    search = rows.search(problem)
    lloyd = Lloyd(problem, x[None, :4].clone(), threshold=torch.tensor([limit]))
    lloyd.look()
    assert not lloyd.finished, "no M-step yet"
    lloyd.begin_pass()
    lloyd.add(*search.step(rows.batches[0], lloyd.centroids))
    iteration = lloyd.end_pass()
    assert iteration.shift.item() <= limit
    assert not lloyd.finished, "the shift is read later"
    lloyd.look()
    assert lloyd.finished
    assert lloyd.converged.all()
    assert lloyd.n_iter.tolist() == [1]


def test_a_pass_that_measures_moves_nothing() -> None:
    machine = Machine("lloyd", starts(1), None)
    before = machine.lloyd.centroids.clone()
    machine.lloyd.begin_pass()
    for batch in machine.rows:
        machine.lloyd.add(*machine.search.step(batch, machine.lloyd.centroids))
    iteration = machine.lloyd.end_pass(move=False)
    assert torch.equal(machine.lloyd.centroids, before)
    assert machine.lloyd.passes == iteration.number == 0
    assert iteration.shift.tolist() == [0]
    expected = layer_at(before[0]).e_step(X).stats.inertia
    torch.testing.assert_close(iteration.inertia[0], expected)


def test_what_an_unfinished_pass_brought_is_dropped() -> None:
    whole, begun = Machine("lloyd", starts(1), None), Machine("lloyd", starts(1), None)
    begun.lloyd.begin_pass()
    stats, moved = (
        HeldRows([Batch(X[:50])])
        .search(begun.problem)
        .step(Batch(X[:50], start=0), begun.lloyd.centroids)
    )
    begun.lloyd.add(stats, moved)
    assert_same(begun, whole, begun.run(), whole.run())


def test_a_pass_without_rows_keeps_the_centroids() -> None:
    centroids = starts(2)
    lloyd = Lloyd(Problem(9, 5, 2), centroids.clone())
    lloyd.begin_pass()
    iteration = lloyd.end_pass()
    assert torch.equal(lloyd.centroids, centroids)
    assert iteration.inertia.tolist() == [0, 0]
    assert iteration.counts.tolist() == [[0] * 9] * 2


@pytest.mark.parametrize("kind", ["lloyd", "mini-batch"])
def test_distances_that_are_not_finite_end_a_run(kind: str) -> None:
    machine = Machine(kind, starts(1), None)
    x = X.clone()
    x[700, 2] = torch.nan
    machine.rows = rows_in_parts(x)
    machine.search = machine.rows.search(machine.problem)
    with pytest.raises(NonFiniteInertiaError):
        machine.run()


def test_an_empty_cluster_ends_a_run_where_that_is_asked() -> None:
    problem = Problem(9, 5, empty_cluster="error")
    lloyd = Lloyd(problem, starts(1))
    rows = rows_in_parts(X)
    search = rows.search(problem)
    lloyd.begin_pass()
    for batch in rows:
        lloyd.add(*search.step(batch, lloyd.centroids))
    with pytest.raises(EmptyClusterError, match="2 of 9 clusters have no samples"):
        lloyd.end_pass()


def test_mini_batches_are_m_steps_of_a_layer() -> None:
    machine = Machine("mini-batch", starts(1, n_empty=0), None)
    layer = layer_at(starts(1, n_empty=0)[0])
    machine.lloyd.begin_pass()
    for batch in machine.rows:
        machine.lloyd.add(*machine.search.step(batch, machine.lloyd.centroids))
        layer.m_step(layer.e_step(batch.x).stats, decay=1.0)
        assert torch.equal(machine.lloyd.centroids[0], layer.centroids)
    before = starts(1, n_empty=0)
    iteration = machine.lloyd.end_pass()
    assert iteration.number == 1
    torch.testing.assert_close(
        iteration.shift[0], (layer.centroids.double() - before[0]).square().sum()
    )
    assert isinstance(machine.lloyd, MiniBatch)
    assert torch.equal(machine.lloyd.counts[0], layer.counts)


@pytest.mark.parametrize("policy", ["relocate", "split", "keep", "error"])
@pytest.mark.parametrize("threshold", [0.0, 1e-2])
@pytest.mark.parametrize("n_empty", [0, 2])
def test_a_pass_that_is_looked_at_at_once_ends_as_one_that_is_looked_at_later(
    policy: str, threshold: float, n_empty: int
) -> None:
    """Centroids, decisions and numbers; and an error leaves the centroids as they were."""
    limit = torch.full((3,), threshold, dtype=torch.float64)
    later, at_once = (Machine("lloyd", starts(3, n_empty), limit) for _ in range(2))
    for machine in (later, at_once):
        machine.problem = machine.problem._replace(empty_cluster=policy)
        machine.lloyd.problem = machine.problem
    for _ in range(LIMIT):
        for machine in (later, at_once):
            machine.lloyd.begin_pass()
            for batch in machine.rows:
                machine.lloyd.add(*machine.search.step(batch, machine.lloyd.centroids))
        if policy == "error" and n_empty:
            before = at_once.lloyd.centroids
            for end in (later.lloyd.end_pass, lambda: at_once.lloyd.end_pass_and_look(least)):
                with pytest.raises(EmptyClusterError):
                    end()
            assert at_once.lloyd.centroids is before
            return
        expected = later.lloyd.end_pass()
        later.lloyd.look()
        found, [fewest] = at_once.lloyd.end_pass_and_look(least)
        assert_same(at_once, later, [], [])
        assert found.number == expected.number or later.lloyd.finished
        for name in ("inertia", "shift", "moved", "counts"):
            torch.testing.assert_close(
                getattr(found, name), getattr(expected, name), rtol=0, atol=0, equal_nan=True,
                check_dtype=False,
            )  # fmt: skip
        assert fewest.tolist() == expected.counts.amin(dim=-1).tolist()
        if later.lloyd.finished:
            break


def least(counts: Tensor) -> list[Tensor]:
    return [counts.amin(dim=-1)]
