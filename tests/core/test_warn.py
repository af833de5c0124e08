"""Warnings point at the line of the user, through whichever door the fit was asked for."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kmeans_module import (
    KMeans,
    KMeansLayer,
    MiniBatchKMeans,
    ProductQuantizer,
    VectorQuantizer,
    kmeans,
)

X = np.repeat(np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]], dtype=np.float32), 10, axis=0)
ROWS = torch.from_numpy(X)
FEW = torch.zeros(30)
FEW[:2] = 1


def of_a_file(path: Path) -> object:
    np.save(path / "x.npy", X)
    return kmeans(path / "x.npy", 5, seed=0)


DOORS: dict[str, Callable[[Path], object]] = {
    "kmeans of an array": lambda _: kmeans(X, 5, seed=0),
    "kmeans of a tensor": lambda _: kmeans(ROWS, 5, seed=0),
    "kmeans of problems": lambda _: kmeans(np.stack([X, X]), 5, seed=0),
    "kmeans of batches": lambda _: kmeans([X, X], 5, seed=0),
    "kmeans of a file": of_a_file,
    "kmeans with weights": lambda _: kmeans(X, 5, seed=0, sample_weight=FEW),
    "fit": lambda _: KMeansLayer(5, 2).fit(ROWS, seed=0),
    "initialize": lambda _: KMeansLayer(5, 2).initialize(ROWS, seed=0, sample_weight=FEW),
    "ProductQuantizer.fit": lambda _: ProductQuantizer(5, 2, n_subspaces=1).fit(ROWS, seed=0),
    "a quantizer in a network": lambda _: torch.nn.Sequential(VectorQuantizer(5, 2)).eval()(ROWS),
    "KMeans.fit": lambda _: KMeans(5, random_state=0).fit(X),
    "fit_predict": lambda _: KMeans(5, random_state=0).fit_predict(X),
    "fit_transform": lambda _: KMeans(5, random_state=0).fit_transform(X),
    "a pipeline": lambda _: make_pipeline(StandardScaler(), KMeans(5, random_state=0)).fit(X),
    "MiniBatchKMeans.fit": lambda _: MiniBatchKMeans(5, init_size=3, random_state=0).fit(X),
    "MiniBatchKMeans.fit_predict": lambda _: MiniBatchKMeans(5, init_size=3).fit_predict(X),
}


@pytest.mark.parametrize("door", DOORS)
def test_a_warning_points_at_the_line_of_the_user(door: str, tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        DOORS[door](tmp_path)
    assert caught
    assert {warning.filename for warning in caught} == {__file__}
