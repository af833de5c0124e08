"""Warnings that point at the line that the user has written."""

from __future__ import annotations

import sys
import warnings

import torch

# Packages whose code stands between a warning and the user's line.
_BETWEEN = ("contextlib", "kmeans_module", "lightning", "pytorch_lightning", "sklearn", "torch")


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """Warn of the latest line outside of this package and of those that call it."""
    if torch.compiler.is_compiling():  # frames cannot be read
        warnings.warn(text, category, stacklevel=2)
        return
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _is_between(frame.f_globals.get("__name__")):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, category, stacklevel=level)


def _is_between(module: object) -> bool:
    return isinstance(module, str) and module.partition(".")[0] in _BETWEEN
