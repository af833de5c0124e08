"""Promises of layer.plot and layer.animate: every kind of data is drawn, and says what is shown."""

from __future__ import annotations

import html
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from scipy.sparse import random_array

from kmeans_module import BatchLoader, KMeansLayer, NotInitializedError
from kmeans_module.arrays import as_tensor
from kmeans_module.figures import animation_html, cluster_colors, cluster_sizes_figure
from tests.conftest import blobs
from tests.figures.helpers import bars, crosses, only, payload

PICTURE = (torch.rand(12, 20, 3, generator=torch.Generator().manual_seed(0)) * 255).byte()


def fitted(x, k=4, **options):
    layer = KMeansLayer(k, x.shape[-1], **options)
    return layer, layer.fit(x, seed=0)


def points(ax):
    return only(ax.collections, PathCollection)


def looks(figure):
    """The pixels of the PNG that a notebook shows."""
    return np.asarray(Image.open(io.BytesIO(figure._repr_png_())).convert("RGB"))


# Figures


@pytest.mark.parametrize("d", [1, 2, 3, 20])
def test_every_number_of_features_is_drawn_and_shows_itself(d):
    x = blobs(300, d)
    layer, result = fitted(x)
    figure = layer.plot(x)
    (ax,) = figure.axes
    assert len(crosses(ax)[0].get_xdata()) == 4
    assert ax.get_title() == "4 clusters"
    shares = [
        re.search(r"\((\d+) % of variance\)", name) for name in (ax.get_xlabel(), ax.get_ylabel())
    ]
    assert all(shares) == (d > 2)
    if d > 1:
        colors = points(ax).get_facecolors()[:, :3]
        assert_allclose(colors, cluster_colors(4)[result.labels])
    picture = looks(figure)
    assert picture.shape[1] == 640
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


def test_given_labels_are_drawn():
    x = blobs(60, 2)
    layer, result = fitted(x)
    labels = (result.labels + 1) % 4
    (ax,) = layer.plot(x, labels).axes
    assert_allclose(points(ax).get_facecolors()[:, :3], cluster_colors(4)[labels])


@pytest.mark.parametrize("d", [2, 3])
def test_of_many_samples_some_are_drawn_and_the_title_says_so(d):
    x = blobs(7_000, d)
    layer, result = fitted(x)
    for figure in (layer.plot(x), layer.plot(x, result.labels)):
        assert figure.axes[0].get_title() == "4 clusters, 5,000 of 7,000 samples"
        assert len(points(figure.axes[0]).get_offsets()) == 5_000
    assert layer.plot(x, title="mine").axes[0].get_title() == "mine, 5,000 of 7,000 samples"


@pytest.mark.parametrize(
    "batches",
    [BatchLoader(blobs(7_000, 2)), list(blobs(7_000, 2).split(1_000))],
    ids=["loader", "list"],
)
def test_batches_are_drawn_by_a_uniform_sample(batches):
    layer, _ = fitted(blobs(7_000, 2))
    for data in (batches, layer.prepare(batches)):
        (ax,) = layer.plot(data).axes
        assert ax.get_title() == "4 clusters, 5,000 of 7,000 samples"


def test_arrays_and_frames_are_drawn_with_the_names_of_their_columns():
    x = blobs(60, 2)
    layer, _ = fitted(x)
    frame = pd.DataFrame(x.numpy(), columns=["width", "height"])
    (ax,) = layer.plot(frame).axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("width", "height")
    for data in (x.numpy(), x.tolist()):
        assert_allclose(points(layer.plot(data).axes[0]).get_offsets(), x, rtol=1e-5)
    assert '"width"' in layer.animate(frame, seed=0).html


def test_of_sparse_rows_the_selection_is_drawn():
    matrix = random_array(
        (6_000, 5), density=0.3, format="csr", rng=np.random.default_rng(0), dtype=np.float32
    )
    dense = torch.from_numpy(matrix.toarray())
    layer, result = fitted(dense)
    tensor = as_tensor(matrix, sparse=True)
    expected = layer.plot(dense, result.labels).axes[0]
    for figure in (layer.plot(matrix), layer.plot(tensor), layer.plot(tensor, result.labels)):
        assert figure.axes[0].get_title() == "4 clusters, 5,000 of 6,000 samples"
        assert_allclose(points(figure.axes[0]).get_offsets(), points(expected).get_offsets())
    frames = [payload(layer.animate(x, seed=0).html) for x in (dense, matrix, tensor)]
    for frame in frames[1:]:
        assert_array_equal(frame["labels"], frames[0]["labels"])
    with pytest.raises(ValueError, match=r"x should have shape \(n, 5\); got \(6000, 4\)"):
        layer.plot(matrix[:, :4])


