"""A clustering to draw, and the parts of the figures that it became."""

from __future__ import annotations

import base64
import json
import re

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


def payload(page):
    """What the page embeds, with positions back in the units of the data."""
    (text,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page)
    data = json.loads(text)
    n_frames, k = len(data["iterations"]), len(data["colors"])
    limits = np.array(data["limits"])

    def positions(name):
        relative = np.frombuffer(base64.b64decode(data[name]), "<f4").astype(float)
        return relative.reshape(-1, 2) * np.ptp(limits[0]) + limits[:, 0]

    data["points"] = positions("points")
    data["centroids"] = positions("centroids").reshape(n_frames, k, 2)
    labels = base64.b64decode(data["labels"])
    data["labels"] = np.frombuffer(labels, "<u1" if k <= 256 else "<u4").reshape(n_frames, -1)
    return data
