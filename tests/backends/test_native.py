"""The C++ kernel: exact, the same as the torch reference, and independent of how rows come."""

from __future__ import annotations

import importlib
import multiprocessing
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits
from torch import Tensor

from kmeans_module import KMeansLayer, backends
from kmeans_module.backends.native import NativeWorkspace, calls, interface, library, row_directions
from kmeans_module.backends.native.library import loaded
from kmeans_module.backends.native.memory import Memory
from kmeans_module.backends.reference import ReferenceWorkspace
from kmeans_module.core.distances import unit_rows
from tests.backends.conftest import (
    KINDS,
    brute_force,
    data_of,
    measure_along,
    needs_native,
    share_visited,
)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize(
    ("n", "d", "k"),
    [(0, 3, 2), (1, 1, 1), (7, 3, 5), (63, 2, 6), (65, 2, 7), (1000, 17, 33), (257, 200, 10)],
)
def test_equals_the_reference(
    instruction_set: str, n: int, d: int, k: int, metric: str, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(n + d + k)
    x = torch.randn(n, d, generator=generator, dtype=dtype)
    x[3:5] = 0
    centroids = torch.randn(2, k, d, generator=generator, dtype=dtype)
    if metric == "cosine":
        centroids = torch.nn.functional.normalize(centroids, dim=-1)
    weights = torch.rand(n, generator=generator, dtype=torch.float64)
    unaligned = torch.empty(n * d + 1, dtype=dtype)[1:].view(n, d).copy_(x)
    layouts = (x, x.T.contiguous().T, torch.cat([x, x], dim=1)[:, :d], unaligned, x.expand(2, n, d))
    for rows in layouts:
        for weight in (None, weights):
            expected = ReferenceWorkspace(rows, weight, metric=metric).e_step(centroids)
            step = NativeWorkspace(rows, weight, metric=metric).e_step(centroids)
            assert torch.equal(step.labels, expected.labels)
            close: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
            torch.testing.assert_close(step.distances, expected.distances, **close)
            torch.testing.assert_close(step.stats.sums, expected.stats.sums, **close)
            torch.testing.assert_close(step.stats.counts, expected.stats.counts)
            torch.testing.assert_close(step.stats.inertia, expected.stats.inertia, **close)
            labels, finite = NativeWorkspace(rows, weight, metric=metric).assign(centroids)
            assert torch.equal(labels, step.labels)
            assert finite


@needs_native
@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 300), d=st.integers(1, 70), k=st.integers(1, 40), seed=st.integers(0, 2**16),
    offset=st.sampled_from([0.0, 1.0, 1e3, 1e6]), scale=st.sampled_from([1e-3, 1.0, 1e4]),
)  # fmt: skip
def test_labels_are_those_of_a_float64_brute_force(
    n: int, d: int, k: int, seed: int, offset: float, scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator) * scale + offset
    centroids = torch.randn(k, d, generator=generator) * scale + offset
    step = NativeWorkspace(x).e_step(centroids.unsqueeze(0))
    exact = brute_force(x, centroids)
    found = exact.gather(1, step.labels[0].unsqueeze(1)).squeeze(1)
    assert (found <= exact.amin(dim=1) * (1 + 1e-5)).all()
    torch.testing.assert_close(step.distances[0].double(), found, rtol=1e-5, atol=0)


@needs_native
def test_a_label_depends_on_neither_batch_nor_threads(
    instruction_set: str, one_thread: None
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 3, (5_000, 9), generator=generator).float()  # ties everywhere
    centroids = torch.randint(0, 3, (1, 50, 9), generator=generator).float()
    whole = NativeWorkspace(x).e_step(centroids)
    exact = brute_force(x, centroids[0])
    first_nearest = (exact == exact.amin(dim=1, keepdim=True)).to(torch.uint8).argmax(dim=1)
    assert torch.equal(whole.labels[0], first_nearest), "ties go to the lowest index"
    for size in (1, 13, 64, 999):
        parts = [NativeWorkspace(rows).e_step(centroids) for rows in x[:2_000].split(size)]
        assert torch.equal(torch.cat([part.labels for part in parts], 1), whole.labels[:, :2_000])
        distances = torch.cat([part.distances for part in parts], 1)
        assert torch.equal(distances, whole.distances[:, :2_000])
    for threads in (2, 3, 8):
        torch.set_num_threads(threads)
        split = NativeWorkspace(x).e_step(centroids)
        assert torch.equal(split.labels, whole.labels)
        assert torch.equal(split.distances, whole.distances)
        again = NativeWorkspace(x).e_step(centroids)
        assert torch.equal(split.stats.sums, again.stats.sums), "the same bits every time"
        torch.testing.assert_close(split.stats.sums, whole.stats.sums)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("weighted", [False, True])
