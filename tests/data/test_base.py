"""Promises of every data module: a share for each rank, batches for a Trainer, help for options."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from kmeans_module.data import (
    ArrayDataModule,
    BlobDataModule,
    ImageDataModule,
    RowsDataModule,
    Split,
)
from kmeans_module.rows.batch import Batch
from tests.data.helpers import X, rows_of


def test_each_rank_gets_its_share(npy: str) -> None:
    shares = []
    for rank in range(2):
        data = ArrayDataModule(path=npy, batch_size=15)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)  # type: ignore[assignment]
        for loader in (data.train_dataloader(), data.predict_dataloader(), data.test_dataloader()):
            assert (loader.rank, loader.world_size) == (rank, 2)
        shares.append(list(data.train_dataloader()))
    together = [batch.x for pair in zip(*shares, strict=True) for batch in pair]
    np.testing.assert_array_equal(torch.cat(together), X)


class Collector(LightningModule):
    """Keeps the rows that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.zero = torch.nn.Parameter(torch.zeros(0))
        self.rows: list[Tensor] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        self.rows.append(batch.x)
        return self.zero.sum()

    def validation_step(self, batch: Batch, _: int) -> None:
        self.rows.append(batch.x)

    def predict_step(self, batch: Batch, _: int) -> Tensor:
        return batch.x


@pytest.mark.parametrize("val_share", [0.0, 0.2])
def test_a_trainer_runs_with_and_without_validation_rows(npy: str, val_share: float) -> None:
    data = ArrayDataModule(path=npy, batch_size=20, shuffle=True, val_share=val_share)
    model = Collector()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, datamodule=data)
    seen = torch.cat(model.rows).sort(dim=0).values
    np.testing.assert_array_equal(seen, np.sort(X, axis=0))
    model.rows.clear()
    trainer.validate(model, datamodule=data, verbose=False)
    assert sum(len(rows) for rows in model.rows) == 50 * val_share
    predictions = trainer.predict(model, datamodule=data)
    assert predictions is not None
    np.testing.assert_array_equal(torch.cat(predictions), X)  # type: ignore[arg-type]


def test_a_source_of_rows_gives_its_training_split() -> None:
    class Line(RowsDataModule):
        @property
        def training_split(self) -> Split:
            return Split(torch.arange(10.0)[:, None])

    data = Line(batch_size=4, shuffle=False, seed=0)
    data.setup("fit")
    assert (data.n_samples, data.n_features, data.target) == (10, 1, None)
    for loader in (data.train_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        assert rows_of(loader)[:, 0].tolist() == list(range(10))
    assert list(data.val_dataloader()) == []


@pytest.mark.parametrize("data_module", [BlobDataModule, ArrayDataModule, ImageDataModule])
def test_every_option_is_explained_on_the_command_line(data_module: type) -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(data_module, "data")
    for action in parser._actions:
        if action.dest.startswith("data."):
            assert action.help
            assert "Missing" not in action.help


def test_command_line_reads_columns_by_name_and_number() -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(ArrayDataModule, "data")
    parsed = parser.parse_args(["--data.path=x.csv", "--data.columns=[a, 3]"])
    assert parsed.data.columns == ["a", 3]
