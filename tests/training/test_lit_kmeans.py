import copy
import math
import pickle
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.loggers import CSVLogger
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from torch.testing import assert_close
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from kmeans_module import (
    ArrayDataModule,
    BlobDataModule,
    KMeansLayer,
    LitKMeans,
    NotInitializedError,
)
from kmeans_module.core.metrics import METRICS
from kmeans_module.core.seeding import INITS
from kmeans_module.rows import Batch, BatchLoader, held, stream
from kmeans_module.rows.batch import as_batch
from kmeans_module.training.pending import read_centroids
from tests.conftest import blobs, brute_force, layer_at, seeded, weights_for
from tests.end_to_end.helpers import MemoryLogger, fit_layer, quiet_trainer, train

pytestmark = pytest.mark.filterwarnings(
    "ignore:The '.*_dataloader' does not have many workers",
    "ignore:You defined a `validation_step` but have no `val_dataloader`",
)

X = blobs(503, 3)
TARGET = torch.arange(len(X)) % 5


def assert_same_fit(lit, layer, result, x=X):
    """Labels equal, inertia to 1e-6, as many iterations."""
    assert torch.equal(lit(x), result.labels)
    inertia = lit.kmeans.e_step(x).stats.inertia
    assert_close(inertia, result.inertia, rtol=1e-6, atol=0)
    assert int(lit.kmeans.n_iter) == int(result.n_iter)
    assert lit.converged == bool(result.converged)


def assert_bitwise_fit(lit, layer, result, x=X, layer_is_stream=False):
    if layer_is_stream:
        assert result.labels is None
        result = result._replace(labels=layer(x))
    assert_same_fit(lit, layer, result, x)
    assert torch.equal(lit.kmeans.centroids, layer.centroids)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_one_batch_equals_the_layer_bit_by_bit(init, metric):
    lit = LitKMeans(6, 3, init=init, metric=metric)
    train(lit, BatchLoader(X))
    assert_bitwise_fit(lit, *fit_layer(lit, X))


@pytest.mark.parametrize("batch_size", [1, 64, 100, 502, 503, 1000])
@pytest.mark.parametrize("init", INITS)
def test_batches_equal_the_layer_on_all_rows(batch_size, init):
    rows = X[:60] if batch_size == 1 else X
    lit = LitKMeans(6, 3, init=init)
    train(lit, BatchLoader(rows, batch_size=batch_size))
    assert_same_fit(lit, *fit_layer(lit, rows), x=rows)


@pytest.mark.parametrize("policy", ["relocate", "split", "keep"])
@pytest.mark.parametrize("batch_size", [None, 77])
def test_empty_clusters_meet_the_policy_of_the_layer(tmp_path, policy, batch_size):
    far = torch.tensor([[500.0] * 3, [600.0] * 3, [700.0] * 3])
    np.save(tmp_path / "init.npy", torch.cat([X[:5], far]).numpy())
    lit = LitKMeans(8, 3, init=str(tmp_path / "init.npy"), empty_cluster=policy)
    logger = MemoryLogger()
    options = {"init": torch.cat([X[:5], far])}
    left_empty = "3 of n_clusters=8 clusters have no samples"
    warns = pytest.warns(UserWarning, match=left_empty) if policy == "keep" else nullcontext()
    with warns:
        train(lit, BatchLoader(X, batch_size=batch_size), logger=logger)
    assert logger.series("train/empty_clusters")[1] == 3
    with warns:
        assert_same_fit(lit, *fit_layer(lit, X, **options))


def test_the_error_policy_raises(tmp_path):
    np.save(tmp_path / "init.npy", torch.cat([X[:5], X[:1] + 900]).numpy())
    lit = LitKMeans(6, 3, init=str(tmp_path / "init.npy"), empty_cluster="error")
    with pytest.raises(ValueError, match=r"1 of .*6 clusters"):
        train(lit, BatchLoader(X))


def test_float64_rows_are_fitted_in_their_precision():
    x = X.double() + 1e6
    lit = LitKMeans(6, 3)
    train(lit, BatchLoader(x, batch_size=100))
    assert lit.kmeans.centroids.dtype == torch.float64
    assert_same_fit(lit, *fit_layer(lit, x), x=x)
    lit = LitKMeans(6, 3)
    train(lit, BatchLoader(x), precision="64-true")
    assert lit.kmeans.centroids.dtype == torch.float64
    layer = KMeansLayer(6, 3, dtype=torch.float64)
    result = layer.fit(x, generator=seeded(0))
    assert_bitwise_fit(lit, layer, result, x)


def test_weights_of_the_batches_count(tmp_path):
    weight = weights_for(X)
    lit = LitKMeans(6, 3)
    train(lit, BatchLoader(X, batch_size=100, sample_weight=weight))
    layer, result = fit_layer(lit, X, sample_weight=weight)
    assert torch.equal(lit(X), result.labels)
    assert_close(lit.kmeans.centroids, layer.centroids, rtol=1e-5, atol=1e-5)
    assert_close(lit.kmeans.counts, layer.counts)


