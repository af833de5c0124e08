"""Lloyd's algorithm on the device gives what the native backend gives, and waits for nothing."""

from __future__ import annotations

import math
import re
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from kmeans_module import EmptyClusterError, KMeansLayer
from kmeans_module.backends.triton.loop import TritonLoop
from kmeans_module.core.generators import of_restarts
from kmeans_module.core.late import FIRST_LOOK
from kmeans_module.core.lloyd import Iteration
from kmeans_module.layer.result import FitResult
from tests.conftest import seeded
from tests.waits import counted


def data(n: int, d: int) -> Tensor:
    """Rows with duplicates and a zero row."""
    x = torch.randn(n, d, generator=seeded())
    x[10:16] = x[0]
    x[5] = 0
    return x


def starts(x: Tensor, k: int, *, n_empty: int = 0) -> Tensor:
    """Rows as centroids, the last of which are so far away that their clusters are empty."""
    centroids = x[20 : 20 + k].clone()
    if n_empty:
        centroids[-n_empty:] = 1e3
    return centroids


class Fitted:
    """A layer after a fit, and what it told."""

    def __init__(self, x: Tensor, init: Any, *, fit: dict[str, Any], **layer: Any) -> None:
        self.layer = KMeansLayer(**layer)
        self.told: list[Iteration] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            self.result: FitResult = self.layer.fit(
                x, init=init, callback=self.told.append, **{"max_iter": 6, **fit}
            )


