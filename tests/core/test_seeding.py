"""Promises of the inits: rows of the data, spread as they should be, the same in any batches."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans, kmeans_plusplus
from threadpoolctl import threadpool_limits

from kmeans_module import KMeansLayer
from kmeans_module.backends import unit_rows
from kmeans_module.core.problem import Problem
from kmeans_module.core.seeding import INITS, check_init, kmeans_parallel
from kmeans_module.rows import Batch
from tests.conftest import blobs, data_set, seeded
from tests.rows.helpers import Passes


def initialized(
    x: Any, k: int, init: Any, *, d: int | None = None, metric: str = "euclidean", **options: Any
) -> torch.Tensor:
    """Centroids of a tensor, or of batches with d features."""
    layer = KMeansLayer(k, d or x.shape[-1], metric=metric)
    layer.initialize(x, init, **{"generator": seeded(), **options})
    return layer.centroids


def rows_among(x: torch.Tensor, centroids: torch.Tensor) -> list[int]:
    """Which row each centroid is."""
    same = (centroids.unsqueeze(1) == x).all(-1)
    assert same.any(-1).all()
    return same.int().argmax(-1).tolist()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [1, 7, 59, 60])
def test_random_draws_distinct_rows(seed: int, k: int) -> None:
    x = torch.randn(60, 2, generator=seeded(9))
    found = rows_among(x, initialized(x, k, "random", generator=seeded(seed)))
    assert len(set(found)) == k


def test_random_follows_the_weights() -> None:
    x = torch.arange(5.0).unsqueeze(-1)
    weight = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])
    generator = seeded()
    firsts = [
        rows_among(x, initialized(x, 1, "random", sample_weight=weight, generator=generator))[0]
        for _ in range(1000)
    ]
    share = torch.bincount(torch.tensor(firsts), minlength=5) / 1000
    assert share[0] == 0
    torch.testing.assert_close(share, weight / 10, rtol=0, atol=4 * (0.25 / 1000) ** 0.5)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("k", [1, 4, 10])
def test_rows_of_weight_zero_are_never_chosen(init: str, k: int) -> None:
    x = blobs(40, 2)
    weight = torch.zeros(40)
    weight[5:15] = 1
    x[weight == 0] += 1000
    for seed in range(5):
        found = initialized(x, k, init, sample_weight=weight, generator=seeded(seed))
        assert found.max() < 500


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("weighted", [False, True])
def test_centroids_are_distinct_rows_of_the_data(init: str, weighted: bool) -> None:
    x = blobs(100, 3)
    weight = torch.rand(100, generator=seeded(1)) if weighted else None
    assert len(set(rows_among(x, initialized(x, 12, init, sample_weight=weight)))) == 12


@pytest.mark.parametrize("init", INITS)
def test_centroids_of_a_stream_are_distinct_rows_of_the_data(init: str) -> None:
    x = blobs(100, 3)
    assert len(set(rows_among(x, initialized(Passes(x.split(30)), 12, init, d=3)))) == 12


@pytest.mark.parametrize("init", ["k-means++", "k-means||"])
def test_every_separate_cluster_gets_a_centre(init: str) -> None:
    middles = torch.arange(10.0).unsqueeze(-1) * 1000
    x = (middles + torch.rand(10, 30, generator=seeded())).view(-1, 1)
    for seed in range(10):
        found = initialized(x, 10, init, generator=seeded(seed)).flatten().sort().values
        torch.testing.assert_close(found, middles.flatten() + 0.5, rtol=0, atol=0.5)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_the_same_generator_gives_the_same_bits(init: str, metric: str) -> None:
    x = blobs(200, 4)
    first = initialized(x, 9, init, metric=metric, generator=seeded(3))
    assert torch.equal(first, initialized(x, 9, init, metric=metric, generator=seeded(3)))
    assert not torch.equal(first, initialized(x, 9, init, metric=metric, generator=seeded(4)))


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("given", [True, False])
def test_draws_come_from_the_generator_and_nothing_is_seeded(init: str, given: bool) -> None:
    x = blobs(50, 2)
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    own = seeded(5)
    state = own.get_state()
    found = initialized(x, 5, init, generator=own if given else None)
    assert torch.equal(torch.random.get_rng_state(), before) == given
    assert torch.equal(own.get_state(), state) == (not given)
    torch.manual_seed(11)
    again = initialized(x, 5, init, generator=seeded(5) if given else None)
    assert torch.equal(found, again)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("weighted", [True, False])
def test_batches_find_the_same_centroids_as_the_whole(
    init: str, metric: str, weighted: bool
) -> None:
    x = blobs(150, 3)
    weight = torch.rand(150, generator=seeded(2)).double() if weighted else None
    whole = initialized(x, 8, init, metric=metric, sample_weight=weight)
    layer = KMeansLayer(8, 3, metric=metric)
    edges = [0, 40, 41, 41, 150]
    batches = [
        Batch(x[low:high], None if weight is None else weight[low:high], start=low)
        for low, high in itertools.pairwise(edges)
    ]
    rows = layer.prepare(batches[::-1])
    layer.initialize(rows, init, generator=seeded())
    torch.testing.assert_close(layer.centroids, whole, rtol=1e-5, atol=1e-5)
    space = x / x.norm(dim=-1, keepdim=True) if metric == "cosine" else x
    torch.testing.assert_close(
        rows.moments(metric).variance[0],
        space.double().var(dim=0, correction=0).mean(),
        rtol=1e-5,
        atol=0,
    )


@pytest.mark.parametrize("init", INITS)
def test_cosine_centroids_have_unit_length(init: str) -> None:
    x = blobs(100, 3)
    x[::4] = 0
    norms = initialized(x, 8, init, metric="cosine").norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones(8))


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("x", [torch.ones(6, 2), torch.tensor([[0.0], [1.0]]).repeat(3, 1)])
def test_fewer_distinct_rows_than_clusters_is_legal(init: str, x: torch.Tensor) -> None:
    found = initialized(x, 5, init)
    rows_among(x, found)


@pytest.mark.parametrize("init", INITS)
def test_all_rows_are_chosen_when_there_are_k(init: str) -> None:
    x = torch.randn(12, 2, generator=seeded())
    assert len(set(rows_among(x, initialized(x, 12, init)))) == 12


def test_a_tensor_is_taken_as_it_is() -> None:
    x, given = blobs(20, 2), torch.randn(3, 2, generator=seeded(), dtype=torch.float64)
    assert torch.equal(initialized(x, 3, given), given.float())
    torch.testing.assert_close(
        initialized(x, 3, given, metric="cosine").norm(dim=-1), torch.ones(3)
    )


@pytest.mark.parametrize("n_problems", [2, 4])
def test_an_init_serves_restarts_of_its_problems(n_problems: int) -> None:
    problem = Problem(3, 2, n_problems)
    given = torch.randn(2, 3, 2, generator=seeded())
    assert torch.equal(check_init(given, problem), given)
    assert check_init(given[0], problem).shape == (1, 3, 2)
    with pytest.raises(ValueError, match=r"init should have shape \(3, 2\)"):
        check_init(torch.zeros(3, 3, 2), problem)


def test_a_callable_gets_rows_k_and_generator() -> None:
    x, own = blobs(20, 2), seeded()
    seen: list[Any] = []

    def init(rows: torch.Tensor, k: int, generator: torch.Generator | None) -> torch.Tensor:
        seen.append((rows, k, generator))
        return rows[:k]

    assert torch.equal(initialized(x, 3, init, generator=own), x[:3])
    assert torch.equal(seen[0][0], x)
    assert seen[0][1:] == (3, own)


ODD_CALLABLES: dict[str, tuple[Any, type[Exception], str]] = {
    "an array": (lambda x, k, g: x[:k].numpy(), TypeError, r"returns a tensor \(3, 2\); got"),
    "a list": (lambda x, k, g: x[:k].tolist(), TypeError, "init should be a function"),
    "nothing": (lambda x, k, g: None, TypeError, "got None"),
    "a name": (lambda x, k, g: "random", TypeError, "got 'random'"),
    "too few": (lambda x, k, g: x[: k - 1], ValueError, r"shape \(3, 2\); got \(2, 2\)"),
    "problems": (lambda x, k, g: x[:6].view(2, 3, 2), ValueError, r"got \(2, 3, 2\)"),
    "NaN": (lambda x, k, g: x[:k] * torch.nan, ValueError, "init should be finite"),
    "overflow": (lambda x, k, g: x[:k].double() * 1e300, ValueError, "finite in torch.float32"),
    "complex": (lambda x, k, g: x[:k] * 1j, TypeError, "init should hold real numbers"),
    "sparse": (lambda x, k, g: x[:k].to_sparse(), TypeError, "init should be a dense tensor"),
    "meta": (lambda x, k, g: x[:k].to("meta"), TypeError, "dense tensor in memory; .* on meta"),
}


@pytest.mark.parametrize("name", ODD_CALLABLES)
@pytest.mark.parametrize("stream", [False, True])
def test_what_a_callable_returns_is_checked(name: str, stream: bool) -> None:
    x = blobs(20, 2)
    init, error, message = ODD_CALLABLES[name]
    layer = KMeansLayer(3, 2)
    for call in (layer.initialize, lambda data, init: layer.fit(data, init=init)):
        with pytest.raises(error, match=message):
            call(Passes(x.split(6)) if stream else x, init)  # type: ignore[operator]
    assert not layer.initialized


def test_a_callable_may_return_rows_of_x_and_x_stays_as_it_is() -> None:
    x = blobs(50, 2)
    before = x.clone()
    for init in (lambda x, k, g: x[:k], lambda x, k, g: x[:k].requires_grad_(False)):
        layer = KMeansLayer(3, 2)
        layer.fit(x, init=init)
        layer.centroids.zero_()
        assert torch.equal(x, before)


def test_a_callable_is_called_once_for_each_restart_and_draws_from_the_generator() -> None:
    x, calls = blobs(50, 2), []

    def init(rows: torch.Tensor, k: int, generator: torch.Generator | None) -> torch.Tensor:
        calls.append(torch.randperm(len(rows), generator=generator)[:k])
        return rows[calls[-1]].double()

    for _ in range(2):
        KMeansLayer(3, 2).fit(x, init=init, n_init=4, generator=seeded(2))
    assert len(calls) == 8
    assert all(torch.equal(calls[i], calls[i + 4]) for i in range(4))


def test_a_callable_sees_the_batch_shape_of_its_problems() -> None:
    x = torch.randn(2, 3, 20, 4, generator=seeded())
    layer = KMeansLayer(5, 4, batch_shape=(2, 3))
    layer.initialize(x, lambda x, k, g: x[..., :k, :])
    assert torch.equal(layer.centroids, x[..., :5, :])
    with pytest.raises(ValueError, match=r"shape \(2, 3, 5, 4\); got \(3, 5, 4\)"):
        layer.initialize(x, lambda x, k, g: x[0, :, :k])


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("shared", [True, False])
def test_problems_get_centroids_each_of_its_own(init: str, shared: bool) -> None:
    x = blobs(60, 2) if shared else torch.stack([blobs(60, 2, seed=s) + 1000 * s for s in range(3)])
    layer = KMeansLayer(4, 2, batch_shape=(3,))
    layer.initialize(x, init, generator=seeded())
    assert not torch.equal(layer.centroids[0], layer.centroids[1])
    if not shared:
        for p in range(3):
            assert (layer.centroids[p] - 1000 * p).abs().max() < 100
    assert layer.centroids.shape == (3, 4, 2)


def test_greedy_prefers_the_candidate_of_lowest_potential() -> None:
    # Seen from 0, the outlier at 60 is drawn more often than the group at 10 (3600 to 3000),
    # but of two candidates the group wins: in 70 of 100 cases, without greed in 45.
    x = torch.cat([torch.zeros(50, 1), torch.full((30, 1), 10.0), torch.tensor([[60.0]])])
    found = [initialized(x, 2, "k-means++", generator=seeded(s)).flatten() for s in range(200)]
    seconds = torch.stack([second for first, second in found if first == 0])
    assert len(seconds) > 90
    assert (seconds == 10).double().mean() > 0.58


def converged_inertia(x: torch.Tensor, k: int, init: Any, seed: int) -> float:
    layer = KMeansLayer(k, x.shape[1])
    return layer.fit(x, init=init, generator=seeded(seed), tol=0, max_iter=100).inertia.item()


@pytest.mark.parametrize(("name", "k"), [("blobs", 12), ("digits", 10), ("uniform", 30)])
def test_kmeans_plus_plus_is_as_good_as_that_of_scikit_learn(name: str, k: int) -> None:
    x = data_set(name)
    ratios = []
    for seed in range(20):
        theirs, _ = kmeans_plusplus(x.numpy(), k, random_state=seed)
        with threadpool_limits(1):
            model = KMeans(k, init=theirs, n_init=1, tol=0, max_iter=100).fit(x.numpy())
        ratios.append(math.log(converged_inertia(x, k, "k-means++", seed) / model.inertia_))
    mean, error = np.mean(ratios), np.std(ratios, ddof=1) / 20**0.5
    assert mean <= 0.01 + 2 * error


@pytest.mark.parametrize(("name", "k"), [("blobs", 12), ("digits", 10)])
def test_kmeans_parallel_is_nearly_as_good_as_kmeans_plus_plus(name: str, k: int) -> None:
    x = data_set(name)
    ratios = [
        math.log(converged_inertia(x, k, "k-means||", s) / converged_inertia(x, k, "k-means++", s))
        for s in range(10)
    ]
    assert np.mean(ratios) <= 0.03 + 2 * np.std(ratios, ddof=1) / 10**0.5


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("stream", [False, True])
def test_candidates_of_kmeans_parallel_are_rows_of_the_data(
    metric: str, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = blobs(200, 3)
    rows = KMeansLayer(8, 3, metric=metric).prepare(Passes(x.split(70)) if stream else x)
    draws = rows.draws(Problem(8, 3, metric=metric), seeded())
    candidates: list[torch.Tensor] = []
    standing_for = draws.standing_for

    def noted(centers: torch.Tensor, masses: torch.Tensor) -> Any:
        candidates.append(centers)
        assert masses.sum().item() == len(x), "each row is near one of them"
        return standing_for(centers, masses)

    monkeypatch.setattr(draws, "standing_for", noted)
    chosen = kmeans_parallel(draws, 8)
    assert candidates[0].shape == (1, 1 + 5 * 16, 3), "twice k in each of five rounds"
    rows_among(unit_rows(x) if metric == "cosine" else x, candidates[0][0])
    apart = (chosen[0].unsqueeze(1) - candidates[0][0]).square().sum(-1).amin(-1)
    assert (apart <= (0 if metric == "euclidean" else 1e-12)).all()


def test_kmeans_parallel_weighs_its_candidates_by_their_clusters() -> None:
    # Of the candidates about half are among the few far rows; two centres belong to the groups.
    far = 28 + torch.rand(5, 1, generator=seeded())
    x = torch.cat([torch.zeros(500, 1), torch.full((500, 1), 10.0), far])
    for seed in range(20):
        found = initialized(x, 2, "k-means||", generator=seeded(seed)).flatten().sort().values
        torch.testing.assert_close(found, torch.tensor([0.0, 10.1]), rtol=0, atol=0.2)


@pytest.mark.parametrize("init", ["k-means++", "k-means||"])
def test_spreading_beats_random_before_any_iteration(init: str) -> None:
    x = blobs(1000, 2, centers=20)

    def start(name: str) -> float:
        inertias = []
        for seed in range(10):
            layer = KMeansLayer(20, 2)
            layer.initialize(x, name, generator=seeded(seed))
            inertias.append(layer.e_step(x).stats.inertia.item())
        return float(np.mean(inertias))

    assert start(init) < 0.7 * start("random")


@pytest.mark.parametrize("init", INITS)
def test_autocast_changes_nothing(init: str) -> None:
    x = blobs(400, 16)
    expected = initialized(x, 20, init)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(initialized(x, 20, init), expected)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
)
def test_narrow_input_starts_at_its_rows(init: str, dtype: torch.dtype) -> None:
    x = torch.randint(0, 2, (64, 5), generator=seeded()).to(dtype)
    found = initialized(x, 4, init)
    assert found.dtype == torch.float32
    assert ((found >= 0) & (found <= 1)).all()
    rows_among(x.float(), found)
