"""Promises of keyed draws: one pass, any batches, in proportion to the masses."""

from __future__ import annotations

import itertools
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kmeans_module.rows.keyed import KeyedDraw, all_unlike
from tests.conftest import seeded
from tests.waits import counted

N = 50


def seeds_of(problems: int, seed: int = 0) -> Tensor:
    return torch.randint(2**62, (problems,), generator=seeded(seed))


def numbered(n: int) -> Tensor:
    """(n, 1), each row its own number."""
    return torch.arange(n, dtype=torch.float64).unsqueeze(-1)


def drawn(masses: Tensor, m: int, seeds: Tensor) -> Tensor:
    """Numbers of the rows that are drawn, in their order, (P, m)."""
    draw = KeyedDraw(m, seeds, n_features=1, dtype=torch.float64)
    draw.add(
        numbered(masses.shape[-1]),
        None,
        masses.expand(len(seeds), -1),
        torch.arange(masses.shape[-1]),
    )
    rows, _, valid = draw.finish(None)
    assert valid.all()
    return rows[..., 0].long()


def chi_square(counts: Tensor, expected: Tensor) -> float:
    """In standard deviations from its mean, for many cells."""
    statistic = ((counts - expected).square() / expected).sum()
    freedom = counts.numel() - 1
    return float((statistic - freedom) / (2 * freedom) ** 0.5)


@given(
    cuts=st.lists(st.integers(0, N), max_size=6),
    order=st.randoms(use_true_random=False),
    m=st.integers(1, N + 5),
    seed=st.integers(0, 99),
    own=st.booleans(),
    weighted=st.booleans(),
)
def test_batches_in_any_order_draw_the_same_rows(
    cuts: list[int], order: Random, m: int, seed: int, own: bool, weighted: bool
) -> None:
    generator = seeded(seed)
    x = torch.randn(*((3,) if own else ()), N, 2, generator=generator)
    masses = torch.rand(3, N, generator=generator).double()
    masses[:, ::4] = 0
    weight = torch.rand(N, generator=generator).double() if weighted else None
    edges = sorted({0, N, *cuts})
    parts = [slice(low, high) for low, high in itertools.pairwise(edges)]

    def draw(parts: list[slice]) -> tuple[Tensor, Tensor, Tensor]:
        draw = KeyedDraw(m, seeds_of(3), n_features=2, dtype=torch.float32)
        for part in parts:
            own_weight = None if weight is None else weight[part]
            draw.add(
                x[..., part, :], own_weight, masses[:, part], torch.arange(part.start, part.stop)
            )
        return draw.finish(None)

    rows, weights, valid = draw([slice(0, N)])
    order.shuffle(parts)
    found, found_weights, found_valid = draw(parts)
    assert torch.equal(found_valid, valid)
    assert torch.equal(found[valid], rows[valid])
    assert torch.equal(found_weights[valid], weights[valid])


def test_parts_of_a_batch_are_hashed_like_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    masses, seeds = torch.rand(1, 200, generator=seeded()), seeds_of(2)
    expected = drawn(masses, 9, seeds)
    monkeypatch.setattr("kmeans_module.rows.keyed._ROWS", 7)
    assert torch.equal(drawn(masses, 9, seeds), expected)


def test_the_first_row_is_drawn_in_proportion_to_the_masses() -> None:
    masses = torch.tensor([[0.5, 1, 2, 3, 0.1, 4, 7, 0.25, 1, 1]])
    firsts = drawn(masses, 1, seeds_of(20_000))[:, 0]
    expected = 20_000 * masses[0] / masses.sum()
    assert abs(chi_square(torch.bincount(firsts, minlength=10), expected)) < 4


def test_the_second_row_is_drawn_in_proportion_to_what_is_left() -> None:
    masses = torch.tensor([[1.0, 2, 3, 10]])
    pairs = drawn(masses, 2, seeds_of(30_000, seed=1))
    share = masses[0] / masses.sum()
    expected = share.unsqueeze(1) * share / (1 - share).unsqueeze(1)
    counts = torch.bincount(pairs[:, 0] * 4 + pairs[:, 1], minlength=16).view(4, 4)
    other = ~torch.eye(4, dtype=torch.bool)
    assert not counts[~other].any(), "no row comes twice"
    assert abs(chi_square(counts[other], 30_000 * expected[other])) < 4


