"""Values as errors quote them."""

from __future__ import annotations

import reprlib

from torch import Tensor

# Longer values are cut in the middle.
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60


def shown(value: object) -> str:
    """A value as one short line of an error: arrays by their shape, long ones cut."""
    if isinstance(value, Tensor):
        size = "of ragged rows" if value.is_nested else f"of shape {tuple(value.shape)}"
        return f"{type(value).__name__} {size}"
    shape = None if isinstance(value, type) else getattr(value, "shape", None)
    if shape:
        return f"{type(value).__name__} of shape {tuple(shape)}"
    return " ".join(_REPR.repr(value).split())


def first_line(error: BaseException) -> str:
    """The first line of an error of another library; its type where there is none."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
