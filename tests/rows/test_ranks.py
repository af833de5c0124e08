"""Promises over process groups: ranks together equal one process, and fail together."""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from kmeans_module import BatchLoader, EmptyClusterError, KMeansLayer
from kmeans_module.backends import workspace as prepare
from kmeans_module.core.seeding import INITS
from kmeans_module.core.statistics import ClusterStats
from kmeans_module.rows import Batch
from kmeans_module.rows import ranks as collective
from tests.conftest import blobs, seeded, weights_for
from tests.processes import run_ranks

GROUPS = {
    "two": [0.37],
    "three": [0.2, 0.81],
    "three, one without rows": [0.55, 0.55],
    "three, the first without rows": [0.0, 0.4],
}


@dataclass(frozen=True)
class Job:
    """A fit that one process and several should do alike."""

    init: Any = "k-means++"
    policy: str = "relocate"
    metric: str = "euclidean"
    weighted: bool = False
    batch_shape: tuple[int, ...] = ()
    n_init: int = 1
    dtype: torch.dtype = torch.float32
    n_clusters: int = 9
    max_iter: int = 30
    n_weighty: int = 101
    most: int | None = None

    def data(self) -> torch.Tensor:
        x = torch.stack([blobs(101, 3, seed=s) for s in range(2)]).to(self.dtype)
        return x if self.batch_shape else x[0]

    def run(self, part: slice, group: dist.ProcessGroup | None) -> dict[str, torch.Tensor]:
        x = self.data()
        weight = weights_for(x[0] if x.ndim == 3 else x) if self.weighted else None
        if weight is not None:
            weight[self.n_weighty :] = 0
        layer = KMeansLayer(
            self.n_clusters, 3, metric=self.metric, empty_cluster=self.policy,
            batch_shape=self.batch_shape, dtype=self.dtype,
        )  # fmt: skip
        found = layer.fit(
            x[..., part, :],
            init=self.init,
            max_iter=self.max_iter,
            n_init=self.n_init,
            sample_weight=None if weight is None else weight[part],
            max_points_per_centroid=self.most,
            generator=seeded(3),
            process_group=group,
        )
        assert torch.equal(found.labels, layer(x[..., part, :]))
        return {**found._asdict(), "centroids": layer.centroids, "counts": layer.counts}


def far_away(n_empty: int) -> torch.Tensor:
    return torch.cat([blobs(101, 3)[:4], torch.full((n_empty, 3), 900.0)])


def first_rows(x: torch.Tensor, k: int, generator: torch.Generator | None) -> torch.Tensor:
    assert x.shape[-2] == 101
    return x[..., :k, :]


def rows_by_chance(x: torch.Tensor, k: int, generator: torch.Generator | None) -> torch.Tensor:
    return x[..., torch.randperm(x.shape[-2], generator=generator)[:k], :]


JOBS = {
    **{f"{init}, {metric}": Job(init, metric=metric)
       for init in INITS for metric in ("euclidean", "cosine")},
    **{f"{init}, weighted": Job(init, weighted=True) for init in INITS},
    **{f"{policy}, {n} empty": Job(far_away(n), policy, n_clusters=4 + n)
       for policy in ("relocate", "split", "keep") for n in (1, 5, 80)},
    "relocate, weighted": Job(far_away(5), weighted=True),
    "batched": Job(batch_shape=(2,)),
    "restarts": Job("random", n_init=3),
    "restarts of a batch": Job("random", n_init=2, batch_shape=(2,)),
    "float64": Job(dtype=torch.float64),
    "one iteration": Job(max_iter=1),
    "no iterations": Job(max_iter=0),
    **{f"{init}, few weights": Job(init, weighted=True, n_weighty=6) for init in INITS},
    "a sample": Job(most=4),
    "a sample, weighted": Job(most=4, weighted=True),
    "a sample, few weights": Job(most=4, weighted=True, n_weighty=20),
    "a sample of a batch": Job(most=4, batch_shape=(2,), metric="cosine"),
    "a sample of halves": Job(most=4, dtype=torch.bfloat16),
    "callable": Job(first_rows),
    "callable, restarts of a batch": Job(rows_by_chance, batch_shape=(2,), n_init=2),
    "callable, batched, float64": Job(first_rows, batch_shape=(2,), dtype=torch.float64),
}  # fmt: skip


