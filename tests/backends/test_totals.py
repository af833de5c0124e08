"""Rows that bounds settle are neither measured nor added up again, and nothing else changes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kmeans_module.backends.native import NativeWorkspace
from kmeans_module.core.distances import unit_rows
from tests.backends.conftest import KINDS, brute_force, data_of, measure_along, needs_native

pytestmark = needs_native

# Shares of the spread by which centroids move from call to call.
MOVES = (0.0, 0.3, 0.1, 0.03, 0.01, 0.01, 0.0, 0.003, 1e-3, 0.0, 0.05, 1e-4)


def moved(centroids: Tensor, x: Tensor, share: float, seed: int) -> Tensor:
    """Some of the centroids, the others stay."""
    generator = torch.Generator().manual_seed(seed)
    step = torch.randn(centroids.shape, generator=generator, dtype=centroids.dtype)
    some = torch.rand(centroids.shape[:2], generator=generator) < 0.7
    return centroids + step * x.std(dim=0) * share * some.unsqueeze(-1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("d", "k", "p"), [(16, 40, 0), (21, 60, 0), (40, 60, 15)], ids=["apart", "all", "directions"]
)
@pytest.mark.parametrize(
    ("metric", "dtype", "weighted"),
    [
        ("euclidean", torch.float32, False),
        ("euclidean", torch.float32, True),
        ("euclidean", torch.float64, False),
        ("cosine", torch.float32, False),
    ],
)
def test_a_workspace_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, instruction_set: str, kind: str, d: int, k: int, p: int,
    metric: str, dtype: torch.dtype, weighted: bool,
) -> None:  # fmt: skip
    measure_along(monkeypatch, p)
    x = data_of(kind, 1_500, d, dtype)
    x[7] = 0
    weight = torch.rand(len(x), generator=torch.Generator().manual_seed(1)) if weighted else None
    centroids = x[None, :: len(x) // k][:, :k].clone()
    workspace = NativeWorkspace(x, weight, metric=metric)
    last = None
    for number, share in enumerate(MOVES):
        centroids = moved(centroids, x, share, number)
        if metric == "cosine":
            centroids = unit_rows(centroids)
        stats = workspace.statistics(centroids)
        fresh = NativeWorkspace(x, weight, metric=metric).e_step(centroids)
        assert torch.equal(workspace.labels, fresh.labels)
        assert torch.equal(stats.sums, fresh.stats.sums)
        assert torch.equal(stats.counts, fresh.stats.counts)
        torch.testing.assert_close(stats.inertia, fresh.stats.inertia, rtol=1e-6, atol=0)
        changed = len(x) if last is None else int((fresh.labels != last).sum())
        assert int(workspace.changed) == changed
        last = fresh.labels


@pytest.mark.parametrize("p", [0, 15])
@pytest.mark.parametrize(("n", "k"), [(4_000, 300), (20_000, 6_000)], ids=["each", "together"])
def test_bounds_hold_while_centroids_move_on(
    monkeypatch: pytest.MonkeyPatch, instruction_set: str, n: int, k: int, p: int
) -> None:
    """Bounds of each centroid, and of several together where there is no memory for so many."""
    measure_along(monkeypatch, p)
    x = data_of("structured", n, 24, torch.float32)
    centroids = x[None, :k].clone()
    workspace = NativeWorkspace(x)
    for number in range(7):
        centroids = moved(centroids, x, 0.1, number)
        stats = workspace.statistics(centroids)
        fresh = NativeWorkspace(x, once=True).e_step(centroids)
        assert torch.equal(workspace.labels, fresh.labels)
        assert torch.equal(stats.counts, fresh.stats.counts)


@pytest.mark.parametrize(
    ("k", "p"), [(5, 0), (40, 0), (60, 15)], ids=["few", "apart", "directions"]
)
def test_labels_that_others_write_into_are_mended(
    monkeypatch: pytest.MonkeyPatch, instruction_set: str, k: int, p: int
) -> None:
    """Through numpy, of which torch knows nothing."""
    measure_along(monkeypatch, p)
    x = data_of("blobs", 1_500, 40, torch.float32)
    centroids = x[None, :k].clone()
    workspace = NativeWorkspace(x)
    for number, share in enumerate(MOVES):
        centroids = moved(centroids, x, share, number)
        stats = workspace.statistics(centroids)
        fresh = NativeWorkspace(x).e_step(centroids)
        assert torch.equal(workspace.labels, fresh.labels)
        assert torch.equal(stats.sums, fresh.stats.sums)
        assert torch.equal(stats.counts, fresh.stats.counts)
        workspace.labels.numpy()[0, number::3] = (-1, k - 1, 1 << 40)[number % 3]


def test_rows_that_stay_are_not_read(instruction_set: str) -> None:
    """Bounds, sums and the inertia are known: rows could be anything by now."""
    generator = torch.Generator().manual_seed(0)
    places = 100 * torch.randn(20, 24, generator=generator)
    labels = torch.randint(20, (3_000,), generator=generator)
    x = places[labels] + torch.randn(3_000, 24, generator=generator)
    centroids = places.unsqueeze(0)
    workspace = NativeWorkspace(x)
    for _ in range(2):
        stats = workspace.statistics(centroids)
    expected = NativeWorkspace(x).e_step(centroids + 0.01)
    x.fill_(torch.nan)
    stats = workspace.statistics(centroids + 0.01)
    assert int(workspace.changed) == 0
    assert torch.equal(workspace.labels, expected.labels)
    assert torch.equal(stats.sums, expected.stats.sums)
    torch.testing.assert_close(stats.inertia, expected.stats.inertia, rtol=1e-6, atol=0)


@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-3])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_an_inertia_that_is_small_against_the_spread_is_measured(
    spread: float, offset: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    places = 10 * torch.randn(30, 20, generator=generator) + offset
    x = places.repeat(100, 1) + spread * torch.randn(3_000, 20, generator=generator)
    workspace = NativeWorkspace(x)
    centroids = places.unsqueeze(0).clone()
    for _ in range(4):
        stats = workspace.statistics(centroids)
        inertia = brute_force(x, centroids[0]).amin(dim=1).sum()
        torch.testing.assert_close(stats.inertia[0], inertia, rtol=1e-5, atol=0)
        centroids = (stats.sums / stats.counts.unsqueeze(-1)).float()


@pytest.mark.parametrize(
    ("dtype", "weighted"),
    [(torch.float32, False), (torch.float32, True), (torch.float64, False)],
    ids=["exact sums", "weights", "float64"],
)
def test_clusters_that_become_tight_are_measured_once_more(
    dtype: torch.dtype, weighted: bool
) -> None:
    """By two threads: the second search adds no row to sums, whose parts are gone by then."""
    generator = torch.Generator().manual_seed(0)
    places = 10 * torch.randn(60, 40, generator=generator, dtype=torch.float64)
    spread = 1e-6 if dtype == torch.float64 else 1e-4
    noise = torch.randn(6_000, 40, generator=generator, dtype=torch.float64)
    x = (places.repeat(100, 1) + spread * noise).to(dtype)
    weights = torch.rand(6_000, generator=generator, dtype=torch.float64) + 0.5
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    workspace = NativeWorkspace(x, weights if weighted else None)
    centroids = (places + 0.3 * torch.randn(60, 40, generator=generator)).to(dtype).unsqueeze(0)
    for _ in range(4):
        stats = workspace.statistics(centroids)
        distances = brute_force(x, centroids[0]).amin(dim=1)
        inertia = (distances * weights).sum() if weighted else distances.sum()
        torch.testing.assert_close(stats.inertia[0], inertia, rtol=1e-4, atol=0)
        centroids = (stats.sums / stats.counts.unsqueeze(-1)).to(dtype)
    torch.set_num_threads(threads)


def exact_sums(x: Tensor, labels: Tensor, k: int) -> Tensor:
    """(k, d), each rounded once."""
    groups = [x[labels == c].double().T.tolist() for c in range(k)]
    sums = [[math.fsum(column) for column in group] for group in groups]
    return torch.tensor(sums, dtype=torch.float64)


@pytest.mark.parametrize("outlier", [1.0, 1e4, 1e12], ids=["none", "large", "too large"])
def test_sums_are_exact_where_they_can_be(instruction_set: str, outlier: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4_000, 12, generator=generator)
    x *= 10.0 ** torch.randint(-3, 4, (4_000, 1), generator=generator)
    x[1, 3] *= outlier  # a sample does not see it
    workspace = NativeWorkspace(x)
    for seed in range(4):
        centroids = x[None, torch.randperm(4_000, generator=generator.manual_seed(seed))[:15]]
        stats = workspace.statistics(centroids.contiguous())
        sums = exact_sums(x, workspace.labels[0], 15)
        if outlier < 1e12:
            assert torch.equal(stats.sums[0], sums)
        else:
            torch.testing.assert_close(stats.sums[0], sums, rtol=1e-9, atol=1e-3)