def test_seeding_measures_what_the_reference_does(
    instruction_set: str, metric: str, dtype: torch.dtype, weighted: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 1003, 7, generator=generator, dtype=dtype)
    candidates = torch.randn(2, 9, 7, generator=generator, dtype=dtype)
    near = torch.full((2, 1003), torch.inf, dtype=dtype)
    expected_near = near.clone()
    weights = torch.rand(2, 1003, generator=generator, dtype=torch.float64) if weighted else None
    native_one = NativeWorkspace(x, weights, metric=metric)
    reference = ReferenceWorkspace(x, weights, metric=metric)
    for center in candidates.split(1, dim=1):
        native_one.lower(near, center)
        reference.lower(expected_near, center)
        torch.testing.assert_close(near, expected_near, rtol=1e-4, atol=1e-5)
        found = native_one.potentials(near, candidates * 0.9)
        expected = reference.potentials(expected_near, candidates * 0.9)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    native_one.lower(near, x[:, 5:6] if metric == "euclidean" else candidates[:, :1])
    assert metric == "cosine" or (near[:, 5] == 0).all(), "a row is at distance 0 of itself"


@needs_native
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("metric", "dtype"),
    [("euclidean", torch.float32), ("euclidean", torch.float64), ("cosine", torch.float32)],
)
@pytest.mark.parametrize(
    ("n", "d", "k", "p"),
    [(2_500, 40, 150, 15), (2_101, 97, 33, 31), (700, 12, 9, 0), (1_500, 20, 60, 0)],
)
def test_a_workspace_never_changes_a_result(
    monkeypatch: pytest.MonkeyPatch, instruction_set: str, kind: str, metric: str,
    dtype: torch.dtype, n: int, d: int, k: int, p: int,
) -> None:  # fmt: skip
    """What bounds discard would not have won, whatever a workspace remembers."""
    measure_along(monkeypatch, p)
    check_workspace(data_of(kind, n, d, dtype), k, metric, exact=kind != "offset")


@needs_native
@pytest.mark.parametrize("kind", ["structured", "ties"])
@pytest.mark.parametrize("p", [0, 15])
def test_many_clusters_are_searched_part_by_part(
    monkeypatch: pytest.MonkeyPatch, instruction_set: str, kind: str, p: int
) -> None:
    measure_along(monkeypatch, p)
    check_workspace(data_of(kind, 2_600, 20, torch.float32), 1_100, "euclidean", exact=True)