def shards(cuts: list[float], n: int) -> list[slice]:
    edges = [0, *(int(cut * n) for cut in cuts), n]
    return [slice(low, high) for low, high in itertools.pairwise(edges)]


def failing(rank: int, part: slice, group: dist.ProcessGroup) -> dict[str, Callable[[], object]]:
    """Calls that go wrong on one rank, or on all."""
    x = blobs(101, 3)
    spoilt, layer = x.clone(), KMeansLayer(9, 3)
    spoilt[90, 1] = torch.nan
    last = rank == dist.get_world_size(group) - 1
    keep = KMeansLayer(9, 3, empty_cluster="error")

    def fit(other: bool = False, init: Any = "k-means++", **options: Any) -> object:
        """A fit of a layer that may be another one on the last rank."""
        made = KMeansLayer(9 + (other and last), 3, **options)
        return made.fit(x[part], init=init, process_group=group)

    def prepare_and_fit() -> object:
        rows = layer.prepare(x[part], process_group=group)
        return layer.fit(rows, max_iter=5 + last)

    def own_error(rows: torch.Tensor, k: int, generator: object) -> torch.Tensor:
        raise ValueError("the init has failed")

    def own_callback(iteration: object) -> None:
        raise ValueError("the callback has failed")

    return {
        "the callback fails on the last rank": lambda: layer.fit(
            x[part], callback=own_callback if last else None, process_group=group
        ),
        "NaN on the last rank": lambda: layer.fit(spoilt[part], process_group=group),
        "bad shape on the last rank": lambda: layer.fit(
            x[part, :2] if last else x[part], process_group=group
        ),
        "bad weight on the last rank": lambda: layer.initialize(
            x[part],
            sample_weight=-torch.ones(len(x[part])) if last else None,
            process_group=group,
        ),
        "bad option on the last rank": lambda: layer.fit(
            x[part], max_iter=-1 if last else 5, process_group=group
        ),
        "bad init on the last rank": lambda: layer.fit(
            x[part], init=x[:3] if last else x[:9], process_group=group
        ),
        "the init fails on the first": lambda: layer.fit(
            x[part], init=own_error, process_group=group
        ),
        "other k": lambda: fit(other=True),
        "other metric": lambda: fit(metric="cosine" if last else "euclidean"),
        "other policy": lambda: fit(empty_cluster="keep" if last else "split"),
        "other dtype": lambda: fit(dtype=torch.float64 if last else torch.float32),
        "a tensor on one rank": lambda: fit(init=x[:9] if last else "k-means++"),
        "other rows": lambda: layer.fit(
            (x.double() if last else x)[part.start : part.stop + 1], process_group=group
        ),
        "rows of each problem": lambda: KMeansLayer(9, 3, batch_shape=(2,)).fit(
            x[part].expand(2, -1, -1) if last else x[part], process_group=group
        ),
        "prepared rows": prepare_and_fit,
        "other features": lambda: KMeansLayer(9, 3 - last).prepare(
            x[part, : 3 - last], process_group=group
        ),
        "too few rows": lambda: layer.fit(x[part][:1], process_group=group),
        "empty cluster": lambda: keep.fit(x[part], init=far_away(5), process_group=group),
    }


