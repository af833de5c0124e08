"""Colors of clusters."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import hsv_to_rgb, to_rgb
from torch import Tensor

from kmeans_module.checks import check_integer, check_sized
from kmeans_module.figures.arrays import FloatArray, to_numpy

# Okabe & Ito (2008), Color Universal Design, without black.
_OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
# These maximize the smallest CIE distance among all twenty, as seen with normal vision,
# protanopia, deuteranopia and tritanopia.
_FURTHER = (
    "#4B00B4",
    "#781E00",
    "#B4F087",
    "#693C3C",
    "#B42DFF",
    "#69F0F0",
    "#B478FF",
    "#5A783C",
    "#B4A54B",
    "#780F5A",
    "#0000FF",
    "#D2E1B4",
    "#003C96",
)
_DISTINCT = _OKABE_ITO + _FURTHER


def cluster_colors(n_clusters: int) -> FloatArray:
    """The color of each cluster, the same in every figure and in the animation.

    Up to 20 clusters have colors that are told apart with any common color blindness. Beyond, hues
    are spread evenly and lightness varies, so that consecutive labels differ most.

    Args:
        n_clusters: number of colors, k.

    Returns:
        RGB in [0, 1] of shape ``(n_clusters, 3)``.
    """
    n_clusters = check_integer("n_clusters", n_clusters, minimum=0)
    if n_clusters <= len(_DISTINCT):
        return np.array([to_rgb(color) for color in _DISTINCT[:n_clusters]]).reshape(-1, 3)
    # Roberts (2018), The unreasonable effectiveness of quasirandom sequences, in three dimensions.
    spread = np.arange(n_clusters)[:, None] * 1.2207440846 ** -np.arange(1.0, 4.0) % 1
    return np.asarray(hsv_to_rgb(spread * (1.0, 0.55, 0.45) + (0.0, 0.4, 0.5)))


def colors_of(colors: Tensor | None, n_clusters: int) -> FloatArray:
    """The colors that clusters are given, RGB (k, 3) in [0, 1], or those of
    :func:`cluster_colors`."""
    if colors is None:
        return cluster_colors(n_clusters)
    return to_numpy(check_sized("colors", colors, (n_clusters, 3))).clip(0, 1)
