"""How often code would wait for an accelerator, counted on tensors of the CPU."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

# What reads numbers of a device, or needs to know how many there are.
_METHODS = (
    "item", "tolist", "numpy", "cpu", "nonzero", "unique", "masked_select", "equal", "allclose",
    "__bool__", "__int__", "__float__", "__index__", "__contains__", "__array__", "is_nonzero",
)  # fmt: skip
_FUNCTIONS = (
    "nonzero", "unique", "unique_consecutive", "masked_select", "equal", "allclose", "bincount",
    "argwhere", "histc", "is_nonzero", "multinomial",
)  # fmt: skip


class Waits(list[str]):
    """Where the device would be waited for: one entry for each wait."""


@contextmanager
def counted() -> Iterator[Waits]:
    """Count what would wait, if the tensors were on an accelerator.

    Tensors that are made on the CPU on purpose (drawn numbers) count too: hand them over by
    ``to(device)``, which waits for nothing.
    """
    waits, depth, saved = Waits(), [0], []

    def watch(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            if not depth[0]:
                at = [f for f in traceback.extract_stack()[:-1] if "kmeans_module" in f.filename]
                waits.append(f"{name} at {at[-1].filename}:{at[-1].lineno}" if at else name)
            depth[0] += 1
            try:
                return original(*args, **kwargs)
            finally:
                depth[0] -= 1

        saved.append((owner, name, original))
        setattr(owner, name, watched)

    def watch_indexing(name: str) -> None:
        original = getattr(Tensor, name)

        def watched(self: Tensor, index: Any, *value: Any) -> Any:
            parts = index if isinstance(index, tuple) else (index,)
            by_mask = any(
                isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in parts
            )
            if by_mask and not depth[0] and name == "__getitem__":
                waits.append(f"{name} by a mask")
            return original(self, index, *value)

        saved.append((Tensor, name, original))
        setattr(Tensor, name, watched)

    for method in _METHODS:
        watch(Tensor, method)
    for function in _FUNCTIONS:
        watch(torch, function)
    watch_indexing("__getitem__")
    try:
        yield waits
    finally:
        for owner, name, original in saved:
            setattr(owner, name, original)