class Dicts(torch.utils.data.Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return {"x": X[i], "target": TARGET[i], "sample_weight": torch.ones(())}


class Stream(IterableDataset):
    def __iter__(self):
        return iter(X)


FOREIGN = {
    "rows": lambda: DataLoader(X, batch_size=100),
    "tuples": lambda: DataLoader(TensorDataset(X), batch_size=100),
    "targets": lambda: DataLoader(TensorDataset(X, TARGET), batch_size=100),
    "dicts": lambda: DataLoader(Dicts(), batch_size=100),
    "a stream": lambda: DataLoader(Stream(), batch_size=100),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("init", [*INITS, "file"])
def test_any_loader_equals_the_layer(name, init, tmp_path):
    np.save(tmp_path / "init.npy", X[:6].numpy())
    lit = LitKMeans(6, init=str(tmp_path / "init.npy") if init == "file" else init)
    train(lit, FOREIGN[name]())
    start = X[:6] if init == "file" else init
    assert_bitwise_fit(lit, *fit_layer(lit, FOREIGN[name](), init=start), layer_is_stream=True)
    if init == "file":
        assert_bitwise_fit(lit, *fit_layer(lit, X, init=start))


def test_a_second_element_that_could_be_weights_is_refused():
    loader = DataLoader(TensorDataset(X, X[:, 0]), batch_size=100)
    with pytest.raises(ValueError, match="could be weights"):
        train(LitKMeans(6), loader)


def test_a_shuffling_loader_reaches_what_the_layer_reaches(tmp_path):
    np.save(tmp_path / "init.npy", X[:6].numpy())
    torch.manual_seed(0)
    lit = LitKMeans(6, 3, init=str(tmp_path / "init.npy"))
    train(lit, DataLoader(TensorDataset(X), batch_size=100, shuffle=True))
    _, result = fit_layer(lit, X, init=X[:6])
    assert torch.equal(lit(X), result.labels)
    assert_close(lit.kmeans.e_step(X).stats.inertia, result.inertia, rtol=1e-6, atol=0)


def test_validation_within_an_epoch_does_not_disturb_the_training_rows():
    logger = MemoryLogger()
    lit = LitKMeans(6, 3)
    trainer = quiet_trainer(val_check_interval=0.5, logger=logger)
    rows = DataLoader(X[:400], batch_size=100)
    trainer.fit(lit, rows, DataLoader(X[:100], batch_size=100))
    quiet = MemoryLogger()
    alone = LitKMeans(6, 3)
    train(alone, rows, logger=quiet)
    assert torch.equal(lit.kmeans.centroids, alone.kmeans.centroids)
    assert logger.series("train/reassigned") == quiet.series("train/reassigned")


@pytest.mark.parametrize("suffix", ["layer", "npy", "csv", "safetensors"])
def test_init_is_a_file_of_centroids(tmp_path, suffix):
    from safetensors.torch import save_file

    path = str(tmp_path / "centroids") + "." + suffix.replace("layer", "safetensors")
    if suffix == "layer":
        layer = KMeansLayer(6, 3)
        layer.initialize(X[:6], X[:6])
        layer.save(path)
    elif suffix == "npy":
        np.save(path, X[:6].numpy())
    elif suffix == "csv":
        np.savetxt(path, X[:6].numpy(), delimiter=",", fmt="%.9g")
    else:
        save_file({"codes": X[:6].clone()}, path)
    assert torch.equal(read_centroids(path).float(), X[:6])
    lit = LitKMeans(6, 3, init=path)
    train(lit, BatchLoader(X))
    assert_bitwise_fit(lit, *fit_layer(lit, X, init=X[:6]))


def test_an_init_file_of_another_shape_is_refused(tmp_path):
    np.save(tmp_path / "init.npy", X[:5].numpy())
    with pytest.raises(ValueError, match=r"init.*\(6, 3\).*\(5, 3\)"):
        train(LitKMeans(6, 3, init=str(tmp_path / "init.npy")), BatchLoader(X))


@pytest.mark.parametrize("init", ["kmeans", "missing.npy"])
def test_an_unknown_init_names_the_choices(init):
    with pytest.raises(ValueError, match=rf"k-means\+\+.*path.*{init}"):
        train(LitKMeans(6, 3, init=init), BatchLoader(X))


def test_a_layer_that_has_centroids_goes_on_from_them():
    lit = LitKMeans(6, 3)
    lit.kmeans = layer_at(X[:6])
    train(lit, BatchLoader(X))
    assert_bitwise_fit(lit, *fit_layer(lit, X, init=X[:6]))


def test_seed_decides_and_none_draws_from_the_default_generator():
    def centroids(seed, state=0):
        torch.manual_seed(state)
        lit = LitKMeans(6, 3, seed=seed)
        train(lit, BatchLoader(X), max_epochs=1)
        return lit.kmeans.centroids

    assert torch.equal(centroids(3, state=0), centroids(3, state=1))
    assert not torch.equal(centroids(3), centroids(4))
    assert torch.equal(centroids(None, state=5), centroids(None, state=5))
    assert not torch.equal(centroids(None, state=5), centroids(None, state=6))


def sculley(x, centroids, batch_size, epochs):
    """Mini-batch k-means sample by sample, in float64 (Sculley 2010, algorithm 1)."""
    centroids, counts = centroids.double().clone(), torch.zeros(len(centroids))
    for _ in range(epochs):
        for rows in x.double().split(batch_size):
            labels = brute_force(rows, centroids).argmin(-1)
            for row, j in zip(rows, labels, strict=True):
                counts[j] += 1
                centroids[j] += (row - centroids[j]) / counts[j]
    return centroids, counts


def test_minibatch_equals_sculley(tmp_path):
    np.save(tmp_path / "init.npy", X[:6].numpy())
    lit = LitKMeans(6, 3, init=str(tmp_path / "init.npy"), algorithm="minibatch",
                    empty_cluster="keep", tol=0)  # fmt: skip
    train(lit, BatchLoader(X, batch_size=100), max_epochs=3)
    centroids, counts = sculley(X, X[:6], 100, epochs=3)
    assert_close(lit.kmeans.centroids, centroids.float(), rtol=1e-4, atol=1e-4)
    assert torch.equal(lit.kmeans.counts, counts.double())
    assert int(lit.kmeans.n_iter) == 18


def test_minibatch_comes_close_to_lloyd():
    x = blobs(4000, 5, centers=8, seed=1)
    lloyd, minibatch = LitKMeans(8, 5), LitKMeans(8, 5, algorithm="minibatch")
    train(lloyd, BatchLoader(x))
    train(minibatch, BatchLoader(x, batch_size=256, shuffle=True), max_epochs=5)
    exact, found = (lit.kmeans.e_step(x).stats.inertia for lit in (lloyd, minibatch))
    assert found <= 1.03 * exact


def test_it_stops_by_itself():
    lit = LitKMeans(30, 3, tol=0.01)
    trainer = train(lit, BatchLoader(X))
    assert lit.converged
    assert trainer.current_epoch == int(lit.kmeans.n_iter) < 300
    assert lit.stop_reason.startswith("shift ")
    assert "within tol=0.01" in lit.stop_reason
    assert_bitwise_fit(lit, *fit_layer(lit, X))
    lit = LitKMeans(6, 3, tol=0)
    train(lit, BatchLoader(X))
    assert lit.converged
    assert lit.stop_reason == "the centroids stand still"
    layer, result = fit_layer(lit, X)
    assert_bitwise_fit(lit, layer, result)
    assert torch.equal(lit.kmeans.counts, layer.counts)


def test_a_second_fit_goes_on_with_what_data_it_gets():
    lit = LitKMeans(6, 3)
    train(lit, BatchLoader(X))
    moved = X * 1e-3 + 100
    start = lit.kmeans.centroids.clone()
    train(lit, BatchLoader(moved))
    assert lit.converged
    layer = KMeansLayer(6, 3)
    layer.fit(moved, init=start)
    assert torch.equal(lit.kmeans.centroids, layer.centroids)
    assert lit.variance == pytest.approx(moved.double().var(0, unbiased=False).mean().item())


def test_max_epochs_and_max_steps_cap():
    lit = LitKMeans(30, 3)
    train(lit, BatchLoader(X), max_epochs=2)
    assert (lit.converged, lit.stop_reason) == (False, "max_epochs=2 reached")
    layer, _ = fit_layer(lit, X, max_iter=2)
    assert torch.equal(lit.kmeans.centroids, layer.centroids)
    lit = LitKMeans(30, 3)
    train(lit, BatchLoader(X), max_steps=2)
    assert (int(lit.kmeans.n_iter), lit.stop_reason) == (2, "ended before it converged")


@pytest.mark.parametrize("algorithm", ["lloyd", "minibatch"])
def test_every_iteration_is_logged(algorithm, tmp_path):
    np.save(tmp_path / "init.npy", X[:30].numpy())
    lit = LitKMeans(30, 3, init=str(tmp_path / "init.npy"), algorithm=algorithm, tol=0)
    logger = MemoryLogger()
    trainer = train(lit, BatchLoader(X, batch_size=100), logger=logger, max_epochs=4)
    m_steps = [6 * (epoch + 1) if algorithm == "minibatch" else epoch + 1 for epoch in range(4)]
    keys = ["inertia", "shift", "empty_clusters", "size_min", "size_median", "size_max"]
    for key in keys:
        assert list(logger.series(f"train/{key}")) == m_steps, key
    assert bool(logger.series("train/reassigned")) == (algorithm == "lloyd")
    assert trainer.global_step == m_steps[-1]
    assert {"train/inertia", "train/shift"} <= set(trainer.progress_bar_metrics)


def test_logged_numbers_are_those_of_the_iteration(tmp_path):
    np.save(tmp_path / "init.npy", X[:30].numpy())
    lit = LitKMeans(30, 3, init=str(tmp_path / "init.npy"), tol=0)
    logger = MemoryLogger()
    train(lit, BatchLoader(X, batch_size=100), logger=logger)
    centroids, labels = X[:30].double(), None
    steps = logger.series("train/inertia")
    assert list(steps) == list(range(1, int(lit.kmeans.n_iter) + 1))
    for step in steps:
        distances, found = brute_force(X, centroids).min(-1)
        sizes = torch.bincount(found, minlength=30)
        assert int((sizes == 0).sum()) == 0
        moved = torch.stack([X[found == j].double().mean(0) for j in range(30)])
        expected = {
            "inertia": float(distances.sum()),
            "shift": float((moved - centroids).square().sum()),
            "empty_clusters": 0,
            "size_min": int(sizes.min()),
            "size_median": float(sizes.median()),
            "size_max": int(sizes.max()),
        }
        for key, value in expected.items():
            logged = logger.series(f"train/{key}")[step]
            assert logged == pytest.approx(value, rel=1e-5, abs=1e-4), (key, step)
        reassigned = logger.series("train/reassigned")
        if labels is None:
            assert step not in reassigned
        else:
            assert reassigned[step] == pytest.approx(float((found != labels).float().mean()))
        centroids, labels = moved, found
    assert logger.series("train/reassigned")[step] == 0


@pytest.mark.parametrize(
    "loader",
    [
        BatchLoader(X, batch_size=100, shuffle=True),
        DataLoader(X, batch_size=100, shuffle=True),
    ],
    ids=["ours", "foreign"],
)
def test_nobody_knows_who_changed_cluster_in_shuffled_rows(loader):
    logger = MemoryLogger()
    train(LitKMeans(30, 3), loader, logger=logger, max_epochs=3)
    assert len(logger.series("train/inertia")) == 3
    assert not logger.series("train/reassigned")


def test_a_second_fit_does_not_compare_with_the_labels_of_the_first():
    lit, logger = LitKMeans(30, 3), MemoryLogger()
    train(lit, BatchLoader(X), max_epochs=2)
    train(lit, BatchLoader(X.flip(0)), logger=logger, max_epochs=2)
    assert list(logger.series("train/reassigned")) == [4]


def test_a_csv_logger_gets_one_row_per_iteration(tmp_path):
    lit = LitKMeans(6, 3)
    train(lit, BatchLoader(X), logger=CSVLogger(tmp_path, flush_logs_every_n_steps=1))
    lines = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    step = lines[0].split(",").index("step")
    n_iter = int(lit.kmeans.n_iter)
    assert [int(line.split(",")[step]) for line in lines[1:]] == list(range(1, n_iter + 1))


def test_validation_scores_equal_scikit_learn():
    data = BlobDataModule(outliers=0.05, batch_size=200)
    lit = LitKMeans(6, 2)
    logger = MemoryLogger()
    trainer = train(lit, data, logger=logger)
    rows = list(data.val_dataloader())
    x, target = torch.cat([b.x for b in rows]), torch.cat([b.target for b in rows])
    labels, inlier = lit(x), target >= 0
    assert 0 < int((~inlier).sum()) < len(x)
    expected = {
        "inertia": float(brute_force(x, lit.kmeans.centroids).min(-1).values.sum()),
        "adjusted_rand": adjusted_rand_score(target[inlier], labels[inlier]),
        "normalized_mutual_info": normalized_mutual_info_score(target[inlier], labels[inlier]),
    }
    n_iter = int(lit.kmeans.n_iter)
    for key, value in expected.items():
        series = logger.series(f"val/{key}")
        assert list(series) == list(range(1, n_iter + 1)), key
        assert series[n_iter] == pytest.approx(value, rel=1e-5), key
    (validated,) = trainer.validate(lit, data, verbose=False)
    (tested,) = trainer.test(lit, data, verbose=False)
    for key, value in expected.items():
        assert validated[f"val/{key}"] == pytest.approx(value, rel=1e-5), key
        assert tested[f"test/{key}"] == pytest.approx(value, rel=1e-5), key


def test_unlabelled_validation_rows_give_the_weighted_inertia_only():
    lit = LitKMeans(6, 3)
    lit.kmeans = layer_at(X[:6])
    weight = weights_for(X)
    loader = BatchLoader(X, batch_size=100, sample_weight=weight)
    (scores,) = quiet_trainer().validate(lit, loader, verbose=False)
    expected = (brute_force(X, X[:6]).min(-1).values * weight.double()).sum()
    assert scores["val/inertia"] == pytest.approx(float(expected), rel=1e-6)
    assert not any("rand" in key or "mutual" in key for key in scores)


@pytest.mark.parametrize("shuffle", [False, True])
def test_predict_returns_the_labels_in_order(shuffle):
    data = BlobDataModule(batch_size=400, shuffle=shuffle)
    lit = LitKMeans(6, 2)
    trainer = train(lit, data)
    assert torch.equal(torch.cat(trainer.predict(lit, data)), lit(data.x))
    foreign = trainer.predict(lit, DataLoader(X[:, :2], batch_size=100))
    assert torch.equal(torch.cat(foreign), lit(X[:, :2]))


def test_the_sanity_check_comes_before_there_are_centroids():
    lit = LitKMeans(6, 2)
    logger = MemoryLogger()
    train(lit, BlobDataModule(), num_sanity_val_steps=2, logger=logger)
    assert min(logger.series("val/inertia")) == 1


def test_without_centroids_there_is_nothing_to_validate_or_predict():
    for name in ("validate", "test", "predict"):
        with pytest.raises(ValueError, match="no centroids yet"):
            getattr(quiet_trainer(), name)(LitKMeans(6, 2), BlobDataModule())


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "16-true"])
def test_half_precision_finds_what_the_layer_finds(precision):
    x = blobs(503, 3, centers=4) * 4 + 50
    np_init = [int((brute_force(x, x[:1])[:, 0]).argmax())]
    while len(np_init) < 4:
        np_init.append(int(brute_force(x, x[np_init]).min(-1).values.argmax()))
    x = x.to(torch.bfloat16 if "bf16" in precision else torch.float16).float()
    init = x[np_init]
    lit = LitKMeans(4, 3)
    lit.kmeans = layer_at(init)
    train(lit, BatchLoader(x, batch_size=100), precision=precision)
    layer, result = fit_layer(lit, x, init=init)
    assert torch.equal(lit.float()(x), result.labels)
    assert torch.equal(lit.kmeans.counts, result.labels.bincount().double())
    if precision == "bf16-mixed":
        assert_close(lit.kmeans.centroids, layer.centroids, rtol=1e-6, atol=1e-6)