def assert_same(x: Tensor, init: Any, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Fitted:
    """Both backends end alike: the device in every bit of what decides."""
    options.setdefault("fit", {})
    ours = Fitted(x, init, **options)
    monkeypatch.setenv("KMEANS_KERNEL", "native")
    theirs = Fitted(x, init, **options)
    monkeypatch.setenv("KMEANS_KERNEL", "triton")
    for name in ("labels", "n_iter", "converged"):
        assert torch.equal(getattr(ours.result, name), getattr(theirs.result, name)), name
    for name in ("centroids", "counts", "n_iter"):
        assert torch.equal(getattr(ours.layer, name), getattr(theirs.layer, name)), name
    close = {"rtol": 1e-6, "atol": 1e-9}
    torch.testing.assert_close(ours.result.history, theirs.result.history, **close)
    torch.testing.assert_close(ours.result.inertia, theirs.result.inertia, **close)
    assert len(ours.told) == len(theirs.told)
    for mine, other in zip(ours.told, theirs.told, strict=True):
        assert mine.number == other.number
        assert torch.equal(mine.counts, other.counts)
        torch.testing.assert_close(mine.moved, other.moved.double(), equal_nan=True)
        torch.testing.assert_close(mine.inertia, other.inertia, **close)
        torch.testing.assert_close(mine.shift, other.shift, **close)
    return ours


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("d", [1, 2, 5, 16, 40])
def test_a_fit_is_that_of_the_native_backend(
    d: int, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = data(60, d)
    init = starts(x, 4)
    assert_same(x, init, monkeypatch, n_clusters=4, n_features=d, metric=metric)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("policy", ["relocate", "split", "keep"])
@pytest.mark.parametrize("d", [2, 20])
def test_empty_clusters_become_what_they_become_on_the_cpu(
    d: int, policy: str, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = data(60, d)
    weight = None
    if weighted:
        weight = torch.randint(0, 4, (60,), generator=seeded(1)).double()
    fitted = assert_same(
        x, starts(x, 7, n_empty=3), monkeypatch, n_clusters=7, n_features=d, empty_cluster=policy,
        fit={"sample_weight": weight, "max_iter": 4},
    )  # fmt: skip
    assert bool((fitted.told[0].counts == 0).any())


def test_of_rows_equally_far_the_first_ones_become_clusters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    corners = torch.tensor([[3.0, 3], [3, -3], [-3, 3], [-3, -3]])
    x = torch.cat([torch.zeros(300, 2), corners, torch.zeros(300, 2), corners])
    init = torch.tensor([[0.0, 0], [1e3, 0], [0, 1e3], [1e3, 1e3]])
    fit = {"max_iter": 1}
    fitted = assert_same(x, init, monkeypatch, n_clusters=4, n_features=2, fit=fit)
    assert fitted.layer.centroids[1:].tolist() == corners[:3].tolist()


@pytest.mark.parametrize("policy", ["relocate", "split"])
@pytest.mark.parametrize(
    ("n", "d", "k", "n_empty"), [(600, 2, 6, 2), (50, 70, 20, 4), (110, 2, 80, 70)]
)
def test_many_rows_many_features_and_many_empty_clusters(
    n: int, d: int, k: int, n_empty: int, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several tiles of rows, blocks of clusters, and more clusters than samples that are sought."""
    x = data(n, d)
    assert_same(
        x, starts(x, k, n_empty=n_empty), monkeypatch, n_clusters=k, n_features=d,
        empty_cluster=policy, fit={"max_iter": 3},
    )  # fmt: skip


@pytest.mark.parametrize("policy", ["relocate", "split", "keep"])
def test_rows_that_are_all_alike_leave_clusters_empty(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.ones(40, 3)
    x[30:] = 2
    init = torch.arange(12.0).view(4, 3)
    assert_same(x, init, monkeypatch, n_clusters=4, n_features=3, empty_cluster=policy)


def test_problems_freeze_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.stack([data(60, 3), data(60, 3).round(), torch.ones(60, 3), data(60, 3) * 5])
    init = torch.stack([starts(part, 5, n_empty=p % 2) for p, part in enumerate(x)])
    fitted = assert_same(
        x.view(2, 2, 60, 3), init.view(2, 2, 5, 3), monkeypatch, n_clusters=5, n_features=3,
        batch_shape=(2, 2), fit={"max_iter": 12},
    )  # fmt: skip
    assert len(fitted.result.n_iter.unique()) > 2


@pytest.mark.parametrize("max_iter", [1, 2, 3])
@pytest.mark.parametrize("tol", [0.0, 0.3])
def test_iterations_end_at_max_iter_and_at_tol(
    max_iter: int, tol: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = data(60, 2)
    fit = {"max_iter": max_iter, "tol": tol}
    assert_same(x, starts(x, 5), monkeypatch, n_clusters=5, n_features=2, fit=fit)


@pytest.mark.parametrize("every", [None, 1, 3])
def test_looking_more_often_changes_nothing(every: int | None) -> None:
    x = data(60, 2)
    options = {"n_clusters": 5, "n_features": 2}
    late = Fitted(x, starts(x, 5), fit={"max_iter": 40, "tol": 0}, **options)
    often = Fitted(
        x, starts(x, 5), fit={"max_iter": 40, "tol": 0, "callback_every": every}, **options
    )
    assert [i.number for i in often.told] == list(range(1, int(late.result.n_iter) + 1))
    assert torch.equal(often.layer.centroids, late.layer.centroids)
    assert torch.equal(often.result.history, late.result.history)
    assert [float(i.shift) for i in often.told] == [float(i.shift) for i in late.told]


def test_a_display_is_told_every_few_iterations_in_order(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    x, launched = data(60, 2), []
    advance = TritonLoop.advance

    def counting(self: TritonLoop, passes: int) -> None:
        launched.append(passes)
        advance(self, passes)

    monkeypatch.setattr(TritonLoop, "advance", counting)
    layer = KMeansLayer(5, 2)
    result = layer.fit(x, seed=0, max_iter=40, tol=0, verbose=True)
    assert max(launched) <= 8
    written = capsys.readouterr().err
    numbers = [int(number) for number in re.findall(r"iteration (\d+) of 40", written)]
    assert numbers == list(range(1, min(10, int(result.n_iter)) + 1))
    assert written.index("seeding 5/5 centers") < written.index("iteration 1 of 40")
    quiet = layer.fit(x, seed=0, max_iter=40, tol=0)
    assert torch.equal(quiet.history, result.history)


@pytest.mark.parametrize("capacity", [1, 3])
def test_a_small_memory_of_passes_changes_nothing(
    capacity: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = data(60, 2)
    monkeypatch.setattr("kmeans_module.backends.triton.loop._PASSES", capacity)
    assert_same(x, starts(x, 5), monkeypatch, n_clusters=5, n_features=2, fit={"max_iter": 9})


def test_restarts_run_as_problems_of_one_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    x = data(60, 2)
    begun: list[int] = []
    advance = TritonLoop.advance

    def counting(self: TritonLoop, passes: int) -> None:
        begun.append(self.n_problems)
        advance(self, passes)

    monkeypatch.setattr(TritonLoop, "advance", counting)
    layer = KMeansLayer(4, 2)
    result = layer.fit(x, n_init=3, generator=seeded(), max_iter=30)
    assert begun == [3]
    assert torch.equal(layer(x), result.labels)
    alone = [
        KMeansLayer(4, 2).fit(x, generator=generator, max_iter=30).inertia.item()
        for generator in of_restarts(seeded(), 3)
    ]
    assert result.inertia.item() == pytest.approx(min(alone))


@pytest.mark.parametrize(("metric", "weighted"), [("euclidean", True), ("cosine", False)])
def test_a_fit_waits_a_few_times_in_all(metric: str, weighted: bool) -> None:
    x = torch.rand(150, 2, generator=seeded())
    layer = KMeansLayer(6, 2, metric=metric)
    weight = torch.ones(150) if weighted else None
    with counted() as waits:
        layer.fit(x, init=x[:6], max_iter=20, tol=0, sample_weight=weight)
    assert len(waits) <= 4, waits


def test_each_further_look_waits_once() -> None:
    x = data(60, 2)
    layer = KMeansLayer(5, 2)
    with counted() as rarely:
        layer.fit(x, init=starts(x, 5), max_iter=5, tol=0)
    with counted() as often:
        layer.fit(
            x, init=starts(x, 5), max_iter=5, tol=0, callback=lambda _: None, callback_every=1
        )
    assert len(often) - len(rarely) == int(layer.n_iter) - (int(layer.n_iter) < 5)
    assert FIRST_LOOK > 20


def test_an_error_names_the_clusters_that_are_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.stack([data(60, 2), data(60, 2)])
    init = torch.stack([starts(x[0], 5), starts(x[1], 5, n_empty=2)])
    messages = []
    for kernel in ("triton", "native"):
        monkeypatch.setenv("KMEANS_KERNEL", kernel)
        layer = KMeansLayer(5, 2, empty_cluster="error", batch_shape=(2,))
        with pytest.raises(EmptyClusterError) as caught:
            layer.fit(x, init=init)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "problem 1" in messages[0]


def test_a_policy_error_lets_fits_without_empty_clusters_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = data(60, 2)
    assert_same(x, starts(x, 4), monkeypatch, n_clusters=4, n_features=2, empty_cluster="error")


def test_sums_that_cancel_are_measured_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randint(0, 3, (60, 2), generator=seeded()).float() * 1000 + 5e4
    init = x.unique(dim=0)[:9]
    fitted = assert_same(x, init, monkeypatch, n_clusters=len(init), n_features=2)
    assert fitted.result.inertia.item() == 0


def test_infinite_distances_are_refused_at_the_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    x, init = data(60, 2), torch.full((2, 2), 3e38)
    for kernel in ("triton", "native"):
        monkeypatch.setenv("KMEANS_KERNEL", kernel)
        layer = KMeansLayer(2, 2)
        with pytest.raises(ValueError, match="squared distances overflow"):
            layer.fit(x, init=init)
        assert not layer.initialized


def test_half_precision_layers_round_their_centroids(monkeypatch: pytest.MonkeyPatch) -> None:
    x = data(60, 3).half()
    options: dict[str, Any] = {"n_clusters": 4, "n_features": 3, "dtype": torch.float16}
    assert_same(x, starts(x, 4), monkeypatch, **options)


def test_a_workspace_serves_as_before_when_a_loop_has_ended() -> None:
    x = data(60, 2)
    layer = KMeansLayer(4, 2)
    rows = layer.prepare(x)
    layer.fit(rows, init=starts(x, 4))
    moved = layer.centroids + 1
    step = layer.e_step(rows)
    assert torch.equal(step.labels, layer(x))
    layer.set_centroids(moved)
    assert torch.equal(layer.e_step(rows).labels, layer(x))
    assert math.isfinite(step.stats.inertia.item())


@pytest.mark.parametrize("shape", [(), (2,)])
@pytest.mark.parametrize("d", [2, 20])
def test_no_iterations_measure_once(
    d: int, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = data(60, d)
    fitted = assert_same(
        x, starts(x, 4), monkeypatch, n_clusters=4, n_features=d, batch_shape=shape,
        fit={"max_iter": 0},
    )  # fmt: skip
    assert fitted.told == []
    assert fitted.result.history.shape == (*shape, 1)
    assert not fitted.result.converged.any()
