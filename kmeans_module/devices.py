"""Devices that are asked for by name, and room on them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kmeans_module.checks import FLOATS
from kmeans_module.core.words import first_line, shown


def usable_device(device: object, *, meta: bool = False) -> torch.device | None:
    """The device of that name; None for None.

    Args:
        device: a torch.device, or its name.
        meta: whether it may be the one without numbers.

    Raises:
        ValueError: torch cannot use such a device here, or it holds no numbers.
    """
    if device is None:
        return None
    try:
        place = torch.device(device)  # type: ignore[call-overload]
        where: torch.device = torch.empty(0, device=place).device
    except (RuntimeError, AssertionError, TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"device should be one that torch can use here; got {shown(device)}: "
            f"{first_line(error)[:200]}"
        ) from None
    if where.type == "meta" and not meta:
        raise ValueError("device should hold numbers; got meta")
    return where


def allocate(
    name: str,
    shape: tuple[int, ...],
    *,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> Tensor:
    """Zeros.

    Args:
        name: of what they are for, in errors.
        shape: of the tensor.
        device: None for torch's default.
        dtype: of floats; None for torch's default.

    Raises:
        TypeError: the dtype is none of floats.
        ValueError: the device cannot be used, the size overflows, or there is no room.
    """
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype in FLOATS):
        raise TypeError(f"dtype should be one of {', '.join(map(str, FLOATS))}; got {shown(dtype)}")
    place = usable_device(device, meta=True)
    if math.prod(shape) >= 2**60:
        raise ValueError(f"{name} of shape {shape} overflow a 64-bit size")
    try:
        return torch.zeros(shape, device=place, dtype=dtype)
    except RuntimeError as error:
        raise ValueError(f"no room for {name} of shape {shape}: {first_line(error)}") from error
