"""Promises of BatchLoader: every row once, ranks together equal one, orders that repeat."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import LightningModule, Trainer

from kmeans_module.rows import Batch, BatchLoader


def rows(n: int) -> torch.Tensor:
    """(n, 2), each row known by its first number."""
    return torch.arange(n, dtype=torch.float32)[:, None].expand(n, 2).contiguous()


def epoch_order(loader: BatchLoader) -> list[int]:
    return [int(row) for batch in loader for row in batch.x[:, 0]]


@given(
    n=st.integers(1, 40),
    batch_size=st.none() | st.integers(1, 50),
    world_size=st.integers(1, 7),
    shuffle=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_ranks_together_equal_one(
    n: int, batch_size: int | None, world_size: int, shuffle: bool, epoch: int
) -> None:
    def loader(rank: int, of: int) -> BatchLoader:
        loader = BatchLoader(
            rows(n),
            batch_size=batch_size,
            target=torch.arange(n) * 2,
            sample_weight=torch.arange(n) * 3.0,
            shuffle=shuffle,
            rank=rank,
            world_size=of,
        )
        loader.set_epoch(epoch)
        return loader

    alone = list(loader(0, 1))
    shared = [list(loader(rank, world_size)) for rank in range(world_size)]
    assert {len(batches) for batches in shared} == {len(alone)} == {len(loader(0, world_size))}
    position = 0
    for batch, *parts in zip(alone, *shared, strict=True):
        assert batch.start == position
        for field in ("x", "target", "sample_weight", *(["index"] if shuffle else [])):
            joined = torch.cat([getattr(part, field) for part in parts])
            assert torch.equal(joined, getattr(batch, field))
        for part in parts:
            assert part.start == position
            assert abs(len(part.x) - len(batch.x) / world_size) < 1
            position += len(part.x)
            check_fields_belong_together(part, shuffle)
    assert position == n
    assert sorted(epoch_order(loader(0, 1))) == list(range(n))


def check_fields_belong_together(batch: Batch, shuffle: bool) -> None:
    number = batch.x[:, 0].long()
    expected = batch.index if shuffle else torch.arange(batch.start, batch.start + len(batch.x))
    assert batch.target is not None
    assert batch.sample_weight is not None
    assert torch.equal(number, expected)
    assert torch.equal(batch.target, number * 2)
    assert torch.equal(batch.sample_weight, number * 3.0)


def test_last_batch_is_smaller_and_none_means_one() -> None:
    assert [len(batch.x) for batch in BatchLoader(rows(7), batch_size=3)] == [3, 3, 1]
    assert [len(batch.x) for batch in BatchLoader(rows(7))] == [7]


def test_batches_are_views_unless_shuffled() -> None:
    x = rows(10)
    for batch in BatchLoader(x, batch_size=4, rank=1, world_size=2):
        assert batch.x.data_ptr() == x[batch.start].data_ptr()
        assert batch.index is None
        assert batch.target is None
        assert batch.sample_weight is None


def test_views_have_a_handle_that_names_them_in_every_pass() -> None:
    loader = BatchLoader(rows(10), batch_size=4)
    handles = [batch.handle for batch in loader]
    assert handles == [batch.handle for batch in loader]
    assert len(set(handles)) == 3
    assert None not in handles
    other = [batch.handle for batch in BatchLoader(rows(10), batch_size=4)]
    assert not set(handles) & set(other), "of another loader they are others"
    shuffled = BatchLoader(rows(10), batch_size=4, shuffle=True)
    assert [batch.handle for batch in shuffled] == [None] * 3
    assert loader.hands_out_handles
    assert not shuffled.hands_out_handles


def test_order_is_new_every_epoch_and_repeats_with_its_epoch_and_seed() -> None:
    loader = BatchLoader(rows(50), batch_size=7, shuffle=True, seed=3)
    orders = []
    for epoch in range(4):
        loader.set_epoch(epoch)
        orders.append(epoch_order(loader))
    assert len({tuple(order) for order in orders}) == 4
    loader.set_epoch(2)
    assert epoch_order(loader) == epoch_order(loader) == orders[2]
    other = BatchLoader(rows(50), shuffle=True, seed=4)
    assert epoch_order(other) not in orders  # neighbouring seeds share no epochs


def test_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    list(BatchLoader(rows(5), shuffle=True))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.zeros(3), {}, r"x should be \(n, d\) with n >= 1, got shape \(3,\)"),
        (torch.zeros(0, 2), {}, r"x should be \(n, d\) with n >= 1, got shape \(0, 2\)"),
        (rows(3), {"batch_size": 0}, r"batch_size should be >= 1; got 0"),
        (rows(3), {"target": torch.zeros(2)}, r"target should be \(3,\), .*got \(2,\)"),
        (rows(3), {"sample_weight": torch.ones(3, 1)}, r"sample_weight should be .*got \(3, 1\)"),
        (rows(3), {"rank": 2, "world_size": 2}, r"rank should be in \[0, world_size=2\), got 2"),
        (rows(3), {"rank": -1}, r"rank should be >= 0; got -1"),
    ],
)
def test_bad_arguments_are_named(x: torch.Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatchLoader(x, **options)


class Recorder(LightningModule):
    """Notes which rows every stage sees."""

    def __init__(self) -> None:
        super().__init__()
        self.zero = torch.nn.Parameter(torch.zeros(0))
        self.seen: dict[str, list[list[int]]] = {"train": [], "val": [], "test": []}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def on_train_epoch_start(self) -> None:
        self.seen["train"].append([])

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        assert isinstance(batch, Batch)
        self.seen["train"][-1] += batch.x[:, 0].int().tolist()
        return self.zero.sum()

    def validation_step(self, batch: Batch, _: int) -> None:
        self.seen["val"].append(batch.x[:, 0].int().tolist())

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.seen["test"].append(batch.x[:, 0].int().tolist())

    def predict_step(self, batch: Batch, _: int) -> torch.Tensor:
        return batch.x[:, 0]


def quiet_trainer(**options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def test_lightning_takes_it_as_a_loader_and_sets_its_epoch() -> None:
    train = BatchLoader(rows(10), batch_size=4, shuffle=True)
    plain = BatchLoader(rows(5), batch_size=4)
    model, trainer = Recorder(), quiet_trainer(max_epochs=3, num_sanity_val_steps=0)
    trainer.fit(model, train, plain)

    expected = BatchLoader(rows(10), shuffle=True)
    for epoch, seen in enumerate(model.seen["train"]):
        expected.set_epoch(epoch)
        assert seen == epoch_order(expected)
    assert len(model.seen["train"]) == 3
    assert model.seen["val"] == [[0, 1, 2, 3], [4]] * 3

    trainer.test(model, plain, verbose=False)
    assert model.seen["test"] == [[0, 1, 2, 3], [4]]
    predictions = trainer.predict(model, plain)
    assert predictions is not None
    assert [p.tolist() for p in predictions] == [[0, 1, 2, 3], [4]]
