"""Promises of the names of features in figures: shown as they are, whatever they are."""

from __future__ import annotations

import matplotlib as mpl
import pytest
import torch

from kmeans_module.figures import animation_html, clustering_figure
from tests.figures.helpers import blobs, payload

SHOWN = {
    "one dollar: $": None,
    "$x_$": None,
    "$\\frac{$": None,
    r"C:\new_{folder}^%#&~": None,
    "$$": None,
    "\\$": None,
    "{": None,
    "<b>&amp;</b></script>": None,
    "größe in µm²": None,
    "0": None,
    "-1e5": None,
    "_hidden": None,
    "two\nlines\tand a tab": "two lines and a tab",
    "nul\x00 and bell\x07": "nul and bell",
    "right\u202eleft": "right left",
    "long " * 100: ("long " * 100)[:79] + "…",
    "": "feature 1",
}
names = pytest.mark.parametrize("name", SHOWN, ids=range(len(SHOWN)))


@names
@pytest.mark.parametrize("usetex", [False, True])
@pytest.mark.parametrize("d", [1, 2])
def test_a_name_is_shown_literally(name: str, d: int, usetex: bool) -> None:
    with mpl.rc_context({"text.usetex": usetex}):
        figure = clustering_figure(
            *blobs(d=d, n=5),
            feature_names=iter([name, *["other"] * (d - 1)]),
            title=name or "feature 1",
        )
        if d == 2 and not usetex:
            figure.canvas.draw()
    shown = SHOWN[name] or name
    axes = figure.axes[-1]
    assert (axes.get_title(), axes.get_xlabel()) == (shown, shown)
    for text in (axes.title, axes.xaxis.label):
        assert not text.get_parse_math()
        assert not text.get_usetex()


@names
@pytest.mark.parametrize("d", [1, 2])
def test_a_page_shows_a_name_literally(name: str, d: int) -> None:
    x, labels, centroids = blobs(d=d, n=5)
    page = animation_html(
        x, labels[None], centroids[None], torch.ones(1),
        feature_names=iter([name, *["other"] * (d - 1)]), iterations=iter([7]),
    )  # fmt: skip
    assert payload(page)["names"][0] == (SHOWN[name] or name)
    assert payload(page)["iterations"] == [7]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_names_of_some_features_only_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"feature_names should be 2 names; got {count}"):
        clustering_figure(*blobs(d=2, n=5), feature_names=["a"] * count)
