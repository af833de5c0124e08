"""Promises of streams: batches read again in every pass, and nothing held of each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from kmeans_module import FitResult, KMeansLayer
from kmeans_module.core.lloyd import Iteration
from kmeans_module.rows import Batch, StreamRows
from kmeans_module.rows.source import stable_order
from tests.conftest import blobs, data_set, seeded
from tests.rows.helpers import Passes

pytestmark = pytest.mark.usefixtures("kernel")

# Sums of integers are exact in any order; of other rows they differ in the last bits of float64.
X = data_set("integers")
WEIGHT = torch.randint(0, 4, (len(X),), generator=seeded(1)).double()
INITS: dict[str, Any] = {"random": "random", "k-means||": "k-means||", "a tensor": X[::90].clone()}
SPLITS = ([600], [1, 599], [200, 0, 399, 1], [50] * 12)


def fitted(x: Any, *, k: int = 7, **options: Any) -> tuple[KMeansLayer, FitResult]:
    layer = KMeansLayer(k, 4)
    return layer, layer.fit(x, **{"generator": seeded(3), "tol": 0, **options})


def labels_of(layer: KMeansLayer, stream: Any) -> Tensor:
    """Of all rows, batch by batch."""
    rows = layer.prepare(stream)
    centroids = layer.centroids.reshape(-1, *layer.centroids.shape[-2:])
    return torch.cat(list(rows.labels(centroids, metric=layer.metric)), dim=-1)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("split", SPLITS, ids=["one", "two", "four", "twelve"])
@pytest.mark.parametrize("stable", [False, True])
def test_batch_sizes_change_no_bit(init: str, split: list[int], stable: bool) -> None:
    ours, found = fitted(Passes(X.split(split), stable=stable), init=INITS[init])
    theirs, expected = fitted(Passes([X], stable=stable), init=INITS[init])
    assert torch.equal(ours.centroids, theirs.centroids)
    assert torch.equal(ours.counts, theirs.counts)
    assert torch.equal(found.inertia, expected.inertia)
    assert torch.equal(found.n_iter, expected.n_iter)
    assert torch.equal(found.history, expected.history)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("weighted", [False, True])
def test_large_batches_are_taken_part_by_part(
    init: str, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit() -> tuple[KMeansLayer, FitResult]:
        batches = [Batch(X[:350], WEIGHT[:350] if weighted else None), Batch(X[350:])]
        return fitted(Passes(batches, stable=True), init=INITS[init])

    theirs, expected = fit()
    monkeypatch.setattr("kmeans_module.rows.watch.PART_ROWS", 13)
    ours, found = fit()
    assert torch.equal(ours.centroids, theirs.centroids)
    assert torch.equal(found.inertia, expected.inertia)
    assert torch.equal(found.n_iter, expected.n_iter)


@pytest.mark.parametrize("init", ["k-means||", "a tensor"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_a_stream_is_clustered_as_the_tensor_is(init: str, weighted: bool, metric: str) -> None:
    x = X + 0.25
    weight = WEIGHT if weighted else None
    batches = [Batch(x[low : low + 90], None if weight is None else weight[low : low + 90])
               for low in range(0, 600, 90)]  # fmt: skip
    ours, theirs = KMeansLayer(7, 4, metric=metric), KMeansLayer(7, 4, metric=metric)
    options: dict[str, Any] = {"init": INITS[init], "generator": seeded(3), "tol": 0}
    found = ours.fit(Passes(batches, stable=True), **options)
    options["generator"] = seeded(3)
    expected = theirs.fit(x, sample_weight=weight, **options)
    torch.testing.assert_close(ours.centroids, theirs.centroids)
    torch.testing.assert_close(ours.counts, theirs.counts)
    torch.testing.assert_close(found.inertia, expected.inertia, rtol=1e-6, atol=0)
    assert torch.equal(found.n_iter, expected.n_iter)
    assert found.labels is None
    assert torch.equal(labels_of(ours, Passes(batches))[0], ours(x))


@pytest.mark.parametrize("init", ["random", "k-means++", "k-means||"])
@pytest.mark.parametrize("n_init", [1, 3])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_what_a_fit_returns_is_that_of_the_layer(init: str, n_init: int, metric: str) -> None:
    x = blobs(500, 4)
    layer = KMeansLayer(6, 4, metric=metric)
    found = layer.fit(Passes(x.split(64)), init=init, n_init=n_init, generator=seeded())
    step = layer.e_step(x)
    assert found.labels is None
    assert torch.equal(labels_of(layer, Passes(x.split(64)))[0], layer(x))
    torch.testing.assert_close(found.inertia, step.stats.inertia)
    torch.testing.assert_close(layer.counts, step.stats.counts)
    assert found.history[-1] == found.inertia
    assert found.history.shape == (int(found.n_iter) + 1,)


def test_kmeans_plus_plus_of_a_small_stream_spreads_its_centers() -> None:
    middles = torch.arange(10.0).unsqueeze(-1) * 1000
    x = (middles + torch.rand(10, 30, generator=seeded())).view(-1, 1)
    for seed in range(5):
        layer = KMeansLayer(10, 1)
        layer.initialize(Passes(x.split(70)), generator=seeded(seed))
        found = layer.centroids.flatten().sort().values
        torch.testing.assert_close(found, middles.flatten() + 0.5, rtol=0, atol=0.5)


def test_kmeans_plus_plus_of_a_long_stream_takes_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kmeans_module.core.seeding.SAMPLE", 40)
    monkeypatch.setattr("kmeans_module.core.seeding.SAMPLE_OF_CLUSTER", 1)
    layer = KMeansLayer(5, 4)
    loader = Passes(X.split(70))
    layer.initialize(loader, generator=seeded())
    assert (layer.centroids.unsqueeze(1) == X).all(-1).any(-1).all()
    assert loader.passes == 2, "one for the survey, one for the sample"


@pytest.mark.parametrize("init", ["random", "k-means++", "k-means||"])
def test_restarts_share_the_passes_of_one_run(init: str) -> None:
    passes = []
    for n_init in (1, 3):
        loader = Passes(X.split(100))
        fitted(loader, init=init, n_init=n_init, max_iter=2)
        passes.append(loader.passes)
    # At last the best restart is measured alone.
    assert passes[1] <= passes[0] + 1


def test_an_iteration_reads_the_data_once() -> None:
    loader = Passes(X.split(100))
    fitted(loader, init=INITS["a tensor"], max_iter=3)
    assert loader.passes == 1 + 3 + 1, "the survey, three iterations, the inertia at last"


def test_restarts_of_a_stream_keep_the_best() -> None:
    x = blobs(400, 2, centers=15)

    def inertia(n_init: int, seed: int) -> float:
        layer = KMeansLayer(15, 2)
        found = layer.fit(
            Passes(x.split(150)), init="random", n_init=n_init, generator=seeded(seed)
        )
        return found.inertia.item()

    single = sorted(inertia(1, seed) for seed in range(12))
    assert inertia(10, 0) <= single[6]


def iterations_of(stream: Any, **options: Any) -> tuple[FitResult, list[Iteration]]:
    told: list[Iteration] = []
    _, found = fitted(stream, init=INITS["a tensor"], callback=told.append, **options)
    return found, told


def test_a_stable_order_shows_that_no_label_has_changed() -> None:
    found, told = iterations_of(Passes(X.split(100), stable=True))
    _, expected = fitted(X, init=INITS["a tensor"])
    assert found.n_iter == expected.n_iter
    assert found.converged
    moved = [float(iteration.moved) for iteration in told]
    assert moved[-1] == 0
    assert all(value != value for value in moved[:-1]), "how many is not known"


def test_without_a_stable_order_moved_is_not_known_and_the_shift_ends_it() -> None:
    batches = X.split(100)
    loader = Passes(batches, change=lambda parts, number: list(parts)[:: (-1) ** number])
    found, told = iterations_of(loader)
    _, expected = fitted(X, init=INITS["a tensor"])
    assert found.converged
    assert torch.equal(found.inertia, expected.inertia)
    assert all(bool(iteration.moved.isnan()) for iteration in told)


def test_labels_that_swap_between_batches_are_seen() -> None:
    # The same counts of labels in other places: a hash has to tell them apart.
    x = torch.cat([torch.zeros(50, 1), torch.ones(50, 1)])
    rows = KMeansLayer(2, 1).prepare(Passes(x.split(100), stable=True))
    assert isinstance(rows, StreamRows)
    search = rows.search(KMeansLayer(2, 1).problem())
    moves = []
    for centroids in ([[0.0], [1.0]], [[0.0], [1.0]], [[1.0], [0.0]], [[1.0], [0.0]]):
        search.begin_pass()
        (moved,) = [search.step(batch, torch.tensor([centroids]))[1] for batch in rows]
        search.end_pass()
        moves.append(moved.item())
    assert moves[1] == moves[3] == 0
    assert moves[0] != 0
    assert moves[2] != 0


@pytest.mark.parametrize(
    ("loader", "stable"),
    [
        ([X], True),
        (DataLoader(TensorDataset(X), batch_size=100), True),
        (DataLoader(TensorDataset(X), batch_size=100, shuffle=True), False),
        (Passes([X]), False),
        (Passes([X], stable=True), True),
    ],
    ids=["list", "loader", "shuffled", "class", "class that says so"],
)
def test_an_order_is_stable_where_that_is_declared(loader: Any, stable: bool) -> None:
    assert stable_order(loader) is stable


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("init", INITS)
def test_a_dataloader_is_a_stream(shuffle: bool, init: str) -> None:
    target = torch.zeros(len(X), dtype=torch.int64)
    generator = seeded(8)
    loader = DataLoader(
        TensorDataset(X, target), batch_size=64, shuffle=shuffle, generator=generator
    )
    layer, found = fitted(loader, init=INITS[init])
    step = layer.e_step(X)
    assert found.converged
    assert torch.equal(found.inertia, step.stats.inertia)
    if init == "a tensor" or not shuffle:
        theirs, _ = fitted(Passes([X]), init=INITS[init])
        assert torch.equal(layer.centroids, theirs.centroids)


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_e_steps_of_a_stream_give_its_statistics(weight: Tensor | None) -> None:
    layer, _ = fitted(X)
    batches = [
        Batch(X[low : low + 70], None if weight is None else weight[low : low + 70])
        for low in range(0, 600, 70)
    ]
    step, expected = layer.e_step(layer.prepare(Passes(batches))), layer.e_step(X, weight)
    assert step.labels is None
    assert step.distances is None
    for name in ("sums", "counts", "inertia"):
        assert torch.equal(getattr(step.stats, name), getattr(expected.stats, name)), name


def test_an_iterator_is_refused_in_words() -> None:
    for spent in (iter([X]), (part for part in [X]), map(torch.clone, [X])):
        for call in (KMeansLayer(3, 4).fit, KMeansLayer(3, 4).prepare):
            with pytest.raises(ValueError, match=r"x is an iterator .* only once: hand in a list"):
                call(spent)


def without_last(batches: Sequence[Tensor], number: int) -> Sequence[Tensor]:
    return batches if number < 2 else batches[:-1]


def one_value_changed(batches: Sequence[Tensor], number: int) -> Sequence[Tensor]:
    changed = [batch.clone() for batch in batches]
    changed[1][3, 0] += number >= 2
    return changed


def a_row_twice(batches: Sequence[Tensor], number: int) -> Sequence[Tensor]:
    """One row in place of another: as many rows as before."""
    changed = [batch.clone() for batch in batches]
    if number:
        changed[0][0] = changed[0][1] + 1
    return changed


PASSES = {
    "empty": (lambda batches, number: batches if number < 1 else (),
              r"the second pass over the batches brought no rows, the first 600: hand in"),
    "shorter": (without_last, "brought 500 rows, the one before 600"),
    "longer": (lambda batches, number: [*batches, X[:number]],
               "brought 601 rows, the one before 600"),
    "another value": (one_value_changed, r"other values in its 600 rows than the one before"),
    "another row": (a_row_twice, r"other values in its 600 rows than the one before"),
}  # fmt: skip


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("case", PASSES)
def test_a_pass_that_brings_other_rows_is_an_error_and_the_layer_stays(
    init: str, case: str
) -> None:
    change, message = PASSES[case]
    layer, _ = fitted(X)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        layer.fit(Passes(X.split(100), change=change), init=INITS[init], generator=seeded())
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_another_order_of_the_rows_is_no_other_pass() -> None:
    def shuffled(batches: Sequence[Tensor], number: int) -> Sequence[Tensor]:
        return X[torch.randperm(len(X), generator=seeded(number))].split(70)

    layer, found = fitted(Passes([X], change=shuffled), init=INITS["a tensor"])
    expected, _ = fitted(X, init=INITS["a tensor"])
    assert torch.equal(layer.centroids, expected.centroids)
    assert found.converged


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]
)
def test_streams_of_every_dtype_are_watched_and_clustered(dtype: torch.dtype) -> None:
    x = torch.randint(0, 2, (200, 4), generator=seeded()).to(dtype)
    layer = KMeansLayer(3, 4)
    found = layer.fit(Passes(x.split(30)), init="random", generator=seeded())
    assert torch.equal(labels_of(layer, Passes(x.split(30)))[0], layer(x))
    torch.testing.assert_close(found.inertia, layer.e_step(x).stats.inertia)


@pytest.mark.parametrize("empty", [[], [X[:0]], [X[:3], X[:1]]])
def test_a_stream_of_too_few_rows_is_refused(empty: list[Tensor]) -> None:
    n = sum(map(len, empty))
    with pytest.raises(ValueError, match=f"n_samples={n} should be >= n_clusters=7"):
        fitted(Passes(empty))


def test_problems_share_the_rows_of_a_stream() -> None:
    init = torch.stack([X[::90], X[5::90]])
    layer = KMeansLayer(7, 4, batch_shape=(2,))
    found = layer.fit(Passes(X.split(100), stable=True), init=init, tol=0)
    for p in range(2):
        alone, expected = fitted(X, init=init[p])
        torch.testing.assert_close(layer.centroids[p], alone.centroids)
        assert found.n_iter[p] == expected.n_iter


def test_a_callable_init_gets_a_sample_of_the_stream() -> None:
    seen: list[Tensor] = []

    def init(x: Tensor, k: int, generator: torch.Generator | None) -> Tensor:
        seen.append(x)
        return x[:k]

    fitted(Passes(X.split(100)), init=init)
    assert seen[0].shape == (600, 4)
    assert torch.equal(seen[0].sort(dim=0).values, X.sort(dim=0).values)


def test_what_batches_are_made_of_can_be_said() -> None:
    loader = Passes([{"features": part, "name": "a"} for part in X.split(100)])
    layer, _ = fitted(loader, init=INITS["a tensor"], batch_of=lambda data: data["features"])
    expected, _ = fitted(X, init=INITS["a tensor"])
    assert torch.equal(layer.centroids, expected.centroids)


@pytest.mark.parametrize("x", [Passes(X.split(100)), X])
def test_a_callback_with_restarts_of_a_shared_run_sees_the_best(
    x: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KMEANS_KERNEL", "reference")  # whose restarts share a run in memory too
    layer, seen = KMeansLayer(5, 4), []
    found = layer.fit(x, init="random", n_init=3, generator=seeded(2), callback=seen.append)
    assert [it.number for it in seen] == list(range(1, len(seen) + 1))
    assert len(seen) >= int(found.n_iter)
    assert all(it.counts.shape == (5,) and it.counts.sum() == len(X) for it in seen)
    inertias = [float(it.inertia) for it in seen]
    assert inertias == sorted(inertias, reverse=True)
    assert inertias[-1] == pytest.approx(float(found.inertia), rel=1e-3)


@pytest.mark.parametrize("in_memory", [False, True])
def test_batches_of_several_dtypes_are_refused(in_memory: bool) -> None:
    parts = [X[:100], X[100:].double()]
    message = "all batches should be of one dtype, torch.float32; got torch.float64"
    with pytest.raises(ValueError, match=message):
        KMeansLayer(5, 4).fit(parts if in_memory else Passes(parts))


@pytest.mark.parametrize("options", [{"resident": True}, {"batch_of": lambda batch: batch}])
def test_what_goes_with_batches_is_refused_for_tensors_and_rows(options: dict[str, Any]) -> None:
    layer = KMeansLayer(5, 4)
    with pytest.raises(ValueError, match="resident and batch_of go with batches; x is a tensor"):
        layer.prepare(X, **options)
    with pytest.raises(ValueError, match=r"got sample_weight, .* resident or batch_of again"):
        layer.fit(layer.prepare(X), **options)


def test_a_callback_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match="callback"):
        KMeansLayer(5, 4).fit(X, callback=3)  # type: ignore[arg-type]
