"""Rows of half precision, integers and bool: the native kernel gives what x.float() gives."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kmeans_module import KMeansLayer
from kmeans_module import functional as F
from kmeans_module.backends.native import NativeWorkspace, calls
from kmeans_module.core.distances import compute_dtype, declared_dtype
from kmeans_module.layer.result import FitResult
from tests.backends.conftest import brute_force, needs_native
from tests.conftest import blobs, seeded

pytestmark = needs_native

HALF = [torch.float16, torch.bfloat16]
INTEGERS = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
UNSIGNED = [torch.uint16, torch.uint32, torch.uint64]  # that layers do not take

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "rows": lambda x: x,
    "columns": lambda x: x.T.contiguous().T,
    "gaps": lambda x: torch.cat([x, x], dim=1)[:, : x.shape[1]],
    "every other row": lambda x: x.repeat_interleave(2, 0)[::2],
    "unaligned": lambda x: torch.cat([x.flatten()[:1], x.flatten()])[1:].view(x.shape),
    "one row": lambda x: x[:1].expand(x.shape),
}


def rows_of(dtype: torch.dtype, n: int, d: int, seed: int = 0) -> Tensor:
    """Rows that the type can hold, some of them zero."""
    x = blobs(n, d, seed=seed)
    if dtype == torch.bool:
        return x > x.mean()
    x = x.abs() * 8 if dtype in UNSIGNED or dtype == torch.uint8 else x * 8
    x[3:5] = 0
    return (x if dtype.is_floating_point else x.clamp(-127, 127).round()).to(dtype)


def assert_same(found: object, expected: object, what: str) -> None:
    """Tensors of the same dtype and bits, in whatever tuples and dataclasses."""
    if isinstance(expected, Tensor):
        assert isinstance(found, Tensor)
        assert found.dtype == expected.dtype, what
        assert torch.equal(found, expected), what
    elif expected is None or isinstance(expected, bool):
        assert found is expected, what
    else:
        fields = getattr(expected, "_fields", None) or expected.__dataclass_fields__  # type: ignore[attr-defined]
        for name in fields:
            assert_same(getattr(found, name), getattr(expected, name), f"{what}.{name}")


def assert_same_searches(x: Tensor, same: Tensor, k: int, *, metric: str, weighted: bool) -> None:
    """Every operation of a workspace, several times over."""
    n = x.shape[-2]
    weight = torch.rand(n, generator=seeded(), dtype=torch.float64) if weighted else None
    start = same[torch.arange(k) * 7 % n].float()
    centroids = torch.stack([start, start + 0.1])
    one = NativeWorkspace(x, weight, metric=metric)
    other = NativeWorkspace(same, weight, metric=metric)
    for _ in range(4):
        if metric == "cosine":
            centroids = torch.nn.functional.normalize(centroids, dim=-1)
        expected = other.e_step(centroids)
        assert_same(one.e_step(centroids), expected, "e_step")
        assert_same(one.statistics(centroids), other.statistics(centroids), "statistics")
        assert_same(one.assign(centroids)[0], other.assign(centroids)[0], "assign")
        assert torch.equal(one.changed, other.changed)
        moved = expected.stats.sums / expected.stats.counts.clamp(min=1e-9).unsqueeze(-1)
        centroids = moved.to(centroids)
    assert one.dtype == same.dtype
    near = torch.full((2, n), torch.inf, dtype=same.dtype)
    same_near = near.clone()
    for c in range(min(k, 3)):
        for space, to in ((one, near), (other, same_near)):
            space.lower(to, centroids[:, c : c + 1].contiguous())
        assert_same(near, same_near, "lower")
        candidates = centroids[:, :16].contiguous()
        expected_sums = other.potentials(same_near, candidates)
        assert_same(one.potentials(near, candidates), expected_sums, "potentials")


@pytest.mark.parametrize("dtype", HALF + INTEGERS + UNSIGNED)
@pytest.mark.parametrize(("n", "d", "k"), [(1, 1, 1), (4_300, 3, 7), (700, 40, 20)])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_a_workspace_gives_the_bits_of_float32(
    instruction_set: str, dtype: torch.dtype, n: int, d: int, k: int, metric: str
) -> None:
    x = rows_of(dtype, n, d)
    assert_same_searches(x, x.float(), k, metric=metric, weighted=d == 3)


@settings(max_examples=40, deadline=None)
@given(
    dtype=st.sampled_from(HALF + INTEGERS + UNSIGNED), n=st.integers(1, 300),
    d=st.integers(1, 70), k=st.integers(1, 30), seed=st.integers(0, 99), weighted=st.booleans(),
    metric=st.sampled_from(["euclidean", "cosine"]), layout=st.sampled_from(list(LAYOUTS)),
)  # fmt: skip
def test_every_layout_gives_the_bits_of_float32(
    dtype: torch.dtype, n: int, d: int, k: int, seed: int, weighted: bool, metric: str, layout: str
) -> None:
    x = LAYOUTS[layout](rows_of(dtype, n, d, seed))
    assert_same_searches(x, x.float(), k, metric=metric, weighted=weighted)
    if metric == "euclidean":
        center = torch.randn(1, d, generator=seeded(), dtype=torch.float64)
        weight = torch.rand(n, generator=seeded()) if weighted else None
        for about in (None, center):
            expected = calls.moments(x.float(), weight, about, metric=metric)
            found = calls.moments(x, weight, about, metric=metric)
            for ours, theirs in zip(found, expected, strict=True):
                assert_same(ours, theirs, "moments")


@pytest.mark.parametrize("dtype", HALF + INTEGERS[:4] + UNSIGNED[:1])
@pytest.mark.parametrize("flushed", [False, True])
def test_every_number_is_converted_as_torch_does(
    instruction_set: str, dtype: torch.dtype, flushed: bool
) -> None:
    bits = torch.arange(256 if dtype.itemsize == 1 else 65_536)
    bits = bits.to(torch.uint8 if dtype.itemsize == 1 else torch.int16)
    # one row of all numbers; torch 2.8 cannot choose among those of uint16
    x = bits[bits.view(dtype).float().isfinite()].view(dtype).unsqueeze(0)
    expected = x.double()
    rows, one = x.T.contiguous(), torch.zeros(1, 1, 1)  # and rows of one number each
    torch.set_flush_denormal(flushed)  # of float32; those of half precision are none there
    try:
        low, high, sums = calls.moments(x, None, None, metric="euclidean")
        stats = NativeWorkspace(x).statistics(torch.zeros(1, 1, x.shape[1]))
        distances = NativeWorkspace(rows).e_step(one).distances
        squares = rows.float().T.square()
    finally:
        torch.set_flush_denormal(False)
    normal = (expected == 0) | (expected.abs() >= torch.finfo().tiny)
    for found in (low, high, sums.squeeze(0), stats.sums.flatten()):
        assert torch.equal(found[normal[0]], expected[normal])
    normal &= (expected == 0) | (expected.square() >= torch.finfo().tiny)
    assert torch.equal(distances[normal], squares[normal])


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize(("n", "d", "k"), [(4_300, 3, 7), (700, 40, 20)])
def test_integers_beyond_2_to_the_24_are_searched_in_float64(
    dtype: torch.dtype, n: int, d: int, k: int
) -> None:
    x = (rows_of(torch.int64, n, d).abs() + 2**24 - 1).to(dtype)
    assert compute_dtype(x, torch.float32) == torch.float64
    assert declared_dtype(x, torch.float32) == torch.float32
    assert_same_searches(x, x.double(), k, metric="euclidean", weighted=False)
    double = NativeWorkspace(x, dtype=torch.float64).dtype
    assert double == torch.float64
    for function in (F.assign, F.pairwise_distances, F.e_step):
        centroids = x[:k].double()
        if function is not F.pairwise_distances:
            centroids = centroids.float()
        found, expected = function(x, centroids), function(x.double(), centroids)
        assert_same(*(v[0] if isinstance(v, tuple) else v for v in (found, expected)), "labels")


@pytest.mark.parametrize(
    ("dtype", "limit"),
    [(torch.int32, 2**24), (torch.int64, -(2**24)), (torch.uint32, 2**24), (torch.uint64, 2**24)],
)
def test_the_largest_integers_of_float32_are_its_last(dtype: torch.dtype, limit: int) -> None:
    step = 1 if limit > 0 else -1
    for value, expected in ((limit, torch.float32), (limit + step, torch.float64)):
        assert compute_dtype(torch.tensor([[0], [value]], dtype=dtype), torch.float32) == expected
    most = torch.iinfo(dtype).max
    extremes = torch.tensor([[most], [most - 2**12]], dtype=torch.uint64).to(dtype)
    assert compute_dtype(extremes, torch.float32) == torch.float64
    assert compute_dtype(extremes[:0], torch.float32) == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, *HALF, *INTEGERS])
def test_rows_of_a_layer_of_float64_are_searched_in_it(dtype: torch.dtype) -> None:
    x = rows_of(dtype, 500, 11)
    init = x[::60][:7].double() + 1e-3 * torch.rand(7, 11, generator=seeded()).double()
    assert_same_fits(x, x.double(), init, dtype=torch.float64)


def assert_same_fits(
    x: Tensor, same: Tensor, init: str | Tensor, *, k: int = 7, dtype: torch.dtype = torch.float32,
    metric: str = "euclidean", weighted: bool = False, batch_shape: tuple[int, ...] = (),
) -> None:  # fmt: skip
    weight = torch.rand(x.shape[-2], generator=seeded()) if weighted else None
    outcomes: list[tuple[KMeansLayer, FitResult]] = []
    for rows in (x, same):
        layer = KMeansLayer(k, x.shape[-1], metric=metric, dtype=dtype, batch_shape=batch_shape)
        options = {"sample_weight": weight, "generator": seeded(), "max_iter": 20}
        outcomes.append((layer, layer.fit(rows, init=init, **options)))  # type: ignore[arg-type]
    (layer, found), (other, expected) = outcomes
    assert_same(found, expected, "fit")
    for name in ("centroids", "counts", "n_iter"):
        assert_same(getattr(layer, name), getattr(other, name), name)
    assert_same(layer(x), found.labels, "labels of the layer")
    if not weighted:
        step = layer.e_step(x)
        assert_same(step, layer.e_step(same), "e_step")
        assert_same(
            layer.m_step(step.stats, decay=1.0), other.m_step(step.stats, decay=1.0), "shift"
        )


@pytest.mark.filterwarnings("ignore:.* clusters have no samples")
@pytest.mark.parametrize("dtype", HALF + INTEGERS)
@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random", "tensor"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_a_fit_is_that_of_float32(dtype: torch.dtype, init: str, metric: str) -> None:
    for n, d, weighted in ((4_200, 5, False), (900, 30, True)):
        x = rows_of(dtype, n, d)
        start = x[5 : 5 + 7 * 50 : 50].float() + 0.1 if init == "tensor" else init
        assert_same_fits(x, x.float(), start, metric=metric, weighted=weighted)


@pytest.mark.filterwarnings("ignore:.* clusters have no samples")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("own", [False, True])
def test_problems_of_a_fit_are_those_of_float32(dtype: torch.dtype, own: bool) -> None:
    x = rows_of(dtype, 600, 6)
    x = torch.stack([x, x.flip(0)]) if own else x
    assert_same_fits(x, x.float(), "k-means++", batch_shape=(2,))
    assert_same_fits(x, x.float(), "random", batch_shape=(2,), weighted=True)


@pytest.mark.parametrize("dtype", [*HALF, torch.int16])
def test_batches_of_a_fit_are_those_of_float32(dtype: torch.dtype) -> None:
    x = rows_of(dtype, 600, 6)
    init = x[::90].float()
    for batches in (list, iter_again):
        layers = [KMeansLayer(7, 6) for _ in range(2)]
        for layer, rows in zip(layers, (x, x.float()), strict=True):
            layer.fit(batches(rows.split(150)), init=init)
        assert_same(layers[0].centroids, layers[1].centroids, "centroids")


class iter_again:
    """A stream: batches that nobody holds."""

    def __init__(self, batches: tuple[Tensor, ...]) -> None:
        self.batches = batches

    def __iter__(self) -> object:
        return iter(self.batches)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("of_layer", [torch.float32, *HALF])
def test_a_layer_of_half_precision_takes_the_nearest_centroid(
    dtype: torch.dtype, of_layer: torch.dtype
) -> None:
    x = rows_of(dtype, 400, 5)
    layer = KMeansLayer(9, 5, dtype=of_layer)
    result = layer.fit(x, generator=seeded())
    exact = brute_force(x, layer.centroids)
    found = exact.gather(1, layer(x).unsqueeze(1)).squeeze(1)
    assert (found <= exact.amin(dim=1) * (1 + 1e-6)).all()
    assert torch.equal(result.labels, layer(x))
    assert layer.e_step(x).distances.dtype == torch.float32


@pytest.mark.parametrize("dtype", HALF + INTEGERS[1:])
def test_an_outlier_costs_no_label(dtype: torch.dtype) -> None:
    x = torch.randn(300, 3, generator=seeded()) * 10
    most = 6e4 if dtype == torch.float16 else 1e6
    most = most if dtype.is_floating_point else min(float(torch.iinfo(dtype).max), 1e6)
    x = (x.abs() if dtype == torch.uint8 else x).to(dtype)
    x[7] = most
    layer = KMeansLayer(50, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = layer.fit(x, generator=seeded())
    exact = brute_force(x, layer.centroids)
    found = exact.gather(1, result.labels.unsqueeze(1)).squeeze(1)  # type: ignore[union-attr]
    assert (found <= exact.amin(dim=1) * (1 + 1e-5)).all()
    assert float(result.inertia) == pytest.approx(float(found.sum()), rel=1e-5)
    assert_same_fits(x, x.float(), "k-means++", k=50)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("d", [3, 40])
def test_half_precision_that_is_not_finite_is_refused(
    dtype: torch.dtype, value: float, d: int
) -> None:
    x = rows_of(dtype, 100, d)
    layer = KMeansLayer(4, d)
    layer.fit(x, generator=seeded())
    x[17, 2] = value
    for call in (layer, layer.e_step, layer.fit):
        with pytest.raises(ValueError, match="1 row holds NaN or infinity, the first is row 17"):
            call(x)


def test_compiled_steps_have_a_dtype_that_depends_on_no_values() -> None:
    layer = KMeansLayer(5, 3)
    layer.set_centroids(torch.arange(15.0).view(5, 3) * 1e4 + 2**24)
    x = layer.centroids.long()[torch.arange(40) % 5] + torch.arange(40).unsqueeze(1) % 3
    step = layer.e_step(x)
    assert step.distances.dtype == torch.float64
    compiled = torch.compile(layer.e_step, backend="aot_eager")(x)
    torch.compiler.reset()
    assert compiled.distances.dtype == torch.float32
    assert torch.equal(compiled.labels, step.labels)
    assert torch.equal(compiled.distances, step.distances.float())


def test_no_copy_of_all_rows_is_made() -> None:
    """The memory of a fit on top of the rows does not grow with a copy of them in float32."""
    code = """
import resource, torch
from kmeans_module import KMeansLayer
torch.set_num_threads(1)
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
layer = KMeansLayer(4, 1024)
init = torch.randn(4, 1024)
def work(x):
    layer.fit(x, init=init, max_iter=2)
    layer(x)
    layer.e_step(x)
work(torch.zeros(100, 1024, dtype=torch.DTYPE).random_(0, 9))
x = torch.ones(32_768, 1024, dtype=torch.DTYPE)
x[::3] = 0
before = peak()
work(x)
copy = 4 * x.numel()
assert peak() - before < copy / 4, (peak() - before, copy)
"""
    for dtype in ("bfloat16", "uint8"):
        subprocess.run([sys.executable, "-c", code.replace("DTYPE", dtype)], check=True)
