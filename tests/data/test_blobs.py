"""Promises of the blobs: a mixture that repeats with its seed, with true labels."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from kmeans_module.data import BlobDataModule
from tests.data.helpers import rows_of


def test_blobs_are_the_seeds_data_by_default() -> None:
    data = BlobDataModule()
    assert data.n_features == 2
    data.setup("fit")
    assert data.x.shape == (1500, 2)
    assert data.x.dtype == torch.float32
    assert data.n_samples == 1500
    assert data.centers.shape == (6, 2)
    assert data.centers.abs().max() <= 35
    assert torch.equal(data.target, torch.arange(6).repeat_interleave(250))
    for cluster in range(6):
        samples = data.x[cluster * 250 : (cluster + 1) * 250]
        assert (samples.mean(0) - data.centers[cluster]).abs().max() < 5 * (30 / 250) ** 0.5
        covariance = samples.T.cov()
        assert (covariance - 30 * torch.eye(2)).abs().max() < 5 * 30 * (2 / 250) ** 0.5


def test_centers_fill_their_cube() -> None:
    centers = BlobDataModule(n_clusters=2000, n_features=3, samples_per_cluster=1).centers
    assert -35 <= centers.min() < -34
    assert 34 < centers.max() <= 35
    assert centers.mean(0).abs().max() < 5 * 70 / 12**0.5 / 2000**0.5


def test_blobs_repeat_with_their_seed_and_touch_no_global_one() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (BlobDataModule(seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, other.x)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_unequal_clusters_of_any_dimension() -> None:
    data = BlobDataModule(n_clusters=3, n_features=5, samples_per_cluster=[1, 7, 2], variance=0)
    assert data.target.tolist() == [0] + [1] * 7 + [2] * 2
    assert torch.equal(data.x, data.centers[data.target])


def test_outliers_replace_their_share_and_have_no_label() -> None:
    data = BlobDataModule(outliers=0.1)
    clean = BlobDataModule()
    outliers = data.target == -1
    assert int(outliers.sum()) == 150
    assert torch.equal(data.x[~outliers], clean.x[~outliers])
    assert torch.equal(data.target[~outliers], clean.target[~outliers])
    assert data.x[outliers].abs().max() <= 100
    assert data.x[outliers].abs().max() > 90
    assert outliers[:750].any()
    assert outliers[750:].any()


def test_held_out_blobs_are_new_draws_of_the_same_mixture() -> None:
    data = BlobDataModule(variance=4)
    (batch,) = data.val_dataloader()
    assert batch.target.bincount().tolist() == [50] * 6
    assert not torch.isin(batch.x, data.x).any()
    distances = (batch.x - data.centers[batch.target]).square().mean()
    assert 3 < distances < 5


def test_shuffled_batches_of_blobs_keep_their_labels() -> None:
    data = BlobDataModule(batch_size=100, shuffle=True)
    first = next(iter(data.train_dataloader()))
    assert len(first.target.unique()) > 1
    assert torch.equal(first.x, data.x[first.index])
    assert torch.equal(first.target, data.target[first.index])
    ordered = BlobDataModule(batch_size=100)
    assert torch.equal(rows_of(ordered.train_dataloader()), data.x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_clusters": 0}, "n_clusters should be >= 1; got 0"),
        ({"n_features": 0}, "n_features should be >= 1; got 0"),
        ({"samples_per_cluster": 0}, "samples_per_cluster should be >= 1; got 0"),
        (
            {"samples_per_cluster": [1, 2]},
            "samples_per_cluster should be one number or n_clusters=6 of them; got 2",
        ),
        ({"samples_per_cluster": [1, 2, 3, 4, 5, -6]}, "samples_per_cluster should be >= 1"),
        ({"variance": -1}, "variance should be from 0 to inf; got -1"),
        ({"variance": float("nan")}, "variance should be from 0 to inf; got nan"),
        ({"variance": float("inf")}, "variance should be from 0 to inf; got inf"),
        ({"outliers": -0.1}, "outliers should be from 0 to 1; got -0.1"),
        ({"outliers": 1}, "outliers should be less than 1; got 1"),
        ({"batch_size": 0}, "batch_size should be >= 1; got 0"),
        ({"seed": -1}, "seed should be >= 0; got -1"),
    ],
)
def test_bad_blob_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        BlobDataModule(**options)
