"""Promises of the survey: the data's own variance, and where the data hold what they should not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kmeans_module.core.problem import Problem
from kmeans_module.rows import Batch, HeldRows, survey
from kmeans_module.rows.survey import Nonfinite, refuse
from tests.conftest import blobs, seeded


def scan(batches: list[Batch], metric: str = "euclidean", n_problems: int = 1) -> torch.Tensor:
    rows = HeldRows(batches, n_problems=n_problems)
    moments = rows.moments(metric)
    refuse(moments, rows.example, Problem(1, rows.n_features, n_problems, metric=metric))
    return moments.variance


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("cuts", [[200], [1, 50, 149], [0, 200]])
def test_variance_is_the_mean_over_the_features(offset: float, cuts: list[int]) -> None:
    x = torch.randint(-9, 9, (200, 5), generator=seeded()).float() + offset
    found = scan([Batch(part) for part in x.split(cuts)])
    expected = x.double().var(dim=0, correction=0).mean()
    torch.testing.assert_close(found, expected.unsqueeze(0), rtol=1e-11, atol=0)


def test_variance_is_that_of_scikit_learn() -> None:
    x = blobs(300, 4)
    np.testing.assert_allclose(scan([Batch(x)]).item(), np.var(x.double().numpy(), axis=0).mean())


def test_variance_is_per_problem_and_ignores_rows_of_weight_zero() -> None:
    x = torch.stack([blobs(50, 2, seed=s) for s in range(3)])
    weight = torch.ones(3, 50, dtype=torch.float64)
    weight[1, 20:] = 0
    found = scan([Batch(x, weight)], n_problems=3)
    for p, rows in enumerate((x[0], x[1, :20], x[2])):
        torch.testing.assert_close(found[p], rows.double().var(dim=0, correction=0).mean())


def test_variance_of_cosine_is_that_of_unit_rows() -> None:
    x = blobs(100, 3)
    unit = x.double() / x.double().norm(dim=-1, keepdim=True)
    torch.testing.assert_close(
        scan([Batch(x)], "cosine")[0], unit.var(dim=0, correction=0).mean(), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize(("elements", "n"), [(1 << 21, 10), (4, 100)])
def test_bad_rows_are_counted_and_the_first_is_named(
    elements: int, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "_SCAN_ELEMENTS", elements)
    x = torch.zeros(n, 2)
    assert str(Nonfinite().look(x)) == ""
    x[7, 1] = torch.nan
    assert str(Nonfinite().look(x)) == (
        "x should be finite; 1 row holds NaN or infinity, the first is row 7"
    )
    x[3] = torch.inf
    x[9, 0] = -torch.inf
    assert str(Nonfinite().look(x, 100)) == (
        "x should be finite; 3 rows hold NaN or infinity, the first is row 103"
    )


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_scan_refuses_non_finite_batches(value: float) -> None:
    x = torch.zeros(6, 2)
    x[5, 1] = value
    with pytest.raises(ValueError, match="1 row holds NaN or infinity, the first is row 5"):
        scan([Batch(x[:3]), Batch(x[3:])])


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16])
def test_scan_takes_every_dtype_of_data(dtype: torch.dtype) -> None:
    x = torch.randint(0, 2, (40, 3), generator=seeded()).to(dtype)
    expected = x.double().var(dim=0, correction=0).mean()
    torch.testing.assert_close(scan([Batch(x)])[0], expected)
