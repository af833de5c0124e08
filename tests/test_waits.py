"""The counter of waits that other tests rely on."""

import numpy as np
import torch

from tests.waits import counted


def test_waits_are_counted() -> None:
    x = torch.arange(3.0)
    with counted() as waits:
        x.sum()
        bool(x.sum() > 0)
        x[x > 1]
        np.asarray(x)
    assert len(waits) == 3
