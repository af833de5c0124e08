"""Promises of the figure of a history: a line for each problem, up to where it stands still."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from kmeans_module import KMeansLayer
from kmeans_module.figures import plot_history
from tests.conftest import blobs


def test_the_history_of_a_result_is_a_line():
    result = KMeansLayer(5, 3).fit(blobs(), seed=0)
    figure = result.plot()
    (ax,) = figure.axes
    (line,) = ax.lines
    assert_allclose(line.get_ydata(), result.history)
    assert_allclose(line.get_xdata(), np.arange(int(result.n_iter) + 1))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("iteration", "inertia")
    assert ax.get_title().endswith(f"{float(result.inertia):.6g}, {int(result.n_iter)} iterations")
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_each_problem_has_a_line_that_ends_where_it_stands():
    history = torch.tensor([[9.0, 5.0, 4.0, 3.0], [8.0, 6.0, 6.0, 6.0], [7.0, 7.0, 7.0, 7.0]])
    (ax,) = plot_history(history).axes
    assert [list(line.get_ydata()) for line in ax.lines] == [[9, 5, 4, 3], [8, 6], [7]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["0", "1", "2"]


@pytest.mark.parametrize("history", [[3.0, 2.0], np.array([3.0, 2.0]), torch.tensor([3.0, 2.0])])
def test_what_numpy_reads_is_drawn(history):
    (ax,) = plot_history(history, title="$mine$").axes
    assert list(ax.lines[0].get_ydata()) == [3, 2]
    assert ax.get_title() == "$mine$"


def test_wide_ranges_are_drawn_on_a_logarithmic_scale():
    (ax,) = plot_history([1e6, 1e3, 1.0]).axes
    assert ax.get_yscale() == "log"
    (ax,) = plot_history([1e6, 1e3, 0.0]).axes
    assert ax.get_yscale() == "linear"


@pytest.mark.parametrize(
    ("history", "message"),
    [([], "history should have shape"), ([1.0, torch.nan], "history should be finite")],
)
def test_what_is_no_history_is_refused(history, message):
    with pytest.raises(ValueError, match=message):
        plot_history(history)
