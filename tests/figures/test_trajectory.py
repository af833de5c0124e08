import math

import pytest
import torch

from kmeans_module.figures import trajectory as module
from kmeans_module.figures.trajectory import Trajectory


def walk(n_iter, **options):
    found = Trajectory(**options)
    for i in range(n_iter + 1):
        found.record(i, torch.full((2, 3), float(i)))
        if i:
            found.measured(i - 1, 1000.0 - i)
    return found


def test_a_short_fit_is_kept_whole():
    found = walk(7)
    assert found.iterations == list(range(8))
    assert found.centroids.shape == (8, 2, 3)
    assert found.centroids[:, 0, 0].tolist() == list(range(8))
    assert found.inertia.tolist()[:-1] == [1000.0 - i for i in range(1, 8)]
    assert math.isnan(found.inertia[-1])
    found.measured(7, 3.0)
    assert found.inertia[-1] == 3


@pytest.mark.parametrize("max_frames", [9, 10])
@pytest.mark.parametrize("n_iter", [9, 10, 11, 50, 333])
def test_a_long_fit_keeps_an_even_share_with_both_ends(n_iter, max_frames):
    found = walk(n_iter, max_frames=max_frames)
    assert len(found.iterations) <= max_frames
    assert found.iterations[0] == 0
    assert found.iterations[-1] == n_iter
    assert found.centroids[:, 0, 0].tolist() == found.iterations
    assert found.inertia.tolist()[:-1] == [999.0 - i for i in found.iterations[:-1]]
    gaps = torch.tensor(found.iterations).diff()
    assert (gaps > 0).all()
    assert n_iter < 10 or len(found.iterations) >= 5


def test_large_codebooks_keep_fewer_frames(monkeypatch):
    monkeypatch.setattr(module, "MAX_ELEMENTS", 6 * 4)
    found = walk(20)
    assert len(found.iterations) <= 4
    assert (found.iterations[0], found.iterations[-1]) == (0, 20)


def test_frames_are_copies():
    found, centroids = Trajectory(), torch.zeros(2, 3)
    found.record(0, centroids)
    centroids += 1
    found.record(1, centroids)
    assert found.centroids[:, 0, 0].tolist() == [0, 1]


@pytest.mark.parametrize(("n_batches", "size"), [(1, 5000), (4, 300), (50, 7), (5000, 1)])
def test_the_sample_comes_from_all_batches(n_batches, size):
    found = Trajectory(max_points=100)
    rows = torch.arange(n_batches * size, dtype=torch.float32)[:, None]
    for batch in rows.split(size):
        found.sample(batch, n_batches=n_batches)
    x = found.x[:, 0]
    assert sum(map(len, found._rows)) <= 100 + n_batches
    assert min(50, len(rows)) <= len(x) <= 100
    assert (x.diff() > 0).all()
    assert x[0] == 0
    assert x[-1] == rows[-1, 0]
    assert x.diff().max() <= 4 * len(rows) / 100 + size / 100


def test_a_stream_of_unknown_length_is_sampled_too():
    found = Trajectory(max_points=100)
    for start in range(500):
        found.sample(torch.full((3, 2), float(start)), n_batches=math.inf)
    assert len(found.x) == 100


def test_a_batch_without_rows_adds_nothing():
    found = Trajectory()
    found.sample(torch.empty(0, 2), n_batches=2)
    found.sample(torch.ones(3, 2), n_batches=2)
    assert found.x.shape == (3, 2)
