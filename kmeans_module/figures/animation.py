"""The iterations of k-means as a self-contained HTML page that plays in a browser."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable
from importlib.resources import files

import numpy as np
import torch
from matplotlib.colors import to_hex
from torch import Tensor

from kmeans_module import checks as check
from kmeans_module.figures.arrays import FloatArray, evenly, to_numpy
from kmeans_module.figures.colors import colors_of
from kmeans_module.figures.drawing import literal
from kmeans_module.figures.plane import find_plane, view_limits

MAX_POSITIONS = 250_000  # of centroids, over all frames: 2 MB as float32, 2.7 MB in base64


def animation_html(
    x: Tensor,
    labels: Tensor,
    centroids: Tensor,
    inertia: Tensor,
    *,
    title: str = "k-means",
    iterations: Iterable[int] | None = None,
    feature_names: Iterable[str] | None = None,
    colors: Tensor | None = None,
    max_points: int = 2_000,
    max_frames: int = 100,
) -> str:
    """A page that shows one frame per iteration: samples by cluster, centroids and their trails.

    Each frame shows the centroids after so many iterations and the clusters around them. More
    than two features are seen in their principal components. The page refers to nothing outside of
    itself. An even selection of samples and iterations, with the first and the last one, bounds
    the size of the page.

    Args:
        x: a sample of the data, of shape ``(n, d)``.
        labels: cluster of each row of ``x`` for the centroids of each frame, of shape ``(t, n)``.
        centroids: shape ``(t, k, d)``.
        inertia: sum of squared distances to these centroids, of shape ``(t,)``.
        title: heading of the page.
        iterations: number of each frame; 0, 1, 2, ... by default.
        feature_names: ``d`` names, for the axes of one or two features.
        colors: of the clusters, RGB ``(k, 3)`` in [0, 1]: for pixels their centroids; None for
            colors that are told apart.
        max_points: most samples drawn.
        max_frames: most frames; fewer if needed for 250,000 positions of centroids in all.

    Returns:
        The text of the page, at most about 4 MB.
    """
    centroids = check.check_sized("centroids", centroids, ("t", "k", "d"))
    n_frames, k, d = centroids.shape
    x = check.check_sized("x", x, ("n", d))
    labels = check.check_labels(check.check_sized("labels", labels, (n_frames, len(x))), k)
    inertia = check.check_tensor("inertia", inertia)
    if inertia.shape != (n_frames,):
        raise ValueError(f"inertia should have shape ({n_frames},); got {tuple(inertia.shape)}")
    check.check_text("title", title)
    title = title or ""
    max_points = check.check_integer("max_points", max_points, minimum=1)
    max_frames = check.check_integer("max_frames", max_frames, minimum=2)
    numbers = list(range(n_frames))
    if iterations is not None:
        iterations = check.check_listed("iterations", iterations, n_frames)
        numbers = [check.check_integer("iterations", number, minimum=0) for number in iterations]
    frames = evenly(n_frames, min(max_frames, max(2, MAX_POSITIONS // k)))
    kept_frames = torch.from_numpy(frames)
    kept = torch.from_numpy(evenly(len(x), max_points))
    rows = to_numpy(x[kept.to(x.device)])
    plane = find_plane(rows, feature_names)
    points = plane(rows)
    steps = plane(to_numpy(centroids[kept_frames.to(centroids.device)]))
    if x.shape[1] == 1:
        points[:, 1] = _spread(points)
    limits = view_limits(points, steps.reshape(-1, 2))
    clusters = to_numpy(labels[kept_frames.to(labels.device)][:, kept.to(labels.device)])
    corner, width = limits[:, 0], limits[0, 1] - limits[0, 0]
    energies = to_numpy(inertia)[frames]
    payload = {
        "names": [literal(name) for name in plane.names],
        "limits": limits.tolist(),
        "colors": [to_hex(tuple(color)) for color in colors_of(colors, k)],
        "iterations": [int(numbers[frame]) for frame in frames],
        "inertia": [value if np.isfinite(value) else None for value in energies.tolist()],
        # Positions are in widths of the view, from its lower left corner.
        "points": _encode((points - corner) / width, np.dtype("<f4")),
        "centroids": _encode((steps - corner) / width, np.dtype("<f4")),
        "labels": _encode(clusters, np.dtype("<u1" if k <= 256 else "<u4")),
    }
    fields = {
        "title": html.escape(title),
        "payload": json.dumps(payload).replace("<", "\\u003c"),
    }
    template = files("kmeans_module.figures").joinpath("animation.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda field: fields[field[1]], template)


def _spread(points: FloatArray) -> FloatArray:
    """Heights in a band around zero that keep the samples of one feature apart."""
    golden_ratio = (np.sqrt(5) - 1) / 2
    heights = np.arange(1, len(points) + 1) * golden_ratio % 1 - 0.5
    return np.asarray(heights * 0.3 * np.ptp(view_limits(points, points)[0]))


def _encode(array: FloatArray, dtype: np.dtype[np.generic]) -> str:
    return base64.b64encode(array.astype(dtype).tobytes()).decode("ascii")
