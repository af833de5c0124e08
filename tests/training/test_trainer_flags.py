"""Promises under the switches of a Trainer: the result of KMeansLayer.fit, or a refusal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from kmeans_module import ArrayDataModule, BatchLoader, KMeansLayer, LitKMeans
from kmeans_module.cli import main
from kmeans_module.training.handshake import check_strategy
from tests.conftest import blobs, layer_at, seeded
from tests.end_to_end.helpers import quiet_trainer, train

pytestmark = pytest.mark.filterwarnings(
    "ignore:The '.*_dataloader' does not have many workers",
    "ignore:You defined a `validation_step` but have no `val_dataloader`",
    "ignore:You requested to overfit but enabled train dataloader shuffling",
    "ignore:.*barebones",
    "ignore:.*max_epochs",
    "ignore:.*`Trainer.fit` stopped",
    "ignore:.*precision",
    "ignore:.*[Ff]ork",
)

X = blobs(203, 3)
START = X[:6].clone()

# Switches of a Trainer, the batches of 50 rows that count, and the iterations at most.
SWITCHES: dict[str, tuple[dict[str, Any], int, int]] = {
    "nothing": ({}, 5, 300),
    "overfit_batches": ({"overfit_batches": 2}, 2, 300),
    "overfit_batches, a share": ({"overfit_batches": 0.5}, 2, 300),
    "fast_dev_run": ({"fast_dev_run": 2}, 2, 1),
    "limit_train_batches": ({"limit_train_batches": 2}, 2, 300),
    "limit_train_batches, a share": ({"limit_train_batches": 0.5}, 2, 300),
    "val_check_interval": ({"val_check_interval": 2}, 5, 300),
    "val_check_interval, a share": ({"val_check_interval": 0.25}, 5, 300),
    "check_val_every_n_epoch": ({"check_val_every_n_epoch": 2}, 5, 300),
    "validation by batches": (
        {"check_val_every_n_epoch": None, "val_check_interval": 7}, 5, 300,
    ),
    "num_sanity_val_steps": ({"num_sanity_val_steps": 2}, 5, 300),
    "bf16-mixed": ({"precision": "bf16-mixed"}, 5, 300),
    "16-mixed": ({"precision": "16-mixed"}, 5, 300),
    "32-true": ({"precision": "32-true"}, 5, 300),
    "inference_mode": ({"inference_mode": False}, 5, 300),
    "max_steps": ({"max_steps": 2}, 5, 2),
    "max_epochs": ({"max_epochs": 2}, 5, 2),
    "max_epochs, none": ({"max_epochs": -1}, 5, 300),
    "max_time": ({"max_time": {"hours": 1}}, 5, 300),
    "reload_dataloaders": ({"reload_dataloaders_every_n_epochs": 1}, 5, 300),
    "detect_anomaly": ({"detect_anomaly": True}, 5, 300),
    "sync_batchnorm": ({"sync_batchnorm": True}, 5, 300),
    "use_distributed_sampler": ({"use_distributed_sampler": False}, 5, 300),
}  # fmt: skip


def started() -> LitKMeans:
    lit = LitKMeans(6, tol=0)
    lit.kmeans = layer_at(START)
    return lit


def assert_fitted(lit: LitKMeans, x: Tensor, max_iter: int = 300) -> None:
    layer = KMeansLayer(6, 3)
    result = layer.fit(x, init=START, tol=0, max_iter=max_iter)
    assert torch.equal(lit.kmeans.centroids, layer.centroids)
    assert int(lit.kmeans.n_iter) == int(result.n_iter)


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("ours", [False, True])
def test_a_switch_leaves_the_result_of_the_layer(name: str, ours: bool) -> None:
    switches, n_batches, max_iter = SWITCHES[name]
    loader = BatchLoader(X, batch_size=50) if ours else DataLoader(X, batch_size=50)
    lit = started()
    quiet_trainer(**switches).fit(lit, loader, DataLoader(X, batch_size=50))
    assert_fitted(lit, X[: 50 * n_batches], max_iter)


def test_barebones_and_least_epochs() -> None:
    lit = started()
    names = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary",
             "num_sanity_val_steps", "log_every_n_steps")  # fmt: skip
    quiet_trainer(barebones=True, **dict.fromkeys(names)).fit(lit, DataLoader(X, batch_size=50))
    assert_fitted(lit, X)
    lit = started()
    train(lit, DataLoader(X, batch_size=50), min_epochs=12)
    assert int(lit.kmeans.n_iter) == 12
    assert lit.converged


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_lose_no_epoch(persistent: bool) -> None:
    loader = DataLoader(X, batch_size=50, num_workers=1, persistent_workers=persistent)
    lit = started()
    train(lit, loader, max_epochs=1)
    assert_fitted(lit, X, max_iter=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_in_changing_order_end_without_a_tolerance(dtype: torch.dtype) -> None:
    x = X.to(dtype) * 1.1 + 1e3
    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(x), batch_size=7, shuffle=True)
    lit = LitKMeans(6, tol=0)
    train(lit, loader, max_epochs=60)
    assert lit.converged
    result = KMeansLayer(6, 3, dtype=dtype).fit(loader, tol=0, generator=seeded(0), max_iter=60)
    assert bool(result.converged)


class Few(IterableDataset[Tensor]):
    """Rows that come in the first passes only."""

    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self) -> Iterator[Tensor]:
        self.passes += 1
        return iter(X if self.passes < 4 else X[:0])


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "accumulate_grad_batches": (None, {"accumulate_grad_batches": 2}, "gradient accumulation"),
    "gradient_clip_val": (None, {"gradient_clip_val": 1.0}, "gradient clipping"),
    "fsdp": (None, {"strategy": "fsdp"}, "fsdp"),
    "a list of batches": (list(X.split(50)), {}, "one loader of batches; .* list for 5 loaders"),
    "a list of loaders": ([DataLoader(X)], {}, "one loader of batches; .* list for 1 loaders"),
    "a dictionary": ({"a": DataLoader(X)}, {}, "one loader of batches; Lightning takes a dict"),
    "a CombinedLoader": (CombinedLoader([DataLoader(X)] * 2), {}, "one loader of batches"),
    "a generator": ((part for part in X.split(50)), {}, r"is an iterator \(generator\)"),
    "a tensor": (X, {}, r"a batch should be .* got a Tensor of shape \(3,\)"),
    "no rows": (DataLoader(X[:0]), {}, "the training data hold no batch"),
    "dropped rows": (
        DataLoader(X, batch_size=50, drop_last=True, shuffle=True), {}, "every pass has to bring"
    ),
    "limited and shuffled": (
        DataLoader(X, batch_size=50, shuffle=True), {"limit_train_batches": 2}, "every pass has to"
    ),
    "rows that come once": (DataLoader(Few(), batch_size=50), {}, "brought no"),
    "16-true": (
        DataLoader(X.double() + 1e6, batch_size=50), {"precision": "16-true"},
        "x should be finite in torch.float16, to which the Trainer's precision='16-true' rounds",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Total length of")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_in_words(name: str) -> None:
    loader, switches, message = REFUSED[name]
    with pytest.raises(Exception, match=message) as caught:  # Lightning's own too
        quiet_trainer(**switches).fit(
            LitKMeans(6, tol=0), DataLoader(X, batch_size=50) if loader is None else loader
        )
    assert type(caught.value).__name__ in ("ValueError", "MisconfigurationException")


def test_a_strategy_that_splits_the_model_is_refused() -> None:
    trainer: Any = SimpleNamespace(strategy=object())
    with pytest.raises(ValueError, match="strategy should be of one device, or ddp; got object"):
        check_strategy(trainer)


def test_several_optimizers_are_refused() -> None:
    class Two(LitKMeans):
        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD([self.anchor], lr=1.0) for _ in range(2)]

    with pytest.raises(ValueError, match="configure_optimizers should give one optimizer"):
        train(Two(6), DataLoader(X, batch_size=50))


def test_there_is_no_learning_rate_to_find() -> None:
    with pytest.raises(Exception, match="learning rate"):
        Tuner(quiet_trainer()).lr_find(LitKMeans(6), DataLoader(X, batch_size=50))


SECONDS = torch.arange(8).repeat_interleave(25)[:, None].double() + 1.7e9
SECONDS = torch.cat([SECONDS, SECONDS + torch.rand(200, 1, generator=seeded(0)).double() / 100], 1)
DOORS = ["layer", "loader", "npy", "csv", "batches", "command line"]


@pytest.mark.parametrize("door", DOORS)
def test_float64_rows_are_clustered_in_float64(door: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", SECONDS.numpy())
    np.savetxt(tmp_path / "x.csv", SECONDS.numpy(), delimiter=",", fmt="%.17g", header="a,b")
    lit = LitKMeans(8)
    if door == "command line":
        main(["fit", "--data=ArrayDataModule", f"--data.path={tmp_path / 'x.npy'}",
              "--model.n_clusters=8", "--trainer.accelerator=cpu", "--run_folder.summary=false",
              "--figures.projector=false", "--trainer.enable_progress_bar=false",
              f"--trainer.logger.save_dir={tmp_path}"])  # fmt: skip
        (saved,) = tmp_path.rglob("centroids.safetensors")
        lit.kmeans = KMeansLayer.from_file(saved)
    elif door == "layer":
        layer = KMeansLayer(8, 2, dtype=torch.float64)
        layer.fit(SECONDS, generator=seeded(0))
        lit.kmeans = layer
    elif door == "loader":
        train(lit, DataLoader(SECONDS, batch_size=64))
    else:
        size = 64 if door == "batches" else None
        path = str(tmp_path / ("x.csv" if door == "csv" else "x.npy"))
        train(lit, ArrayDataModule(path=path, batch_size=size))
    assert lit.kmeans.centroids.dtype == torch.float64
    labels = lit(SECONDS).view(8, 25)
    assert (labels == labels[:, :1]).all()
    assert labels[:, 0].unique().numel() == 8
    again = LitKMeans(8)
    again.load_state_dict(lit.state_dict())
    assert again.kmeans.centroids.dtype == torch.float64


def test_a_warning_of_few_rows_names_the_dtype_that_made_them_few() -> None:
    message = "only 1 distinct rows in torch.float32, to which its torch.float64 is rounded"
    with pytest.warns(UserWarning, match=message):
        KMeansLayer(8, 2).fit(SECONDS, generator=seeded(0))
    message = "only 1 distinct rows in torch.bfloat16, to which its torch.float64 is rounded"
    with pytest.warns(UserWarning, match=message):
        train(LitKMeans(8), DataLoader(SECONDS, batch_size=64), precision="bf16-true")
    with pytest.warns(UserWarning, match=r"only 1 distinct rows \(empty"):
        train(LitKMeans(8), DataLoader(SECONDS.float(), batch_size=64))


@pytest.mark.parametrize("ours", [False, True])
def test_double_precision_makes_float64_centroids_of_any_rows(ours: bool) -> None:
    lit = LitKMeans(6)
    loader = BatchLoader(X, batch_size=50) if ours else DataLoader(X, batch_size=50)
    train(lit, loader, precision="64-true")
    assert lit.kmeans.centroids.dtype == torch.float64


class WithoutFeatures(LightningDataModule):
    """Knows nothing of its rows before setup."""

    def setup(self, stage: str | None = None) -> None:
        self.x = blobs(60, 4)

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(self.x), batch_size=20)


class WithLateFeatures(WithoutFeatures):
    """Knows them after setup."""

    @property
    def n_features(self) -> int:
        return int(self.x.shape[1])


@pytest.mark.parametrize("name", ["WithoutFeatures", "WithLateFeatures"])
@pytest.mark.parametrize("n_features", [None, 5])
def test_the_command_line_takes_a_module_that_knows_its_features_late(
    name: str, n_features: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["fit", f"--data={__name__}.{name}", "--trainer.accelerator=cpu",
                 "--run_folder.summary=false", "--figures.projector=false",
                 "--trainer.enable_progress_bar=false", "--trainer.max_epochs=2",
                 f"--trainer.logger.save_dir={tmp_path}"]  # fmt: skip
    if n_features is not None:  # a check of the data
        arguments.append(f"--model.n_features={n_features}")
    assert __name__ in sys.modules
    if n_features is not None:
        with pytest.raises(SystemExit):
            main(arguments)
        assert "x should have shape (n_samples, 5); got" in capsys.readouterr().err
        return
    main(arguments)
    (saved,) = tmp_path.rglob("centroids.safetensors")
    assert KMeansLayer.from_file(saved).n_features == 4