def check_workspace(x: Tensor, k: int, metric: str, *, exact: bool) -> None:
    n, dtype = len(x), x.dtype
    whole_numbers = bool((x == x.round()).all())
    x[5] = 0
    weight = torch.rand(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    centroids = x[:: n // k][:k].unsqueeze(0).clone()
    if metric == "cosine":
        centroids = unit_rows(centroids)
    workspace = NativeWorkspace(x, weight, metric=metric)
    last = None
    for _ in range(6):
        step = workspace.e_step(centroids)
        fresh = NativeWorkspace(x, weight, metric=metric).e_step(centroids)
        assert torch.equal(step.labels, fresh.labels)
        assert torch.equal(step.distances, fresh.distances)
        assert torch.equal(step.stats.sums, fresh.stats.sums)
        labels, _ = NativeWorkspace(x, metric=metric).assign(centroids)
        assert torch.equal(labels, fresh.labels)
        assert int(workspace.changed) == (n if last is None else int((labels != last).sum()))
        last = labels
        rows = unit_rows(x.double()) if metric == "cosine" else x
        if exact or dtype == torch.float64:
            distances = brute_force(rows, centroids[0])
            found = distances.gather(1, labels[0].unsqueeze(1)).squeeze(1)
            nonzero = (x != 0).any(dim=1)
            assert (found <= distances.amin(dim=1) * (1 + 1e-5))[nonzero].all()
        moved = step.stats.sums / step.stats.counts.clamp(min=1e-9).unsqueeze(-1)
        centroids = moved.to(dtype).where(step.stats.counts.unsqueeze(-1) > 0, centroids)
        if whole_numbers:
            centroids = centroids.round()
        if metric == "cosine":
            centroids = unit_rows(centroids)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_long_centroid_is_not_taken_for_a_nearer_one(
    instruction_set: str, dtype: torch.dtype
) -> None:
    """Scores alone leave a distance open by a share of the norms of both, row and centroid."""
    x = torch.zeros(1, 40, dtype=dtype)
    x[0, 0] = 0.5
    for more in (1e-5, 3e-5, 1e-4, 3e-4, 1e-3):
        centroids = torch.zeros(1, 16, 40, dtype=dtype)
        centroids[0, 0, 0], centroids[0, 1, 0] = 2 + more, -1
        centroids[0, 2:, 0] = -(1 + more) / 14
        centroids[0, 2::2, 1:8] = 100 * torch.eye(7, dtype=dtype)
        centroids[0, 3::2, 1:8] = -100 * torch.eye(7, dtype=dtype)
        assert NativeWorkspace(x).assign(centroids)[0].item() == 1


@needs_native
def test_bounds_are_lowered_where_nothing_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, instruction_set: str
) -> None:
    """What centroids have moved is taken off the bounds of settled rows too."""
    measure_along(monkeypatch, 15)
    generator = torch.Generator().manual_seed(0)
    places = 2 * torch.randn(16, 40, generator=generator)
    x = places.repeat_interleave(128, 0) + 1e-3 * torch.randn(2_048, 40, generator=generator)
    axes = torch.eye(40)

    def check(own: Tensor, other: float) -> Tensor:
        centroids = torch.cat([places + own * axes[0], places + other * axes[1]]).unsqueeze(0)
        labels = workspace.e_step(centroids).labels
        assert torch.equal(labels, NativeWorkspace(x).e_step(centroids).labels)
        return labels

    workspace = NativeWorkspace(x)
    own = torch.ones(16, 1)
    for distance in (1.0, 1.0, 1.0, 0.9, 0.7, 0.5, 0.3, 0.1):
        check(distance * own, 1.5)
    for tenths in range(15, 4, -1):  # the others come closer; no row looks at them
        assert (check(0.1 * own, tenths / 10) < 16).all()
    own[1:] = 0.1
    assert (check(own, 0.5)[:, :128] == 16).all()


@needs_native
def test_distances_that_only_double_precision_can_add_up_are_assigned() -> None:
    x = torch.randn(2_000, 40, generator=torch.Generator().manual_seed(0)) * 6e17
    centroids = x[None, :50].clone()
    labels, finite = NativeWorkspace(x).assign(centroids)
    assert finite
    assert torch.equal(labels, NativeWorkspace(x).e_step(centroids).labels)
    assert not x.square().sum(1).sum().isfinite(), "in single precision they overflow"


@needs_native
@pytest.mark.parametrize("d", [3, 24])
@pytest.mark.parametrize("with_sums", [(0, 1, 1), (1, 0, 1, 0, 0, 1), (1, 1, 0, 1, 1, 0)])
def test_changes_are_counted_whatever_calls_are_mixed(d: int, with_sums: tuple[int, ...]) -> None:
    """Calls that ask for no sums may keep no labels, and none that others would take for theirs."""
    x = data_of("blobs", 900, d, torch.float32)
    centroids, before = x[:40].clone(), torch.zeros(len(x), dtype=torch.int64)
    labels, counts = before.clone(), torch.zeros(40, dtype=torch.float64)
    sums, inertia = torch.zeros(40, d, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    changed, memory = torch.zeros(1, dtype=torch.int64), Memory(keep=True, sort=True)
    for call, sums_too in enumerate(with_sums):
        result = interface.ResultStruct(
            labels.data_ptr(), 0, sums.data_ptr() if sums_too else 0,
            counts.data_ptr() if sums_too else 0, inertia.data_ptr(), changed.data_ptr(), call > 0,
        )  # fmt: skip
        rows = calls.rows_struct(x, None, "euclidean", torch.float32)
        assert not loaded().km_e_step(rows, centroids.data_ptr(), 40, result, memory.handle, 2)
        expected = NativeWorkspace(x).e_step(centroids[None])
        assert torch.equal(labels, expected.labels[0])
        assert changed.item() == (len(x) if call == 0 else int((labels != before).sum()))
        if sums_too:
            torch.testing.assert_close(sums, expected.stats.sums[0], rtol=1e-9, atol=1e-9)
            assert torch.equal(counts, expected.stats.counts[0])
        before = labels.clone()
        centroids += 0.2 * torch.randn(40, d)


@needs_native
@pytest.mark.parametrize("d", [3, 24])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32])
def test_rows_may_begin_anywhere_in_a_buffer(d: int, dtype: torch.dtype) -> None:
    """The kernels read whole numbers, at addresses that are multiples of their size."""
    rows = (20 * data_of("noise", 300, d, torch.float32)).to(dtype)
    buffer = bytearray(1) + bytearray(rows.numpy().tobytes())
    x = torch.frombuffer(buffer, dtype=dtype, offset=1).view(-1, d)
    assert x.data_ptr() % x.element_size()
    centroids = rows[None, :20].to(torch.float64 if dtype == torch.float64 else torch.float32)
    odd, expected = NativeWorkspace(x), NativeWorkspace(rows)
    assert odd.x.data_ptr() % x.element_size() == 0
    first, second = odd.e_step(centroids), expected.e_step(centroids)
    assert torch.equal(first.labels, second.labels)
    assert torch.equal(first.distances, second.distances)
    assert NativeWorkspace(rows).x is rows  # no copy of others
    for one, other in zip(
        calls.moments(x, None, None, metric="euclidean"),
        calls.moments(rows, None, None, metric="euclidean"),
        strict=True,
    ):
        assert torch.equal(one, other)


