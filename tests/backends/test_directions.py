"""Directions are orthonormal, and chosen where they pay."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kmeans_module.backends.native.directions import find_directions, find_directions_for_seeding


def structured(n: int, d: int) -> Tensor:
    scale = torch.arange(1, d + 1).float().pow(-1)
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0)) * scale


@pytest.mark.parametrize("once", [True, False])
def test_structured_rows_get_orthonormal_directions(once: bool) -> None:
    x = structured(1_024, 128)
    found = find_directions(x, x[::5][:200], most=95, once=once)
    assert found is not None
    p = len(found.basis)
    torch.testing.assert_close(found.basis @ found.basis.T, torch.eye(p), rtol=0, atol=1e-5)


def test_the_leading_directions_come_first() -> None:
    x = structured(1_024, 128)
    found = find_directions(x, x[::5][:200], most=95)
    assert found is not None
    variance = ((x - found.center) @ found.basis.T).var(dim=0)
    assert variance[0] > 0.9 * x.var(dim=0).max()
    assert (variance[:8].diff() < 0).all()


def test_noise_gets_none() -> None:
    x, centroids = torch.randn(1_524, 128, generator=torch.Generator().manual_seed(0)).split(
        [1_024, 500]
    )
    assert find_directions(x, centroids, most=63) is None


def test_there_are_no_more_than_allowed() -> None:
    x = structured(1_024, 128)
    found = find_directions(x, x[:500], most=20)
    assert found is None or len(found.basis) <= 20


def test_rows_that_are_all_the_same_do_no_harm() -> None:
    x = torch.ones(1_024, 64)
    found = find_directions(x, x[:100], most=31)
    assert found is None or found.basis.isfinite().all()


def test_seeding_measures_along_directions_where_there_is_structure() -> None:
    found = find_directions_for_seeding(structured(1_024, 128), n_candidates=8, most=127)
    assert found is not None
    assert len(found.basis) < 100
    noise = torch.randn(1_024, 128, generator=torch.Generator().manual_seed(0))
    assert find_directions_for_seeding(noise, n_candidates=8, most=127) is None