def test_counts_stay_exact_in_half_precision():
    x = torch.zeros(3000, 2)
    x[1000:] = 1
    lit = LitKMeans(2, 2)
    train(lit, BatchLoader(x), precision="bf16-true")
    assert lit.kmeans.counts.sort().values.tolist() == [1000, 2000]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([X[0]], r"a batch should be .*got a Tensor of shape \(3,\)"),
        ({"rows": X}, "a dict with 'x' .*; got a NoneType"),
        ({"x": X, "weight": X[:, 0]}, "got 'weight': weights are named 'sample_weight'"),
        ((X, TARGET, TARGET), "got 3 elements"),
        ([[X, X]], "got a list"),
        ("rows", "got a str"),
    ],
)
def test_a_batch_of_something_else_is_refused(batch, message):
    with pytest.raises(ValueError, match=message):
        as_batch(batch)


def test_as_batch_keeps_rows_weights_and_targets():
    ready = Batch(X, start=7)
    assert as_batch(ready) is ready
    assert as_batch((X, TARGET)).target is TARGET
    with pytest.raises(ValueError, match="could be weights"):
        as_batch([X, X[:, 0]])
    weight = torch.ones(len(X))
    batch = as_batch({"x": X, "target": TARGET, "sample_weight": weight})
    assert batch.x is X
    assert batch.target is TARGET
    assert batch.sample_weight is weight


