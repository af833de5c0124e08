import pytest
import torch

from kmeans_module import LitKMeans
from kmeans_module.rows.batch import BatchLoader
from kmeans_module.training.callbacks.recorder import Recorder
from tests.conftest import blobs
from tests.end_to_end.helpers import train

pytestmark = pytest.mark.filterwarnings(
    "ignore:You defined a `validation_step` but have no `val_dataloader`"
)
X = blobs(500, 2)


@pytest.mark.parametrize("batch_size", [None, 90])
def test_the_trajectory_is_that_of_the_fit(batch_size):
    recorder = Recorder()
    lit = LitKMeans(20, 2, init="random", tol=0)
    train(lit, BatchLoader(X, batch_size=batch_size), callbacks=[recorder], max_epochs=5)
    found = recorder.trajectory
    assert found.iterations == list(range(6))
    assert torch.equal(found.centroids[-1], lit.kmeans.centroids)
    for i in range(5):
        step = LitKMeans(20, 2)
        step.kmeans.initialize(X, found.centroids[i])
        stats = step.kmeans.e_step(X).stats
        assert float(found.inertia[i]) == pytest.approx(float(stats.inertia))
        step.kmeans.m_step(stats)
        assert torch.allclose(step.kmeans.centroids, found.centroids[i + 1], atol=1e-5)
    assert torch.equal(found.x, X)


def test_every_fit_has_a_trajectory_of_its_own():
    recorder = Recorder()
    train(LitKMeans(20, 2), BatchLoader(X), callbacks=[recorder], max_epochs=3)
    train(LitKMeans(4, 2), BatchLoader(X[:50]), callbacks=[recorder], max_epochs=1)
    assert recorder.trajectory.iterations == [0, 1]
    assert recorder.trajectory.centroids.shape == (2, 4, 2)
    assert torch.equal(recorder.trajectory.x, X[:50])
