"""Property: the same generator starts the same, whatever batches and forms hold the rows."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from kmeans_module import KMeansLayer
from kmeans_module.core.generators import of_restarts
from kmeans_module.core.problem import Problem
from kmeans_module.core.seeding import INITS, initialize
from kmeans_module.rows import Batch, rows_of
from tests.conftest import brute_force, seeded
from tests.rows.helpers import Passes


def shuffled_rows(x: Tensor, k: int, generator: torch.Generator | None) -> Tensor:
    rows = x[torch.randperm(len(x), generator=generator)[:k]]
    return rows + (rows == 0).all(-1, keepdim=True)  # no zero row, for the cosine metric


STARTS: dict[str, Any] = {**{name: name for name in INITS}, "callable": shuffled_rows}
KINDS = ("normal", "integers", "duplicates", "one rare row", "subnormal", "outlier")


def rows_of_kind(kind: str, n: int, d: int, seed: int) -> Tensor:
    generator = seeded(seed)
    x = torch.randn(n, d, generator=generator)
    if kind == "integers":
        x = x.mul(2).round()
    elif kind == "duplicates":
        x = x[torch.randint(max(1, n // 4), (n,), generator=generator)]
    elif kind == "one rare row":
        x[1:] = x[0].clone()
        x[n // 2] += 1
    elif kind == "subnormal":
        x[1:] *= 1e-25
        x[0] = 1
    elif kind == "outlier":
        x[0] = 1e6
    return x


def started(layer: KMeansLayer, x: Any, init: Any, weight: Tensor | None = None) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*centroids repeat others")
        layer.initialize(x, init, sample_weight=weight, generator=seeded(7))
    return layer.centroids.clone()


@pytest.mark.parametrize("init", list(STARTS))
@pytest.mark.parametrize("drop_last", [False, True])
def test_a_loader_that_shuffles_starts_and_ends_as_the_rows(init: str, drop_last: bool) -> None:
    x = rows_of_kind("normal", 84, 3, seed=0)
    layer, shuffled = KMeansLayer(5, 3), KMeansLayer(5, 3)
    result = layer.fit(x, init=STARTS[init], generator=seeded(7))
    for workers in (0, 1):
        loader = DataLoader(
            TensorDataset(x), batch_size=7, shuffle=True, drop_last=drop_last, num_workers=workers
        )
        torch.manual_seed(workers)
        found = shuffled.fit(loader, init=STARTS[init], generator=seeded(7))
        torch.testing.assert_close(shuffled.centroids, layer.centroids)
        assert torch.equal(found.n_iter, result.n_iter)
        order = torch.cat([rows for (rows,) in loader])
        assert not torch.equal(order, x)  # the user's loader shuffles as before


@settings(max_examples=40)
@given(
    init=st.sampled_from(list(STARTS)),
    kind=st.sampled_from(KINDS),
    metric=st.sampled_from(["euclidean", "cosine"]),
    n=st.integers(2, 80),
    d=st.integers(1, 4),
    k=st.integers(1, 12),
    cuts=st.lists(st.integers(0, 80), max_size=5),
    zeros=st.sampled_from([None, 0.0, 0.5, 0.95]),
    seed=st.integers(0, 10**6),
)
def test_forms_and_batches_start_alike(
    init: str,
    kind: str,
    metric: str,
    n: int,
    d: int,
    k: int,
    cuts: list[int],
    zeros: float | None,
    seed: int,
) -> None:
    k = min(n, k)
    x = rows_of_kind(kind, n, d, seed)
    weight = None
    if zeros is not None:
        weight = torch.rand(n, generator=seeded(seed)).double() + 0.1
        weight[torch.rand(n, generator=seeded(seed + 1)) < zeros] = 0
        weight[n // 2] = 1
    edges = sorted({0, n, *(min(cut, n) for cut in cuts)})
    parts = [
        Batch(x[low:high], None if weight is None else weight[low:high])
        for low, high in itertools.pairwise(edges)
    ]
    layer, start = KMeansLayer(k, d, metric=metric), STARTS[init]
    expected = started(layer, x, start, weight)
    assert torch.equal(started(layer, parts, start), expected), "a list of batches"
    assert torch.equal(started(layer, Passes(parts, stable=True), start), expected), "a stream"
    numbered = [b._replace(start=e) for b, e in zip(parts, edges, strict=False)][::-1]
    assert torch.equal(started(layer, numbered, start), expected), "batches in another order"
    if init == "callable" or metric == "cosine":
        return
    same = (expected.unsqueeze(1) == x).all(-1)
    assert same.any(-1).all(), "rows of the data"
    weighs = torch.ones(n, dtype=torch.bool) if weight is None else weight > 0
    assert (same & weighs).any(-1).all(), "none of weight 0"
    distinct = min(k, len(x[weighs].unique(dim=0)))
    assert len(expected.unique(dim=0)) == distinct, "none twice while others are left"


@pytest.mark.parametrize("init", INITS)
def test_many_rows_of_a_stream_start_alike_in_any_batches(
    init: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the stream did not fit in the sample
    monkeypatch.setattr("kmeans_module.core.seeding.SAMPLE", 50)
    monkeypatch.setattr("kmeans_module.core.seeding.SAMPLE_OF_CLUSTER", 1)
    x = torch.randn(400, 3, generator=seeded())
    starts = [
        started(KMeansLayer(6, 3), Passes(x.split(size), stable=size == 400), init)
        for size in (400, 150, 33)
    ]
    assert torch.equal(starts[0], starts[1])
    assert torch.equal(starts[0], starts[2])


@pytest.mark.parametrize("init", INITS)
def test_restarts_do_not_depend_on_the_batches(init: str) -> None:
    x = torch.randn(120, 3, generator=seeded())
    forms = (x, x.split(77), Passes(x.split(50), stable=True), Passes(x.split(120)))
    layers = [KMeansLayer(5, 3) for _ in forms]
    for layer, data in zip(layers, forms, strict=True):
        layer.fit(data, init=init, n_init=3, generator=seeded(1))
        torch.testing.assert_close(layer.centroids, layers[0].centroids)


@pytest.mark.parametrize("init", INITS)
def test_the_first_restart_draws_what_a_single_run_does(init: str) -> None:
    problem, rows = (
        Problem(5, 3),
        rows_of(torch.randn(120, 3), n_features=3, device=torch.device("cpu")),
    )
    alone = initialize(rows, problem, init, generator=seeded(1))
    generators = of_restarts(seeded(1), 3)
    together = initialize(rows, problem.repeated(3), init, generator=generators)
    torch.testing.assert_close(together[:1], alone)
    assert len(together.unique(dim=0)) == 3
    for generator, one in zip(of_restarts(seeded(1), 3), together, strict=True):
        torch.testing.assert_close(initialize(rows, problem, init, generator=generator)[0], one)


@pytest.mark.parametrize("stream", [False, True])
def test_weights_that_nearly_vanish_draw_rows_all_the_same(stream: bool) -> None:
    x = torch.randn(40, 2, generator=seeded())
    weight = torch.full((40,), 1e-320, dtype=torch.float64)
    for init in INITS:
        data: Any = Passes([Batch(x, weight)]) if stream else x
        found = started(KMeansLayer(9, 2), data, init, None if stream else weight)
        assert len(found.unique(dim=0)) == 9


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("stream", [False, True])
def test_rows_of_zeros_alone_start_at_zero_under_the_cosine_metric(init: str, stream: bool) -> None:
    x = torch.zeros(30, 3)
    data = Passes(x.split(7)) if stream else x
    assert not started(KMeansLayer(5, 3, metric="cosine"), data, init).any()


def test_candidates_of_a_far_start_are_rows() -> None:
    # All rows are candidates after a few rounds: the next round finds none.
    x = torch.randn(9, 2, generator=seeded()) + 100
    found = started(KMeansLayer(8, 2), x, "k-means||")
    assert (brute_force(found, x).amin(-1) == 0).all()


@pytest.mark.parametrize("init", ["random", "k-means++", "k-means||"])
@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 1e-25), (torch.float64, 1e-170)])
def test_spans_that_underflow_are_refused(init: str, dtype: torch.dtype, scale: float) -> None:
    x = torch.randn(30, 2, generator=seeded(), dtype=torch.float64).mul(scale).to(dtype)
    with pytest.raises(ValueError, match="squared distances underflow"):
        started(KMeansLayer(3, 2, dtype=dtype), x, init)
