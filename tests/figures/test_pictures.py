"""Promises of the figures of clustered pixels."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from numpy.testing import assert_allclose

from kmeans_module.figures import palette_figure, quantized_figure
from tests.figures.helpers import bars, texts


def test_swatches_are_sorted_and_show_code_and_share():
    colors = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.0, 0.5, -1e-7]])
    figure = palette_figure(colors, torch.tensor([1, 2, 5]))
    _, drawn = bars(figure.axes[0])
    assert_allclose(drawn, [[1, 0.5, 0], [1, 1, 1], [0, 0, 0]])
    assert texts(figure)[:3] == ["#ff8000\n62.5 %", "#ffffff\n25.0 %", "#000000\n12.5 %"]
    on_white, on_black = (to_hex(text.get_color()) for text in figure.axes[0].texts[1:])
    assert (on_white, on_black) == ("#000000", "#ffffff")


@pytest.mark.parametrize("k", [1, 16, 200, 1_000])
def test_palettes_of_any_size_are_drawn(k):
    figure = palette_figure(torch.rand(k, 3), torch.zeros(k))
    figure.set_dpi(30)
    figure.canvas.draw()
    assert len(bars(figure.axes[0])[0]) == k


@pytest.mark.parametrize(("n_images", "n_rows"), [(1, 1), (6, 4)])
def test_quantized_images_stand_beside_the_originals_above_the_palette(n_images, n_rows):
    originals = [torch.rand(20 + i, 30, 3) for i in range(n_images)]
    quantized = [image.round() for image in originals]
    palette = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    figure = quantized_figure(originals, quantized, palette, torch.tensor([1, 3]))
    *pictures, strip = figure.axes
    assert len(pictures) == 2 * n_rows
    for row in range(n_rows):
        for ax, image in zip(pictures[2 * row : 2 * row + 2], (originals, quantized), strict=True):
            assert_allclose(np.asarray(ax.images[0].get_array()), image[row], atol=1e-6)
    assert [ax.get_title() for ax in pictures[:2]] == ["original", "2 colors"]
    boxes, colors = bars(strip)
    assert_allclose(boxes[:, 2], [0.75, 0.25])
    assert_allclose(colors, [[1, 0, 0], [0, 0, 1]])


def test_large_photographs_are_drawn_from_at_most_a_thousand_pixels_a_side():
    image = torch.rand(100, 2_500, 3)
    figure = quantized_figure([image], [image], torch.rand(4, 3), torch.ones(4))
    assert max(figure.axes[0].images[0].get_array().shape) <= 1_000