@pytest.mark.parametrize("m", [1, 3, 10, 60])
def test_rows_without_mass_are_not_drawn(m: int) -> None:
    masses = torch.zeros(4, N)
    masses[:, 10:17] = torch.rand(4, 7, generator=seeded()) + 0.1
    draw = KeyedDraw(m, seeds_of(4), n_features=1, dtype=torch.float32)
    draw.add(numbered(N), None, masses, torch.arange(N))
    rows, _, valid = draw.finish(None)
    assert valid.sum(dim=-1).tolist() == [min(m, 7)] * 4
    found = rows[..., 0][valid]
    assert ((found >= 10) & (found < 17)).all()
    assert valid.int().diff(dim=-1).le(0).all(), "those that are valid come first"


def test_fewer_rows_than_asked_for_are_all_drawn() -> None:
    draw = KeyedDraw(9, seeds_of(1), n_features=1, dtype=torch.float32)
    for start in (0, 2):
        draw.add(numbered(2) + start, None, torch.ones(1, 2), start + torch.arange(2))
    rows, weights, valid = draw.finish(None)
    assert rows[valid].flatten().sort().values.tolist() == [0, 1, 2, 3]
    assert weights[valid].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_only_the_ratio_of_masses_matters(scale: float) -> None:
    masses = torch.rand(1, N, generator=seeded(), dtype=torch.float64) + 0.5
    seeds = seeds_of(3)
    assert torch.equal(drawn(masses * scale, 5, seeds), drawn(masses, 5, seeds))


def uniform_numbers(n: int, seeds: Tensor, start: int = 0) -> Tensor:
    """What the keys are made of, in the order of the rows, (P, n)."""
    draw = KeyedDraw(n, seeds, n_features=1, dtype=torch.float64)
    draw.add(numbered(n), None, torch.ones(len(seeds), n), start + torch.arange(n))
    return (-draw.keys.gather(-1, draw.rows[..., 0].argsort(dim=-1))).exp()


@pytest.mark.parametrize("start", [0, 1 << 20, (1 << 40) - 3])
def test_the_numbers_are_uniform(start: int) -> None:
    numbers = uniform_numbers(4000, seeds_of(10), start)
    assert ((numbers > 0) & (numbers < 1)).all()
    for cells in (8, 64, 500):
        counts = torch.bincount((numbers.flatten() * cells).long(), minlength=cells)
        assert abs(chi_square(counts, torch.full((cells,), 40_000 / cells))) < 4


@pytest.mark.parametrize("lag", [1, 2, 64, 1024])
def test_the_numbers_of_neighbors_are_independent(lag: int) -> None:
    numbers = uniform_numbers(4000 + lag, seeds_of(10, seed=2))
    pairs = (numbers[:, :-lag] * 16).long() * 16 + (numbers[:, lag:] * 16).long()
    counts = torch.bincount(pairs.flatten(), minlength=256)
    assert abs(chi_square(counts, torch.full((256,), 40_000 / 256))) < 4


def test_the_numbers_of_two_seeds_are_independent_even_of_seeds_beside_each_other() -> None:
    for seeds in (torch.arange(2), torch.tensor([2**40, 2**40 + 1]), seeds_of(2)):
        first, second = (uniform_numbers(40_000, seeds) * 16).long()
        counts = torch.bincount(first * 16 + second, minlength=256)
        assert abs(chi_square(counts, torch.full((256,), 40_000 / 256))) < 4


@pytest.mark.parametrize("n", [3, 3_000])
def test_equal_rows_of_one_problem_are_seen(n: int) -> None:
    rows = torch.arange(2.0 * n).view(1, n, 2).repeat(2, 1, 1)  # alike in both problems
    assert all_unlike(rows)
    rows[1, -1] = rows[1, 0]
    assert not all_unlike(rows)
    rows[1, 0], rows[1, -1] = 0.0, -0.0
    assert not all_unlike(rows)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("m", [1, 20, 60])
def test_a_device_takes_the_same_rows_in_tensors_of_fixed_sizes(
    weighted: bool, m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(N, 2, generator=seeded())
    weight = torch.rand(N, generator=seeded(1)).double() if weighted else None
    masses = torch.rand(3, N, generator=seeded(2)).double()
    masses[:, ::4] = 0
    found = []
    for _ in range(2):
        draw = KeyedDraw(m, seeds_of(3), n_features=2, dtype=torch.float32)
        with counted() as waits:
            for part in (slice(0, 9), slice(9, 10), slice(10, N)):
                own = None if weight is None else weight[part]
                draw.add(x[part], own, masses[:, part], torch.arange(part.start, part.stop))
            rows, weights, valid = draw.finish(None)
        found.append((rows.where(valid.unsqueeze(-1), 0), weights.where(valid, 0), valid))
        monkeypatch.setattr(KeyedDraw, "_take", KeyedDraw._take_at_once)
    assert not waits
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
