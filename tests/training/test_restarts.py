"""Promise of n_init: the restarts of KMeansLayer.fit, in the passes of one run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from kmeans_module import KMeansLayer, LitKMeans
from kmeans_module.core.seeding import INITS
from kmeans_module.rows import BatchLoader
from kmeans_module.training.callbacks.recorder import Recorder
from tests.conftest import blobs
from tests.end_to_end.helpers import MemoryLogger, train

pytestmark = pytest.mark.filterwarnings(
    "ignore:The '.*_dataloader' does not have many workers",
    "ignore:You defined a `validation_step` but have no `val_dataloader`",
)
X = blobs(600, 3, centers=12)
LOADERS = {
    "whole": lambda: BatchLoader(X),
    "held": lambda: BatchLoader(X, batch_size=100),
    "stream": lambda: DataLoader(TensorDataset(X), batch_size=128),
}


def fitted(loader: str = "whole", n_init: int = 4, **options: Any) -> LitKMeans:
    trainer = {key: options.pop(key) for key in ("max_epochs", "logger") if key in options}
    lit = LitKMeans(12, init=options.pop("init", "random"), n_init=n_init, **options)
    train(lit, LOADERS[loader](), **trainer)
    return lit


@pytest.mark.parametrize(
    ("init", "loader", "max_epochs"),
    [*((init, loader, 300) for init in INITS for loader in LOADERS), ("random", "held", 3)],
)
def test_the_best_is_that_of_the_layer(init: str, loader: str, max_epochs: int) -> None:
    layer = KMeansLayer(12, 3)
    result = layer.fit(X, init=init, n_init=4, seed=0, max_iter=max_epochs)
    lit = fitted(loader, init=init, max_epochs=max_epochs)
    torch.testing.assert_close(lit.kmeans.centroids, layer.centroids, rtol=0, atol=1e-6)
    assert int(lit.kmeans.n_iter) == int(result.n_iter)
    assert min(lit.restarts.chosen_by) == pytest.approx(float(result.inertia))
    assert len({round(inertia, 6) for inertia in lit.restarts.chosen_by}) > 1


def test_the_first_restart_is_the_fit_without_restarts() -> None:
    alone = fitted(n_init=1)
    together = fitted(n_init=3)
    assert torch.equal(together.restarts.centroids[0], alone.kmeans.centroids)
    assert together.restarts.m_steps[0] == int(alone.kmeans.n_iter)


class Passes:
    """Batches, and how often they were gone through."""

    stable = True

    def __init__(self) -> None:
        self.passes = 0

    def __len__(self) -> int:
        return 6

    def __iter__(self) -> Any:
        self.passes += 1
        return iter(X.split(100))


@pytest.mark.parametrize("init", INITS)
def test_restarts_share_the_passes_of_a_stream(init: str) -> None:
    passes = []
    for n_init in (1, 4):
        loader = Passes()
        train(LitKMeans(12, init=init, n_init=n_init, tol=0), loader, max_epochs=2)
        passes.append(loader.passes)
    assert passes[1] == passes[0] + 1, "one more chooses the best"


@pytest.mark.parametrize("algorithm", ["lloyd", "minibatch"])
@pytest.mark.filterwarnings("ignore:.* have no samples")
@pytest.mark.parametrize("loader", ["held", "stream"])
@pytest.mark.parametrize("epochs", [1, 4])
def test_a_resumed_fit_ends_with_the_same_bits(
    algorithm: str, loader: str, epochs: int, tmp_path: Any
) -> None:
    def lit() -> LitKMeans:
        return LitKMeans(12, init="random", n_init=3, algorithm=algorithm)

    whole, first, second = lit(), lit(), lit()
    train(whole, LOADERS[loader](), max_epochs=9)
    train(first, LOADERS[loader](), max_epochs=epochs).save_checkpoint(tmp_path / "a.ckpt")
    resumed = train(second, LOADERS[loader](), max_epochs=9, ckpt_path=str(tmp_path / "a.ckpt"))
    assert resumed.current_epoch > epochs
    assert torch.equal(second.restarts.centroids, whole.restarts.centroids)
    assert second.restarts.chosen_by == whole.restarts.chosen_by
    for name, value in whole.kmeans.state_dict().items():
        assert torch.equal(second.kmeans.state_dict()[name], value), name


def test_a_checkpoint_of_other_restarts_is_refused(tmp_path: Any) -> None:
    lit = LitKMeans(12, n_init=3)
    train(lit, LOADERS["whole"](), max_epochs=2).save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="is of n_init=3; got n_init=1"):
        train(LitKMeans(12), LOADERS["whole"](), ckpt_path=str(tmp_path / "a.ckpt"))
    loaded = LitKMeans.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert torch.equal(loaded(X), lit(X))


@pytest.mark.filterwarnings("ignore:.* have no samples")
@pytest.mark.parametrize("loader", ["held", "stream"])
def test_restarts_of_minibatch_are_those_that_run_alone(loader: str) -> None:
    lit = fitted(loader, algorithm="minibatch", tol=1e-2)
    restarts = lit.restarts
    inertia = torch.tensor(restarts.chosen_by)
    assert restarts.best == int(inertia.argmin())
    assert torch.equal(restarts.centroids[restarts.best], lit.kmeans.centroids)
    assert len(set(restarts.m_steps)) > 1, "a restart that has converged stays as it is"
    expected = lit.kmeans.e_step(X).stats.inertia
    assert float(inertia.min()) == pytest.approx(float(expected))
    alone = fitted(loader, n_init=1, algorithm="minibatch", tol=1e-2)
    assert torch.equal(alone.kmeans.centroids, restarts.centroids[0])


def test_what_is_logged_is_of_the_best() -> None:
    logger = MemoryLogger()
    lit = fitted(logger=logger)
    n = max(lit.restarts.m_steps)
    numbers = list(range(1, n + 1))
    for name in ("inertia", "shift", "restart", "size_min"):
        assert list(logger.series(f"train/{name}")) == numbers, name
    last = logger.series("train/restart")[n]
    assert last == lit.restarts.best
    inertia = lit.restarts.inertia[lit.restarts.best]
    assert logger.series("train/inertia")[n] == pytest.approx(inertia)


def test_the_trajectory_is_that_of_the_best() -> None:
    recorder, lit = Recorder(), LitKMeans(12, init="random", n_init=4)
    train(lit, LOADERS["held"](), callbacks=[recorder])
    trajectory = recorder.trajectory
    assert trajectory.iterations == list(range(int(lit.kmeans.n_iter) + 1))
    assert torch.equal(trajectory.centroids[-1], lit.kmeans.centroids)
    for centroids, inertia in list(zip(trajectory.centroids, trajectory.inertia, strict=True))[:-1]:
        layer = KMeansLayer(12, 3)
        layer.initialize(X, centroids)
        assert float(inertia) == pytest.approx(float(layer.e_step(X).stats.inertia))


def test_centroids_of_ones_own_need_one_run() -> None:
    lit = LitKMeans(12, n_init=4)
    lit.kmeans = KMeansLayer(12, 3)
    lit.kmeans.initialize(X, X[:12])
    train(lit, LOADERS["whole"]())
    assert len(lit.restarts.m_steps) == 1


@pytest.mark.parametrize("n_init", [0, 2.5, "auto"])
def test_a_wrong_n_init_is_refused(n_init: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="n_init should be"):
        LitKMeans(12, n_init=n_init)
