"""Promises of the colors of clusters: told apart with every vision, visible on white."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from kmeans_module.figures import cluster_colors

# Machado, Oliveira & Fernandes (2009), severity 1, for linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}


def seen_as_lab(colors, vision):
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.072175],
            [0.0193339, 0.119192, 0.9503041],
        ]
    )
    xyz = np.clip(linear @ VISION[vision].T, 0, 1) @ to_xyz.T / [0.95047, 1, 1.08883]
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


def smallest_distance(colors, vision):
    lab = seen_as_lab(colors, vision)
    distances = np.linalg.norm(lab[:, None] - lab, axis=-1)
    return distances[~np.eye(len(lab), dtype=bool)].min()


@pytest.mark.parametrize("vision", VISION)
def test_20_colors_are_told_apart_with_every_vision(vision):
    assert smallest_distance(cluster_colors(20), vision) > 15


def test_200_colors_are_distinct_and_neighboring_labels_far_apart():
    colors = cluster_colors(200)
    assert colors.shape == (200, 3)
    assert colors.min() >= 0
    assert colors.max() <= 1
    assert smallest_distance(colors, "normal") > 4
    lab = seen_as_lab(colors, "normal")
    assert np.linalg.norm(lab[1:] - lab[:-1], axis=1).min() > 30


def test_no_color_hides_on_white_or_under_the_marker():
    markers = np.array([[1, 1, 1], [0, 0, 0], to_rgb("m")])
    for colors in (cluster_colors(20), cluster_colors(100)):
        lab = seen_as_lab(colors, "normal")
        assert np.linalg.norm(lab[:, None] - seen_as_lab(markers, "normal"), axis=-1).min() > 9
