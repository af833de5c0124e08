"""Fits of a Trainer that one process and two should do alike, or refuse on both ranks."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    TensorDataset,
)

from kmeans_module import BatchLoader, KMeansLayer, LitKMeans
from kmeans_module.training.callbacks.recorder import Recorder
from tests.conftest import blobs
from tests.end_to_end.helpers import quiet_trainer

X = blobs(103, 3)
GRID = X.round()  # many rows are equally far
TARGET = torch.arange(len(X)) % 5
Outcome = dict[str, Any]


class Rows(IterableDataset[Tensor]):
    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.x)


class Dicts(Dataset[dict[str, Tensor]]):
    """Rows, weights and labels."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"x": X[i], "sample_weight": torch.tensor(1.0 + i % 3), "target": TARGET[i]}


class Reversed(BatchSampler):
    """Batches in an order of its own."""

    def __iter__(self) -> Iterator[list[int]]:
        return iter(list(super().__iter__())[::-1])


class Recorded(Callback):
    """Where the sample of the rows is seen that the figures draw."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        Recorder.attach(trainer)


def plain(data: Any = X, **options: Any) -> Callable[[int, int], Any]:
    return lambda rank, world: DataLoader(data, **{"batch_size": 17, **options})


def own_sampler(shuffle: bool) -> Callable[[int, int], Any]:
    def loader(rank: int, world: int) -> Any:
        sampler = DistributedSampler(X, num_replicas=world, rank=rank, shuffle=shuffle)
        return DataLoader(X, batch_size=17, sampler=sampler)

    return loader


def drawn(x: Tensor, k: int, generator: torch.Generator | None) -> Tensor:
    return x[torch.randperm(len(x), generator=generator)[:k]]


def narrow(rank: int, world: int) -> Any:
    return BatchLoader(X[:13], batch_size=1, rank=rank, world_size=world)


# Of a fit: the loader, and what LitKMeans and the Trainer are told.
FITS: dict[str, tuple[Callable[[int, int], Any], dict[str, Any], dict[str, Any]]] = {
    "k-means++": (plain(), {}, {}),
    "k-means||": (plain(), {"init": "k-means||"}, {}),
    "random": (plain(), {"init": "random"}, {}),
    "shuffled": (plain(shuffle=True), {"init": "random", "n_clusters": 30}, {}),
    "shuffled, a callable": (plain(shuffle=True), {"init": drawn}, {}),
    "shuffled, resident": (plain(shuffle=True), {"resident": True, "init": "random"}, {}),
    "even shares": (plain(X[:100]), {"init": "random"}, {}),
    "equally far": (plain(GRID), {"n_clusters": 30, "tol": 0}, {}),
    "cosine": (plain(), {"metric": "cosine", "init": "random"}, {}),
    "float64": (plain(X.double() + 1e6), {"tol": 0, "init": "random"}, {}),
    "dictionaries": (plain(Dicts()), {"init": "random"}, {}),
    "resident": (plain(), {"resident": True, "init": "random"}, {}),
    "resident, dictionaries": (plain(Dicts()), {"resident": True, "init": "random"}, {}),
    "own sampler": (own_sampler(False), {"init": "random"}, {}),
    "own sampler, shuffled": (own_sampler(True), {"init": "random"}, {}),
    "a list of batches": (
        plain(list(X.split([3, 50, 30, 20])), batch_size=None), {"init": "random"}, {},
    ),
    "overfit_batches": (plain(X[:68]), {}, {"overfit_batches": 1.0}),
    "one row for each rank": (plain(X[:2]), {"n_clusters": 2}, {}),
    "one row": (plain(X[:1]), {"n_clusters": 1}, {}),
    "fewer rows than ranks in a batch": (narrow, {}, {}),
    "scores": (plain(), {}, {"validated": True}),
    "restarts": (plain(), {"n_init": 3, "init": "random"}, {}),
    "restarts, resident": (plain(), {"n_init": 3, "resident": True}, {}),
}  # fmt: skip


def layer_of(k: int) -> KMeansLayer:
    layer = KMeansLayer(k, 3)
    layer.initialize(X[:k], X[:k])
    return layer


def other_layer(rank: int) -> LitKMeans:
    lit = LitKMeans(6)
    if rank:
        lit.kmeans = layer_of(6)
    return lit


# Of a refused fit: the loader, the LitKMeans of a rank, what is told to the Trainer.
REFUSED: dict[str, tuple[Callable[[int, int], Any], Callable[[int], LitKMeans], dict[str, Any]]] = {
    "n_clusters": (plain(), lambda rank: LitKMeans(5 + rank), {}),
    "tol": (plain(), lambda rank: LitKMeans(5, tol=0.1 * rank), {}),
    "init": (plain(), lambda rank: LitKMeans(5, init=["random", "k-means||"][rank]), {}),
    "algorithm": (plain(), lambda rank: LitKMeans(5, algorithm=["lloyd", "minibatch"][rank]), {}),
    "seed": (plain(), lambda rank: LitKMeans(5, seed=rank), {}),
    "n_init": (plain(), lambda rank: LitKMeans(5, n_init=1 + rank), {}),
    "kmeans": (plain(), other_layer, {}),
    "iterable": (plain(Rows(X)), lambda rank: LitKMeans(5), {}),
    "no sampler": (plain(), lambda rank: LitKMeans(5), {"use_distributed_sampler": False}),
    "not split": (
        lambda rank, world: BatchLoader(X, batch_size=17), lambda rank: LitKMeans(5), {}
    ),
    "not split, resident": (
        plain(Rows(X)), lambda rank: LitKMeans(5, resident=True), {},
    ),
    "batches": (
        lambda rank, world: DataLoader(Rows(X[: 40 + 40 * rank]), batch_size=10),
        lambda rank: LitKMeans(5), {},
    ),
    "order": (
        lambda rank, world: DataLoader(
            X, batch_sampler=Reversed(
                DistributedSampler(X, num_replicas=world, rank=rank), 10, drop_last=False
            ),
        ),
        lambda rank: LitKMeans(5), {},
    ),
}  # fmt: skip


def fit(
    rank: int, world: int, loader: Any, lit: LitKMeans, *, validated: bool = False, **options: Any
) -> Outcome:
    parallel: dict[str, Any] = {"devices": 1}
    if world > 1:
        parallel = {"devices": 2, "strategy": DDPStrategy(timeout=timedelta(seconds=30))}
    trainer = quiet_trainer(**{"callbacks": [Recorded()], "max_epochs": 40, **parallel, **options})
    val = DataLoader(TensorDataset(X, TARGET), batch_size=20) if validated else None
    trainer.fit(lit, loader, val)
    assert lit.last is not None
    return {
        "centroids": lit.kmeans.centroids,
        "counts": lit.kmeans.counts,
        "n_iter": int(lit.kmeans.n_iter),
        "inertia": float(lit.last.inertia),
        "converged": lit.converged,
        "sampled": len(Recorder.of(trainer).trajectory.x) > 0,
        "scores": {k: float(v) for k, v in trainer.callback_metrics.items() if "val/" in k},
    }


def run_all(rank: int, world: int) -> dict[str, Any]:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for name, (loader, model, options) in FITS.items():
        lit = LitKMeans(**{"n_clusters": 6, **model})
        found[name] = fit(rank, world, loader(rank, world), lit, **options)
    if world == 1:
        return found
    for name, (loader, make, options) in REFUSED.items():
        found[name] = refusal(rank, world, loader(rank, world), make(rank), **options)
    return found


def refusal(*arguments: Any, **options: Any) -> str:
    try:
        fit(*arguments, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def work(rank: int, folder: str, port: int, spawned: LitKMeans) -> None:
    """As a rank that torchrun has started, with a module that came from another process."""
    os.environ.update(
        {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "tests",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }
    )  # fmt: skip
    found = run_all(rank, 2)
    found["spawned"] = fit(rank, 2, plain()(rank, 2), spawned)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