BAD_ROWS = {
    "x should be finite; 1 row holds NaN or infinity, the first is row 300": (300, math.nan),
    "x should be finite; 1 row holds NaN or infinity, the first is row 5": (5, math.inf),
}


@pytest.mark.parametrize("message", BAD_ROWS)
@pytest.mark.parametrize("batch_size", [None, 100])
def test_rows_that_are_not_finite_are_named(message, batch_size):
    row, value = BAD_ROWS[message]
    x = X.clone()
    x[row, 1] = value
    lit = LitKMeans(6, 3)
    with pytest.raises(ValueError, match=message):
        train(lit, BatchLoader(x, batch_size=batch_size))
    assert not bool(lit.kmeans.initialized)


def test_rows_that_turn_bad_after_the_start_leave_the_centroids():
    lit = LitKMeans(6, 3)
    lit.kmeans = layer_at(X[:6])
    lit.variance = 1.0
    x = X.clone()
    x[7] = math.nan
    with pytest.raises(ValueError, match="x should be finite"):
        train(lit, BatchLoader(x))
    assert torch.equal(lit.kmeans.centroids, X[:6])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"algorithm": "em"}, ValueError, "algorithm should be one of lloyd, minibatch; got 'em'"),
        ({"tol": -1.0}, ValueError, "tol should be from 0 to inf; got -1.0"),
        ({"tol": math.nan}, ValueError, "tol should be"),
        ({"seed": -1}, ValueError, "seed should be >= 0; got -1"),
        ({"seed": 0.5}, TypeError, "seed should be an integer; got 0.5"),
        ({"metric": "l1"}, ValueError, f"metric should be one of {', '.join(METRICS)}; got 'l1'"),
        ({"empty_cluster": "no"}, ValueError, "empty_cluster should be one of relocate"),
        ({"n_clusters": 0}, ValueError, "n_clusters should be >= 1; got 0"),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        LitKMeans(**options)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"x": X[:, :2]}, r"x should have shape \(n_samples, 3\); got \(503, 2\)"),
        ({"x": X, "sample_weight": -torch.ones(503)}, "sample_weight should be >= 0; 503"),
        ({"x": X, "sample_weight": torch.ones(502)}, r"sample_weight .*\(503,\).*\(502,\)"),
        ({"x": X, "sample_weight": torch.zeros(503)}, "sample_weight should be positive for"),
    ],
)
def test_bad_batches_are_refused_before_the_first_iteration(batch, message):
    lit = LitKMeans(6, 3)
    with pytest.raises(ValueError, match=message):
        train(lit, DataLoader([batch], batch_size=None))
    assert not bool(lit.kmeans.initialized)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16])