@needs_native
def test_centroids_may_begin_anywhere_in_a_buffer() -> None:
    centroids = data_of("noise", 20, 24, torch.float32)
    buffer = bytearray(1) + bytearray(centroids.numpy().tobytes())
    odd = torch.frombuffer(buffer, dtype=torch.float32, offset=1).view(1, -1, 24)
    handed = calls.kernel_centroids(odd, 24, torch.float32)
    assert handed.data_ptr() % 4 == 0
    assert torch.equal(handed[0], centroids)


@needs_native
def test_a_workspace_serves_other_centroids_too() -> None:
    x = data_of("structured", 3_000, 40, torch.float32)
    workspace = NativeWorkspace(x)
    for k in (50, 50, 20, 7, 50):
        centroids = x[torch.randperm(len(x))[:k]].unsqueeze(0).clone()
        labels = NativeWorkspace(x).e_step(centroids).labels
        assert torch.equal(workspace.e_step(centroids).labels, labels)


@needs_native
def test_what_is_kept_survives_calls_that_do_not_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_directions, "worthwhile", lambda n, k, d, **_: k >= 32)
    x = data_of("structured", 3_000, 192, torch.float32)
    few, many = x[:20].unsqueeze(0).clone(), x[::60].unsqueeze(0).clone()
    labels = {len(c[0]): NativeWorkspace(x).e_step(c).labels for c in (few, many)}

    workspace = NativeWorkspace(x)
    workspace.e_step(many * 1e19)  # bounds would overflow: nothing is measured
    assert torch.equal(workspace.e_step(many).labels, labels[50])

    workspace = NativeWorkspace(x)
    workspace.e_step(few)  # bounds from all features
    workspace.potentials(torch.ones(1, len(x)), many[:, :8])  # now along few directions
    assert workspace.memories[0].directions is not None
    assert torch.equal(workspace.e_step(few).labels, labels[20])
    assert torch.equal(
        workspace.e_step(few * 1.01).labels, NativeWorkspace(x).e_step(few * 1.01).labels
    )


@needs_native
def test_bounds_discard_most_centroids_of_structured_data() -> None:
    x = data_of("blobs", 20_000, 64, torch.float32)
    workspace, centroids = NativeWorkspace(x), x[:200].unsqueeze(0).clone()
    for _ in range(8):
        step = workspace.e_step(centroids)
        share = share_visited(workspace.memories[0])
        centroids = (step.stats.sums / step.stats.counts.unsqueeze(-1)).float()
    assert share < 0.3


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize(("m", "weighted"), [(5, False), (8, True), (21, False)])
def test_seeding_by_bounds_measures_what_the_reference_does(
    monkeypatch: pytest.MonkeyPatch, instruction_set: str, metric: str, dtype: torch.dtype,
    m: int, weighted: bool,
) -> None:  # fmt: skip
    measure_along(monkeypatch, 31)
    x = data_of("structured", 2_500, 60, dtype)
    weights = torch.rand(1, 2_500, dtype=torch.float64) if weighted else None
    native_one = NativeWorkspace(x, weights, metric=metric)
    reference = ReferenceWorkspace(x, weights, metric=metric)
    near = torch.full((1, 2_500), torch.inf, dtype=dtype)
    expected_near = near.clone()
    native_one.lower(torch.empty_like(near), x[None, :1])  # before the directions are known
    for step in range(6):
        candidates = x[torch.arange(m) * 31 + step].unsqueeze(0)
        if metric == "cosine":
            candidates = torch.nn.functional.normalize(candidates, dim=-1)
        found = native_one.potentials(near, candidates)
        expected = reference.potentials(expected_near, candidates)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        center = candidates[:, step % m : step % m + 1]
        native_one.lower(near, center)
        reference.lower(expected_near, center)
        torch.testing.assert_close(near, expected_near, rtol=1e-4, atol=2e-5)
    assert native_one.memories[0].directions is not None, "bounds were used"


