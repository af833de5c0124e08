"""The matrix that the tests of files and folders read."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from kmeans_module.rows.batch import Batch

X = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32) * [1, 10, 100] + [0, 5, 1e6]


def rows_of(loader: Iterable[Batch]) -> Tensor:
    return torch.cat([batch.x for batch in loader])
