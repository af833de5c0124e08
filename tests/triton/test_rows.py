"""What the kernels find out about rows: lengths, halves and what they lose, extents."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kmeans_module.backends.triton.rows import DeviceRows
from tests.conftest import DEVICE
from tests.triton.conftest import rows_of

LENGTHS = (3, 20, 150)


def device_rows(x: Tensor, *, unit: bool = False) -> DeviceRows:
    return DeviceRows(x.to(DEVICE), unit=unit, keep=True)


@pytest.mark.parametrize("scale", [1e-41, 1e-20, 1.0, 1e30])
@pytest.mark.parametrize("d", LENGTHS)
def test_lengths_are_those_of_rows_scaled_by_a_power_of_two(d: int, scale: float) -> None:
    x = rows_of(33, d) * scale
    x[5] = 0
    rows = device_rows(x, unit=True)
    exponents, lengths = rows.exponents[0].cpu(), rows.lengths[0].cpu()
    largest = x.double().abs().amax(dim=1)
    scaled = largest * torch.exp2(-exponents.double())
    others = torch.arange(33) != 5
    assert ((scaled < 2) | (exponents == 126)).all()
    assert ((scaled >= 1) | (exponents == -126))[others].all()  # the scale is no denormal number
    exact = (x.double() * torch.exp2(-exponents.double()).unsqueeze(1)).norm(dim=1)
    torch.testing.assert_close(lengths.double(), exact, rtol=2e-7, atol=0)
    assert lengths[5] == 0


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e15])
@pytest.mark.parametrize("mean", [0.0, 1_000.0])
@pytest.mark.parametrize("d", [20, 150])
def test_halves_lose_no_more_than_is_measured(d: int, mean: float, scale: float) -> None:
    x = (rows_of(33, d) + mean) * scale
    x[7] *= 1_000  # beyond what a sample of rows may show
    rows = device_rows(x)
    offset = rows.offset[0].cpu().double()
    half = rows.half[0].cpu()
    assert (half[:, d:] == 0).all()
    assert half.isfinite().all()
    # The scale is a power of two that the halves themselves show.
    apart = x.double() - offset
    largest = half[:, :d].double().abs().amax()
    scale_of_rows = 2.0 ** round(math.log2(float(largest / apart.abs().amax())))
    apart = apart * scale_of_rows
    lost = (apart - half[:, :d].double()).norm(dim=1)
    norms, residues = rows.norms[0].cpu().double(), rows.residues[0].cpu().double()
    # The difference to the offset is rounded to float32, too; thresholds allow for that.
    rounding = 2.0**-23 * apart.norm(dim=1)
    assert (residues + rounding >= lost).all()
    assert (norms + rounding >= apart.norm(dim=1)).all()
    assert (norms <= 1.001 * apart.norm(dim=1) + rounding).all()


def test_half_precision_is_taken_as_it_is_where_it_can_be() -> None:
    x = rows_of(20, 160).half()
    rows = device_rows(x)
    assert rows.half.data_ptr() == rows.x.data_ptr()
    assert device_rows(rows_of(20, 150).half()).half.data_ptr() != rows.x.data_ptr()


def value_of(code: Tensor) -> Tensor:
    """The float32 of an integer in the order of floats."""
    return torch.where(code < 0, code ^ 0x7FFFFFFF, code).view(torch.float32)


@pytest.mark.parametrize("d", [1, 20, 150])
def test_extents(d: int) -> None:
    x = rows_of(300, d)
    x[:, 0] = -x[:, 0].abs() - 1e-40
    low, high = (bound.cpu() for bound in device_rows(x).extents)
    assert torch.equal(value_of(low)[0], x.amin(dim=0))
    assert torch.equal(value_of(high)[0], x.amax(dim=0))


@pytest.mark.parametrize("d", [2, 20])
def test_extents_tell_what_is_not_finite(d: int) -> None:
    x = rows_of(40, d)
    x[3, 0], x[30, 1] = math.nan, -math.inf
    low, high = (value_of(bound.cpu())[0] for bound in device_rows(x).extents)
    assert not low[:2].isfinite().any()
    assert not high[0].isfinite()
    assert high[1:].isfinite().all()
    assert low[2:].isfinite().all()
