"""Promises about what can be gone through only once: refused by name, never silently partial."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from kmeans_module import BlobDataModule, KMeansLayer, LitKMeans

X = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
BATCHES = X.split(10)


class OwnIterator:
    def __init__(self) -> None:
        self.batches = iter(BATCHES)

    def __iter__(self) -> OwnIterator:
        return self

    def __next__(self) -> Tensor:
        return next(self.batches)


class SameIterator(IterableDataset[Tensor]):
    """Hands out one iterator again and again."""

    def __init__(self) -> None:
        self.batches = iter(BATCHES)

    def __iter__(self) -> Iterator[Tensor]:
        return self.batches


ONCE: dict[str, Callable[[], Iterable[Any]]] = {
    "generator": lambda: (batch for batch in BATCHES),
    "map": lambda: map(torch.clone, BATCHES),
    "filter": lambda: filter(len, BATCHES),
    "zip": lambda: zip(BATCHES, torch.arange(100).split(10), strict=True),
    "enumerate": lambda: enumerate(BATCHES),
    "iterator of a list": lambda: iter(BATCHES),
    "iterator of a DataLoader": lambda: iter(DataLoader(X, batch_size=10)),
    "open file": lambda: io.StringIO("1,2\n3,4\n"),
    "its own iterator": OwnIterator,
    "the same iterator": SameIterator,
}
once = pytest.mark.parametrize("kind", ONCE)
REFUSAL = r"{name} is an iterator \(\w+\), which can be gone through only once"
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but"),
]


def trainer() -> Trainer:
    return Trainer(
        max_epochs=3, logger=False, enable_checkpointing=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip


@once
@pytest.mark.parametrize("method", ["fit", "initialize", "prepare"])
@pytest.mark.parametrize("options", [{}, {"batch_of": lambda batch: batch}])
def test_a_layer_refuses_it(kind: str, method: str, options: dict[str, Any]) -> None:
    data = ONCE[kind]()
    with pytest.raises(ValueError, match=REFUSAL.format(name="x")):
        getattr(KMeansLayer(3, 3), method)(data, **options)
    if kind != "open file":
        assert len(list(data)) == 10  # and nothing was taken from it


@once
@pytest.mark.parametrize("algorithm", ["lloyd", "minibatch"])
def test_a_fit_of_lightning_refuses_it(kind: str, algorithm: str) -> None:
    with pytest.raises(ValueError, match=REFUSAL.format(name="train_dataloaders")):
        trainer().fit(LitKMeans(3, algorithm=algorithm), ONCE[kind]())


@once
def test_validation_in_every_epoch_refuses_it(kind: str) -> None:
    with pytest.raises(ValueError, match=REFUSAL.format(name="val_dataloaders")):
        trainer().fit(LitKMeans(3), DataLoader(X, batch_size=10), ONCE[kind]())


@pytest.mark.parametrize("algorithm", ["lloyd", "minibatch"])
def test_a_dataset_that_is_spent_is_seen_in_the_second_pass(algorithm: str) -> None:
    loader = DataLoader(SameIterator(), batch_size=None)
    with pytest.raises(ValueError, match="the second pass over the batches brought no rows"):
        trainer().fit(LitKMeans(3, algorithm=algorithm), loader)
    loader = DataLoader(SameIterator(), batch_size=None)
    with pytest.raises(ValueError, match="the second pass over the batches brought no rows"):
        KMeansLayer(3, 3).fit(loader)


@pytest.mark.parametrize("kind", ["generator", "map", "its own iterator", "the same iterator"])
def test_one_pass_needs_no_more(kind: str) -> None:
    lit = LitKMeans(3)
    trainer().fit(lit, DataLoader(X, batch_size=10))
    labels = torch.cat(trainer().predict(lit, ONCE[kind]()))  # type: ignore[arg-type]
    assert torch.equal(labels, lit(X))
    scores = trainer().validate(lit, ONCE[kind](), verbose=False)
    assert scores == trainer().validate(lit, DataLoader(X, batch_size=10), verbose=False)


def test_what_starts_again_is_taken() -> None:
    for data in (BATCHES, list(BATCHES), dict(enumerate(BATCHES)).values()):
        assert float(KMeansLayer(3, 3).fit(data).inertia) > 0


def test_sizes_of_blobs_are_a_list() -> None:
    with pytest.raises(TypeError, match="samples_per_cluster should be an integer; got <generator"):
        BlobDataModule(n_clusters=2, samples_per_cluster=(size for size in (5, 5)))  # type: ignore[arg-type]
