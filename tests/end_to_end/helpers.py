"""What the tests of whole runs share: a quiet Trainer, a logger that remembers."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger

from kmeans_module import KMeansLayer, LitKMeans

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
ROOT = Path(__file__).parents[2]


class MemoryLogger(Logger):
    """Keeps what it is given, as (step, metrics)."""

    def __init__(self) -> None:
        super().__init__()
        self.logged: list[tuple[int, dict[str, float]]] = []

    name = "memory"
    version = 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.logged.append((step, metrics))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def series(self, key: str) -> dict[int, float]:
        """Value by step."""
        return {step: metrics[key] for step, metrics in self.logged if key in metrics}


def quiet_trainer(**options: Any) -> Trainer:
    defaults = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "max_epochs": 300,
        "log_every_n_steps": 1,
    }
    return Trainer(**{**defaults, **options})


def train(lit: LitKMeans, data: Any, ckpt_path: str | None = None, **options: Any) -> Trainer:
    """Fit on a DataModule or a loader."""
    trainer = quiet_trainer(**options)
    name = "datamodule" if hasattr(data, "train_dataloader") else "train_dataloaders"
    trainer.fit(lit, **{name: data}, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def fit_layer(lit: LitKMeans, x: torch.Tensor, init: Any = None, **options: Any) -> Any:
    """(layer, result) of KMeansLayer.fit with the settings of a LitKMeans."""
    fitted = isinstance(lit.kmeans, KMeansLayer)
    layer = KMeansLayer(
        lit.n_clusters,
        lit.kmeans.n_features if fitted else x.shape[1],
        metric=lit.metric,
        empty_cluster=lit.empty_cluster,
        dtype=lit.kmeans.centroids.dtype if fitted else None,
    )
    generator = torch.Generator().manual_seed(0)
    init = lit.init if init is None else init
    return layer, layer.fit(x, init=init, tol=lit.tol, generator=generator, **options)


def run_script(*args: str, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """``python train.py`` in a process of its own."""
    return subprocess.run(script(*args), cwd=cwd, env=environment(), capture_output=True,
                          text=True, timeout=240, check=False, **options)  # fmt: skip


def script(*args: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), *args]


def environment() -> dict[str, str]:
    """One thread per process: several of them run on few cores."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
