"""Block sums and the search in them, native and in torch."""

from __future__ import annotations

import pytest
import torch

from kmeans_module.rows.sampling import BLOCK, block_sums, search
from tests.conftest import seeded

pytestmark = pytest.mark.usefixtures("kernel")


@pytest.mark.parametrize("n", [1, BLOCK, 5 * BLOCK + 3, 200 * BLOCK])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_of_blocks(n: int, dtype: torch.dtype) -> None:
    mass = torch.rand(2, n, generator=seeded(), dtype=dtype)
    expected = torch.stack([part.double().sum(-1) for part in mass.split(BLOCK, dim=-1)], dim=-1)
    torch.testing.assert_close(block_sums(mass), expected, rtol=1e-12, atol=0)
    columns = mass.T.contiguous().T  # another layout
    torch.testing.assert_close(block_sums(columns), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("n", [1, 100, 5 * BLOCK + 3, 40 * BLOCK])
def test_it_finds_where_the_sum_exceeds_a_target(n: int) -> None:
    mass = torch.randint(0, 3, (2, n), generator=seeded(), dtype=torch.float64)
    mass[:, -1] = 1
    target = torch.rand(2, 7, generator=seeded(1), dtype=torch.float64) * mass.sum(-1, keepdim=True)
    target[:, 0] = 0
    expected = torch.searchsorted(mass.cumsum(-1), target.floor(), right=True)
    assert torch.equal(search(mass, block_sums(mass), target.floor()), expected)


def test_no_rounding_at_the_start_of_a_block_chooses_a_row_without_mass() -> None:
    for seed in range(20):
        mass = torch.rand(1, 36 * BLOCK, generator=seeded(seed), dtype=torch.float64)
        mass[:, ::BLOCK] = 0
        blocks = block_sums(mass)
        for target in blocks.cumsum(dim=-1)[:, :-2].split(1, dim=-1):
            assert (mass.gather(-1, search(mass, blocks, target)) > 0).all()


def test_beyond_the_total_the_last_row_with_mass_is_found() -> None:
    mass = torch.zeros(1, 20 * BLOCK)
    mass[0, [5, 3 * BLOCK + 7]] = 1
    found = search(mass, block_sums(mass), torch.tensor([[2.0]], dtype=torch.float64))
    assert found.tolist() == [[3 * BLOCK + 7]]
