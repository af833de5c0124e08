"""Promises of Rows: one fit, the same bits, wherever the rows are."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kmeans_module import FitResult, KMeansLayer
from kmeans_module.core.seeding import INITS
from kmeans_module.rows import Batch, BatchLoader, HeldRows, StreamRows
from tests.conftest import blobs, data_set, layer_at, seeded
from tests.rows.helpers import Passes

pytestmark = pytest.mark.usefixtures("kernel")

# Sums of integers are exact in any order; of other rows they differ in the last bits of float64.
X = data_set("integers")
WEIGHT = torch.randint(0, 4, (len(X),), generator=seeded(1)).double()


def parts_of(x: Tensor) -> list[Tensor]:
    return list(x.split([100, 1, 250, len(x) - 351]))


FORMS: dict[str, Callable[[Tensor], Any]] = {
    "a tensor": lambda x: x,
    "a list of its parts": parts_of,
    "a tuple with an empty part": lambda x: (x[:200], x[:0], x[200:]),
    "a BatchLoader": lambda x: BatchLoader(x, batch_size=128),
    "prepared rows": lambda x: KMeansLayer(3, x.shape[1]).prepare(x),
    "prepared parts": lambda x: KMeansLayer(3, x.shape[1]).prepare(parts_of(x)),
}


def fitted(
    x: Any, k: int = 7, *, dtype: torch.dtype = torch.float32, **options: Any
) -> tuple[KMeansLayer, FitResult]:
    layer = KMeansLayer(k, 4, dtype=dtype)
    return layer, layer.fit(x, **{"generator": seeded(3), "tol": 0, **options})


def assert_same_fit(ours: tuple[KMeansLayer, FitResult], theirs: Any) -> None:
    assert torch.equal(ours[0].centroids, theirs[0].centroids)
    assert torch.equal(ours[0].counts, theirs[0].counts)
    for name, found, expected in zip(ours[1]._fields, ours[1], theirs[1], strict=True):
        assert torch.equal(found, expected), name


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_rows_gives_the_same_bits(init: str, form: str) -> None:
    assert_same_fit(fitted(FORMS[form](X), init=init), fitted(X, init=init))


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_other_rows_gives_the_same_clusters(init: str, form: str) -> None:
    x = blobs(600, 4)
    ours, theirs = fitted(FORMS[form](x), init=init), fitted(x, init=init)
    assert torch.equal(ours[1].labels, theirs[1].labels)
    assert torch.equal(ours[1].n_iter, theirs[1].n_iter)
    torch.testing.assert_close(ours[0].centroids, theirs[0].centroids, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours[1].inertia, theirs[1].inertia, rtol=1e-9, atol=0)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("n_init", [1, 3])
def test_weights_go_with_their_batches(init: str, n_init: int) -> None:
    expected = fitted(X, init=init, n_init=n_init, sample_weight=WEIGHT)
    parts = list(zip(parts_of(X), parts_of(WEIGHT), strict=True))
    for batches in (
        [{"x": x, "sample_weight": weight} for x, weight in parts],
        [Batch(x, weight) for x, weight in parts],
        BatchLoader(X, batch_size=99, sample_weight=WEIGHT),
    ):
        assert_same_fit(fitted(batches, init=init, n_init=n_init), expected)


def test_batches_without_weights_weigh_1() -> None:
    weight = WEIGHT.clone()
    weight[300:] = 1
    batches = [Batch(X[:300], weight[:300]), Batch(X[300:])]
    assert_same_fit(fitted(batches), fitted(X, sample_weight=weight))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_one_survey_serves_fits_of_any_k_and_init(metric: str) -> None:
    x = X + 0.5
    rows = KMeansLayer(2, 4, metric=metric).prepare(x, WEIGHT)
    for k, init in ((3, "random"), (11, "k-means++"), (5, "k-means||"), (3, "random")):
        shared, own = KMeansLayer(k, 4, metric=metric), KMeansLayer(k, 4, metric=metric)
        found = shared.fit(rows, init=init, generator=seeded(k))
        expected = own.fit(x, init=init, sample_weight=WEIGHT, generator=seeded(k))
        assert_same_fit((shared, found), (own, expected))


def test_rows_bring_their_weights_and_are_given_none_again() -> None:
    layer = layer_at(X[:5])
    rows = layer.prepare(X, WEIGHT)
    with pytest.raises(ValueError, match="rows have their sample_weight"):
        layer.e_step(rows, WEIGHT)
    with pytest.raises(ValueError, match="rows have their sample_weight and start"):
        layer.e_step(rows, start=3)
    with pytest.raises(ValueError, match="rows have their sample_weight"):
        layer.fit(rows, sample_weight=WEIGHT)
    with pytest.raises(ValueError, match="batches bring their own"):
        layer.fit([X], sample_weight=WEIGHT)


def test_rows_of_another_size_are_refused() -> None:
    rows = KMeansLayer(3, 4).prepare(X)
    with pytest.raises(ValueError, match=r"rows should be of .*2.*; they are of 4 features"):
        KMeansLayer(3, 2).fit(rows)
    several = KMeansLayer(3, 4, batch_shape=(2,)).prepare(X.expand(2, -1, -1))
    with pytest.raises(ValueError, match="they are of 4 features and 2 problems"):
        KMeansLayer(3, 4).fit(several)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_rows_that_are_not_finite_are_refused_when_they_are_prepared(value: float) -> None:
    x = X.clone()
    x[123, 1] = value
    for form in (x, parts_of(x), Passes(parts_of(x))):
        with pytest.raises(ValueError, match="1 row holds NaN or infinity, the first is row 123"):
            KMeansLayer(3, 4).prepare(form)


@pytest.mark.parametrize("form", ["a tensor", "a list of its parts", "a BatchLoader"])
@pytest.mark.parametrize("weighted", [False, True])
def test_repeated_e_steps_of_rows_are_those_of_the_tensor(form: str, weighted: bool) -> None:
    weight = WEIGHT if weighted else None
    layer = layer_at(X[::100].clone())
    x: Any = FORMS[form](X)
    if weighted and not isinstance(x, Tensor):
        x = BatchLoader(X, batch_size=200, sample_weight=WEIGHT)
    rows = layer.prepare(x, weight if isinstance(x, Tensor) else None)
    for _ in range(8):
        found, expected = layer.e_step(rows), layer.e_step(X, weight)
        assert torch.equal(found.labels, expected.labels)
        assert torch.equal(found.distances, expected.distances)
        for name in ("sums", "counts", "inertia"):
            assert torch.equal(getattr(found.stats, name), getattr(expected.stats, name))
        layer.m_step(found.stats)


@pytest.mark.parametrize("form", ["a tensor", "a list of its parts"])
def test_what_an_e_step_returns_stays_what_it_is(form: str) -> None:
    layer = layer_at(X[:5].clone())
    rows = layer.prepare(FORMS[form](X))
    first = layer.e_step(rows)
    kept = copy.deepcopy(first)
    layer.m_step(first.stats)
    for _ in range(3):
        layer.m_step(layer.e_step(rows).stats)
    assert torch.equal(first.labels, kept.labels)
    assert torch.equal(first.distances, kept.distances)
    assert torch.equal(first.stats.sums, kept.stats.sums)
    assert torch.equal(first.stats.counts, kept.stats.counts)


@pytest.mark.parametrize("form", ["a tensor", "a list of its parts"])
def test_what_a_fit_returns_stays_what_it_is(form: str) -> None:
    layer = KMeansLayer(6, 4)
    rows = layer.prepare(FORMS[form](X))
    found = layer.fit(rows, generator=seeded())
    kept = found.labels.clone()
    layer.fit(rows, generator=seeded(1))
    layer.e_step(rows)
    assert torch.equal(found.labels, kept)


def test_e_steps_leave_nothing_in_copies_and_files_of_a_layer() -> None:
    layer = layer_at(X[:5])
    rows = layer.prepare(X)
    expected = layer.e_step(rows)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other.e_step(rows).labels, expected.labels)
    assert torch.equal(layer.e_step(rows).labels, expected.labels)


def test_rows_are_let_go_with_their_last_user() -> None:
    layer = layer_at(X[:5])
    x = X.clone()
    layer.e_step(layer.prepare(x))

    alive = weakref.ref(x)
    del x
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("form", [*FORMS, "a stream"])
def test_moments_are_those_of_the_whole(form: str) -> None:
    x = blobs(600, 4) + 100
    given = Passes(parts_of(x)) if form == "a stream" else FORMS[form](x)
    moments = KMeansLayer(3, 4).prepare(given).moments()
    assert (moments.n_samples, moments.n_weighty.tolist(), moments.nonfinite) == (600, [600], "")
    wide = x.double()
    assert torch.equal(moments.low, wide.amin(0))
    assert torch.equal(moments.high, wide.amax(0))
    torch.testing.assert_close(moments.mean[0], wide.mean(0))
    torch.testing.assert_close(moments.variance[0], wide.var(0, correction=0).mean())


@pytest.mark.parametrize("form", [*FORMS, "a stream"])
def test_a_sample_is_distinct_rows_and_the_same_of_any_batches(form: str) -> None:
    x = torch.arange(600.0).unsqueeze(-1).expand(-1, 4).contiguous()
    given = Passes(parts_of(x)) if form == "a stream" else FORMS[form](x)
    rows = KMeansLayer(3, 4).prepare(given)
    sample = rows.sample(50, seeded(2))
    assert sample.shape == (1, 50, 4)
    assert len(sample[0, :, 0].unique()) == 50
    expected = KMeansLayer(3, 4).prepare(x).sample(50, seeded(2))
    assert torch.equal(sample, expected)
    assert rows.sample(1000, seeded()).shape == (1, 600, 4)


@pytest.mark.parametrize("stream", [False, True])
def test_a_sample_leaves_out_rows_of_weight_zero(stream: bool) -> None:
    weight = (torch.arange(600) % 3 == 0).double()
    x = torch.arange(600.0).unsqueeze(-1).expand(-1, 4).contiguous()
    batches = [Batch(x[:250], weight[:250]), Batch(x[250:], weight[250:])]
    rows = KMeansLayer(3, 4).prepare(Passes(batches) if stream else batches)
    sample = rows.sample(600, seeded())
    assert sample.shape == (1, 200, 4)
    assert (sample[0, :, 0] % 3 == 0).all()


@pytest.mark.parametrize("form", [*FORMS, "a stream"])
def test_mapped_rows_are_the_rows_of_a_mapped_tensor(form: str) -> None:
    given = Passes(parts_of(X)) if form == "a stream" else FORMS[form](X)
    rows = KMeansLayer(3, 4).prepare(given).map(lambda x: x[..., :2] * 3)
    assert rows.n_features == 2
    found = KMeansLayer(5, 2)
    found.fit(rows, init="k-means||", generator=seeded())
    expected = KMeansLayer(5, 2)
    expected.fit(X[:, :2] * 3, init="k-means||", generator=seeded())
    torch.testing.assert_close(found.centroids, expected.centroids)


def test_resident_batches_are_read_once() -> None:
    loader = Passes(parts_of(X))
    found = fitted(loader, resident=True, n_init=2)
    assert loader.passes == 1
    assert_same_fit(found, fitted(X, n_init=2))


def test_tensors_of_a_list_stay_and_others_are_read_again() -> None:
    layer = KMeansLayer(3, 4)
    assert isinstance(layer.prepare(parts_of(X)), HeldRows)
    assert isinstance(layer.prepare(BatchLoader(X, batch_size=50)), HeldRows)
    assert isinstance(layer.prepare(BatchLoader(X, batch_size=50, shuffle=True)), StreamRows)
    assert isinstance(layer.prepare(Passes(parts_of(X))), StreamRows)
    assert isinstance(layer.prepare(Passes(parts_of(X)), resident=True), HeldRows)
    made = layer.prepare(parts_of(X), batch_of=lambda x: Batch(x + 1))
    assert isinstance(made, StreamRows)
    assert torch.equal(torch.cat([batch.x for batch in made]), X + 1)
