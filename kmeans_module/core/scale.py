"""Masses as integers, so that their sums are the same in whatever order they are added up."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

# Bits of an integer at most: numbers below 2^52 have room to be rounded in float64. The native
# kernel rounds no more (KM_MOST_BITS in csrc/abi/native.h).
MOST_BITS = 51
# Bits of a sum.
_SUM_BITS = 62


class Scale(NamedTuple):
    """A mass counts as mass * 2^exponent, rounded to the nearest integer (ties to even): at least
    1 where it is positive, so that every such row can be drawn, and 2^bits at most.

    Attributes:
        exponents: one for each problem, (P,) int64.
        bits: of an integer.
    """

    exponents: Tensor
    bits: int

    @classmethod
    def of(cls, largest: Tensor, n: int) -> Scale:
        """The finest scale with which no sum overflows.

        Args:
            largest: of all masses of a problem, (P,), of floats.
            n: masses of a problem.
        """
        bits = min(MOST_BITS, _SUM_BITS - n.bit_length())
        # largest < 2^(field - bias + 1), and denormal ones < 2^(2 - bias)
        if largest.dtype == torch.float64:
            field, bias = largest.view(torch.int64) >> 52, 1023
        else:
            field, bias = largest.float().view(torch.int32).long() >> 23, 127
        return cls(bits + bias - 1 - field.clamp(min=1), bits)

    @classmethod
    def of_number(cls, largest: float, n: int) -> tuple[int, int]:
        """The exponent and the bits of :meth:`of`, for one number."""
        bits = min(MOST_BITS, _SUM_BITS - n.bit_length())
        field = 2047 if math.isinf(largest) else math.frexp(largest)[1] + 1022
        return bits + 1022 - max(field, 1), bits

    def integers(self, mass: Tensor) -> Tensor:
        """Masses (P, n) as integers, int64."""
        scaled = mass if mass.device.type == "mps" else mass.double()
        half = self.exponents >> 1
        for exponents in (half, self.exponents - half):  # the power alone may be out of range
            scaled = scaled * power_of_two(exponents, scaled.dtype).unsqueeze(-1)
        whole = scaled.clamp(max=2.0**self.bits).round().long()
        return whole + ((whole == 0) & (mass > 0))


def power_of_two(exponents: Tensor, dtype: torch.dtype) -> Tensor:
    """2^exponents (int64), exactly; float32 or float64."""
    if dtype == torch.float64:
        return ((exponents + 1023) << 52).view(torch.float64)
    return ((exponents + 127) << 23).int().view(torch.float32)
