"""Whole fits on a device: those of the CPU where they begin alike, and what they cost beside."""

from __future__ import annotations

import copy
import random
import warnings

import pytest
import torch
from torch import Tensor

from kmeans_module import FitResult, KMeansLayer
from tests.conftest import DEVICE, seeded
from tests.gpu.conftest import assert_nearest, needs_native, noise, on_cuda

N_FITS = 100 if DEVICE.type == "cuda" else 3


@pytest.fixture(params=["triton", "reference"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Everything by one backend after the other."""
    monkeypatch.setenv("KMEANS_KERNEL", request.param)
    return str(request.param)


def fitted(
    x: Tensor, k: int, init: Tensor | str, **options: object
) -> tuple[KMeansLayer, FitResult]:
    metric = str(options.pop("metric", "euclidean"))
    layer = KMeansLayer(k, x.shape[-1], metric=metric, device=x.device)
    return layer, layer.fit(x, init=init, **options)  # type: ignore[arg-type]


@needs_native
@pytest.mark.filterwarnings("ignore:.*clusters have no samples")
@pytest.mark.parametrize("seed", range(N_FITS))
def test_fits_from_the_same_centroids_have_the_bits_of_the_cpu(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    draw = random.Random(seed)
    many = DEVICE.type == "cuda"
    n, k = draw.randint(20, 5_000 if many else 40), draw.randint(1, 100 if many else 12)
    d = draw.choice((1, 2, 3, 8, 9, 16, 33, 64, 130, 260) if many else (2, 9, 20))
    x = noise(n, d, seed) * 10.0 ** draw.randint(-3, 3) + draw.choice((0.0, 0.0, 1_000.0))
    k = min(k, n)
    init = x[torch.randperm(n, generator=seeded(seed))[:k]]
    monkeypatch.setenv("KMEANS_KERNEL", "triton")
    here, on_device = fitted(x.to(DEVICE), k, init.to(DEVICE), max_iter=20 if many else 4)
    monkeypatch.setenv("KMEANS_KERNEL", "native")
    there, on_cpu = fitted(x, k, init, max_iter=20 if many else 4)
    assert on_device.labels is not None
    assert on_cpu.labels is not None
    assert torch.equal(on_device.labels.cpu(), on_cpu.labels)
    assert torch.equal(on_device.n_iter.cpu(), on_cpu.n_iter)
    assert torch.equal(here.centroids.cpu(), there.centroids)
    assert torch.equal(on_device.converged.cpu(), on_cpu.converged)
    torch.testing.assert_close(on_device.inertia.cpu(), on_cpu.inertia, rtol=1e-6, atol=1e-12)


@on_cuda
@pytest.mark.filterwarnings("ignore:.*clusters have no samples")
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("policy", ["relocate", "split", "keep"])
@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random"])
@pytest.mark.parametrize("n_init", [1, 3])
def test_labels_and_inertia_are_those_of_the_layer(
    kernel: str, metric: str, policy: str, init: str, n_init: int
) -> None:
    x = noise(500, 12).to(DEVICE)
    x[::10] = 0
    layer = KMeansLayer(20, 12, metric=metric, empty_cluster=policy, device=DEVICE)
    weight = torch.rand(500, generator=seeded()).to(DEVICE)
    found = layer.fit(
        x, init=init, n_init=n_init, max_iter=15, sample_weight=weight, generator=seeded()
    )
    assert found.labels is not None
    assert torch.equal(found.labels, layer(x))
    step = layer.e_step(x, weight)
    torch.testing.assert_close(found.inertia, step.stats.inertia, rtol=1e-6, atol=0)
    assert bool(layer.centroids.isfinite().all())
    assert int(found.labels.max()) < 20


@on_cuda
def test_a_million_rows(kernel: str) -> None:
    x = noise(1_000_000, 32).to(DEVICE)
    layer, found = fitted(x, 256, x[:256], max_iter=5)
    assert found.labels is not None
    assert_nearest(x, found.labels, layer.centroids)


@on_cuda
def test_a_fit_waits_for_the_device_at_most_four_times() -> None:
    x = noise(20_000, 32).to(DEVICE)
    init = x[:64].clone()
    fitted(x, 64, init, max_iter=20, tol=0.0)  # compiles
    rows = KMeansLayer(64, 32, device=DEVICE).prepare(x)  # looks for NaN
    layer = KMeansLayer(64, 32, device=DEVICE)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            layer.fit(rows, init=init, max_iter=20, tol=0.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    told = [str(w.message) for w in waits if "synchronizing CUDA operation" in str(w.message)]
    assert len(told) <= 4, told


@on_cuda
def test_memory_beside_the_data_is_one_copy_in_half_precision() -> None:
    n, d, k = 400_000, 128, 512
    x = noise(n, d).to(DEVICE)
    layer, init = KMeansLayer(k, d, device=DEVICE), x[:k].clone()
    layer.fit(x[:5_000], init=init, max_iter=2)
    masks = 160 << 20  # candidates of some rows at a time, whatever n is
    for rows, halves in ((x, 2 * n * d), (x.half(), 0)):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        layer.fit(rows, init=init, max_iter=4)
        used = torch.cuda.max_memory_allocated() - before
        assert used <= halves + masks + 200 * n + 200 * k * d


@on_cuda
@pytest.mark.parametrize("codes", [64, 1_024])
def test_quantizers_give_the_codes_of_the_cpu_and_never_wait(codes: int) -> None:
    quantization = pytest.importorskip("kmeans_module.quantization")
    torch.manual_seed(0)
    x = noise(4_096, 64)
    quantizer = quantization.VectorQuantizer(codes, 64)
    quantizer.train()
    quantizer(x)
    other = quantization.VectorQuantizer(codes, 64)
    other.load_state_dict(quantizer.state_dict())
    other.to(DEVICE).eval()
    assert torch.equal(other.encode(x.to(DEVICE)).cpu(), quantizer.eval().encode(x))
    other.train()
    on_device = x.to(DEVICE)
    other(on_device)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        other(on_device)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_cuda
def test_a_training_step_is_captured_by_a_graph() -> None:
    quantization = pytest.importorskip("kmeans_module.quantization")
    torch.manual_seed(0)
    x = noise(2_048, 32).to(DEVICE)
    quantizer = quantization.VectorQuantizer(256, 32, device=DEVICE)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            quantizer(x)
    torch.cuda.current_stream().wait_stream(stream)
    eager = copy.deepcopy(quantizer)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = quantizer(x).codes
    for _ in range(3):
        graph.replay()
        assert torch.equal(captured, eager(x).codes)