def test_integer_and_half_rows_are_legal(dtype):
    x = (X * 3 + 100).to(dtype)
    lit = LitKMeans(6, 3)
    train(lit, BatchLoader(x, batch_size=100))
    assert_same_fit(lit, *fit_layer(lit, x), x=x)


def test_more_clusters_than_rows_are_refused():
    with pytest.raises(ValueError, match="n_samples=503 should be >= n_clusters=504"):
        train(LitKMeans(504, 3), BatchLoader(X, batch_size=100))


def test_more_clusters_than_distinct_rows_end():
    lit = LitKMeans(6, 2)
    with pytest.warns(UserWarning, match="x has only 2 distinct rows"):
        train(lit, BatchLoader(torch.tensor([[0.0, 0.0], [1.0, 1.0]]).repeat(10, 1)))
    assert lit.converged
    assert lit.kmeans.centroids.isfinite().all()
    assert float(lit.last.inertia) == 0


def test_array_rows_train_as_they_are(tmp_path):
    np.save(tmp_path / "x.npy", X.numpy())
    lit = LitKMeans(6, 3)
    train(lit, ArrayDataModule(path=str(tmp_path / "x.npy"), batch_size=100))
    assert_same_fit(lit, *fit_layer(lit, X))


class TwoLoaders(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(X, batch_size=100)

    def val_dataloader(self):
        return [DataLoader(X[:90], batch_size=50), DataLoader(X[90:150], batch_size=50)]


def test_scores_cover_all_validation_loaders():
    lit = LitKMeans(6, 3)
    logger = MemoryLogger()
    train(lit, TwoLoaders(), logger=logger)
    expected = float(lit.kmeans.e_step(X[:150]).stats.inertia)
    assert list(logger.series("val/inertia").values())[-1] == pytest.approx(expected)


@pytest.fixture
def prepared(monkeypatch):
    """Numbers of rows of the workspaces that are made for E-steps, in their order."""
    made = []
    for room in (held, stream):
        make = room.workspace

        def counted(x, *args, _make=make, **options):
            made.append(len(x))
            return _make(x, *args, **options)

        monkeypatch.setattr(room, "workspace", counted)
    return made


def run(loader, lit=None, callbacks=(), **options):
    """(LitKMeans, everything logged) after a fit."""
    lit, logger = lit or LitKMeans(30, 3, tol=0), MemoryLogger()
    train(lit, loader, logger=logger, callbacks=list(callbacks), **options)
    return lit, logger.logged


def assert_same_run(one, other):
    """Equal but for who changed cluster, which a stream does not know."""
    (lit, logged), (lit_too, logged_too) = one, other
    for (step, values), (step_too, values_too) in zip(logged, logged_too, strict=True):
        known = {key: value for key, value in values.items() if key != "train/reassigned"}
        assert step == step_too
        assert known == {key: values_too[key] for key in known}
    assert torch.equal(lit.kmeans.centroids, lit_too.kmeans.centroids)
    assert torch.equal(lit.kmeans.counts, lit_too.kmeans.counts)


def chunks_of(x, **options):
    """A loader of tensors that stay in memory: its batches are the dataset's items."""
    return DataLoader(x.split(100), batch_size=None, **options)


class Passing:
    """The batches of a loader, as copies that do not stay."""

    stable = True

    def __init__(self, loader):
        self.loader = loader

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        for data in self.loader:
            batch = as_batch(data)
            yield batch._replace(x=batch.x.clone(), handle=None)


def started(init, **options):
    lit = LitKMeans(len(init), 3, tol=0, **options)
    lit.kmeans = layer_at(init.clone())
    return lit


STAYING = {
    "whole": lambda: BatchLoader(X),
    "batches": lambda: BatchLoader(X, batch_size=100),
    "weights": lambda: BatchLoader(X, batch_size=100, sample_weight=weights_for(X)),
    "list": lambda: chunks_of(X),
}


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("algorithm", ["lloyd", "minibatch"])
@pytest.mark.parametrize("loader", STAYING)
def test_a_batch_that_stays_is_prepared_once_and_gives_the_same_bits(loader, algorithm, prepared):
    make = STAYING[loader]
    staying = run(make(), started(X[:30], algorithm=algorithm), max_epochs=7)
    assert (len(prepared), sum(prepared)) == (len(make()), len(X))
    passing = run(Passing(make()), started(X[:30], algorithm=algorithm), max_epochs=7)
    assert_same_run(staying, passing)
    assert sum(prepared) == 8 * len(X)


@pytest.mark.parametrize(
    "loader",
    [
        lambda: BatchLoader(X, batch_size=100, shuffle=True),
        lambda: DataLoader(X, batch_size=100, shuffle=True, generator=seeded()),
        lambda: chunks_of(X, shuffle=True, generator=seeded()),
        lambda: DataLoader(X, batch_size=100),
        lambda: DataLoader(Stream(), batch_size=100),
    ],
    ids=["shuffled", "foreign and shuffled", "in another order", "built anew", "a stream"],
)
def test_other_batches_keep_no_workspace_unless_they_are_resident(loader, prepared):
    run(loader(), started(X[:30]), max_epochs=4)
    assert sum(prepared) == 4 * len(X)
    prepared.clear()
    run(loader(), started(X[:30], resident=True), max_epochs=4)
    assert sum(prepared) == len(X)


class Edit(Callback):
    """Changes the rows in place at the start of an epoch."""

    def __init__(self, x, edit):
        self.x, self.edit = x, edit

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            self.edit(self.x)


def by_torch(x):
    x[1:6] += 30  # none of the rows that are looked at for silent changes


def through_numpy(x):
    x.numpy()[:] = x.numpy()[::-1] * 0.9


def by_a_view(x):
    x[:, :1].neg_()


@pytest.mark.parametrize("edit", [by_torch, through_numpy, by_a_view])
@pytest.mark.parametrize("batch_size", [None, 100])
@pytest.mark.parametrize("stays", [True, False])
def test_rows_changed_in_place_between_epochs_are_refused(edit, batch_size, stays):
    x = X.clone()
    loader = BatchLoader(x, batch_size=batch_size)
    loader = loader if stays else Passing(loader)
    with pytest.raises(ValueError, match="every pass has to bring the same"):
        run(loader, callbacks=[Edit(x, edit)], max_epochs=9)


def test_weights_changed_in_place_between_epochs_are_refused():
    weight = weights_for(X)
    loader = BatchLoader(X, sample_weight=weight)
    edit = Edit(weight, lambda weight: weight[100:200].mul_(5))
    with pytest.raises(ValueError, match="every pass has to bring the same"):
        run(loader, callbacks=[edit], max_epochs=9)


def test_bounds_of_many_features_give_the_bits_of_a_stream():
    # many centroids, few directions: what the native kernel keeps most of
    x = torch.randn(18_000, 6, generator=seeded()) @ torch.randn(6, 96, generator=seeded(1))
    runs = []
    for wrap in (lambda loader: loader, Passing):
        lit = LitKMeans(160, tol=0)
        lit.kmeans = layer_at(x[:160])
        runs.append(run(wrap(BatchLoader(x, batch_size=9_000)), lit, max_epochs=6))
    assert_same_run(*runs)


class Refilled(torch.utils.data.Dataset):
    """Batches that are read into one buffer, without torch's knowledge."""

    def __init__(self):
        self.buffer = torch.empty(100, 3)

    def __len__(self):
        return 5

    def __getitem__(self, i):
        self.buffer.numpy()[:] = X[100 * i : 100 * (i + 1)].numpy()
        return self.buffer


def test_a_buffer_that_is_filled_again_is_no_batch_that_stays(prepared):
    filled = run(DataLoader(Refilled(), batch_size=None), started(X[:30]), max_epochs=5)
    assert len(prepared) == 5 * 5, "every batch of every epoch"
    assert_same_run(filled, run(BatchLoader(X[:500]), started(X[:30]), max_epochs=5))


class Generated:
    """Batches that are made when they are asked for, in every pass anew."""

    def __init__(self, seed_of=lambda number: 0, sizes=lambda number: [100] * 5):
        self.seed_of, self.sizes, self.passes = seed_of, sizes, 0

    def __iter__(self):
        generator = seeded(self.seed_of(self.passes))
        sizes = self.sizes(self.passes)
        self.passes += 1
        for n in sizes:
            yield torch.randn(n, 3, generator=generator)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (lambda: Generated(seed_of=lambda number: number), "brought other values in its 500 rows"),
        (lambda: Generated(sizes=lambda number: [100] * (5 + (number > 2))), "brought 600 rows"),
        (lambda: Generated(sizes=lambda number: [] if number else [100] * 5), "only once"),
        (lambda: Generated(sizes=lambda number: []), "hold no batch"),
        (lambda: Generated(sizes=lambda n: [] if n == 2 else [100] * 5), "brought no rows"),
    ],
)
def test_a_pass_that_differs_is_refused(loader, message):
    with pytest.raises(ValueError, match=message):
        run(loader(), max_epochs=9)