def test_leading_dimensions_are_samples():
    x = blobs(60, 2)
    layer, result = fitted(x)
    figure = layer.plot(x.view(6, 10, 2), result.labels.view(6, 10))
    assert len(points(figure.axes[0]).get_offsets()) == 60


def test_rows_of_cosine_are_drawn_at_length_1():
    x = blobs(60, 2)
    layer, _ = fitted(x, metric="cosine")
    assert_allclose(
        np.linalg.norm(points(layer.plot(x).axes[0]).get_offsets(), axis=1), 1, rtol=1e-6
    )


def test_problems_are_drawn_side_by_side_or_one_alone():
    x = blobs(60, 2)
    layer, result = fitted(x, batch_shape=(3, 4))
    figure = layer.plot(x)
    assert len(figure.axes) == 9
    assert figure.get_suptitle() == "4 clusters, the first 9 of 12 problems"
    assert figure.axes[5].get_title() == "problem 1, 1"
    (ax,) = layer.plot(x, result.labels, problem=(2, 3)).axes
    assert_allclose(crosses(ax)[0].get_xydata(), layer.centroids[2, 3], rtol=1e-6)
    assert_allclose(points(ax).get_facecolors()[:, :3], cluster_colors(4)[result.labels[2, 3]])
    own = torch.stack([x, x + 100])
    layer, _ = fitted(own, batch_shape=(2,))
    assert points(layer.plot(own, problem=1).axes[0]).get_offsets().min() > 50
    layer, _ = fitted(blobs(60, 1), batch_shape=(2,))
    assert len(layer.plot(blobs(60, 1)).axes) == 2


@pytest.mark.parametrize(
    ("scale", "dtype"), [(1, torch.uint8), (1, torch.float32), (1 / 255, torch.float32)]
)
def test_pictures_are_drawn_in_the_colors_of_their_centroids(scale, dtype):
    picture = (PICTURE * scale).to(dtype)
    layer, _ = fitted(picture.reshape(-1, 3))
    figure = layer.plot(picture)
    original, quantized, palette = figure.axes
    assert_allclose(original.images[0].get_array(), PICTURE / 255, atol=1e-6)
    colors = layer.centroids / (255 * scale)
    assert_allclose(quantized.images[0].get_array(), colors[layer(picture)].clamp(0, 1), atol=1e-6)
    shares = torch.bincount(layer(picture).flatten(), minlength=4).sort(descending=True).values
    assert_allclose(bars(palette)[0][:, 2], shares / shares.sum(), atol=1e-6)


def test_several_pictures_and_gray_ones_are_drawn():
    layer, _ = fitted(PICTURE.reshape(-1, 3))
    figure = layer.plot(PICTURE.expand(6, 12, 20, 3), title="six")
    assert len(figure.axes) == 2 * 4 + 1
    assert figure.get_suptitle() == "six, 4 of 6 pictures"
    gray = PICTURE[..., :1]
    layer, _ = fitted(gray.reshape(-1, 1).float())
    for data in (gray, gray.numpy()):
        assert layer.plot(data).axes[0].images[0].get_array().shape == (12, 20, 3)


def test_points_in_space_are_no_picture():
    x = blobs(60, 3).view(6, 10, 3)
    layer, _ = fitted(x.reshape(-1, 3))
    assert "principal component" in layer.plot(x).axes[0].get_xlabel()


