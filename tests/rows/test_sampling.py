"""Block sums and the search in them, native and in torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kmeans_module.backends import BACKENDS, native, reference
from kmeans_module.backends.reference import shares
from kmeans_module.core.scale import Scale
from kmeans_module.rows.sampling import BLOCK, block_sums, draw, search
from tests.conftest import seeded

pytestmark = pytest.mark.usefixtures("kernel")


LARGEST = {torch.float32: 3e38, torch.float64: 1e308}


def scale_of(mass: Tensor) -> Scale:
    return Scale.of(mass.amax(dim=-1).double(), mass.shape[-1])


def sums_of(mass: Tensor) -> Tensor:
    return block_sums(mass, scale_of(mass))


@pytest.mark.parametrize("n", [1, BLOCK, 5 * BLOCK + 3, 200 * BLOCK])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_of_blocks(n: int, dtype: torch.dtype) -> None:
    mass = torch.rand(2, n, generator=seeded(), dtype=dtype)
    scale = scale_of(mass)
    expected = torch.stack([part.double().sum(-1) for part in mass.split(BLOCK, dim=-1)], dim=-1)
    expected *= 2.0 ** scale.exponents.unsqueeze(-1)
    torch.testing.assert_close(block_sums(mass, scale).double(), expected, rtol=1e-12, atol=0)
    columns = mass.T.contiguous().T  # another layout
    assert torch.equal(block_sums(columns, scale), block_sums(mass, scale))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("largest", [0.0, "denormal", 1e-30, 1.0, "largest", float("inf")])
def test_sums_are_integers_that_do_not_overflow(
    dtype: torch.dtype, largest: float | str, kernel: str
) -> None:
    n = 3 * BLOCK + 7
    names = {"denormal": torch.finfo(dtype).tiny / 3, "largest": LARGEST[dtype]}
    top = names[largest] if isinstance(largest, str) else largest
    mass = torch.rand(1, n, generator=seeded(), dtype=dtype) ** 40
    mass = mass * top if top < float("inf") else mass
    mass[:, ::7] = 0
    mass[0, n // 2] = top
    scale = Scale.of(torch.tensor([top], dtype=torch.float64), n)
    sums = block_sums(mass, scale)
    assert (sums >= 0).all()
    if native.BACKEND.missing() is None:
        for part in (mass, mass[:, :70]):
            expected = reference.BACKEND.block_sums(part, 64, scale)
            assert torch.equal(native.BACKEND.block_sums(part, 64, scale), expected)
    counted = block_sums(mass, scale)
    parts = [block_sums(part, scale).sum() for part in mass.split(100, dim=-1)]
    assert int(sum(parts)) == int(counted.sum()), "whatever the batches"
    if top > 0:
        assert 2**60 // n <= int(counted.sum()) < 2**62
        numbers = torch.linspace(0, 1 - 2**-53, 50, dtype=torch.float64).unsqueeze(0)
        target = shares(numbers, counted.sum(dim=-1, keepdim=True))
        found = search(mass, scale, counted, target)
        assert (mass.gather(-1, found) > 0).all()
        assert torch.equal(
            reference.BACKEND.search_sums(mass, BLOCK, scale, counted, target), found
        )


def test_a_row_of_any_mass_can_be_drawn() -> None:
    mass = torch.tensor([[1e30, 1e-30, 0.0, 1e30, 1e-38]])
    scale = scale_of(mass)
    sums = block_sums(mass, scale)
    target = torch.stack([sums[0] // 2 - 1, sums[0] // 2, sums[0] - 1], dim=-1)
    assert search(mass, scale, sums, target).tolist() == [[1, 3, 4]]


@pytest.mark.parametrize("n", [1, 100, 5 * BLOCK + 3, 40 * BLOCK])
def test_it_finds_where_the_sum_exceeds_a_target(n: int) -> None:
    mass = torch.randint(0, 3, (2, n), generator=seeded(), dtype=torch.float64)
    mass[:, -1] = 2
    scale = scale_of(mass)
    numbers = torch.rand(2, 7, generator=seeded(1), dtype=torch.float64)
    numbers[:, 0] = 0
    expected = torch.searchsorted(
        mass.cumsum(-1), (numbers * mass.sum(-1, keepdim=True)), right=True
    )
    sums = block_sums(mass, scale)
    target = shares(numbers, sums.sum(dim=-1, keepdim=True))
    assert torch.equal(search(mass, scale, sums, target), expected)


def test_no_target_chooses_a_row_without_mass() -> None:
    for seed in range(20):
        mass = torch.rand(1, 36 * BLOCK, generator=seeded(seed), dtype=torch.float64)
        mass[:, ::BLOCK] = 0
        scale = scale_of(mass)
        blocks = block_sums(mass, scale)
        for target in blocks.cumsum(dim=-1)[:, :-2].split(1, dim=-1):
            assert (mass.gather(-1, search(mass, scale, blocks, target)) > 0).all()


def test_beyond_the_total_the_last_row_with_mass_is_found() -> None:
    mass = torch.zeros(1, 20 * BLOCK)
    mass[0, [5, 3 * BLOCK + 7]] = 1
    found = search(mass, scale_of(mass), sums_of(mass), torch.tensor([[2**62]]))
    assert found.tolist() == [[3 * BLOCK + 7]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 700, 300 * BLOCK])
def test_backends_draw_the_same_rows(dtype: torch.dtype, n: int, kernel: str) -> None:
    mass = torch.rand(3, n, generator=seeded(), dtype=dtype) ** 9
    mass[:, ::5] = 0
    mass[:, -1] = torch.tensor([1e-3, 0.5, 1])
    mass[1] *= 1e-30
    numbers = torch.rand(3, 40, generator=seeded(1), dtype=torch.float64)
    numbers[:, 0], numbers[:, 1] = 0, 1 - 2**-53
    chosen = next(backend for backend in BACKENDS if backend.name == kernel)
    found, all_have = draw(mass, numbers, chosen)
    assert all_have
    assert (mass.gather(-1, found) > 0).all()
    scale = scale_of(mass)
    sums = block_sums(mass, scale)
    target = shares(numbers, sums.sum(dim=-1, keepdim=True))
    assert torch.equal(search(mass, scale, sums, target), found)
    for other in (reference.BACKEND, native.BACKEND):
        if other.missing() is None:
            assert torch.equal(draw(mass, numbers, other)[0], found)
    mass[1] = 0
    assert not draw(mass, numbers, chosen)[1]
