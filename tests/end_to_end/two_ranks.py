"""Runs of one configuration, on however many ranks, each with the environment of torchrun."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningDataModule
from torch.utils.data import DataLoader, TensorDataset

from kmeans_module import BlobDataModule, ClusterUsage, Inertia, LitKMeans
from kmeans_module.cli import main
from kmeans_module.rows.loader import BatchLoader
from tests.end_to_end.helpers import MemoryLogger, quiet_trainer

SIZES = [101, 99, 83, 120, 77, 23]
RANK, WORLD = 0, 1
Outcome = dict[str, Any]


def blobs(**options: Any) -> BlobDataModule:
    return BlobDataModule(samples_per_cluster=SIZES, variance=150.0, **options)


def far_init(folder: Path, n_far: int = 3) -> str:
    """Centroids of which some get no sample."""
    rows = blobs().x
    far = torch.arange(n_far, dtype=torch.float32)[:, None] * 50 + torch.full((1, 2), 500.0)
    path = folder / f"init{RANK}.npy"
    np.save(path, torch.cat([rows[:7], far]).numpy())
    return str(path)


class Steps(Callback):
    """Centroids after every batch."""

    def __init__(self) -> None:
        self.centroids: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.centroids.append(pl_module.kmeans.centroids.clone())


def fit(lit: LitKMeans, data: Any, x: torch.Tensor) -> Outcome:
    steps, logger = Steps(), MemoryLogger()
    parallel = {"strategy": "ddp", "devices": WORLD} if WORLD > 1 else {"devices": 1}
    trainer = quiet_trainer(callbacks=[steps], logger=logger, max_epochs=12, **parallel)
    name = "datamodule" if isinstance(data, LightningDataModule) else "train_dataloaders"
    trainer.fit(lit, **{name: data})
    assert lit.last is not None
    return {
        "labels": lit(x),
        "steps": torch.stack(steps.centroids),
        "inertia": lit.last.inertia,
        "sizes": lit.last.counts,
        "n_iter": int(lit.kmeans.n_iter),
        "stopped": (lit.converged, lit.stop_reason.split(" ")[0]),
        "logged": logger.logged,
    }


class Foreign(LightningDataModule):
    """Nothing but DataLoaders, that Lightning gives its samplers."""

    def __init__(self, shuffle: bool = False) -> None:
        super().__init__()
        self.shuffle = shuffle

    def train_dataloader(self) -> Any:
        data = blobs()
        return DataLoader(TensorDataset(data.x, data.target), batch_size=31, shuffle=self.shuffle)

    def val_dataloader(self) -> Any:
        data = blobs()
        parts = [TensorDataset(data.x[i:j], data.target[i:j]) for i, j in ((0, 101), (101, 300))]
        return [DataLoader(part, batch_size=40) for part in parts]

    def predict_dataloader(self) -> Any:
        return DataLoader(blobs().x, batch_size=31)


class BadRow(LightningDataModule):
    """One rank meets NaN."""

    def train_dataloader(self) -> Any:
        x = blobs().x.clone()
        x[-1] = torch.nan
        return BatchLoader(x, batch_size=100, rank=RANK, world_size=WORLD)


def lloyd(data: dict[str, Any] | None = None, **model: Any) -> Callable[[Path], Outcome]:
    def run(folder: Path) -> Outcome:
        module = blobs(**(data or {}))
        return fit(LitKMeans(10, 2, **model), module, module.x)

    return run


def with_policy(policy: str, **options: Any) -> Callable[[Path], Outcome]:
    def run(folder: Path) -> Outcome:
        lit = LitKMeans(10, 2, init=far_init(folder), empty_cluster=policy, **options)
        module = blobs(batch_size=64)
        return fit(lit, module, module.x)

    return run


def foreign(shuffle: bool) -> Callable[[Path], Outcome]:
    def run(folder: Path) -> Outcome:
        torch.manual_seed(0)
        return fit(LitKMeans(10, 2, init=far_init(folder)), Foreign(shuffle), blobs().x)

    return run


def refusal(lit: LitKMeans, data: Any) -> Outcome:
    began = time.monotonic()
    try:
        fit(lit, data, blobs().x)
    except ValueError as error:
        return {"error": str(error), "seconds": time.monotonic() - began}
    return {}


def metrics(folder: Path) -> Outcome:
    data = blobs()
    inertia, usage = Inertia(), ClusterUsage(8)
    for i in range(RANK, len(data.x), WORLD):
        inertia.update(data.x[i].square(), torch.full((2,), 0.5))
        usage.update(data.target[i : i + 1])
    return {
        "inertia": float(inertia.compute()),
        **{k: float(v) for k, v in usage.compute().items()},
    }


def command_line(*args: str) -> Callable[[Path], Outcome]:
    """A run through main, and the labels in its folder."""

    def run(folder: Path) -> Outcome:
        parallel = ["--trainer.strategy=ddp", f"--trainer.devices={WORLD}"] if WORLD > 1 else []
        place = folder / f"run{WORLD}-{crc32(repr(args).encode())}"
        quiet = ["--trainer.enable_progress_bar=false", "--run_folder.summary=false",
                 "--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={place}"]  # fmt: skip
        main([*(arg.format(folder=folder) for arg in args), *quiet, *parallel])
        if WORLD > 1:
            torch.distributed.barrier()
        (labels,) = place.glob("*/*/labels.npy")
        return {"labels": torch.from_numpy(np.load(labels))}

    return run


ARRAY = ("--data=ArrayDataModule", "--data.path={folder}/x.npy")
CASES: dict[str, Callable[[Path], Outcome]] = {
    "k-means++": lloyd(init="k-means++"),
    "k-means||": lloyd(init="k-means||"),
    "random": lloyd(init="random"),
    "batches": lloyd({"batch_size": 64}),
    "batches, k-means||": lloyd({"batch_size": 64}, init="k-means||"),
    "batches, random": lloyd({"batch_size": 64}, init="random"),
    "a row or two per batch": lloyd({"batch_size": 3}, tol=0.1),
    "a last batch of one row": lloyd({"batch_size": 251}),
    "shuffled": lloyd({"batch_size": 64, "shuffle": True}),
    "cosine": lloyd({"batch_size": 64}, metric="cosine"),
    "relocate": with_policy("relocate"),
    "split": with_policy("split"),
    "keep": with_policy("keep"),
    "minibatch": lloyd({"batch_size": 64, "shuffle": True}, algorithm="minibatch"),
    "minibatch, relocate": with_policy("relocate", algorithm="minibatch"),
    "minibatch, split": with_policy("split", algorithm="minibatch"),
    "foreign": foreign(shuffle=False),
    "foreign, shuffled": foreign(shuffle=True),
    "metrics": metrics,
    "labels of a file": command_line("fit", *ARRAY, "--data.batch_size=50"),
    "labels of a share": command_line(
        "fit", *ARRAY, "--data.batch_size=50", "--data.shuffle=true", "--data.val_share=0.2"
    ),
    "labels of an image": command_line(
        "fit", "--data=ImageDataModule", "--data.path={folder}/x.png", "--model.n_clusters=4"
    ),
    "predicted": command_line(
        "predict", *ARRAY, "--model.n_clusters=10", "--ckpt_path={folder}/file.ckpt"
    ),
    "predicted, foreign": command_line(
        "predict",
        "--data=tests.end_to_end.two_ranks.Foreign",
        "--model.n_clusters=10",
        "--ckpt_path={folder}/file.ckpt",
    ),
    "error": lambda folder: refusal(
        LitKMeans(10, 2, init=far_init(folder), empty_cluster="error"), blobs(batch_size=64)
    ),
    "NaN": lambda folder: refusal(LitKMeans(10, 2), BadRow()),
    "too few rows": lambda folder: refusal(LitKMeans(2000, 2), blobs(batch_size=64)),
}


def run_all(folder: Path) -> dict[str, Outcome]:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    outcomes = {}
    for name, run in CASES.items():
        outcomes[name] = run(folder)
    return outcomes


def run_rank(folder: Path, rank: int, world: int) -> None:
    """All cases as one of the ranks; leaves their outcomes in a file."""
    global RANK, WORLD
    RANK, WORLD = rank, world
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        outcomes = run_all(folder)
    torch.save(outcomes, folder / f"{RANK}.pt")
    if dist.is_initialized():  # a process that ends with it open may abort
        dist.destroy_process_group()
