"""Decisions of a training step, taken in tensors: nothing waits for an accelerator.

The CPU looks at a flag and leaves out what does not matter. An accelerator would have to be waited
for: it computes both ways, and selects. So a step is the same sequence of operations whatever the
numbers are, which a CUDA graph may replay.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kmeans_module.core.guard import no_values
from kmeans_module.rows.survey import Nonfinite, refuse_nonfinite

# What a bad batch leaves behind: 1; how many rows of this rank are not finite; the first of them.
NOTE = 3


def decides_on_device(x: Tensor) -> bool:
    """Whether a look at the values would wait."""
    return x.device.type != "cpu"


def may_be(flag: Tensor) -> bool:
    """Whether a flag () is set; True on an accelerator, which has to go on as if it were."""
    return decides_on_device(flag) or bool(flag)


def put(target: Tensor, value: Tensor, flag: Tensor) -> None:
    """Write a value into a tensor where a flag () is set, which the CPU has made sure of."""
    if decides_on_device(flag):
        torch.where(flag, value.to(target.dtype), target, out=target)
    else:
        target.copy_(value)


def refuse(note: Tensor, refused: Tensor, rows: Tensor) -> None:
    """Raise for a batch that is not finite on some rank; an accelerator, which is not waited for,
    makes a note of it for the next wait.

    Args:
        note: (3,) int64, all 0 where nothing is to be reported.
        refused: whether it is so, ().
        rows: of this rank, (P, n, d).
    """
    if not decides_on_device(refused):
        raise_refused(rows)
    bad = ~rows.isfinite().all(dim=-1)
    bad = bad.any(dim=0)
    first = bad.to(torch.uint8).argmax() if len(bad) else refused.long()
    put(note, torch.stack([refused.long(), bad.sum(), first]), refused)


def raise_refused(rows: Tensor) -> None:
    """Say what is not finite in the rows (P, n, d) of this rank, or that it is another one's."""
    if not rows.isfinite().all():
        refuse_nonfinite(rows.flatten(0, 1), rows.dtype)
    raise ValueError("x should be finite; another rank's contains NaN or infinity")


def report_refused(note: Tensor) -> None:
    """Raise for a batch that was refused since the last report. An accelerator is waited for."""
    if not decides_on_device(note) or no_values(note) is not None:
        return  # the CPU has raised at once
    refused, count, first = note.tolist()
    if not refused:
        return
    note.zero_()
    found = Nonfinite()
    found.count, found.first = count, first
    text = str(found) or "x should be finite; another rank's contains NaN or infinity"
    raise ValueError(f"{text}, in a batch that nothing was learnt from")
