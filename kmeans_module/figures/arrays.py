"""Tensors as NumPy arrays, and an even selection of rows where there are too many to draw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def to_numpy(tensor: Tensor | Sequence[float]) -> FloatArray:
    """Any tensor, on any device, as float64 on the CPU."""
    return torch.as_tensor(tensor).detach().cpu().double().numpy()


def evenly(n: int, limit: int) -> IntArray:
    """At most ``limit`` of the indices 0 ... n - 1, evenly spaced, the first and the last kept."""
    return np.linspace(0, n - 1, min(n, limit)).round().astype(np.int64)