@needs_native
@pytest.mark.parametrize("d", [2, 40])
def test_seeding_that_starts_again_in_the_same_memory_starts_from_nothing(d: int) -> None:
    x = torch.randn(500, d)
    workspace = NativeWorkspace(x)
    near, candidates = torch.rand(1, 500), x[None, :5].clone()
    workspace.potentials(near, candidates)
    again = near.view_as(near).fill_(torch.inf)
    workspace.lower(again, candidates[:, :1])
    torch.testing.assert_close(again.double(), brute_force(x, x[:1]).T, rtol=1e-4, atol=1e-5)


@needs_native
def test_directions_of_seeding_are_not_those_of_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    measure_along(monkeypatch, 15)
    x = data_of("structured", 2_500, 60, torch.float32)
    workspace = NativeWorkspace(x)
    workspace.potentials(torch.ones(1, 2_500), x[None, :5].clone())
    assert workspace.memories[0].directions is not None
    monkeypatch.setattr(row_directions, "find_directions", lambda *_, **__: None)
    centroids = x[None, :40].clone()
    labels = workspace.e_step(centroids).labels
    assert workspace.memories[0].directions is None
    assert torch.equal(labels, NativeWorkspace(x).e_step(centroids).labels)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "d"), [(3, 7), (1_000, 2), (1_000, 7), (1_001, 16), (77, 130)])