def test_a_stream_draws_from_a_sample_and_says_so(caplog):
    with caplog.at_level("INFO", logger="kmeans_module"):
        lit, _ = run(Generated(), LitKMeans(6))
        run(BatchLoader(X), LitKMeans(6))
    assert [record.message for record in caplog.records if record.levelname == "INFO"] == [
        "k-means++ draws from a uniform sample of 65536 rows at most: the batches do not stay "
        "in memory"
    ]
    assert lit.converged


def test_workspaces_end_with_the_fit(prepared, tmp_path):
    lit = LitKMeans(30, 3, tol=0)
    trainer = train(lit, BatchLoader(X), max_epochs=5)
    kept = vars(lit._run).values()
    assert not any(isinstance(part, held.HeldSearch | held.HeldRows) for part in kept)
    copy.deepcopy(lit)
    pickle.dumps(lit)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert set(state["state_dict"]) == {
        "anchor", "kmeans.centroids", "kmeans.counts", "kmeans.n_iter", "kmeans.initialized"
    }  # fmt: skip


@pytest.mark.parametrize("loader", [lambda: BatchLoader(X, batch_size=90), Generated])
@pytest.mark.parametrize("algorithm", ["lloyd", "minibatch"])
@pytest.mark.parametrize("epochs", [1, 3])
def test_a_resumed_fit_goes_on_as_if_it_had_not_stopped(loader, algorithm, epochs, tmp_path):
    def lit():
        return LitKMeans(30, tol=0, algorithm=algorithm, init="random")

    whole, logged = run(loader(), lit(), max_epochs=6)
    train(lit(), loader(), max_epochs=epochs).save_checkpoint(tmp_path / "last.ckpt")
    resumed, logger = lit(), MemoryLogger()
    path = str(tmp_path / "last.ckpt")
    train(resumed, loader(), ckpt_path=path, logger=logger, max_epochs=6)
    assert_same_run((whole, logged[epochs:]), (resumed, logger.logged))


