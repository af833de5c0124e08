"""Promises of layer.stats: the M-step from given labels, and what labels tell of samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kmeans_module import ClusterStats, KMeansLayer, LabelStats
from kmeans_module import functional as F
from tests.conftest import seeded

DTYPES = (torch.float32, torch.float64, torch.float16, torch.int16)


def data(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    x = 3 * torch.randn(*shape, 90, 5, generator=seeded())
    x[..., 4, :] = 0
    return x.to(dtype)


def layer_of(shape: tuple[int, ...], metric: str, dtype: torch.dtype) -> KMeansLayer:
    """A layer one of whose clusters gets no sample."""
    centroids = torch.randn(*shape, 7, 5, generator=seeded(1))
    centroids[..., 6, :] = centroids[..., 5, :] if metric == "cosine" else 50
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return KMeansLayer.from_centroids(centroids.to(wide), metric=metric)


def assert_close(found: ClusterStats, expected: ClusterStats) -> None:
    for name in ("sums", "counts", "inertia"):
        a, b = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(
            a, b, rtol=1e-6, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(), (2,)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_labels_of_the_layer_give_the_statistics_of_its_e_step(
    metric: str, dtype: torch.dtype, shape: tuple[int, ...], weighted: bool, kernel: str
) -> None:
    x, layer = data(shape, dtype), layer_of(shape, metric, dtype)
    weight = torch.arange(90).expand(*shape, 90) % 4 if weighted else None
    step = layer.e_step(x, weight)
    stats = layer.stats(x, step.labels, weight)
    assert_close(stats, step.stats)
    other = layer_of(shape, metric, dtype)
    shifts = layer.m_step(stats), other.m_step(step.stats)
    torch.testing.assert_close(*shifts)
    torch.testing.assert_close(layer.centroids, other.centroids)
    assert torch.equal(layer.counts, other.counts)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_sparse_samples_give_the_bits_of_the_dense_ones(metric: str, kernel: str) -> None:
    x, layer = data(()), layer_of((), metric, torch.float32)
    x[x.abs() < 3] = 0
    weight = torch.rand(90, generator=seeded(3)).double()
    labels = layer(x)
    sparse, dense = (layer.stats(rows, labels, weight) for rows in (x.to_sparse_csr(), x))
    for name in ("sums", "counts", "inertia", "inertias"):
        assert torch.equal(getattr(sparse, name), getattr(dense, name))
    x[7, 2] = torch.nan
    with pytest.raises(ValueError, match="the first is row 7"):
        layer.stats(x.to_sparse_csr(), labels)


@pytest.mark.parametrize("shape", [(), (2,)])
def test_one_sample_without_a_row_is_refused(shape: tuple[int, ...]) -> None:
    layer = layer_of(shape, "euclidean", torch.float32)
    with pytest.raises(ValueError, match="x should have shape"):
        layer.stats(torch.zeros(5), torch.tensor(0))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_sums_means_and_mean_distances_are_those_of_a_loop(metric: str, kernel: str) -> None:
    x, layer = data(()), layer_of((), metric, torch.float32)
    labels = torch.randint(6, (90,), generator=seeded(2))
    weight = torch.rand(90, generator=seeded(3)).double()
    stats = layer.stats(x, labels, weight)
    rows, counted = x.double(), weight
    if metric == "cosine":
        rows = nn.functional.normalize(rows, dim=-1)
        counted = weight * (rows != 0).any(dim=-1)
    for label in range(6):
        own = labels == label
        total = counted[own].sum()
        mean = (counted[own, None] * rows[own]).sum(dim=0) / total
        apart = (rows[own] - layer.centroids[label].double()).square().sum(dim=-1)
        apart = apart / 2 if metric == "cosine" else apart
        torch.testing.assert_close(stats.counts[label], total)
        close = {"rtol": 1e-5, "atol": 1e-6}
        torch.testing.assert_close(stats.means[label], mean, **close)
        expected = (counted[own] * apart).sum()
        torch.testing.assert_close(stats.inertias[label], expected, **close)
        torch.testing.assert_close(stats.mean_distances[label], expected / total, **close)
    assert stats.counts[6] == 0
    assert not stats.means[6].any()
    assert stats.mean_distances[6] == 0
    torch.testing.assert_close(stats.inertia, stats.inertias.sum())


@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_samples_without_a_label_count_nowhere(shape: tuple[int, ...], kernel: str) -> None:
    x, layer = data(shape), layer_of(shape, "euclidean", torch.float32)
    labels = layer(x)
    none = labels.where(torch.arange(90) % 3 > 0, -1)
    kept = layer.stats(x[..., torch.arange(90) % 3 > 0, :], labels[..., torch.arange(90) % 3 > 0])
    spoilt = x.clone()
    spoilt[..., ::3, :] = torch.nan
    for rows in (x, spoilt):
        stats = layer.stats(rows, none)
        assert_close(stats, kept)
        torch.testing.assert_close(stats.inertias, kept.inertias)
        assert stats.farthest is not None
        assert (stats.farthest.indices % 3 > 0).all()
    torch.testing.assert_close(layer.m_step(stats).isfinite().all(), torch.tensor(True))


def test_labels_of_one_space_give_centers_in_another(kernel: str) -> None:
    x, layer = data(()), layer_of((), "euclidean", torch.float32)
    labels = layer(x)
    other = torch.randn(90, 11, generator=seeded(4))
    stats = F.label_stats(other, labels, 7)
    assert stats.means.shape == (7, 11)
    for label in labels.unique():
        own = other[labels == label].double()
        torch.testing.assert_close(stats.means[label], own.mean(dim=0))
        apart = (own - own.mean(dim=0)).square().sum(dim=-1)
        torch.testing.assert_close(stats.mean_distances[label], apart.mean(), rtol=1e-5, atol=1e-6)
    shared = F.label_stats(other, torch.stack([labels, labels.flip(0)]), 7)
    assert torch.equal(shared.sums[0], stats.sums)
    again = F.label_stats(other, labels, 7, centroids=stats.means.float())
    torch.testing.assert_close(again.inertias, stats.inertias, rtol=1e-5, atol=1e-5)


def test_statistics_of_parts_add_up(kernel: str) -> None:
    x, layer = data(()), layer_of((), "euclidean", torch.float32)
    labels = layer(x)
    whole = layer.stats(x, labels)
    parts = [layer.stats(x[part], labels[part]) for part in (slice(0, 40), slice(40, 90))]
    total = parts[0] + parts[1]
    assert isinstance(total, LabelStats)
    assert_close(total, whole)
    assert_close(sum(parts), total)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        1 + parts[0]  # type: ignore[operator]
    torch.testing.assert_close(total.mean_distances, whole.mean_distances)
    torch.testing.assert_close(total.means, whole.means)
    assert type(parts[0] + layer.e_step(x[40:]).stats) is ClusterStats


def test_chunks_change_no_more_than_the_order_of_additions(kernel: str, tiny_chunks: None) -> None:
    x, layer = data((2,)), layer_of((2,), "cosine", torch.float32)
    step = layer.e_step(x)
    assert_close(layer.stats(x, step.labels), step.stats)


def test_the_same_call_gives_the_same_bits(kernel: str) -> None:
    x, layer = data(()), layer_of((), "euclidean", torch.float32)
    labels = torch.randint(7, (90,), generator=seeded(2))
    one, two = (layer.stats(x, labels) for _ in range(2))
    for name in ("sums", "counts", "inertias", "inertia"):
        assert torch.equal(getattr(one, name), getattr(two, name))


def test_a_layer_without_centroids_measures_to_the_means(kernel: str) -> None:
    x, labels = data(()), torch.arange(90) % 7
    stats = KMeansLayer(7, 5).stats(x, labels)
    expected = F.label_stats(x, labels, 7)
    assert torch.equal(stats.inertias, expected.inertias)
    layer = KMeansLayer.from_centroids(stats.means.float(), counts=stats.counts)
    assert layer.counts.sum() == 90


def test_no_samples_are_no_statistics(kernel: str) -> None:
    for shape in ((), (2,)):
        layer = layer_of(shape, "euclidean", torch.float32)
        stats = layer.stats(data(shape)[..., :0, :], torch.zeros(*shape, 0, dtype=torch.int64))
        assert stats.sums.shape == (*shape, 7, 5)
        assert not stats.means.any()


class Net(nn.Module):
    def __init__(self, layer: KMeansLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        stats = self.layer.stats(x, labels)
        return stats.sums, stats.counts, stats.inertias, stats.means


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["compile", "export"])
def test_recorded_code_gives_the_same(mode: str) -> None:
    x, net = data(()), Net(layer_of((), "cosine", torch.float32))
    labels = torch.arange(90) % 8 - 1
    if mode == "compile":
        recorded: Callable[..., Any] = torch.compile(net, fullgraph=True, backend="aot_eager")
    else:
        n = torch.export.Dim("n")
        recorded = torch.export.export(net, (x, labels), dynamic_shapes=({0: n}, {0: n})).module()
        x, labels = x[:33], labels[:33]
    for found, expected in zip(recorded(x, labels), net(x, labels), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


X = data(())
LABELS = torch.arange(90) % 7


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda e: e.stats(X, LABELS + 1), ValueError, "from 0 to 6, or -1 for none; got 1 to 7"),
        (lambda e: e.stats(X, LABELS - 2), ValueError, "or -1 for none; got -2 to 4"),
        (lambda e: e.stats(X, LABELS.float()), TypeError, "should be integers; got torch.float32"),
        (lambda e: e.stats(X, LABELS[:4]), ValueError, r"shape \(90,\); got \(4,\)"),
        (lambda e: e.stats(X, LABELS.tolist()), TypeError, r"labels should be a torch\.Tensor"),
        (lambda e: e.stats(X[:, :2], LABELS), ValueError, "x should have shape"),
        (lambda e: e.stats(X / 0, LABELS), ValueError, "90 rows hold NaN or infinity"),
        (lambda e: e.stats(X, LABELS, -LABELS), ValueError, "sample_weight should be >= 0"),
        (lambda e: F.label_stats(X, LABELS, 6), ValueError, "labels should be from 0 to 5"),
        (lambda e: F.label_stats(X, LABELS, 0), ValueError, "n_clusters should be >= 1; got 0"),
        (lambda e: F.label_stats(X[:9], LABELS, 7), ValueError, "one for each of 9 samples"),
        (lambda e: F.label_stats(X[0], LABELS, 7), ValueError, r"got \(5,\) and \(90,\)"),
        (
            lambda e: F.label_stats(X, LABELS, 7, centroids=X[:6]), ValueError,
            r"centroids should have shape \(7, 5\); got \(6, 5\)",
        ),
        (lambda e: F.label_stats(X, LABELS, 7, metric="l1"), ValueError, "metric should be one of"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(
    call: Callable[[KMeansLayer], object], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as error:
        call(layer_of((), "euclidean", torch.float32))
    assert "\n" not in str(error.value)
