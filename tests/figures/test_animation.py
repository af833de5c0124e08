import re

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from kmeans_module.figures import animation_html, cluster_colors
from tests.figures.helpers import payload


def run(n=300, k=6, d=2, t=10):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, d, generator=generator) * 70 - 35
    centroids = torch.rand(t, k, d, generator=generator) * 70 - 35
    labels = torch.cdist(x.expand(t, n, d), centroids).argmin(-1)
    return x, labels, centroids, torch.linspace(1e5, 1e4, t)


@pytest.mark.parametrize("k", [1, 6, 300])
@pytest.mark.parametrize("offset", [0, 1e6])
def test_the_page_holds_what_it_was_given(k, offset):
    x, labels, centroids, inertia = run(k=k)
    x, centroids = x.double() + offset, centroids.double() + offset
    data = payload(animation_html(x, labels, centroids, inertia))
    assert_allclose(data["points"], x, rtol=0, atol=1e-4)
    assert_allclose(data["centroids"], centroids, rtol=0, atol=1e-4)
    assert_array_equal(data["labels"], labels)
    assert_allclose(data["inertia"], inertia)
    assert data["iterations"] == list(range(10))
    colors = [[int(code[i : i + 2], 16) for i in (1, 3, 5)] for code in data["colors"]]
    assert_allclose(np.array(colors) / 255, cluster_colors(k), atol=1 / 255)


def test_the_page_refers_to_nothing_outside_of_itself():
    page = animation_html(*run())
    assert page.startswith("<!DOCTYPE html>")
    assert "{{" not in page
    assert not re.search(
        r"https?:|//\w+\.\w|\b(src|href)\s*=|@import|url\(|\bfetch\b|import\s*\(", page
    )


def test_100_iterations_of_1500_samples_take_a_few_hundred_kilobytes():
    assert len(animation_html(*run(n=1_500, t=100))) < 300_000


@pytest.mark.parametrize(
    ("n", "k", "t"), [(10_000, 6, 500), (3_000, 300, 400), (3_000, 5_000, 100)]
)
def test_long_runs_of_many_clusters_stay_below_5_megabytes(n, k, t):
    x, centroids = torch.rand(n, 2), torch.rand(1, k, 2).expand(t, k, 2)
    labels = (torch.arange(n) % k).expand(t, n)
    page = animation_html(x, labels, centroids, torch.ones(t))
    assert len(page) < 5_000_000
    data = payload(page)
    assert data["iterations"][0] == 0
    assert data["iterations"][-1] == t - 1


def test_of_many_frames_and_samples_the_first_and_the_last_are_kept():
    x, labels, centroids, inertia = run(n=301, t=40)
    data = payload(animation_html(x, labels, centroids, inertia, max_points=50, max_frames=7))
    frames = data["iterations"]
    assert len(frames) == 7
    assert (frames[0], frames[-1]) == (0, 39)
    assert set(np.diff(frames)) <= {6, 7}
    assert len(data["points"]) == 50
    assert_allclose(data["points"][[0, -1]], x[[0, -1]], atol=1e-4)
    assert_allclose(data["centroids"], centroids[frames], atol=1e-4)
    assert_array_equal(data["labels"][:, [0, -1]], labels[frames][:, [0, -1]])


def test_text_is_escaped():
    names = ["</script><script>alert(1)</script>", "<!-- {{title}} -->"]
    page = animation_html(*run(), title='<b>&"{{payload}}', feature_names=names)
    assert "&lt;b&gt;&amp;&quot;{{payload}}" in page
    assert "<b>" not in page
    assert "alert(1)<" not in page
    assert "<!-- " not in page
    assert payload(page)["names"] == names


def test_many_features_are_seen_in_their_principal_components():
    x, labels, centroids, inertia = run(d=8)
    data = payload(animation_html(x, labels, centroids, inertia))
    assert data["names"][0].startswith("principal component 1 (")
    centered = x - x.mean(0)
    _, _, axes = torch.linalg.svd(centered)
    for expected, drawn in (
        (centered, data["points"]),
        (centroids - x.mean(0), data["centroids"]),
    ):
        assert_allclose(np.abs(drawn), (expected @ axes[:2].T).abs(), atol=1e-3)


def test_one_feature_spreads_the_samples_beside_the_centroids():
    x, labels, centroids, inertia = run(d=1)
    data = payload(animation_html(x, labels, centroids, inertia))
    assert_allclose(data["points"][:, 0], x[:, 0], atol=1e-4)
    assert len(np.unique(data["points"][:, 1].round(3))) > 200
    assert_allclose(data["centroids"][..., 1], 0, atol=1e-4)
    assert data["names"] == ["feature 1", ""]


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 1e30])
def test_one_sample_one_frame_and_any_scale_are_drawn(d, scale):
    x = torch.full((1, d), 2.0) * scale
    data = payload(animation_html(x, torch.zeros(1, 1, dtype=torch.int64), x[None], torch.zeros(1)))
    assert np.isfinite(data["points"]).all()
    assert np.ptp(data["limits"][0]) > 0
    assert data["iterations"] == [0]


def test_unknown_inertia_and_half_precision_are_accepted():
    x, labels, centroids, inertia = run()
    inertia[3] = float("nan")
    data = payload(animation_html(x.half(), labels, centroids.bfloat16(), inertia))
    assert data["inertia"][3] is None
    assert data["inertia"][4] == pytest.approx(inertia[4].item())


def test_frames_keep_their_numbers():
    x, labels, centroids, inertia = run(t=5)
    numbered = animation_html(x, labels, centroids, inertia, iterations=[3, 4, 6, 8, 9])
    assert payload(numbered)["iterations"] == [3, 4, 6, 8, 9]
    assert payload(animation_html(x, labels, centroids, inertia))["iterations"] == [0, 1, 2, 3, 4]
