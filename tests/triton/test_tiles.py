"""Tiles of centroids that cannot win are left out, and nobody sees it in the results."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("kernels run in Triton's interpreter here", allow_module_level=True)

from kmeans_module.backends.native import NativeWorkspace
from kmeans_module.backends.triton import launch, screening, tiles
from kmeans_module.backends.triton.tiles import TilesLeftOut
from kmeans_module.backends.triton.workspace import TritonWorkspace
from kmeans_module.core.statistics import ClusterStats
from tests.conftest import seeded
from tests.waits import counted

N, D, K = 192, 10, 80  # 6 blocks of 32 rows, 5 tiles of 16 centroids
FEW = 128  # rows of 4 blocks, for what is slow
OFF, PROBING, ON = range(3)


@pytest.fixture(autouse=True)
def _small_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "LEAST_WORK", 0)
    small = launch.Tiles(32, 16, 16, 1, 1, False)
    monkeypatch.setattr(launch, "tiles_for", lambda device, d, k: small)


def blobs(n: int = N, d: int = D, *, centers: int = 30, spread: float = 0.15) -> Tensor:
    generator = seeded(n + d)
    at = torch.randn(centers, d, generator=generator)
    of = torch.randint(centers, (n,), generator=generator)
    return at[of] + spread * torch.randn(n, d, generator=generator)


def topics(n: int = N, d: int = D) -> Tensor:
    """Groups of groups."""
    generator = seeded(1)
    upper = 4 * torch.randn(5, d, generator=generator)
    lower = upper[torch.arange(30) % 5] + torch.randn(30, d, generator=generator)
    of = torch.randint(30, (n,), generator=generator)
    return lower[of] + 0.3 * torch.randn(n, d, generator=generator)


def patches(n: int = N) -> Tensor:
    """Pieces of a smooth picture: neighbors are nearly alike, and far from zero."""
    side = torch.arange(40.0)
    picture = (0.3 * side).sin()[:, None] + (0.2 * side).cos()[None, :] + 3
    pieces = picture.unfold(0, 4, 1).unfold(1, 4, 1).reshape(-1, 16)
    return pieces[torch.randperm(len(pieces), generator=seeded(2))[:n]]


def grid(n: int = N, d: int = D) -> Tensor:
    """Small integers, many rows more than once: distances tie."""
    return torch.randint(3, (n // 2, d), generator=seeded(3)).float().repeat(2, 1)


def some_rows(x: Tensor, k: int = K, problems: int = 1) -> Tensor:
    index = torch.stack([torch.randperm(len(x), generator=seeded(i))[:k] for i in range(problems)])
    return x.float()[index]


def means(stats: ClusterStats, centroids: Tensor) -> Tensor:
    moved = (stats.sums / stats.counts.clamp(min=1e-300).unsqueeze(-1)).float()
    return moved.where(stats.counts.unsqueeze(-1) > 0, centroids)


def lists_of(space: TritonWorkspace) -> TilesLeftOut:
    assert space.left_out is not None
    return space.left_out


def share(space: TritonWorkspace) -> float:
    """Of the tiles, how many the last E-step looked at."""
    lists = lists_of(space)
    return float(lists.counts.double().mean()) / lists.tiles


def switch_on(space: TritonWorkspace, centroids: Tensor) -> None:
    """As if numbers of a few blocks had shown that they pay."""
    lists = lists_of(space)
    lists.before_step(1, centroids)
    space._steps = 1  # once is enough
    lists.state[:, 1] = PROBING
    lists.tallies[:, 1] = 1


def steps_alike(
    own: TritonWorkspace,
    other: NativeWorkspace,
    centroids: Tensor,
    steps: int,
    *,
    since: bool = True,
) -> tuple[Tensor, list[float]]:
    """E-steps of both; where the centroids are then, and the shares that were looked at.

    Args:
        since: whether both had the same E-step before.
    """
    shares = []
    for _ in range(steps):
        a = own.statistics(centroids, farthest=False)
        b = other.statistics(centroids, farthest=False)
        assert torch.equal(own.labels, other.labels)
        assert not since or own.changed.tolist() == other.changed.tolist()
        torch.testing.assert_close(a.counts, b.counts, rtol=1e-15, atol=1e-15)
        torch.testing.assert_close(a.sums, b.sums, rtol=1e-12, atol=1e-6)
        torch.testing.assert_close(a.inertia, b.inertia, rtol=1e-6, atol=1e-9)
        shares.append(share(own))
        centroids = means(b, centroids)
    return centroids, shares


@pytest.mark.parametrize(
    ("x", "most"),
    [
        pytest.param(blobs(), 0.5, id="blobs"),
        pytest.param(topics(), 0.4, id="topics"),
        pytest.param(torch.randn(N, D, generator=seeded(4)), None, id="noise"),
        pytest.param(patches(), 0.6, id="patches"),
        pytest.param(grid(), None, id="ties"),
        pytest.param(blobs() + 1000, None, id="mean 1,000"),
        pytest.param(topics().half(), 0.4, id="float16"),
    ],
)
def test_labels_and_sums_are_those_of_all_tiles(
    x: Tensor, most: float | None, record_property: pytest.RecordProperty
) -> None:
    own = TritonWorkspace(x)
    _, shares = steps_alike(own, NativeWorkspace(x, dtype=torch.float32), some_rows(x), 6)
    record_property("shares", shares)
    assert shares[0] == 1.0
    if most is not None:
        assert min(shares) < most, shares


def test_sums_have_the_bits_of_the_native_backend() -> None:
    x = topics()
    own, native = TritonWorkspace(x), NativeWorkspace(x, dtype=torch.float32)
    centroids = some_rows(x)
    for step in range(4):
        if step == 1:
            switch_on(own, centroids)
        a = own.statistics(centroids, farthest=False)
        b = native.statistics(centroids, farthest=False)
        assert torch.equal(a.sums, b.sums)
        centroids = means(b, centroids)
    assert share(own) < 0.6


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_centroids_may_jump(metric: str) -> None:
    """Between two E-steps anything may happen to centroids: what was known is then forgotten."""
    x = topics(FEW)
    x[7] = 0
    own = TritonWorkspace(x, metric=metric)
    native = NativeWorkspace(x, metric=metric, dtype=torch.float32)

    def at(centroids: Tensor) -> Tensor:
        return torch.nn.functional.normalize(centroids, dim=-1) if metric == "cosine" else centroids

    centroids = at(some_rows(x, FEW // 2))
    steps_alike(own, native, centroids, 1)
    switch_on(own, centroids)
    _, shares = steps_alike(own, native, centroids, 2)
    assert shares[-1] < 0.8
    one = centroids.clone()
    one[:, 5] = at(x[None, 100:101])[:, 0]
    far = centroids.clone()
    far[:, ::8] = at(far[:, ::8] + 2)
    for other in (one, far):
        steps_alike(own, native, other, 1)
        switch_on(own, other)
        steps_alike(own, native, other, 1)
    steps_alike(own, native, centroids, 1)


def test_small_moves_add_up() -> None:
    """Centroids that creep: no step is large, yet in the end other ones are nearest."""
    x = topics(FEW)
    own, native = TritonWorkspace(x), NativeWorkspace(x, dtype=torch.float32)
    centroids = some_rows(x, FEW // 2)
    steps_alike(own, native, centroids, 1)
    switch_on(own, centroids)
    steps_alike(own, native, centroids, 1)
    step = (centroids[:, torch.randperm(FEW // 2, generator=seeded(5))] - centroids) / 6
    for i in range(5):
        steps_alike(own, native, centroids + i * step, 1)


def test_lists_may_be_longer_than_a_mask_and_rows_more_than_fit_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "SEGMENT", 2)
    monkeypatch.setattr(tiles, "_WIDTH", 2)
    monkeypatch.setattr(screening, "_MASK_BYTES", 1 << 14)
    x = topics()
    own, native = TritonWorkspace(x), NativeWorkspace(x, dtype=torch.float32)
    centroids, _ = steps_alike(own, native, some_rows(x), 1)
    switch_on(own, centroids)
    _, shares = steps_alike(own, native, centroids, 2)
    assert lists_of(own).tiles > 4
    assert own.screening is not None and own.screening.chunk < N
    assert shares[-1] < 0.8


def test_rows_leave_a_tile_that_goes_away() -> None:
    """Centroids that stay become the nearest ones because the own ones move."""
    x = topics(FEW)
    own, native = TritonWorkspace(x), NativeWorkspace(x, dtype=torch.float32)
    centroids, _ = steps_alike(own, native, some_rows(x, FEW // 2), 1)
    switch_on(own, centroids)
    steps_alike(own, native, centroids, 2)
    away = centroids.clone()
    away[:, lists_of(own).index_of[0, 16:32].long()] += 3
    steps_alike(own, native, away, 1)


def test_ties_go_to_the_lowest_index_wherever_it_lies() -> None:
    """Centroids of equal place in other tiles: their order in memory decides nothing."""
    x = topics(FEW)
    half = some_rows(x, FEW // 4)
    apart, twice = torch.cat([half + 1, half], dim=1), torch.cat([half, half], dim=1)
    own, native = TritonWorkspace(x), NativeWorkspace(x, dtype=torch.float32)
    steps_alike(own, native, apart, 1)
    switch_on(own, apart)
    for centroids in (apart, twice, apart, twice):
        steps_alike(own, native, centroids, 1)
    assert int(own.labels.max()) < FEW // 4


@pytest.mark.parametrize("k", [65, 79])
def test_tiles_need_not_be_full(k: int) -> None:
    x = topics(FEW)
    own = TritonWorkspace(x)
    native = NativeWorkspace(x, dtype=torch.float32)
    centroids, _ = steps_alike(own, native, some_rows(x, k), 2)
    switch_on(own, centroids)
    steps_alike(own, native, centroids, 3)


def test_problems_have_tiles_of_their_own_and_rest() -> None:
    """A problem that is not active keeps its labels, and goes on where it was later."""
    x, weight = topics(FEW), torch.rand(FEW, generator=seeded(6), dtype=torch.float64)
    own, native = TritonWorkspace(x, weight), NativeWorkspace(x, weight, dtype=torch.float32)
    centroids, _ = steps_alike(own, native, some_rows(x, FEW // 2, 2), 2)
    switch_on(own, centroids)
    centroids, _ = steps_alike(own, native, centroids, 2)
    labels = own.labels.clone()
    own.active[1] = 0
    # Meanwhile centroids jump onto rows of others, far away; those of the other problem stay.
    moved = centroids.clone()
    far = (x[::16, None] - centroids[1]).square().sum(dim=-1).argmax(dim=1)
    moved[1, far] = x[::16]
    own.update(moved)
    assert torch.equal(own.labels[1], labels[1])
    own.active[1] = 1
    steps_alike(own, native, moved, 1, since=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, in the interpreter
def test_what_is_no_number_is_as_without_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows and centroids that are infinite or NaN, or too large to be screened."""
    x = topics(FEW)
    x[3, 2], x[40, 1], x[90] = torch.inf, torch.nan, 1e16
    centroids = some_rows(topics(FEW), FEW // 2)
    bad = centroids.clone()
    bad[:, 4, 0], bad[:, 9], bad[:, 20, 3] = torch.nan, 1e17, torch.inf
    own = TritonWorkspace(x)
    own.update(centroids)
    monkeypatch.setattr(tiles, "LEAST_WORK", 1 << 60)
    plain = TritonWorkspace(x)
    plain.update(centroids)
    assert plain.left_out is None
    switch_on(own, centroids)
    for case in (bad, centroids):
        own.update(case)
        plain.update(case)
        assert torch.equal(own.labels, plain.labels)


def test_the_device_begins_and_ends_by_itself() -> None:
    """Numbers of a few blocks, then of all where they pay, and none after a jump."""
    x = topics(FEW)
    space = TritonWorkspace(x)
    lists = lists_of_started(space, x)
    modes, centroids = [], some_rows(x, FEW // 2)
    for step in range(9):
        if step == 7:
            centroids = some_rows(x.flip(0), FEW // 2).flip(1)
        centroids = means(space.statistics(centroids, farthest=False), centroids)
        modes.append(int(lists.state[0, 1]))
    assert modes[0] == OFF
    assert PROBING in modes
    begin = modes.index(ON)
    assert set(modes[begin:8]) == {ON}
    assert OFF in modes[8:]


def lists_of_started(space: TritonWorkspace, x: Tensor) -> TilesLeftOut:
    space.update(some_rows(x, FEW // 2))
    lists = lists_of(space)
    lists.restart()
    space._steps = -1
    return lists


def test_rows_are_sorted_by_the_place_of_their_centroid() -> None:
    x = topics()
    space = TritonWorkspace(x)
    centroids = some_rows(x)
    space.update(centroids)
    before = space.labels[0].clone()
    space.update(centroids)
    lists = lists_of(space)
    assert lists.order[0].sort().values.tolist() == list(range(N))
    homes = lists.place_of[0][before][lists.order[0].long()]
    assert torch.equal(lists.homes[0], homes)
    assert bool((homes.diff() >= 0).all())
    assert torch.equal(
        lists.index_of[0][lists.place_of[0].long()], torch.arange(K, dtype=torch.int32)
    )


def test_centroids_that_are_alike_share_a_tile() -> None:
    centroids = topics(5 * 16).view(1, -1, D)
    order = tiles.similar(centroids, 16)
    assert order.shape == (1, 128)
    assert order[0, :80].sort().values.tolist() == list(range(80))

    def width(points: Tensor) -> float:
        return float(points.view(5, 16, D).var(dim=1).sum())

    assert width(centroids[0][order[0, :80]]) < 0.5 * width(centroids[0])
    broken = centroids.clone()
    broken[:, 3] = torch.nan
    assert tiles.similar(broken, 16)[0, :80].sort().values.tolist() == list(range(80))
    same = tiles.similar(torch.zeros(2, 70, D), 16)
    assert same.sort().values.tolist() == [list(range(128))] * 2


def test_putting_centroids_in_order_does_not_wait() -> None:
    x = topics()
    space = TritonWorkspace(x)
    space.update(some_rows(x))
    with counted() as waits:
        space.before_step(some_rows(x), first=False)
    assert waits == []


def test_tiles_are_left_out_where_their_numbers_fit_in_and_pay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    sizes = launch.Tiles(128, 64, 128, 4, 3, True)
    assert tiles.worthwhile(1_000_000, 4096, 128, sizes)
    assert tiles.worthwhile(4_000_000, 16_384, 128, sizes)
    assert tiles.worthwhile(1_000_000, 1_000_000, 128, sizes)
    assert not tiles.worthwhile(1_000_000, 128, 128, sizes)  # two tiles
    assert not tiles.worthwhile(8_192, 1_024, 64, sizes)  # over in no time
    assert not tiles.worthwhile(100_000_000, 500_000, 16, sizes)  # 24 GB of numbers
    assert TritonWorkspace(topics(), once=True).left_out is None


def test_labels_are_right_after_an_assignment_between() -> None:
    x = topics(FEW)
    own, native = TritonWorkspace(x), NativeWorkspace(x, dtype=torch.float32)
    centroids = some_rows(x, FEW // 2)
    own.update(centroids)
    switch_on(own, centroids)
    own.update(centroids)
    labels, _ = own.assign(centroids.flip(1))
    assert torch.equal(labels, native.assign(centroids.flip(1))[0])
    stats, others = own.statistics(centroids), native.statistics(centroids)
    assert torch.equal(own.labels, native.labels)
    assert torch.equal(stats.sums, others.sums)
