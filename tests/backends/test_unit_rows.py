"""Rows at length 1, as distances under the cosine metric take them."""

from __future__ import annotations

import pytest
import torch

from kmeans_module.backends import unit_rows, workspace
from tests.conftest import seeded

pytestmark = pytest.mark.usefixtures("kernel")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [1, 7, 16, 45, 1100])
def test_a_row_has_distance_0_to_itself(d: int, dtype: torch.dtype) -> None:
    x = torch.randn(70, d, generator=seeded(), dtype=dtype) * 1e10
    x[3], x[5] = 0, x[5] * 1e-20
    unit = unit_rows(x)
    assert unit.dtype == dtype
    torch.testing.assert_close(unit, torch.nn.functional.normalize(x))
    for i in (0, 5, 69):
        nearest = torch.full((1, 70), torch.inf, dtype=dtype)
        workspace(x, metric="cosine", dtype=dtype).lower(nearest, unit[None, i : i + 1])
        assert nearest[0, i] == 0


def test_rows_may_have_any_layout() -> None:
    x = torch.randn(3, 9, 40, generator=seeded())
    expected = unit_rows(x)
    assert torch.equal(unit_rows(x.transpose(0, 1)), expected.transpose(0, 1))
    assert torch.equal(unit_rows(torch.cat([x, x], dim=-1)[..., :40]), expected)
    assert unit_rows(x[:, :0]).shape == (3, 0, 40)
