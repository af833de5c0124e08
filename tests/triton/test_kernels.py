"""The Triton kernels give the bits of the native kernel: labels, distances, sums, counts."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from kmeans_module.backends.native import NativeWorkspace
from kmeans_module.backends.triton import launch, screening
from kmeans_module.core.distances import unit_rows
from tests.conftest import DEVICE, seeded
from tests.triton.conftest import OnDevice, means, rows_of, same_bits, some_of

# What a device compiles for each type and layout takes longer than the tests of it.
SOME_LENGTHS = (3, 20, 150) if DEVICE.type == "cpu" else (20,)
LENGTHS = (1, 2, 3, 5, 8, 9, 15, 16, 17, 31, 40, 100, 128, 130, 300)


def both(x: Tensor, weight: Tensor | None = None, **options: Any) -> tuple[Any, Any]:
    """A workspace of each backend on the same rows."""
    own = OnDevice(x, weight, **options)
    return own, NativeWorkspace(x, weight, dtype=torch.float32, **options)


def assert_equal(own: Any, native: Any, centroids: Tensor) -> Tensor:
    """One E-step of each; where the next centroids are."""
    a, b = own.e_step(centroids), native.e_step(centroids)
    assert torch.equal(a.labels, b.labels)
    assert own.changed.tolist() == native.changed.tolist()
    assert same_bits(a.distances, b.distances)
    assert same_bits(a.stats.sums, b.stats.sums)
    assert same_bits(a.stats.counts, b.stats.counts)
    torch.testing.assert_close(a.stats.inertia, b.stats.inertia, rtol=1e-6, atol=0)
    if b.stats.farthest is not None:
        assert torch.equal(a.stats.farthest.indices, b.stats.farthest.indices)
    return means(b.stats, centroids)


def check(x: Tensor, k: int, *, steps: int = 1, **options: Any) -> None:
    """E-steps from k of the rows."""
    centroids = some_of(x, k)
    if options.get("metric") == "cosine":
        centroids = unit_rows(centroids)
    own, native = both(x, **options)
    for _ in range(steps):
        centroids = assert_equal(own, native, centroids)
        if options.get("metric") == "cosine":
            centroids = unit_rows(centroids)


@pytest.mark.parametrize("d", LENGTHS)
def test_every_number_of_features(d: int) -> None:
    x = rows_of(70, d)  # more than a tile of rows
    check(x, k=19, steps=2)
    centroids = some_of(x, 18, seed=1)
    labels, finite = OnDevice(x, once=True).assign(centroids)
    assert torch.equal(labels, NativeWorkspace(x).assign(centroids)[0])
    assert finite


@pytest.mark.parametrize("d", [3, 20, 130])
@pytest.mark.parametrize("k", [1, 2, 16, 17, 33, 130])
def test_every_number_of_clusters(d: int, k: int) -> None:
    check(rows_of(33, d), k=k)


@pytest.mark.parametrize("d", [9, 140])
def test_more_tiles_of_centroids_than_a_mask_has_bits(d: int) -> None:
    k = 34 * launch.tiles_for(DEVICE, d, 1 << 20).columns + 3
    own, native = both(rows_of(12, d))
    assert_equal(own, native, some_of(rows_of(k, d), k))


@pytest.mark.parametrize("d", [2, 8, 9, 31, 150])
def test_ties_go_to_the_lowest_index(d: int) -> None:
    """Centroids that are there several times, and rows in the middle between two of them."""
    generator = seeded(d)
    places = torch.randint(-8, 8, (11, d), generator=generator).float()
    middles = (places[:-1] + places[1:]) / 2
    x = torch.cat([places, middles])
    centroids = places.repeat(2, 1).unsqueeze(0)
    own, native = both(x)
    assert_equal(own, native, centroids)
    assert int(own.labels.max()) < 11
    exact = (x.double().unsqueeze(1) - centroids.double()).square().sum(-1)
    lowest = (exact == exact.amin(dim=1, keepdim=True)).int().argmax(dim=1)
    assert torch.equal(own.labels[0], lowest)
    assert_equal(own, native, centroids.flip(1).contiguous())


@pytest.mark.parametrize("d", [4, 20, 130])
def test_near_ties_that_half_precision_cannot_tell_apart(d: int) -> None:
    """Rows a hair from the middle between two centroids, all around a large mean."""
    generator = seeded(d)
    centroids = 1_000 + torch.randn(1, 40, d, generator=generator)
    middles = (centroids[0, :-1] + centroids[0, 1:]) / 2
    x = middles + 1e-3 * torch.randn(middles.shape, generator=generator)
    own, native = both(x)
    assert_equal(own, native, centroids)


KINDS = {
    "a large mean": lambda x: x + 1_000,
    "features of different scale": lambda x: x * 10.0 ** torch.linspace(-4, 4, x.shape[1]),
    "tiny": lambda x: x * 1e-15,
    "huge": lambda x: x * 1e15,
    "denormal": lambda x: x * 1e-40,
    "zero": lambda x: x * 0,
    "one row far away": lambda x: torch.cat([x[:-1], x[-1:] + 1e6]),
    "one row very far away": lambda x: torch.cat([x[:-1], x[-1:] * 1e15]),
    "duplicates": lambda x: x[: len(x) // 4].repeat(4, 1),
    "grid": lambda x: x.round(),
}


@pytest.mark.parametrize("d", [3, 20, 140])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data(kind: str, d: int) -> None:
    check(KINDS[kind](rows_of(33, d)), k=18)


@pytest.mark.parametrize("d", [3, 20, 140])
def test_centroids_far_away(d: int) -> None:
    x = rows_of(40, d)
    centroids = some_of(x, 20)
    centroids[0, 3:5] = 1e30
    centroids[0, 7] = -1e18
    own, native = both(x)
    assert torch.equal(own.assign(centroids)[0], native.assign(centroids)[0])


DTYPES = (
    torch.float16, torch.bfloat16, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32,
    torch.int64,
)  # fmt: skip


@pytest.mark.parametrize("d", SOME_LENGTHS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_of_rows(dtype: torch.dtype, d: int) -> None:
    x = rows_of(40, d)
    x = x > 0.5 if dtype == torch.bool else (20 * x).abs().to(dtype)
    check(x, k=18)


def laid_out(layout: str, d: int) -> Tensor:
    x = rows_of(40, d)
    if layout == "transposed":
        return x.T.contiguous().T
    if layout == "every second row":
        return x[::2]
    if layout == "every third feature":
        return rows_of(40, 3 * d)[:, 1::3]
    if layout == "one row":
        return x[:1].expand(40, d)
    if layout == "part of a larger one":
        return rows_of(40, d + 5)[:, 2 : d + 2]
    frames = torch.stack([x, rows_of(40, d, seed=1)])
    if layout == "frames between each other":
        return frames.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    return x.expand(2, 40, d) if layout == "expanded problems" else frames


LAYOUTS = (
    "transposed", "every second row", "every third feature", "one row", "part of a larger one",
    "frames", "frames between each other", "expanded problems",
)  # fmt: skip


@pytest.mark.parametrize("d", SOME_LENGTHS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_lie_in_memory_as_they_like(layout: str, d: int) -> None:
    x = laid_out(layout, d)
    check(x, k=18)
    check(x.half(), k=18)


@pytest.mark.parametrize("d", [3, 20, 140])
def test_problems_share_rows(d: int) -> None:
    x = rows_of(40, d)
    own, native = both(x)
    centroids = torch.cat([some_of(x, 18, seed=seed) for seed in range(3)])
    for _ in range(2):
        centroids = assert_equal(own, native, centroids)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("d", [3, 20, 140])
def test_weights(d: int, shared: bool) -> None:
    x = torch.stack([rows_of(40, d), rows_of(40, d, seed=1)])
    weight = 3 * torch.rand(40 if shared else (2, 40), generator=seeded(), dtype=torch.float64)
    weight[..., 5] = 0
    centroids = some_of(x, 12)
    own, native = both(x, weight)
    for _ in range(2):
        a, b = own.e_step(centroids), native.e_step(centroids)
        assert torch.equal(a.labels, b.labels)
        assert same_bits(a.distances, b.distances)
        size = torch.zeros_like(b.stats.sums).index_put_(
            (torch.arange(2).unsqueeze(1), b.labels),
            x.double().abs() * weight.view(-1, 40, 1), accumulate=True,
        )  # fmt: skip
        assert ((a.stats.sums - b.stats.sums).abs() <= 1e-15 * size).all()
        torch.testing.assert_close(a.stats.counts, b.stats.counts, rtol=1e-15, atol=0)
        torch.testing.assert_close(a.stats.inertia, b.stats.inertia, rtol=1e-6, atol=0)
        centroids = means(b.stats, centroids)


def test_weights_that_are_whole_numbers_are_repetitions() -> None:
    x = rows_of(40, 20)
    times = torch.randint(0, 4, (40,), generator=seeded())
    centroids = some_of(x, 9)
    weighted = OnDevice(x, times.double()).statistics(centroids)
    repeated = OnDevice(x.repeat_interleave(times, 0)).statistics(centroids)
    assert same_bits(weighted.sums, repeated.sums)
    assert same_bits(weighted.counts, repeated.counts)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
@pytest.mark.parametrize("d", [1, 5, 20, 140])
def test_cosine(d: int, scale: float) -> None:
    x = rows_of(40, d) * scale
    x[[0, 7]] = 0
    check(x, k=15, metric="cosine", steps=2)
    own = OnDevice(x, metric="cosine").e_step(unit_rows(some_of(x, 15)))
    assert own.labels[0, [0, 7]].tolist() == [0, 0]
    assert own.distances[0, [0, 7]].tolist() == [1, 1]
    assert float(own.stats.counts.sum()) == 38


@pytest.mark.parametrize("d", [3, 20, 140])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_rows_that_are_not_finite_are_told(d: int, value: float) -> None:
    x = rows_of(40, d)
    x[5, d - 1] = value
    x[6] = value
    labels, finite = OnDevice(x, once=True).assign(some_of(rows_of(40, d), 18))
    if DEVICE.type == "cpu":  # a device would have to be waited for
        assert not finite
    assert ((labels >= 0) & (labels < 18)).all()
    others = torch.arange(40).sub(5).abs() > 1
    clean = torch.equal(
        labels[0, others],
        NativeWorkspace(x[others]).assign(some_of(rows_of(40, d), 18))[0][0],
    )
    assert clean
    stats = OnDevice(x).statistics(some_of(rows_of(40, d), 18), farthest=False)
    assert not stats.inertia.isfinite().all()


@pytest.mark.parametrize("d", [3, 20, 140])
def test_rows_that_move_leave_the_sums_of_a_fresh_start(d: int) -> None:
    x = rows_of(33, d)
    own = OnDevice(x)
    for seed in range(3):
        centroids = some_of(x, 19, seed=seed)
        moved = own.statistics(centroids)
        fresh = OnDevice(x).statistics(centroids)
        assert same_bits(moved.sums, fresh.sums)
        assert same_bits(moved.counts, fresh.counts)


@pytest.mark.parametrize("d", [20, 140])
def test_masks_of_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch, d: int) -> None:
    monkeypatch.setattr(screening, "_MASK_BYTES", 4_000)
    n = launch.tiles_for(DEVICE, d, 20).rows + 6
    x = torch.stack([rows_of(n, d), rows_of(n, d, seed=1)])
    own, native = both(x)
    centroids = assert_equal(own, native, some_of(x, 20))
    assert own.screening is not None
    assert own.screening.chunk < n
    assert_equal(own, native, centroids)


@pytest.mark.parametrize("d", [3, 20])
@pytest.mark.parametrize("k", [4, 70])
def test_sums_are_exact_over_a_wide_span(d: int, k: int) -> None:
    """Values from 2^-30 to 2^30: the bits of a sum need two words."""
    generator = seeded(d)
    x = torch.randn(90, d, generator=generator)
    x = x * 2.0 ** torch.randint(-30, 30, (90, d), generator=generator)
    centroids = some_of(x, k)
    own = OnDevice(x)
    for seed in range(2):
        stats = own.statistics(centroids)
        for j in range(k):
            columns = x[own.labels[0] == j].double().T.tolist()
            assert stats.sums[0, j].tolist() == [math.fsum(column) for column in columns]
        centroids = some_of(x, k, seed=seed + 1)


def test_other_numbers_of_clusters_and_problems_come_in_between() -> None:
    x = rows_of(40, 20)
    own = OnDevice(x)
    for k, problems in ((5, 1), (18, 1), (5, 2), (5, 1)):
        centroids = torch.cat([some_of(x, k, seed=seed) for seed in range(problems)])
        stats = own.statistics(centroids)
        fresh = NativeWorkspace(x).statistics(centroids)
        assert same_bits(stats.sums, fresh.sums)
        assert (own.changed == 40).all()


@pytest.mark.parametrize("seed", range(12))
def test_any_shape(seed: int) -> None:
    draw = random.Random(seed)
    n, k, d = (
        draw.randint(1, 70),
        draw.randint(1, 40),
        draw.choice((1, 2, 7, 8, 9, 13, 24, 33, 129)),
    )
    x = rows_of(n, d)
    if draw.random() < 0.5 and n >= 4:
        x = KINDS[draw.choice(sorted(KINDS))](x)
    else:
        x = x.to(draw.choice((torch.float32, torch.float16, torch.bfloat16)))
    check(x, k=k)
