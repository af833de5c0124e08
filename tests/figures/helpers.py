"""A clustering to draw, and the parts of the figures that it became."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.collections import PolyCollection


def blobs(k=6, d=2, n=50, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centroids = torch.rand(k, d, generator=generator) * 70 - 35
    x = (centroids[:, None] + torch.randn(k, n, d, generator=generator)).reshape(-1, d)
    return x, torch.cdist(x, centroids).argmin(1), centroids


def only(artists, kind):
    (artist,) = [artist for artist in artists if isinstance(artist, kind)]
    return artist


def crosses(ax):
    return [line for line in ax.lines if line.get_marker() == "x"]


def texts(figure):
    return [text.get_text() for ax in figure.axes for text in [*ax.texts, ax.title]]


def bars(ax):
    """Left, bottom, width, height and color of every bar."""
    collection = only(ax.collections, PolyCollection)
    corners = np.stack([path.vertices[:4] for path in collection.get_paths()])
    low, high = corners.min(1), corners.max(1)
    return np.hstack([low, high - low]), collection.get_facecolors()[:, :3]
