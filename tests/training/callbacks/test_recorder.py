import copy
import pickle

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from kmeans_module import KMeansLayer, LitKMeans
from kmeans_module.rows.loader import BatchLoader
from kmeans_module.training.callbacks import ClusterFigures, RunFolder
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
    trajectory = recorder.trajectory
    assert trajectory.iterations == list(range(6))
    assert torch.equal(trajectory.centroids[-1], lit.kmeans.centroids)
    for i in range(5):
        layer = KMeansLayer(20, 2)
        layer.initialize(X, trajectory.centroids[i])
        stats = layer.e_step(X).stats
        assert float(trajectory.inertia[i]) == pytest.approx(float(stats.inertia))
        layer.m_step(stats)
        assert torch.allclose(layer.centroids, trajectory.centroids[i + 1], atol=1e-5)
    assert torch.equal(trajectory.x, X)


def test_every_fit_has_a_trajectory_of_its_own():
    recorder = Recorder()
    train(LitKMeans(20, 2), BatchLoader(X), callbacks=[recorder], max_epochs=3)
    train(LitKMeans(4, 2), BatchLoader(X[:50]), callbacks=[recorder], max_epochs=1)
    assert recorder.trajectory.iterations == [0, 1]
    assert recorder.trajectory.centroids.shape == (2, 4, 2)
    assert torch.equal(recorder.trajectory.x, X[:50])


def readers():
    return [ClusterFigures(every_n_iterations=1000, projector=False), RunFolder(summary=False)]


def recorders(trainer):
    return [callback for callback in trainer.callbacks if isinstance(callback, Recorder)]


def fit(folder, callbacks, epochs=3):
    lit = LitKMeans(20, 2, init="random", tol=0)
    logger = TensorBoardLogger(folder, name=None, version="")
    return train(lit, BatchLoader(X), logger=logger, callbacks=callbacks, max_epochs=epochs)


def check_one_recorder(trainer, epochs=3):
    (recorder,) = recorders(trainer)
    assert trainer.callbacks[0] is recorder
    assert recorder.trajectory.iterations == list(range(epochs + 1))
    assert torch.equal(recorder.trajectory.x, X)


@pytest.mark.parametrize("chosen", [[0], [1], [0, 1], [1, 0]], ids=str)
def test_callbacks_that_draw_share_one_recorder(tmp_path, chosen):
    callbacks = readers()
    check_one_recorder(fit(tmp_path, [callbacks[i] for i in chosen]))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_recorder_of_the_user_is_the_one(tmp_path, place):
    recorder, callbacks = Recorder(), readers()
    callbacks.insert(place, recorder)
    trainer = fit(tmp_path, callbacks)
    check_one_recorder(trainer)
    assert Recorder.of(trainer) is recorder


def test_without_a_callback_that_draws_nothing_is_recorded(tmp_path):
    assert recorders(fit(tmp_path, [])) == []


def test_every_callback_is_set_up_once(tmp_path, monkeypatch):
    calls = []
    for reader in (ClusterFigures, RunFolder):
        setup = reader.setup

        def counted(self, trainer, pl_module, stage, setup=setup):
            calls.append(type(self).__name__)
            setup(self, trainer, pl_module, stage)

        monkeypatch.setattr(reader, "setup", counted)
    fit(tmp_path, readers())
    assert calls == ["ClusterFigures", "RunFolder"]


def test_further_fits_of_a_trainer_share_its_recorder(tmp_path):
    trainer = fit(tmp_path, readers())
    (first,) = recorders(trainer)
    trainer.fit_loop.max_epochs = 5
    trainer.fit(LitKMeans(4, 2, init="random", tol=0), BatchLoader(X[:50]))
    assert recorders(trainer) == [first]
    assert first.trajectory.iterations == [0, 1, 2]
    assert torch.equal(first.trajectory.x, X[:50])


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda callbacks: pickle.loads(pickle.dumps(callbacks))]
)
def test_copies_of_callbacks_record_for_their_trainer(tmp_path, copied):
    callbacks = readers()
    first = fit(tmp_path / "first", callbacks)
    (recorder,) = recorders(first)
    copies_by_name = {
        "before a fit": copied(readers()),
        "after a fit": copied(callbacks),
        "with the recorder": copied([recorder, *callbacks]),
    }
    for name, copies in copies_by_name.items():
        trainer = fit(tmp_path / name, copies, epochs=2)
        check_one_recorder(trainer, epochs=2)
        assert Recorder.of(trainer) is not recorder
    check_one_recorder(first)
