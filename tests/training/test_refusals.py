"""Promises of LitKMeans: what does not fit together is refused before it is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from kmeans_module import KMeansLayer, LitKMeans, NotInitializedError
from kmeans_module.rows import BatchLoader
from tests.conftest import blobs
from tests.end_to_end.helpers import train
from tests.rows.helpers import Passes

pytestmark = pytest.mark.filterwarnings(
    "ignore:The '.*_dataloader' does not have many workers",
    "ignore:You defined a `validation_step` but have no `val_dataloader`",
)

X = blobs(120, 3)


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("loader", [BatchLoader, DataLoader])
def test_a_resumed_fit_checks_the_features_of_its_layer(
    width: int, resident: bool, loader: type, tmp_path: Path
) -> None:
    path = str(tmp_path / "last.ckpt")
    lit = LitKMeans(6, init="random", tol=0)
    train(lit, loader(X, batch_size=50), max_epochs=1).save_checkpoint(path)
    assert not lit.converged
    other = torch.cat([X, X], dim=1)[:, :width].contiguous()
    with pytest.raises(ValueError, match=rf"shape \(n_samples, 3\); got \(\d+, {width}\)"):
        train(LitKMeans(6, resident=resident), loader(other, batch_size=50), ckpt_path=path)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (KMeansLayer(5, 3), "kmeans should be a layer with n_clusters=6; got 5"),
        (KMeansLayer(6, 3, metric="cosine"), "a layer with metric='euclidean'; got 'cosine'"),
        (KMeansLayer(6, 3, batch_shape=(2,)), r"a layer with batch_shape=\(\); got \(2,\)"),
        (KMeansLayer(6, 4), r"x should have shape \(n_samples, 4\); got \(\d+, 3\)"),
    ],
)
def test_an_assigned_layer_is_of_the_kind_that_was_asked_for(
    layer: KMeansLayer, message: str
) -> None:
    lit = LitKMeans(6)
    lit.kmeans = layer
    with pytest.raises(ValueError, match=message):
        train(lit, BatchLoader(X, batch_size=50))


@pytest.mark.parametrize("resident", [False, True])
def test_batches_of_several_dtypes_are_refused(resident: bool) -> None:
    parts = [X[:60], X[60:].double()]
    message = "all batches should be of one dtype, torch.float32; got torch.float64"
    with pytest.raises(ValueError, match=message):
        train(LitKMeans(6, resident=resident), Passes(parts))


@pytest.mark.parametrize("resident", [False, True])
def test_an_epoch_of_fewer_batches_is_refused(resident: bool) -> None:
    def shorter(parts: Any, number: int) -> Any:
        return parts[:-1] if number > 1 else parts

    loader = Passes(X.split(40), change=shorter)
    with pytest.raises(ValueError, match=r"brought 80 rows|has 2 batches, the first pass had 3"):
        train(LitKMeans(6, resident=resident, tol=0), loader)


def test_minibatches_may_leave_out_other_rows_in_every_epoch() -> None:
    lit = LitKMeans(4, algorithm="minibatch")
    loader = DataLoader(TensorDataset(X), batch_size=50, shuffle=True, drop_last=True)
    train(lit, loader, max_epochs=4)
    assert int(lit.kmeans.n_iter) >= 1
    with pytest.raises(ValueError, match="every pass"):
        train(LitKMeans(4, tol=0), loader)


@pytest.mark.parametrize("name", ["n_clusters", "metric", "centroids", "batch_shape"])
def test_what_is_asked_of_a_layer_that_is_not_there_is_an_error_in_words(name: str) -> None:
    with pytest.raises(NotInitializedError):
        getattr(LitKMeans(4).kmeans, name)
    assert not hasattr(LitKMeans(4).kmeans, "no_such_name")


@pytest.mark.parametrize(
    "labels", [torch.ones(3).long(), torch.ones(60, 1).long(), torch.ones(60), ["a"] * 60]
)
def test_the_second_element_of_a_batch_is_integer_labels(labels: Tensor | list[str]) -> None:
    with pytest.raises(ValueError, match=r"labels of a batch should have shape|could be weights"):
        train(LitKMeans(4), Passes([(X[:60], labels)]))
