"""Whether labels are those of the nearest centroids, in float64 on a sample of the rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SAMPLE = 20_000
TOLERANCE = 1e-5  # relative, of squared distances: what rounding in float32 may confuse
CHUNK = 1 << 26  # distances at once


class Checked(NamedTuple):
    """What the sample tells.

    Attributes:
        wrong: share of labels whose centroid is farther than the nearest by more than TOLERANCE.
        distance: mean squared distance to the nearest centroid.
    """

    wrong: float
    distance: float


def check(x: Tensor, centroids: Tensor, labels: Tensor) -> Checked:
    """Compare labels (n,) of rows x (n, d) with the nearest of the centroids (k, d).

    Rows and centroids count as they are in their dtype: a library that works in half precision is
    asked for the nearest of the centroids that it has.
    """
    if labels.shape != x.shape[:1]:
        raise ValueError(f"labels should be of shape ({len(x)},); got {tuple(labels.shape)}")
    generator = torch.Generator(x.device).manual_seed(2)
    taken = torch.randperm(len(x), device=x.device, generator=generator)[:SAMPLE]
    rows, labels = x[taken].double(), labels.to(x.device)[taken].long()
    if bool(((labels < 0) | (labels >= len(centroids))).any()):
        raise ValueError(f"labels should be from 0 to {len(centroids) - 1}; got others")
    centroids = centroids.to(x.device).double()
    own = (rows - centroids[labels]).square().sum(dim=1)
    nearest = torch.minimum(_nearest(rows, centroids), own)
    wrong = ~(own <= nearest * (1 + TOLERANCE))
    return Checked(float(wrong.double().mean()), float(nearest.mean()))


def _nearest(rows: Tensor, centroids: Tensor) -> Tensor:
    """Squared distances (m,): products choose a centroid, a sum of squares measures it."""
    middle = centroids.mean(dim=0)  # products about it lose less to cancellation
    moved = centroids - middle
    norms = moved.square().sum(dim=1)
    found = [
        torch.addmm(norms, part - middle, moved.T, alpha=-2).argmin(dim=1)
        for part in rows.split(max(1, CHUNK // len(centroids)))
    ]
    return (rows - centroids[torch.cat(found)]).square().sum(dim=1)