def work(rank: int, cuts: list[float], folder: str) -> None:
    torch.set_num_threads(1)
    world = len(cuts) + 1
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world,
        timeout=timedelta(seconds=90),
    )  # fmt: skip
    group = dist.group.WORLD
    assert group is not None
    part = shards(cuts, 101)[rank]
    found: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*clusters have no samples")
        for name, job in JOBS.items():
            found[name] = job.run(part, group)
        for name, call in failing(rank, part, group).items():
            with pytest.raises(ValueError) as caught:  # noqa: PT011
                call()
            found[name] = (caught.type.__name__, str(caught.value))
    found["some numbered"] = some_numbered(rank, part, group)
    found["stats"] = merged_stats(part, group)
    found["variance"] = variance(rank, part, group)
    found["shown"] = shown(part, group)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier(group)
    dist.destroy_process_group()


def shown(part: slice, group: dist.ProcessGroup | None) -> str:
    """What a fit that every rank asks to be verbose writes on this one."""
    with redirect_stderr(io.StringIO()) as written:
        KMeansLayer(9, 3).fit(blobs(101, 3)[part], verbose=True, seed=0, process_group=group)
    return written.getvalue()


def merged_stats(part: slice, group: dist.ProcessGroup | None) -> ClusterStats:
    x, start = blobs(101, 3), part.start
    step = prepare(x[part]).e_step(far_away(7).unsqueeze(0), start=start)
    return collective.all_sum_stats(step.stats, group)[0]


def some_numbered(rank: int, part: slice, group: dist.ProcessGroup | None) -> torch.Tensor:
    """Centroids where batches of the last rank have numbers, and those of others have none."""
    x: Any = blobs(101, 3)[part]
    if group is not None and rank == dist.get_world_size(group) - 1:
        x = BatchLoader(x, batch_size=20)
    layer = KMeansLayer(9, 3)
    layer.fit(x, generator=seeded(3), process_group=group)
    return layer.centroids


def variance(rank: int, part: slice, group: dist.ProcessGroup | None) -> torch.Tensor:
    """Two batches on every rank, in turn: ``start`` says their order."""
    x = blobs(101, 3)
    middle = (part.start + part.stop) // 2
    batches = [
        Batch(x[middle : part.stop], start=middle), Batch(x[part.start : middle], start=part.start)
    ]  # fmt: skip
    layer = KMeansLayer(9, 3)
    rows = layer.prepare(batches, process_group=group)
    layer.initialize(rows, generator=seeded(3))
    scale = rows.moments().variance
    return torch.cat([scale.view(1, 1).expand(1, 3), layer.centroids.double()])


