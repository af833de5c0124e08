"""A checksum of tensors and plain values."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def checksum(value: Any) -> str:
    """SHA-256, in hexadecimal digits, of nested dictionaries and lists of tensors, numbers and
    strings.

    The order of a dictionary does not matter, nor the device of a tensor. Objects of other kinds,
    as those that torch spreads over ranks, count by their place alone.
    """
    digest = hashlib.sha256()
    _add(digest, value)
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, Mapping):
        digest.update(b"{%d" % len(value))
        for key in sorted(value, key=repr):
            digest.update(repr(key).encode())
            _add(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(b"[%d" % len(value))
        for part in value:
            _add(digest, part)
    elif type(value) in (Tensor, nn.Parameter) and value.layout == torch.strided:
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        rows = value.detach().cpu().contiguous().reshape(-1)
        digest.update(rows.view(torch.uint8).numpy().data)
    elif value is None or isinstance(value, bool | int | float | str):
        digest.update(repr(value).encode())
    digest.update(b";")
