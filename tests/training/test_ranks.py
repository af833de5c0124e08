"""Promises of LitKMeans over ranks: any loader gives the result of one process, or is refused."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from kmeans_module import BlobDataModule, LitKMeans
from tests.end_to_end.helpers import quiet_trainer, train
from tests.processes import run_ranks
from tests.training.ranks import FITS, REFUSED, run_all, work

pytestmark = pytest.mark.filterwarnings(
    "ignore:The '.*_dataloader' does not have many workers",
    "ignore:You defined a `validation_step` but have no `val_dataloader`",
)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of one process, rank 0 and rank 1."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run_ranks(work, (str(folder), port, LitKMeans(6, seed=3)), 2)
    threads = torch.get_num_threads()
    try:
        one = run_all(0, 1)
    finally:
        torch.set_num_threads(threads)
    return [one, *(torch.load(Path(folder, f"{r}.pt"), weights_only=False) for r in range(2))]


@pytest.mark.parametrize("name", FITS)
def test_two_ranks_equal_one(name: str, outcomes: list[dict[str, Any]]) -> None:
    one, first, second = (found[name] for found in outcomes)
    assert torch.equal(first["centroids"], second["centroids"])
    torch.testing.assert_close(first["centroids"], one["centroids"], rtol=1e-6, atol=1e-6)
    assert torch.equal(first["counts"], one["counts"])
    assert first["inertia"] == second["inertia"] == pytest.approx(one["inertia"], rel=1e-9)
    for key in ("n_iter", "converged"):
        assert first[key] == second[key] == one[key], key
    assert first["scores"] == second["scores"] == pytest.approx(one["scores"], rel=1e-9)
    assert first["sampled"]


REASONS = {
    "n_clusters": "n_clusters should be the same on all ranks; it is 5 on rank 0 and 6 on rank 1",
    "tol": "tol should be the same on all ranks; it is 0.0 on rank 0 and 0.1 on rank 1",
    "init": "init should be the same on all ranks",
    "algorithm": "algorithm should be the same on all ranks",
    "n_init": "n_init should be the same on all ranks; it is 1 on rank 0 and 2 on rank 1",
    "seed": "seed should be the same on all ranks",
    "kmeans": "kmeans should be the same on all ranks; it is None on rank 0 and KMeansLayer",
    "iterable": "the loaders of 2 ranks hand out the same 103 rows",
    "no sampler": "the loaders of 2 ranks hand out the same 103 rows",
    "not split": "the loaders of 2 ranks hand out the same 103 rows",
    "not split, resident": "the loaders of 2 ranks hand out the same 103 rows",
    "batches": "the loaders of all ranks should have as many batches; they have 4, 8",
    "order": "the loader repeats 1 of 103 rows .* cannot be told",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_right_is_refused_on_every_rank(
    name: str, outcomes: list[dict[str, Any]]
) -> None:
    for found in outcomes[1:]:
        assert re.match(f"ValueError: {REASONS[name]}", str(found[name])), found[name]


def test_a_module_that_came_from_another_process_draws_what_it_would_have_drawn(
    outcomes: list[dict[str, Any]],
) -> None:
    lit = LitKMeans(6, seed=3)
    train(lit, FITS["k-means++"][0](0, 1), max_epochs=40)
    for found in outcomes[1:]:
        torch.testing.assert_close(
            found["spawned"]["centroids"], lit.kmeans.centroids, rtol=1e-6, atol=1e-6
        )


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_a_trainer_may_spawn_its_ranks(strategy: str) -> None:
    def fit(**options: Any) -> tuple[LitKMeans, Trainer]:
        lit, data = LitKMeans(6), BlobDataModule(batch_size=200)
        trainer = quiet_trainer(**options)
        trainer.fit(lit, datamodule=data)
        return lit, trainer

    lit, trainer = fit(strategy=strategy, devices=2)
    alone, by_one = fit(devices=1)
    assert torch.equal(lit.kmeans.centroids, alone.kmeans.centroids)
    assert int(lit.kmeans.n_iter) == int(alone.kmeans.n_iter)
    assert lit.stop_reason == "loaded"
    for name, value in by_one.callback_metrics.items():
        assert float(trainer.callback_metrics[name]) == pytest.approx(float(value)), name
