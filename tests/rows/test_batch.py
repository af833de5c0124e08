"""Promises of batches: what a loader hands out is understood, or refused in words."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kmeans_module import KMeansLayer
from kmeans_module.rows import Batch, as_batch
from tests.conftest import blobs
from tests.rows.helpers import Passes

X = blobs(20, 3)
TARGET = torch.arange(20)
WEIGHT = torch.ones(20)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (X, Batch(X)),
        ((X,), Batch(X)),
        ([X, TARGET], Batch(X, None, TARGET)),
        ((X, TARGET.bool()), Batch(X, None, TARGET.bool())),
        ({"x": X}, Batch(X)),
        (
            {"x": X, "target": TARGET, "sample_weight": WEIGHT, "name": "a"},
            Batch(X, WEIGHT, TARGET),
        ),
    ],
)
def test_the_usual_forms_are_understood(data: Any, expected: Batch) -> None:
    found = as_batch(data)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours is theirs or torch.equal(ours, theirs)
    assert found.start is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, WEIGHT), r"got \(tensor, torch.float32\), whose second element could be weights"),
        ((X, TARGET, WEIGHT), "got 3 elements; batch_of= can choose among them"),
        ({"x": X, "weight": WEIGHT}, "got 'weight': weights are named 'sample_weight'"),
        ({"x": X, "weights": WEIGHT}, "got 'weights': weights are named 'sample_weight'"),
        ({"features": X}, "got a NoneType; batch_of= can make one"),
        (X[0], r"got a Tensor of shape \(3,\); batch_of= can make one"),
        (X.numpy(), "got a ndarray; batch_of= can make one"),
        ((), "got a tuple; batch_of= can make one"),
        ("abc", "got a str; batch_of= can make one"),
    ],
)
def test_other_forms_are_refused_and_a_way_is_shown(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"a batch should be a tensor .*; {message}"):
        as_batch(data)
    with pytest.raises(ValueError, match=f"a batch should be a tensor .*; {message}"):
        KMeansLayer(2, 3).fit(Passes([data]))


def test_a_batch_is_taken_as_it_is_and_made_of_anything_else() -> None:
    batch = Batch(X, WEIGHT, start=7)
    assert as_batch(batch) is batch
    assert as_batch((WEIGHT, X), lambda data: data[1]).x is X
    assert as_batch("abc", lambda _: batch) is batch


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (Batch(X[:, :2]), ValueError, r"x should have shape \(n_samples, 3\); got \(20, 2\)"),
        (Batch(X, WEIGHT[:5]), ValueError, r"sample_weight should have shape \(20,\)"),
        (Batch(X, -WEIGHT), ValueError, "sample_weight should be >= 0"),
        (Batch(X + 1j), TypeError, "x should hold real numbers"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_batches_are_checked_as_tensors_are(
    batch: Batch, error: type[Exception], message: str, stream: bool
) -> None:
    batches = [Batch(X), batch]
    with pytest.raises(error, match=message):
        KMeansLayer(2, 3).fit(Passes(batches) if stream else batches)
