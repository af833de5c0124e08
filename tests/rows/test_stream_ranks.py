"""Promises of streams over ranks: together they equal one process, and fail together."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from kmeans_module import KMeansLayer, kmeans
from kmeans_module.core.seeding import INITS
from tests.conftest import blobs, seeded
from tests.processes import run_ranks
from tests.rows.helpers import Passes

X = blobs(101, 3)
SHARES = [slice(0, 40), slice(40, 101)]


def first_rows(x: Tensor, k: int, generator: torch.Generator | None) -> Tensor:
    return x[:k]


def init_that_fails(x: Tensor, k: int, generator: torch.Generator | None) -> Tensor:
    raise ValueError("the init has failed")


JOBS: dict[str, dict[str, Any]] = {
    **{init: {"init": init} for init in INITS},
    "a tensor": {"init": X[::20].clone()},
    "restarts": {"init": "random", "n_init": 3},
    "a sample": {"max_points_per_centroid": 5},
    "a callable": {"init": first_rows},
}


def fitted(
    share: slice, group: dist.ProcessGroup | None, size: int, **options: Any
) -> dict[str, Tensor]:
    layer = KMeansLayer(6, 3)
    stream = Passes(X[share].split(size), stable=True)
    found = layer.fit(stream, generator=seeded(3), tol=0, process_group=group, **options)
    rows = layer.prepare(stream)
    labels = torch.cat(list(rows.labels(layer.centroids[None])), dim=-1)
    assert found.labels is None
    return {**found._asdict(), "labels": labels, "centroids": layer.centroids}


def one_call(share: slice, group: dist.ProcessGroup | None) -> dict[str, Tensor]:
    found = kmeans(Passes(X[share].split(25), stable=True), 6, seed=3, tol=0, process_group=group)
    results = {name: value for name, value in found._asdict().items() if name != "layer"}
    return {**results, "labels": found.labels[None]}  # with an axis of problems, as the others


def narrow_last(parts: Sequence[Tensor], _: int) -> Sequence[Tensor]:
    return [*parts[:-1], parts[-1][:, :2]]


def failing(rank: int, group: dist.ProcessGroup) -> dict[str, Callable[[], object]]:
    """Calls that go wrong on the last rank, or on the first."""
    parts = X[SHARES[rank]].split(20)
    spoilt = X.clone()
    spoilt[90, 1] = torch.nan

    def fit(stream: Any, **options: Any) -> object:
        return KMeansLayer(6, 3).fit(stream, process_group=group, **options)

    def on_the_last(change: Callable[[Sequence[Tensor], int], Sequence[Tensor]]) -> Passes:
        return Passes(parts, change=change if rank else None)

    return {
        "tol": lambda: fit(Passes(parts), tol=0.1 * rank),
        "init names": lambda: fit(Passes(parts), init=list(INITS)[rank]),
        "dtypes": lambda: fit(Passes([p.double() if rank else p for p in parts])),
        "places": lambda: fit(Passes(parts) if rank else X[SHARES[0]]),
        "an iterator": lambda: fit(iter(parts) if rank else Passes(parts)),
        "NaN": lambda: fit(Passes(spoilt[SHARES[rank]].split(20))),
        "a shorter pass": lambda: fit(on_the_last(lambda b, i: b if i < 2 else b[:-1])),
        "an empty pass": lambda: fit(on_the_last(lambda b, i: () if i else b)),
        "the init": lambda: fit(Passes(parts), init=init_that_fails),
        "a bad batch": lambda: fit(on_the_last(narrow_last)),
        "a bad batch later": lambda: fit(
            on_the_last(lambda b, i: narrow_last(b, i) if i == 2 else b)
        ),
    }


def caught(call: Callable[[], Any]) -> Any:
    """What the call returns, or the kind and the text of its error."""
    try:
        return call()
    except Exception as error:
        return type(error).__name__, str(error)


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2,
        timeout=timedelta(seconds=10),
    )  # fmt: skip
    group = dist.group.WORLD
    assert group is not None
    found: dict[str, Any] = {}
    calls = {name: partial(fitted, SHARES[rank], group, 25, **job) for name, job in JOBS.items()}
    # Ranks that wait for each other in vain leave a group that is of no use to the next call:
    # what is most likely to go wrong comes last.
    last = ("a callable", "the init", "a bad batch", "a bad batch later")
    calls["another tensor"] = partial(
        fitted, SHARES[rank], group, 25, init=X[::20].clone() + 10 * rank
    )
    calls["one call"] = partial(one_call, SHARES[rank], group)
    calls["no rows"] = partial(fitted, [slice(None), slice(0, 0)][rank], group, 25)
    calls |= failing(rank, group)
    for name in sorted(calls, key=lambda name: name in last):
        found[name] = caught(calls[name])
    torch.save(found, f"{folder}/{rank}.pt")
    with suppress(RuntimeError):
        dist.barrier(group)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank found."""
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(work, (str(folder),), 2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def assert_equals_one(results: list[dict[str, Tensor]], **job: Any) -> None:
    assert all(isinstance(result, dict) for result in results), results
    alone = fitted(slice(None), None, 30, **job)
    assert torch.equal(torch.cat([r["labels"] for r in results], dim=-1), alone["labels"])
    for result in results:
        for field in ("centroids", "inertia", "n_iter", "converged", "history"):
            assert torch.equal(result[field], results[0][field]), field
        torch.testing.assert_close(result["centroids"], alone["centroids"], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(result["inertia"], alone["inertia"], rtol=1e-9, atol=0)
        assert torch.equal(result["n_iter"], alone["n_iter"])


@pytest.mark.parametrize("name", JOBS)
def test_streams_of_ranks_together_equal_one(name: str, ranks: list[dict[str, Any]]) -> None:
    assert_equals_one([result[name] for result in ranks], **JOBS[name])


def test_centroids_to_start_from_are_those_of_the_first_rank(
    ranks: list[dict[str, Any]],
) -> None:
    assert_equals_one([result["another tensor"] for result in ranks], **JOBS["a tensor"])


def test_one_call_over_ranks_is_a_fit_over_ranks(ranks: list[dict[str, Any]]) -> None:
    assert_equals_one([result["one call"] for result in ranks])


def test_a_rank_may_hold_no_rows(ranks: list[dict[str, Any]]) -> None:
    assert_equals_one([result["no rows"] for result in ranks])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tol", "tol should be the same on all ranks; it is 0.0 on rank 0 and 0.1 on rank 1"),
        ("init names", "init should be the same on all ranks"),
        ("dtypes", "x should be alike on all ranks; they hold torch.float32 of 3 features, "),
        ("places", "x should be the same on all ranks; it is in memory on rank 0 and a stream"),
        ("an iterator", "x is an iterator"),
        ("NaN", "1 row holds NaN or infinity, the first is row"),
        ("a shorter pass", "a pass over the batches brought 100 rows, the one before 101"),
        ("an empty pass", "a pass over the batches brought 40 rows, the one before 101"),
        ("the init", "the init has failed"),
        ("a bad batch", r"x should have shape \(n_samples, 3\); got"),
        ("a bad batch later", r"x should have shape \(n_samples, 3\); got"),
    ],
)
def test_an_error_ends_all_ranks_with_its_message(
    name: str, message: str, ranks: list[dict[str, Any]]
) -> None:
    for result in ranks:
        kind, text = result[name]
        assert kind == "ValueError"
        assert re.search(message, text)
