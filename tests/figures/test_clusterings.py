"""Promises of the figures of a clustering: what is drawn is what was given, in any number."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PathCollection
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.decomposition import PCA

from kmeans_module.figures import cluster_colors, cluster_sizes_figure, clustering_figure
from tests.figures.helpers import bars, blobs, crosses, only, texts


def test_every_centroid_is_marked_as_in_the_seed():
    x, labels, centroids = blobs()
    (ax,) = clustering_figure(x, labels, centroids).axes
    black, magenta = crosses(ax)
    for line, color, size, width in ((black, "k", 10, 5), (magenta, "m", 5, 2)):
        assert_allclose(line.get_xydata(), centroids, rtol=1e-6)
        assert (line.get_color(), line.get_markersize(), line.get_markeredgewidth()) == (
            color,
            size,
            width,
        )
    assert black.get_zorder() <= magenta.get_zorder()


def test_200_centroids_have_smaller_marks():
    (ax,) = clustering_figure(*blobs(k=200, n=2)).axes
    black, magenta = crosses(ax)
    assert 3 <= black.get_markersize() <= 5
    assert 1 < magenta.get_markersize() < black.get_markersize()


def test_samples_have_the_color_of_their_cluster():
    x, labels, centroids = blobs()
    (ax,) = clustering_figure(x, labels, centroids).axes
    scatter = only(ax.collections, PathCollection)
    assert_allclose(scatter.get_offsets(), x, rtol=1e-6)
    assert_allclose(scatter.get_facecolors()[:, :3], cluster_colors(6)[labels.numpy()])


def drawn_regions(ax, n_clusters):
    """The background: where its pixels are and the cluster whose faint color they have."""
    (image,) = ax.images
    pixels = np.asarray(image.get_array())
    left, right, bottom, top = image.get_extent()
    rows, columns, _ = pixels.shape
    across = left + (np.arange(columns) + 0.5) / columns * (right - left)
    up = bottom + (np.arange(rows) + 0.5) / rows * (top - bottom)
    colors = 1 - (1 - pixels.reshape(-1, 3)) / 0.2
    nearest = np.linalg.norm(colors[:, None] - cluster_colors(n_clusters), axis=-1).argmin(1)
    return torch.from_numpy(np.stack(np.meshgrid(across, up), -1).reshape(-1, 2)), nearest


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_regions_are_those_of_the_nearest_centroid_and_fill_the_view(offset):
    x, _, centroids = blobs()
    x, centroids = x.double() + offset, centroids.double() + offset
    labels = torch.cdist(x - offset, centroids - offset).argmin(1)
    (ax,) = clustering_figure(x, labels, centroids).axes
    grid, regions = drawn_regions(ax, 6)
    assert_array_equal(regions, torch.cdist(grid - offset, centroids - offset).argmin(1))
    assert_allclose(ax.images[0].get_extent(), (*ax.get_xlim(), *ax.get_ylim()))


def test_regions_follow_the_callers_assignment_in_the_dtype_of_the_centroids():
    x, labels, centroids = blobs()
    seen = []

    def assign(grid):
        seen.append(grid.dtype)
        return (grid[:, 0] > 0).long()

    (ax,) = clustering_figure(x, labels, centroids, assign=assign).axes
    grid, regions = drawn_regions(ax, 6)
    assert_array_equal(regions, grid[:, 0] > 0)
    assert seen == [torch.float32]


@pytest.mark.parametrize("d", [2, 5])
def test_the_aspect_is_equal_and_axes_and_title_are_labeled(d):
    (ax,) = clustering_figure(*blobs(d=d), title="after 3 iterations").axes
    assert ax.get_aspect() == 1
    assert ax.get_title() == "after 3 iterations"
    assert ax.get_xlabel()
    assert ax.get_ylabel()


def test_axes_have_the_names_of_the_features():
    (ax,) = clustering_figure(*blobs(), feature_names=["width", "height"]).axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("width", "height")
    (ax,) = clustering_figure(*blobs(d=1), feature_names=["age"]).axes
    assert ax.get_xlabel() == "age"


@pytest.mark.parametrize("n", [50, 2], ids=["more rows than features", "fewer rows than features"])
def test_many_features_are_seen_in_their_principal_components(n):
    x, labels, centroids = blobs(d=20, n=n)
    path = torch.stack([centroids - 1, centroids])
    (ax,) = clustering_figure(x, labels, centroids, path=path).axes
    pca = PCA(2).fit(x.double())
    points = np.asarray(only(ax.collections, PathCollection).get_offsets())
    expected = pca.transform(x.double())
    signs = np.sign((points * expected).sum(0))
    assert_allclose(points, expected * signs, atol=1e-6)
    assert_allclose(
        crosses(ax)[0].get_xydata(), pca.transform(centroids.double()) * signs, atol=1e-6
    )
    start = ax.lines[0].get_xydata()
    assert_allclose(start, pca.transform(centroids.double() - 1) * signs, atol=1e-6)
    first, second = (f"{share:.0%}".replace("%", " %") for share in pca.explained_variance_ratio_)
    assert ax.get_xlabel() == f"principal component 1 ({first} of variance)"
    assert ax.get_ylabel() == f"principal component 2 ({second} of variance)"
    assert not ax.images


@pytest.mark.parametrize("arrived", [True, False])
def test_paths_lead_from_the_first_centroids_to_the_marks(arrived):
    x, labels, centroids = blobs()
    path = torch.stack([centroids - 2, centroids - 1, centroids])
    (ax,) = clustering_figure(x, labels, centroids, path=path if arrived else path[:2]).axes
    halo, lines = (c for c in ax.collections if isinstance(c, LineCollection))
    for drawn in (halo, lines):
        assert_allclose(np.stack(drawn.get_segments(), 1), path, rtol=1e-5)


def test_thousands_of_samples_are_thinned_evenly_and_always_alike():
    x, labels, centroids = blobs(n=2_000)
    first, second = (
        only(clustering_figure(x, labels, centroids).axes[0].collections, PathCollection)
        for _ in range(2)
    )
    points = np.asarray(first.get_offsets())
    assert len(points) == 5_000
    assert_allclose(points[[0, -1]], x[[0, -1]], rtol=1e-6)
    shown = np.bincount(
        (first.get_facecolors()[:, None, :3] == cluster_colors(6)).all(-1).argmax(1), minlength=6
    )
    assert_allclose(shown, labels.bincount().numpy() / len(x) * 5_000, atol=2)
    assert_array_equal(points, second.get_offsets())


def test_an_outlier_and_its_centroid_do_not_squash_the_picture():
    x, labels, centroids = blobs(n=100)
    x[0] = torch.tensor([1e5, 0.0])
    centroids[0] = x[0]
    path = torch.stack([centroids * 1e3, centroids])
    figure = clustering_figure(x, labels, centroids, path=path)
    left, right = figure.axes[0].get_xlim()
    assert right - left < 200
    assert "1 sample and 1 centroid outside of the view" in texts(figure)


def test_small_groups_nearby_stay_in_view():
    x, labels, centroids = blobs(n=100)
    x[0] = x.amax(0) + 20
    figure = clustering_figure(x, labels, centroids)
    assert not any("outside" in text for text in texts(figure))
    assert figure.axes[0].get_xlim()[1] > x[0, 0]


def test_one_feature_is_a_histogram_of_all_samples_above_the_paths():
    x, labels, centroids = blobs(d=1, n=2_000)
    path = torch.stack([centroids - 1, centroids])
    upper, lower = clustering_figure(x, labels, centroids, path=path).axes
    boxes, colors = bars(upper)
    for cluster, color in enumerate(cluster_colors(6)):
        assert boxes[(colors == color).all(1), 3].sum() == (labels == cluster).sum()
    assert_allclose(crosses(upper)[0].get_xdata(), centroids[:, 0], rtol=1e-6)
    segments = np.stack(lower.collections[-1].get_segments(), 1)
    assert_allclose(segments[..., 0], path[..., 0], rtol=1e-5)
    assert_array_equal(segments[..., 1], [[0] * 6, [1] * 6])


HARD = {
    "constant": lambda x: torch.full_like(x, 3.0),
    "zero": torch.zeros_like,
    "one sample": lambda x: x[:1],
    "one constant feature": lambda x: torch.cat([x[:, :1], torch.ones_like(x[:, 1:])], 1),
    "huge": lambda x: x * 1e30,
    "tiny": lambda x: x * 1e-30,
    "offset": lambda x: x + 1e6,
    "half": torch.Tensor.half,
    "bfloat16": torch.Tensor.bfloat16,
    "integers": torch.Tensor.long,
    "requires grad": lambda x: x.clone().requires_grad_(),
}


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("case", [*HARD, "one cluster"])
def test_hard_data_are_drawn_without_a_warning(case, d):
    k = 1 if case == "one cluster" else 6
    x = HARD.get(case, torch.clone)(blobs(d=d, n=4)[0])
    centroids = x[torch.arange(k) % len(x)]
    centroids = centroids if centroids.is_floating_point() else centroids.float()
    labels = torch.zeros(len(x), dtype=torch.long)
    figure = clustering_figure(x, labels, centroids, path=torch.stack([centroids, centroids]))
    figure.set_dpi(20)
    figure.canvas.draw()
    assert np.isfinite([figure.axes[0].get_xlim(), figure.axes[0].get_ylim()]).all()


def test_sizes_are_sorted_colored_as_the_clusters_and_empty_ones_told():
    figure = cluster_sizes_figure(torch.tensor([5, 0, 20, 11]))
    (ax,) = figure.axes
    boxes, colors = bars(ax)
    assert_array_equal(boxes[:, 3], [20, 11, 5, 0])
    assert_array_equal(colors, cluster_colors(4)[[2, 3, 0, 1]])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["2", "3", "0", "1"]
    assert ax.lines[0].get_ydata()[0] == 9
    assert "mean 9" in texts(figure)
    assert "4 clusters, 1 empty" in texts(figure)
    assert_array_equal(crosses(ax)[0].get_xdata(), [3])


@pytest.mark.parametrize("counts", [[0, 0], [7], [0.25, 1.5], list(range(200)), [1] * 3_000])
def test_any_number_of_sizes_is_drawn_with_few_ticks(counts):
    figure = cluster_sizes_figure(torch.tensor(counts))
    figure.set_dpi(30)
    figure.canvas.draw()
    assert len(bars(figure.axes[0])[0]) == len(counts)
    assert len(figure.axes[0].get_xticks()) <= 40


def test_drawing_touches_neither_pyplot_nor_settings_nor_random_states():
    script = """
import sys, matplotlib, numpy, torch
before = list(dict.items(matplotlib.rcParams))
from kmeans_module.figures import (
    animation_html, cluster_sizes_figure, clustering_figure, palette_figure
)
x = torch.rand(50, 3)
states = torch.get_rng_state(), numpy.random.get_state()[1].copy()
labels = torch.arange(50) % 4
for figure in (
    clustering_figure(x, labels, x[:4]),
    clustering_figure(x[:, :2], labels, x[:4, :2]),
    cluster_sizes_figure(labels.bincount()),
    palette_figure(x[:4], labels.bincount()),
):
    figure.canvas.draw()
animation_html(x, labels[None], x[None, :4], torch.ones(1))
assert not {"matplotlib.pyplot", "lightning", "torchmetrics"} & set(sys.modules)
assert list(dict.items(matplotlib.rcParams)) == before
assert torch.equal(torch.get_rng_state(), states[0])
assert (numpy.random.get_state()[1] == states[1]).all()
"""
    subprocess.run([sys.executable, "-c", script], check=True)