def test_spread_says_what_torch_says(
    instruction_set: str, dtype: torch.dtype, weighted: bool, n: int, d: int
) -> None:
    x = torch.randn(n, d, dtype=dtype) * 3 + 50
    weight = torch.arange(n).remainder(3).double() if weighted else None
    counted = x.double() if weight is None else x.double()[weight > 0]
    for rows in (x, x.T.contiguous().T, torch.cat([x, x], dim=1)[:, :d]):
        low, high, sums = calls.moments(rows, weight, None, metric="euclidean")
        assert torch.equal(low, x.double().amin(0))
        assert torch.equal(high, x.double().amax(0))
        torch.testing.assert_close(sums, counted.sum(0, keepdim=True))
        mean = counted.mean(0, keepdim=True)
        squares = calls.moments(rows, weight, mean, metric="euclidean")[2]
        torch.testing.assert_close(squares, (counted - mean).square().sum(0, keepdim=True))
    for wrong in (torch.nan, torch.inf):
        for row in (0, n // 2, n - 1):
            broken = x.clone()
            broken[row, d // 2] = wrong
            finite = calls.moments(broken, weight, None, metric="euclidean")[2][0].isfinite()
            assert finite.sum() == d - 1
            assert not finite[d // 2]


@needs_native
@pytest.mark.parametrize("kind", ["structured", "noise", "blobs"])
def test_the_inertia_takes_the_course_of_scikit_learn(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(row_directions, "worthwhile", lambda n, k, d, **_: True)
    x = data_of(kind, 3_000, 48, torch.float32)
    init = x[::60].clone()
    found = KMeansLayer(len(init), 48).fit(x, init=init, tol=0, max_iter=6)
    for iteration in range(1, 7):
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = KMeans(len(init), init=init.numpy(), n_init=1, tol=0, max_iter=iteration)
            expected = model.fit(x.double().numpy()).inertia_
        step = min(iteration, len(found.history) - 1)
        assert float(found.history[step]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@needs_native
def test_rows_beyond_2_to_the_31_numbers_are_found() -> None:
    n, d = 2_100, 1 << 20  # zeros that were never written take no memory
    x = torch.zeros(n, d)
    x[-1] = 1
    centroids = torch.stack([torch.zeros(d), torch.ones(d)]).unsqueeze(0)
    step = NativeWorkspace(x).e_step(centroids)
    assert step.labels[0].nonzero().tolist() == [[n - 1]]
    assert step.stats.counts.tolist() == [[n - 1, 1]]
    assert torch.equal(step.stats.sums[0], centroids[0].double())


@needs_native
def test_nan_and_overflow_are_seen() -> None:
    centroids = torch.zeros(1, 2, 3)
    for bad in (torch.nan, torch.inf, 1e30):
        x = torch.randn(100, 3)
        x[70, 1] = bad
        assert not NativeWorkspace(x).e_step(centroids).stats.inertia.isfinite()
        assert not NativeWorkspace(x).assign(centroids)[1]


@needs_native
def test_mixed_precision_is_searched_in_the_wider_one() -> None:
    x, centroids = torch.randn(50, 3), torch.randn(1, 4, 3, dtype=torch.float64)
    step = backends.workspace(x, dtype=torch.float64).e_step(centroids)
    assert step.distances.dtype == torch.float64
    assert torch.equal(step.labels, ReferenceWorkspace(x.double()).e_step(centroids).labels)


@needs_native
def test_centroids_that_would_be_rounded_are_refused() -> None:
    space, centroids = NativeWorkspace(torch.randn(50, 3)), torch.randn(1, 4, 3).double()
    message = r"rows are searched in torch\.float32, centroids are torch\.float64"
    for call in (space.e_step, space.statistics, space.assign):
        with pytest.raises(TypeError, match=message):
            call(centroids)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_centroids_of_less_precision_are_measured_in_that_of_the_rows(dtype: torch.dtype) -> None:
    x, centroids = torch.randn(50, 3).double(), torch.randn(1, 4, 3).to(dtype)
    space = backends.workspace(x, dtype=dtype)
    assert isinstance(space, NativeWorkspace)
    step = space.e_step(centroids)
    assert step.distances.dtype == torch.float64
    assert torch.equal(step.labels, ReferenceWorkspace(x).e_step(centroids).labels)


@needs_native
def test_autocast_does_not_reach_the_search_for_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    few = torch.randn(9_000, 6, generator=generator) @ torch.randn(6, 96, generator=generator)
    x = few + 0.3 * torch.randn(9_000, 96, generator=generator) + 50
    centroids = x[None, :160].clone()
    expected = NativeWorkspace(x).e_step(centroids).labels
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(NativeWorkspace(x).e_step(centroids).labels, expected)
        assert torch.equal(NativeWorkspace(x).assign(centroids)[0], expected)


def _labels_in_child(x: Tensor, centroids: Tensor, answer: Any) -> None:
    answer.put(NativeWorkspace(x).e_step(centroids).labels.tolist())


@needs_native
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_works_after_fork_and_beside_torchs_threads() -> None:
    x, centroids = torch.randn(20_000, 4), torch.randn(1, 30, 4)
    expected = NativeWorkspace(x).e_step(centroids).labels.tolist()
    (x @ x[:100].T).sum()  # starts torch's own threads
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    child = context.Process(target=_labels_in_child, args=(x, centroids, answer))
    child.start()
    assert answer.get() == expected
    child.join()
    assert child.exitcode == 0


@needs_native
def test_a_child_forked_before_the_library_was_loaded_does_not_hang() -> None:
    code = """
import os, warnings, torch
from kmeans_module.backends.native import NativeWorkspace
warnings.simplefilter("ignore")
torch.set_num_threads(2)
x, centroids = torch.randn(20_000, 4), torch.randn(1, 30, 4)
(x @ x[:500].T).sum()  # starts torch's own threads
child = os.fork()
if not child:
    NativeWorkspace(x).e_step(centroids)
    os._exit(0)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


def test_without_the_kernel_the_torch_path_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The package's attribute of this name is the function.
    module = importlib.import_module("kmeans_module.backends.native.library")
    monkeypatch.setattr(module, "LIBRARY", module.LIBRARY.with_name("missing.so"))
    library.cache_clear()
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            x = torch.randn(100, 3)
            assert isinstance(backends.workspace(x), ReferenceWorkspace)
            assert not isinstance(backends.workspace(x), NativeWorkspace)
            layer = KMeansLayer(4, 3)
            assert torch.equal(layer.fit(x).labels, layer(x))
        assert len(said) == 1, "said once"
        assert "torch alone serves" in str(said[0].message)
    finally:
        library.cache_clear()
