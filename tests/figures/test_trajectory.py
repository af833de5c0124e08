import math

import pytest
import torch

from kmeans_module.figures import trajectory as module
from kmeans_module.figures.trajectory import Trajectory


def walk(n_iter, **options):
    trajectory = Trajectory(**options)
    for i in range(n_iter + 1):
        trajectory.record(i, torch.full((2, 3), float(i)))
        if i:
            trajectory.measured(i - 1, 1000.0 - i)
    return trajectory


def test_a_short_fit_is_kept_whole():
    trajectory = walk(7)
    assert trajectory.iterations == list(range(8))
    assert trajectory.centroids.shape == (8, 2, 3)
    assert trajectory.centroids[:, 0, 0].tolist() == list(range(8))
    assert trajectory.inertia.tolist()[:-1] == [1000.0 - i for i in range(1, 8)]
    assert math.isnan(trajectory.inertia[-1])
    trajectory.measured(7, 3.0)
    assert trajectory.inertia[-1] == 3


@pytest.mark.parametrize("max_frames", [9, 10])
@pytest.mark.parametrize("n_iter", [9, 10, 11, 50, 333])
def test_a_long_fit_keeps_an_even_share_with_both_ends(n_iter, max_frames):
    trajectory = walk(n_iter, max_frames=max_frames)
    assert len(trajectory.iterations) <= max_frames
    assert trajectory.iterations[0] == 0
    assert trajectory.iterations[-1] == n_iter
    assert trajectory.centroids[:, 0, 0].tolist() == trajectory.iterations
    assert trajectory.inertia.tolist()[:-1] == [999.0 - i for i in trajectory.iterations[:-1]]
    gaps = torch.tensor(trajectory.iterations).diff()
    assert (gaps > 0).all()
    assert n_iter < 10 or len(trajectory.iterations) >= 5


def test_large_codebooks_keep_fewer_frames(monkeypatch):
    monkeypatch.setattr(module, "MAX_ELEMENTS", 6 * 4)
    trajectory = walk(20)
    assert len(trajectory.iterations) <= 4
    assert (trajectory.iterations[0], trajectory.iterations[-1]) == (0, 20)


def test_frames_are_copies():
    trajectory, centroids = Trajectory(), torch.zeros(2, 3)
    trajectory.record(0, centroids)
    centroids += 1
    trajectory.record(1, centroids)
    assert trajectory.centroids[:, 0, 0].tolist() == [0, 1]


@pytest.mark.parametrize(("n_batches", "size"), [(1, 5000), (4, 300), (50, 7), (5000, 1)])
def test_the_sample_comes_from_all_batches(n_batches, size):
    trajectory = Trajectory(max_points=100)
    rows = torch.arange(n_batches * size, dtype=torch.float32)[:, None]
    for batch in rows.split(size):
        trajectory.sample(batch, n_batches=n_batches)
    x = trajectory.x[:, 0]
    assert sum(map(len, trajectory._rows)) <= 100 + n_batches
    assert min(50, len(rows)) <= len(x) <= 100
    assert (x.diff() > 0).all()
    assert x[0] == 0
    assert x[-1] == rows[-1, 0]
    assert x.diff().max() <= 4 * len(rows) / 100 + size / 100


def test_a_stream_of_unknown_length_is_sampled_too():
    trajectory = Trajectory(max_points=100)
    for start in range(500):
        trajectory.sample(torch.full((3, 2), float(start)), n_batches=math.inf)
    assert len(trajectory.x) == 100


def test_a_batch_without_rows_adds_nothing():
    trajectory = Trajectory()
    trajectory.sample(torch.empty(0, 2), n_batches=2)
    trajectory.sample(torch.ones(3, 2), n_batches=2)
    assert trajectory.x.shape == (3, 2)