class SaveInMidEpoch(Callback):
    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (2, 3):
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


# We do not need a loader that can be resumed: batches that stay are told by their number.
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
def test_a_fit_goes_on_from_the_middle_of_an_epoch(tmp_path):
    path = tmp_path / "middle.ckpt"

    def lit():
        return LitKMeans(30, tol=0, init="random")

    loader = BatchLoader(X, batch_size=90)
    whole, _ = run(BatchLoader(X, batch_size=90), lit(), max_epochs=6)
    train(lit(), loader, callbacks=[SaveInMidEpoch(path)], max_epochs=6)
    resumed = lit()
    train(resumed, BatchLoader(X, batch_size=90), ckpt_path=str(path), max_epochs=6)
    assert torch.equal(resumed.kmeans.centroids, whole.kmeans.centroids)
    assert int(resumed.kmeans.n_iter) == int(whole.kmeans.n_iter)
    with pytest.raises(ValueError, match="middle of an epoch"):
        train(lit(), Passing(loader), ckpt_path=str(path), max_epochs=6)


def test_a_checkpoint_of_the_version_before_the_rows_goes_on():
    path = Path(__file__).parent / "checkpoints" / "version_0_1.ckpt"  # after two iterations
    resumed = LitKMeans(6, 3, init="random", tol=0)
    train(resumed, BatchLoader(X), ckpt_path=str(path))
    whole = LitKMeans(6, 3, init="random", tol=0)
    train(whole, BatchLoader(X))
    assert torch.equal(resumed.kmeans.centroids, whole.kmeans.centroids)
    assert torch.equal(resumed.kmeans.n_iter, whole.kmeans.n_iter)
    loaded = LitKMeans.load_from_checkpoint(path, weights_only=True)
    assert int(loaded.kmeans.n_iter) == 2
    assert loaded(X).shape == (503,)


def test_the_layer_comes_from_the_data_or_from_a_state_dict():
    lit = LitKMeans(6)
    for use in (lambda: lit(X), lambda: lit.kmeans.centroids, lambda: lit.kmeans.transform(X)):
        with pytest.raises(NotInitializedError, match="no centroids yet"):
            use()
    train(lit, BatchLoader(X.double()))
    assert (lit.kmeans.n_features, lit.kmeans.centroids.dtype) == (3, torch.float64)
    other = LitKMeans(6)
    other.load_state_dict(lit.state_dict())
    assert torch.equal(other(X.double()), lit(X.double()))
    with pytest.raises(ValueError, match=r"x should have shape \(n_samples, 4\); got .*3"):
        train(LitKMeans(6, 4), BatchLoader(X))


def test_integers_beyond_float32_get_centroids_of_float64():
    x = torch.randint(2**40, 2**41, (60, 2), generator=seeded())
    lit = LitKMeans(3)
    train(lit, BatchLoader(x))
    assert lit.kmeans.centroids.dtype == torch.float64