def test_clusters_of_pixels_have_their_own_colors_in_every_figure():
    pixels = PICTURE.reshape(-1, 3) / 255
    layer, result = fitted(pixels)
    own = layer.centroids
    (ax,) = layer.plot(pixels, colors=own).axes
    assert_allclose(points(ax).get_facecolors()[:, :3], own[result.labels], atol=1e-6)
    _, drawn = bars(cluster_sizes_figure(layer.counts, colors=own).axes[0])
    order = layer.counts.argsort(descending=True, stable=True)
    assert_allclose(drawn, own[order], atol=1e-6)
    page = animation_html(pixels, result.labels[None], own[None], torch.ones(1), colors=own)
    assert_allclose([to_rgb(color) for color in payload(page)["colors"]], own, atol=0.01)
    animation = layer.animate(PICTURE, seed=0)
    assert looks(animation).std() > 10, "the last iteration is a picture, too"
    colors = np.array([to_rgb(color) for color in payload(animation.html)["colors"]])
    assert_allclose(colors, own, atol=0.01)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda layer, x: layer.plot(x[:, :1]), "features|shape"),
        (lambda layer, x: layer.plot(x[:0]), "x should hold samples; got none"),
        (lambda layer, x: layer.plot(x, x[:, 0].long()), "labels should be from 0 to 3"),
        (lambda layer, x: layer.plot(x, torch.zeros(3).long()), "labels should have shape"),
        (lambda layer, x: layer.plot(x * torch.nan), "NaN"),
        (lambda layer, x: layer.plot(x, colors=torch.rand(3, 3)), "colors should have shape"),
        (lambda layer, x: layer.plot(list(x.split(10)), x), "labels go with a tensor or an array"),
        (lambda layer, x: layer.animate(x, max_frames=1), "max_frames should be >= 2"),
        (lambda layer, x: layer.animate(x[:2], seed=0), "n_samples=2 should be >= n_clusters=4"),
        (lambda layer, x: layer.animate(x, seed=0, generator=torch.Generator()), "not both"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_words(call, message):
    x = blobs(60, 2)
    layer, _ = fitted(x)
    with pytest.raises(ValueError, match=message):
        call(layer, x)


def test_a_problem_that_is_not_there_is_refused():
    layer, _ = fitted(blobs(60, 2), batch_shape=(3,))
    for problem in (3, (0, 0)):
        with pytest.raises(ValueError, match=r"problem should be an index of batch_shape=\(3,\)"):
            layer.plot(blobs(60, 2), problem=problem)
    with pytest.raises(ValueError, match="problem should say which"):
        layer.animate(blobs(60, 2))


def test_a_layer_without_centroids_draws_nothing():
    with pytest.raises(NotInitializedError):
        KMeansLayer(2, 2).plot(blobs(60, 2))
    with pytest.raises(NotInitializedError):
        KMeansLayer(2, 2).animate(blobs(60, 2), init="current")


# Animations


@pytest.mark.parametrize(
    "options", [{}, {"tol": 0.0}, {"max_iter": 3}, {"init": "random"}], ids=str
)
@pytest.mark.parametrize(("d", "metric"), [(1, "euclidean"), (5, "euclidean"), (2, "cosine")])
def test_an_animation_plays_the_fit(d, metric, options):
    x = blobs(300, d) + 30
    layer = KMeansLayer(6, d, metric=metric)
    result = layer.fit(x, seed=3, **options)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    data = payload(layer.animate(x, seed=3, **options).html)
    assert data["iterations"] == list(range(int(result.n_iter) + 1))
    assert_allclose(data["inertia"], result.history, rtol=1e-9)
    assert_array_equal(data["labels"][-1], result.labels)
    for name, value in before.items():
        assert torch.equal(value, layer.state_dict()[name])


def test_an_animation_may_start_from_the_layers_centroids():
    x = blobs(300, 2)
    layer = KMeansLayer(6, 2)
    layer.initialize(x, x[:6])
    data = payload(layer.animate(x, init="current").html)
    assert_allclose(data["centroids"][0], x[:6], atol=1e-3)
    expected = layer.fit(x, init="current")
    assert_allclose(data["centroids"][-1], layer.centroids, atol=1e-3)
    assert data["iterations"][-1] == int(expected.n_iter)


def test_a_stream_and_weights_are_played():
    x = blobs(300, 2)
    weight = torch.rand(300, generator=torch.Generator().manual_seed(0))
    layer = KMeansLayer(6, 2)
    result = layer.fit(x, seed=0, sample_weight=weight)
    data = payload(layer.animate(x, seed=0, sample_weight=weight).html)
    assert_allclose(data["inertia"], result.history, rtol=1e-9)
    batches = list(x.split(100))
    layer.fit(batches, seed=0)
    data = payload(layer.animate(batches, seed=0).html)
    assert_allclose(data["centroids"][-1], layer.centroids, atol=1e-3)


def test_one_problem_of_several_plays():
    x = torch.stack([blobs(60, 2), blobs(60, 2) + 100])
    data = payload(KMeansLayer(3, 2, batch_shape=(2,)).animate(x, seed=0, problem=1).html)
    assert data["centroids"].min() > 50


def test_its_size_is_bounded():
    x = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0))
    animation = KMeansLayer(300, 3).animate(x, seed=0, max_iter=150, tol=0.0)
    assert len(animation.html) < 4e6
    assert "2,000 of 20,000 samples" in animation.name


def test_in_a_notebook_it_is_a_frame_that_holds_the_page(tmp_path: Path):
    animation = KMeansLayer(3, 2).animate(blobs(60, 2), seed=0, title='a "b" <c>')
    shown = animation._repr_html_()
    (page,) = re.findall(r'^<iframe srcdoc="([^"]*)"', shown)
    assert html.unescape(page) == animation.html
    assert 'sandbox="allow-scripts"' in shown
    assert "<c>" not in shown
    file = tmp_path / "page.html"
    animation.save(file)
    assert file.read_text(encoding="utf-8") == animation.html


def test_neither_pyplot_nor_ipython_is_loaded():
    code = (
        "import sys, torch; from kmeans_module import KMeansLayer\n"
        "x = torch.rand(50, 2); layer = KMeansLayer(3, 2); result = layer.fit(x, verbose=True)\n"
        "result.plot()._repr_png_(); layer.plot(x)._repr_png_(); layer.animate(x)\n"
        "assert not {'matplotlib.pyplot', 'IPython', 'lightning', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
