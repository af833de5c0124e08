"""Promises of draws: any batches together are one sequence, drawn in proportion to weight."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch

from kmeans_module.backends import unit_rows
from kmeans_module.backends.reference import ReferenceWorkspace
from kmeans_module.core.problem import Problem
from kmeans_module.rows import Batch, HeldRows, StreamRows
from kmeans_module.rows.draws import HeldDraws
from kmeans_module.rows.keyed import row_hashes, where_first
from kmeans_module.rows.positions import Positions
from kmeans_module.rows.stream_draws import StreamDraws
from tests.conftest import blobs, brute_force, seeded
from tests.rows.helpers import Passes

X = torch.arange(24, dtype=torch.float32).view(12, 2)


def reversed_batches(
    x: torch.Tensor, cuts: list[int] | None, weight: torch.Tensor | None
) -> list[Batch]:
    """x in the batches between the cuts, in reverse order: ``start`` says where they belong."""
    edges = [0, *(cuts or []), x.shape[-2]]
    batches = [
        Batch(x[..., low:high, :], None if weight is None else weight[..., low:high], start=low)
        for low, high in itertools.pairwise(edges)
    ]
    return batches[::-1]


def rows_of(
    x: torch.Tensor,
    cuts: list[int] | None = None,
    *,
    weight: torch.Tensor | None = None,
    metric: str = "euclidean",
    n_problems: int = 1,
    seed: int = 0,
) -> Positions:
    """The rows of x by position, in batches that come in reverse order."""
    problem = Problem(1, x.shape[-1], n_problems, metric=metric)
    batches = reversed_batches(x, cuts, weight)
    return Positions(batches, problem, generator=seeded(seed), group=None)


def draws_of(
    x: torch.Tensor,
    cuts: list[int] | None = None,
    *,
    weight: torch.Tensor | None = None,
    metric: str = "euclidean",
) -> HeldDraws:
    """The rows of x as seeding sees them, in batches that come in reverse order."""
    rows = HeldRows(reversed_batches(x, cuts, weight))
    return rows.draws(Problem(1, x.shape[-1], metric=metric), seeded())


@pytest.mark.parametrize("cuts", [[], [5], [5, 5, 11]])
def test_take_finds_rows_by_position(cuts: list[int]) -> None:
    positions = torch.tensor([[0, 11, 5, 4, 5]])
    assert torch.equal(rows_of(X, cuts).take(positions)[0], X[positions[0]])


def test_take_is_per_problem() -> None:
    x = torch.stack([X, X + 100])
    positions = torch.tensor([[0, 3], [11, 2]])
    taken = rows_of(x, [4], n_problems=2).take(positions)
    assert torch.equal(taken, torch.stack([X[[0, 3]], X[[11, 2]] + 100]))


def test_cosine_rows_are_unit() -> None:
    rows = rows_of(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), metric="cosine")
    torch.testing.assert_close(
        rows.take(torch.tensor([[0, 1]]))[0], torch.tensor([[0.6, 0.8], [0.0, 0.0]])
    )
    assert rows.weight(0).tolist() == [[1, 0]]


@pytest.mark.parametrize("cuts", [[3], [1, 2, 7], [6, 6]])
def test_draws_do_not_depend_on_the_batches(cuts: list[int]) -> None:
    weight = torch.tensor([0, 1, 0, 5, 0.5, 0, 0, 2, 1, 1, 3, 0], dtype=torch.float64)
    whole = rows_of(X, weight=weight)
    numbers = whole.uniform(1, 500)
    expected = whole.draw([whole.weight(0)], numbers)
    parts = rows_of(X, cuts, weight=weight)
    drawn = parts.draw([parts.weight(i) for i in range(len(parts.batches))], numbers)
    assert torch.equal(drawn, expected)


def test_draws_follow_the_masses_and_never_choose_zero() -> None:
    mass = torch.tensor([[0.0, 1.0, 0.0, 2.0, 7.0, 0.0]])
    rows = rows_of(X[:6])
    drawn = rows.draw([mass], rows.uniform(1, 20_000))[0]
    share = torch.bincount(drawn, minlength=6) / 20_000
    assert share[mass[0] == 0].sum() == 0
    # 4 standard errors of a share of 0.7
    torch.testing.assert_close(share, mass[0] / 10, rtol=0, atol=4 * (0.21 / 20_000) ** 0.5)


@pytest.mark.parametrize("number", [0.0, 0.4, 1 - 2**-53])
def test_the_ends_of_the_unit_interval_are_safe(number: float) -> None:
    mass = torch.tensor([[0.0, 0.1, 0.2, 0.3, 0.0, 0.0]])
    rows = rows_of(X[:6], [3])
    numbers = torch.tensor([[number]], dtype=torch.float64)
    # the batches come in reverse order
    position = rows.draw([mass[:, 3:], mass[:, :3]], numbers).item()
    assert position == {0.0: 1, 0.4: 2}.get(number, 3)


def test_draws_are_uniform_where_float32_could_not_count() -> None:
    # a float32 cumulative sum of ones stops at 2^24
    n = 2**24 + 2**20
    rows = rows_of(torch.zeros(n, 1))
    drawn = rows.draw([rows.weight(0)], rows.uniform(1, 2000))[0]
    assert (drawn >= 2**24).sum() > 60
    assert drawn.max() < n


@pytest.mark.parametrize("cuts", [[], [1, 4096, 9000]])
@pytest.mark.parametrize("m", [2, 3000])
def test_draws_over_many_blocks_are_those_of_one_cumulative_sum(cuts: list[int], m: int) -> None:
    n = 10 * 4096 + 100
    weight = torch.randint(0, 3, (n,), generator=seeded()).double()
    weight[4000:20_000] = 0
    weight[-50:] = 0
    rows = rows_of(torch.zeros(n, 1), cuts, weight=weight, seed=5)
    generator = seeded(5)
    for _ in range(100 // m + 1):
        drawn = rows.draw([rows.weight(i) for i in range(len(rows.batches))], rows.uniform(1, m))
        numbers = torch.rand(1, m, dtype=torch.float64, generator=generator)
        expected = torch.searchsorted(weight.cumsum(0), numbers * weight.sum(), right=True)
        assert torch.equal(drawn, expected)


@pytest.mark.parametrize("cuts", [[], [30, 77]])
@pytest.mark.parametrize("weighted", [True, False])
def test_potential_is_the_inertia_with_the_candidate(cuts: list[int], weighted: bool) -> None:
    x = blobs(100, 3) + 1000
    weight = torch.rand(100, generator=seeded(1)).double() if weighted else None
    draws = draws_of(x, cuts, weight=weight)
    centers, candidates = x[None, :2], x[None, 50:55]
    draws.lower(centers)
    found = draws.potentials(candidates)
    for i in range(5):
        joined = torch.cat([centers[0], candidates[0, i : i + 1]])
        lowest = brute_force(x, joined).min(-1).values
        expected = (lowest * (1 if weight is None else weight)).sum()
        torch.testing.assert_close(found[0, i], expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("n_centers", [1, 3])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_lower_measures_to_the_nearest_center(n_centers: int, metric: str) -> None:
    x = blobs(60, 3)
    draws = draws_of(x, [20], metric=metric)
    centers = draws.take(torch.arange(n_centers).unsqueeze(0))
    draws.lower(centers)
    unit = x / x.norm(dim=-1, keepdim=True) if metric == "cosine" else x
    expected = brute_force(unit, centers[0]).min(-1).values.float()
    together = torch.cat(draws.nearest[::-1], dim=-1)[0]
    torch.testing.assert_close(together, expected, rtol=1e-4, atol=1e-5)
    assert (together[:n_centers] <= 1e-6).all()


def draws_of_forms(
    x: torch.Tensor, metric: str, weight: torch.Tensor | None = None
) -> Iterator[HeldDraws | StreamDraws]:
    """The rows of x as seeding sees them, in memory and in streams, in any batches."""
    for cuts in ([], [30, 77], [1, 50, 50, 99]):
        yield draws_of(x, cuts, weight=weight, metric=metric)
        batches = reversed_batches(x, cuts, weight)
        for part in (batches, batches[::-1]):
            rows = StreamRows(Passes(part), n_features=x.shape[1], device=x.device, stable=False)
            yield rows.draws(Problem(1, x.shape[1], metric=metric), seeded())


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("weighted", [False, True])
def test_draws_by_distance_are_the_same_of_any_batches(metric: str, weighted: bool) -> None:
    x = blobs(100, 3)
    weight = torch.rand(100, generator=seeded(1)).double() if weighted else None
    found = []
    for draws in draws_of_forms(x, metric, weight):
        first = draws.by_distance(None, 1)
        second = draws.by_distance(first, 8)
        third = draws.by_distance(second, 8)
        found.append(torch.cat([first, second, third], dim=1))
    for other in found[1:]:
        assert torch.equal(other, found[0])
    space = unit_rows(x) if metric == "cosine" else x
    assert (found[0][0].unsqueeze(1) == space).all(-1).any(-1).all(), "rows of the data"
    assert len(found[0][0].unique(dim=0)) == 17, "no row twice: its distance is 0"


@pytest.mark.parametrize("stream", [False, True])
def test_draws_by_distance_follow_the_squared_distance(stream: bool) -> None:
    # From 0, the distances are 0, 1, 4, 9, weights 1, 2, 1, 1 make of them 0, 2, 4, 9.
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    batches = [Batch(x, torch.tensor([1.0, 2, 1, 1]).double(), start=0)]
    problem = Problem(1, 1, 15_000)
    draws = (
        StreamRows(batches, n_features=1, device=x.device, stable=True).draws(problem, seeded())
        if stream
        else HeldRows(batches).draws(problem, seeded())
    )
    found = draws.by_distance(torch.zeros(15_000, 1, 1), 1).flatten()
    share = torch.bincount(found.long(), minlength=4) / 15_000
    expected = torch.tensor([0, 2, 4, 9]) / 15
    torch.testing.assert_close(share, expected, rtol=0, atol=4 * (0.25 / 15_000) ** 0.5)
    assert share[0] == 0


def test_where_fewer_rows_are_apart_the_first_is_repeated() -> None:
    x = torch.tensor([[0.0], [5.0], [7.0]]).repeat(4, 1)
    for draws in draws_of_forms(x.repeat(9, 1), "euclidean"):
        near = torch.tensor([[[0.0], [5.0]]])
        found = draws.by_distance(near, 50)
        assert found.shape == (1, 50, 1)
        assert found.unique().tolist() == [7]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_masses_are_the_weights_of_the_rows_nearest_to_each(metric: str) -> None:
    x = blobs(100, 3)
    x[::9] = 0
    weight = torch.randint(0, 4, (100,), generator=seeded(1)).double()
    space = unit_rows(x) if metric == "cosine" else x
    centers = space[[1, 20, 40, 70]]
    counted = weight * (x != 0).any(-1) if metric == "cosine" else weight
    expected = torch.zeros(4, dtype=torch.float64)
    expected.index_add_(0, brute_force(space, centers).argmin(-1), counted)
    for draws in draws_of_forms(x, metric, weight):
        assert torch.equal(draws.masses(centers[None])[0], expected)


def test_draws_that_stand_for_others_take_their_weights() -> None:
    for draws in draws_of_forms(blobs(100, 1), "euclidean"):
        other = draws.standing_for(torch.tensor([[[3.0], [4.0]]]), torch.tensor([[0.0, 1.0]]))
        assert other.rounds(1, 16).centers.item() == 4


@pytest.mark.parametrize("weighted", [False, True])
def test_distinct_rows_are_distinct_in_every_form(weighted: bool) -> None:
    x = torch.arange(100.0).unsqueeze(-1)
    weight = (torch.arange(100) % 2).double() if weighted else None
    for draws in draws_of_forms(x, "euclidean", weight):
        found = draws.distinct(50)[0, :, 0]
        assert len(found.unique()) == 50
        assert weight is None or (found % 2 == 1).all()


def test_the_first_of_equal_values_is_kept() -> None:
    values = torch.tensor([5, 3, 5, 1, 3, 3, 9, 1])
    assert values[where_first(values)].tolist() == [5, 3, 1, 9]
    assert where_first(values[:0]).tolist() == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rows_have_one_hash_and_others_another(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.cartesian_prod(*[torch.arange(-3.0, 4.0, dtype=dtype)] * 3)
    x = torch.cat([x, x[5:9] * 1e-30, torch.tensor([[-0.0, 0.0, -0.0]], dtype=dtype)])
    hashes = row_hashes(x)
    assert len(hashes.unique()) == len(x.unique(dim=0)) == len(x) - 1
    assert hashes[-1] == hashes[171], "-0 is 0"
    monkeypatch.setattr("kmeans_module.rows.keyed._ROWS", 7)
    assert torch.equal(row_hashes(x.expand(2, -1, -1))[1], hashes)


def test_autocast_and_matmul_precision_change_no_distance() -> None:
    x = blobs(50, 8)
    workspace = ReferenceWorkspace(x)
    nearest = torch.full((1, 50), torch.inf)
    expected = workspace.potentials(nearest, x[None, :4])
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = workspace.potentials(nearest, x[None, :4])
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(found, expected)