EVERYDAY = ("two", "three, one without rows")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[] if name in EVERYDAY else [pytest.mark.slow]) for name in GROUPS
    ],
)
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What each rank found, and the shards."""
    cuts = GROUPS[request.param]
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(work, (cuts, str(folder)), len(cuts) + 1)
    found = [torch.load(Path(folder, f"{r}.pt"), weights_only=False) for r in range(len(cuts) + 1)]
    return found, shards(cuts, 101)


@pytest.mark.filterwarnings("ignore:.*clusters have no samples")
@pytest.mark.parametrize("name", JOBS)
def test_ranks_together_equal_one(name: str, ranks: Any) -> None:
    found, _ = ranks
    alone = JOBS[name].run(slice(None), None)
    results = [result[name] for result in found]
    assert torch.equal(torch.cat([r["labels"] for r in results], dim=-1), alone["labels"])
    for result in results:
        for field in ("centroids", "counts", "inertia", "n_iter", "converged", "history"):
            assert torch.equal(result[field], results[0][field]), field
        torch.testing.assert_close(result["inertia"], alone["inertia"], rtol=1e-9, atol=0)
        torch.testing.assert_close(result["history"], alone["history"], rtol=1e-9, atol=0)
        torch.testing.assert_close(result["centroids"], alone["centroids"], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(result["counts"], alone["counts"], rtol=1e-9, atol=0)
        assert torch.equal(result["n_iter"], alone["n_iter"])
        assert torch.equal(result["converged"], alone["converged"])


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("NaN on the last rank", "ValueError", "x should be finite; 1 row holds NaN .* row 90"),
        ("bad shape on the last rank", "ValueError", r"x should have shape \(n_samples, 3\); got"),
        ("bad weight on the last rank", "ValueError", "sample_weight should be >= 0"),
        ("bad option on the last rank", "ValueError", "max_iter should be >= 0; got -1"),
        ("bad init on the last rank", "ValueError", r"init should have shape \(9, 3\)"),
        ("the init fails on the first", "ValueError", "the init has failed"),
        ("the callback fails on the last rank", "ValueError", "the callback has failed"),
        ("other k", "ValueError", r"layer should be the same on all ranks; .*n_clusters=10"),
        ("other metric", "ValueError", r"layer should be the same on all ranks; .*cosine"),
        ("other policy", "ValueError", r"layer should be the same on all ranks; .*keep"),
        ("other dtype", "ValueError", r"dtype should be the same on all ranks; .*torch.float64"),
        ("a tensor on one rank", "ValueError", "init should be the same on all .*Tensor on rank"),
        ("other rows", "ValueError", "x should be alike on all ranks; they hold torch.float32 "),
        ("rows of each problem", "ValueError", "rows should be the same on all ranks; .*shared"),
        ("prepared rows", "ValueError", "max_iter should be the same on all ranks; it is 5 on"),
        ("other features", "ValueError", "n_features should be the same on all ranks; it is 3"),
        ("too few rows", "ValueError", r"n_samples=\d should be >= n_clusters=9"),
        ("empty cluster", "EmptyClusterError", "5 of 9 clusters have no samples"),
    ],
)
def test_an_error_ends_all_ranks_with_its_message(
    name: str, kind: str, message: str, ranks: Any
) -> None:
    found, _ = ranks
    for result in found:
        raised, text = result[name]
        assert raised == kind
        assert re.search(message, text)


def test_statistics_cross_ranks_unchanged(ranks: Any) -> None:
    found, _ = ranks
    alone = merged_stats(slice(0, 101), None)
    assert alone.farthest is not None
    for result in found:
        stats = result["stats"]
        torch.testing.assert_close(stats.sums, alone.sums, rtol=1e-14, atol=1e-12)
        assert torch.equal(stats.counts, alone.counts)
        torch.testing.assert_close(stats.inertia, alone.inertia, rtol=1e-14, atol=0)
        for ours, theirs in zip(stats.farthest, alone.farthest, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_batches_with_numbers_on_some_ranks_are_numbered_anew(ranks: Any) -> None:
    found, _ = ranks
    alone = some_numbered(0, slice(0, 101), None)
    for result in found:
        torch.testing.assert_close(result["some numbered"], alone, rtol=1e-6, atol=1e-6)


def test_several_batches_on_several_ranks_start_as_one(ranks: Any) -> None:
    found, _ = ranks
    alone = variance(0, slice(0, 101), None)
    for result in found:
        torch.testing.assert_close(result["variance"], alone, rtol=1e-6, atol=1e-6)


def test_only_the_first_rank_shows_the_fit(ranks: Any) -> None:
    first, *others = (result["shown"] for result in ranks[0])
    assert "seeding 9/9 centers" in first
    assert "converged after" in first
    assert not any(others)


def test_without_a_group_nothing_is_communicated() -> None:
    tensors = [torch.ones(2), torch.zeros(3)]
    assert all(a is b for a, b in zip(collective.all_sum(tensors, None), tensors, strict=True))
    assert collective.broadcast(tensors[0], None) is tensors[0]
    assert torch.equal(collective.all_gather(tensors[0], None), tensors[0].unsqueeze(0))
    assert (collective.rank(None), collective.world_size(None)) == (0, 1)
    with pytest.raises(EmptyClusterError), collective.errors_shared(None):
        raise EmptyClusterError
