"""The kernel computes the distance that decides, and normalizes, as csrc/README.md has it."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from kmeans_module.backends.native import NativeWorkspace
from kmeans_module.backends.native import workspace as native
from tests.backends.conftest import needs_native, use

pytestmark = needs_native

Array = NDArray[Any]
FUSING = ("avx2", "avx512")
DTYPES = {"float32": torch.float32, "float64": torch.float64}
MANY = (100, 128, 300, 1_000, 1_024, 1_025, 2_500)
FEATURES = {"float32": (*range(1, 41), *MANY), "float64": (1, 3, 8, 9, 15, 16, 17, 33, 1_025)}


def _exactly(a: float, b: float, c: float) -> float:
    return float(Fraction(a) * Fraction(b) + Fraction(c))  # which rounds once


def fused(a: Array, b: Array, c: Array) -> Array:
    """a·b + c, rounded once."""
    if a.dtype == np.float64:
        exactly: Array = np.frompyfunc(_exactly, 3, 1)(a, b, c).astype(np.float64)
        return exactly
    product, term = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)
    total = product + term
    part = total - product
    error = (product - (total - part)) + (term - part)
    # Rounded to odd, float64 tells float32 on which side of the middle of two numbers it is.
    even = (total.view(np.int64) & 1) == 0
    towards = np.where(error > 0, np.inf, -np.inf)
    total = np.where((error != 0) & even, np.nextafter(total, towards), total)
    return total.astype(np.float32)


def sum_of_squares(v: Array) -> Array:
    """Of the last axis."""
    d, shape = v.shape[-1], v.shape[:-1]
    if d <= 8:
        s = np.zeros(shape, v.dtype)
        for j in range(d):
            s = fused(v[..., j], v[..., j], s)
        return s
    total = np.zeros((*shape, 16), v.dtype)
    for begin in range(0, d, 1024):
        lane = np.zeros_like(total)
        for j in range(begin, min(begin + 1024, d), 16):
            some = v[..., j : min(j + 16, d)]
            lane[..., : some.shape[-1]] = fused(some, some, lane[..., : some.shape[-1]])
        total = total + lane
    for half in (8, 4, 2, 1):
        total = total[..., :half] + total[..., half : 2 * half]
    return total[..., 0]


def distances(x: Array, centroids: Array) -> Array:
    """(n, k)."""
    return sum_of_squares(x[:, None] - centroids)


def normalized(x: Array) -> Array:
    bits, digits, twice = (np.int32, 23, 254) if x.dtype == np.float32 else (np.int64, 52, 2046)
    m = np.abs(x).max(axis=-1, keepdims=True)
    exponent = np.clip(m.view(bits) >> digits, 1, twice - 1)
    p = ((twice - exponent) << digits).astype(bits).view(x.dtype)
    y = x * p
    norm = np.sqrt(sum_of_squares(y))[..., None]
    return y / np.where(m > 0, norm, x.dtype.type(1))


@pytest.fixture(params=FUSING)
def fusing(request: pytest.FixtureRequest) -> Any:
    if not use(request.param):
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    assert any(use(name) for name in ("avx512", "avx2"))


@cache
def between(dtype: str, d: int, scale: float) -> tuple[Array, Array, Array]:
    """Rows between two centroids, centroids, and their distances (n, k) in the written order."""
    generator = np.random.default_rng(d)
    centroids = (generator.standard_normal((9, d)) + 3).astype(dtype) * np.array(scale, dtype)
    a, b = generator.integers(0, 9, (2, 6 if dtype == "float64" else 40))
    x = centroids[a] + (centroids[b] - centroids[a]) / 2
    return x, centroids, distances(x, centroids)


def tensors(*arrays: Array) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(array) for array in arrays)


def same_bits(found: Tensor, expected: Array) -> None:
    assert torch.equal(found.squeeze(0), torch.from_numpy(expected))


def test_fused_rounds_once() -> None:
    one = np.float32(1) + np.float32(2.0**-12)  # whose square is just above a middle
    a = np.full(2, one, np.float32)
    c = np.array([2.0**-60, -(2.0**-60)], np.float32)
    found = fused(a, a, c) - np.float32(1)
    assert found.tolist() == [2.0**-11 + 2.0**-23, 2.0**-11]


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_between_centroids_get_the_distances_and_labels_of_the_written_order(
    fusing: str, dtype: str, scale: float
) -> None:
    for d in FEATURES[dtype]:
        if dtype == "float64" and d > 100 and scale != 1:
            continue
        *data, expected = between(dtype, d, scale)
        x, centroids = tensors(*data)
        step = NativeWorkspace(x).e_step(centroids.unsqueeze(0))
        same_bits(step.distances, expected.min(axis=1))
        same_bits(step.labels, expected.argmin(axis=1))
        labels, _ = NativeWorkspace(x).assign(centroids.unsqueeze(0))
        assert torch.equal(labels, step.labels)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("in_a_tree", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_seeding_measures_in_the_written_order(
    fusing: str, dtype: str, in_a_tree: bool, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "_LEAST_ROWS_TO_SORT", 1 if in_a_tree else 10**9)
    for d in (*range(1, 34), 100, 1_025) if dtype == "float32" else (1, 8, 9, 16, 23, 24):
        data, points, expected = between(dtype, d, 1.0)
        if metric == "cosine":
            points = normalized(points)
            expected = distances(normalized(data), points)
        x, centroids = tensors(data, points)
        rows = NativeWorkspace(x, metric=metric)
        near = torch.full((1, len(x)), torch.inf, dtype=x.dtype)
        for c in range(3):  # the first is measured by itself, the others were candidates
            rows.lower(near, centroids[None, c : c + 1])
            same_bits(near, expected[:, : c + 1].min(axis=1))
            found = rows.potentials(near, centroids[None, c + 1 : c + 4])
            for i in range(3):
                least = np.minimum(near[0].numpy(), expected[:, c + 1 + i])
                assert np.isclose(found[0, i].item(), least.sum(dtype=np.float64), rtol=1e-6)


def rows_of_lengths(dtype: str, d: int) -> Array:
    """Rows of all sizes, denormal and the largest ones too, and one of zeros."""
    x = np.random.default_rng(d).standard_normal((14, d))
    x /= np.abs(x).max(axis=1, keepdims=True)
    least, most = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    x[0] = 0
    scales = [1, 1, 3, 1e-3, 1e20, 1e-20, 1e-30, 4 * least, 1e3 * least, 1e5 * least]
    x *= np.array([*scales, most, most / 2, most / 5, np.finfo(dtype).tiny])[:, None]
    if d > 3:
        x[-4:-1, 3] = 1.2345e-3  # denormal, scaled
    return x.astype(dtype)


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_every_length_are_normalized_in_the_written_order(
    fusing: str, dtype: str, flushed: bool
) -> None:
    torch.set_flush_denormal(False)  # NumPy is to count them
    for d in (*range(1, 41), *MANY) if dtype == "float32" else (1, 2, 8, 9, 17, 300):
        data = rows_of_lengths(dtype, d)
        unit = normalized(data)
        others = normalized(np.random.default_rng(0).standard_normal((5, d)).astype(dtype))
        expected = distances(unit, others)
        x, centroids, points = tensors(data, unit, others)
        torch.set_flush_denormal(flushed)
        try:
            rows = NativeWorkspace(x, metric="cosine")
            own = rows.e_step(centroids.unsqueeze(0))
            step = NativeWorkspace(x, metric="cosine").e_step(points.unsqueeze(0))
        finally:
            torch.set_flush_denormal(False)
        assert own.distances[0].tolist() == [1.0] + 13 * [0.0], "the bits of the rows are these"
        if d > 1:
            same_bits(own.stats.sums, unit.astype(np.float64))
        expected[0] = [2, *np.full(4, np.inf)]  # a row of zeros has distance 1, label 0
        same_bits(step.distances, expected.min(axis=1) / 2)
        same_bits(step.labels, expected.argmin(axis=1))


def test_denormal_distances_count_on_every_thread() -> None:
    x = torch.randn(4_000, 40, generator=torch.Generator().manual_seed(0)) * 1e-20
    centroids = x[None, :300].clone()
    expected = NativeWorkspace(x).e_step(centroids)
    torch.set_flush_denormal(True)
    try:
        step = NativeWorkspace(x).e_step(centroids)
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(step.labels, expected.labels)
    assert torch.equal(step.distances, expected.distances)


def fuses(instruction_set: str) -> bool:
    """Whether a·b + c is rounded once: (1 + 2^-12)² + 2^-40 lies just above a middle."""
    if not use(instruction_set):
        return False
    x = torch.tensor([[2.0**-20, 1 + 2.0**-12]])
    distances = NativeWorkspace(x).e_step(torch.zeros(1, 1, 2)).distances
    return bool(distances.item() == 1 + 2.0**-11 + 2.0**-23)


def test_avx2_and_avx512_fuse() -> None:
    present = [name for name in FUSING if use(name)]
    assert [name for name in FUSING if fuses(name)] == present


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(
    ("n", "k", "d"), [(5_000, 50, 3), (5_000, 50, 16), (4_000, 50, 100), (12_000, 100, 128)]
)
def test_whole_searches_have_the_same_bits_on_every_processor_that_fuses(
    n: int, k: int, d: int, dtype: str, metric: str
) -> None:
    fusing = [name for name in ("baseline", *FUSING) if fuses(name)]
    if len(fusing) < 2:
        pytest.skip(f"of the instruction sets of this processor only {fusing} fuse")
    generator = torch.Generator().manual_seed(d)
    computed = torch.float64 if dtype == "float64" else torch.float32
    first = torch.randn(1, k, d, generator=generator, dtype=computed)
    if d == 128:  # of falling variance, so that searches measure along directions
        first /= torch.arange(1, d + 1)
    x = first[0, torch.randint(0, k, (2, n), generator=generator)].mean(dim=0)  # halfway
    x[1::2] = torch.nextafter(x[1::2], first[0, 0])  # nearly
    x = x.to(getattr(torch, dtype))
    path = [first]  # of the centroids, the same for all: sums of float64 are not exact
    found = []
    for name in fusing:
        use(name)
        rows = NativeWorkspace(x, metric=metric, dtype=computed)
        results = []
        for i in range(5):  # by bounds, too
            stats = rows.statistics(path[i])
            if len(path) == i + 1:
                sums, counts = stats.sums, stats.counts.clamp(min=1)
                path.append((sums / counts.unsqueeze(-1)).to(computed))
            results += [rows.labels.clone()] if dtype == "float64" else [stats.sums.clone()]
            if i in (0, 4):
                step = rows.e_step(path[i])
                results += [step.labels.clone(), step.distances.clone()]
        assert (rows.memories[0].directions is not None) == (d == 128)
        found.append(results)
    for results in found[1:]:
        for ours, theirs in zip(found[0], results, strict=True):
            assert torch.equal(ours, theirs)
