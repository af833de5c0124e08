"""The plane in which samples of any number of features are drawn, and the part of it in view."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from kmeans_module.checks import check_listed
from kmeans_module.figures.arrays import FloatArray


class Plane(NamedTuple):
    """Two coordinates in which samples of ``d`` features are drawn.

    Attributes:
        origin: ``(d,)``, drawn at (0, 0).
        axes: ``(d, 2)``, the directions of the two coordinates.
        names: what the two coordinates mean.
    """

    origin: FloatArray
    axes: FloatArray
    names: tuple[str, str]

    def __call__(self, x: FloatArray) -> FloatArray:
        """Coordinates ``(..., 2)`` of the rows ``x`` ``(..., d)``."""
        return np.asarray((x - self.origin) @ self.axes)


def find_plane(x: FloatArray, feature_names: Iterable[str] | None = None) -> Plane:
    """The plane for the samples ``x`` ``(n, d)``.

    One or two features are drawn as they are; the second coordinate of a single feature is zero.
    More features are drawn in their principal components, the two directions of largest variance
    of ``x``, whose names say which share of the total variance they show.
    """
    n, d = x.shape
    names = [f"feature {i + 1}" for i in range(d)]
    if feature_names is not None:
        told = [str(name) for name in check_listed("feature_names", feature_names, d)]
        names = [name or number for name, number in zip(told, names, strict=True)]
    if d <= 2:
        return Plane(np.zeros(d), np.eye(d, 2), (names[0], names[1] if d == 2 else ""))
    origin = x.mean(0)
    centered = x - origin
    scale = np.abs(centered).max() or 1.0
    centered /= scale
    # The smaller of the two Gram matrices. The eigenvectors of the (d, d) one are the axes; those
    # of the (n, n) one are the coordinates of the samples, which centered.T turns into the axes.
    _, vectors = np.linalg.eigh(centered.T @ centered if n >= d else centered @ centered.T)
    largest = vectors[:, :-3:-1]
    largest = largest if n >= d else centered.T @ largest
    axes = np.zeros((d, 2))
    axes[:, : largest.shape[1]] = largest / np.maximum(np.linalg.norm(largest, axis=0), 1e-12)
    axes *= np.where(axes[np.abs(axes).argmax(0), [0, 1]] < 0, -1, 1)  # eigh leaves the sign open
    shares = ((centered @ axes) ** 2).sum(0) / max((centered**2).sum(), 1e-12)
    first, second = (
        f"principal component {i + 1} ({share:.0%} of variance)".replace("%", " %")
        for i, share in enumerate(shares)
    )
    return Plane(origin, axes, (first, second))


def view_limits(points: FloatArray, centroids: FloatArray) -> FloatArray:
    """Limits ``[[left, right], [bottom, top]]`` for the points ``(n, 2)``, centroids ``(k, 2)``.

    The middle 98 % of the points fill at least a third of the view; points and centroids farther
    out are not shown. Width and height differ by a factor of two at most, so that the aspect can
    be equal.
    """
    limits = np.array(
        [_robust_range(*columns) for columns in zip(points.T, centroids.T, strict=True)]
    )
    spans = limits[:, 1] - limits[:, 0]
    margins = np.maximum(spans, spans[::-1] * (1.0, 0.5)) - spans
    return np.asarray(limits + margins[:, None] * (-0.5, 0.5))


def _robust_range(points: FloatArray, centroids: FloatArray) -> tuple[float, float]:
    """Limits of one coordinate for the points ``(n,)`` and the centroids ``(k,)``."""
    low, high = np.quantile(points, (0.01, 0.99))
    reach = high - low or np.inf
    values = np.concatenate([points, centroids])
    values = values[(values >= low - reach) & (values <= high + reach)]
    low, high = values.min(), values.max()
    size = max(abs(low), abs(high))
    margin = 0.05 * (high - low if high - low > 1e-9 * size else size or 1.0)
    return low - margin, high + margin
