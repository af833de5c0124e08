"""Labels and sums of many rows on a device: those of the CPU, bit by bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kmeans_module import KMeansLayer, backends
from kmeans_module.backends.native import NativeWorkspace
from kmeans_module.backends.triton.workspace import TritonWorkspace
from tests.conftest import DEVICE
from tests.gpu.conftest import assert_nearest, few, needs_native, noise

SIZES = (
    (1_000_000, 2, 64), (1_000_000, 16, 100), (300_000, 128, 1_000), (100_000, 300, 500),
    (50_000, 770, 2_000), (20_000, 9, 20_000), (200_000, 100, 4_096), (5_000, 3_000, 300),
)  # fmt: skip


def problem(n: int, d: int, k: int, mean: float = 0.0) -> tuple[Tensor, Tensor]:
    """Rows (n, d) and centroids (1, k, d)."""
    x = noise(few(n), few(d, 300)) + mean
    return x, x[: few(k, 20)].unsqueeze(0).contiguous()


@pytest.mark.parametrize(("n", "d", "k"), SIZES)
@pytest.mark.parametrize("mean", [0.0, 1_000.0])
def test_no_centroid_is_nearer(n: int, d: int, k: int, mean: float) -> None:
    x, centroids = problem(n, d, k, mean)
    x = x.to(DEVICE)
    own = TritonWorkspace(x)
    for _ in range(2):
        stats = own.statistics(centroids.to(DEVICE), farthest=False)
        assert_nearest(x, own.labels[0], centroids[0])
        counts = torch.bincount(own.labels[0], minlength=centroids.shape[1])
        assert torch.equal(stats.counts[0], counts.double())
        kept = stats.counts.unsqueeze(-1) > 0
        centroids = (
            (stats.sums / stats.counts.unsqueeze(-1)).float().where(kept, centroids.to(DEVICE))
        )
    assert_nearest(x, TritonWorkspace(x, once=True).assign(centroids)[0][0], centroids[0])


@needs_native
@pytest.mark.parametrize(("n", "d", "k"), SIZES)
@pytest.mark.parametrize("mean", [0.0, 1_000.0])
def test_labels_and_sums_have_the_bits_of_the_cpu(n: int, d: int, k: int, mean: float) -> None:
    x, centroids = problem(n, d, k, mean)
    own, native = TritonWorkspace(x.to(DEVICE)), NativeWorkspace(x)
    for _ in range(2):
        a = own.statistics(centroids.to(DEVICE), farthest=False)
        b = native.statistics(centroids, farthest=False)
        assert torch.equal(own.labels.cpu(), native.labels)
        assert torch.equal(a.counts.cpu(), b.counts)
        assert torch.equal(a.sums.cpu(), b.sums)
        kept = b.counts.unsqueeze(-1) > 0
        centroids = (b.sums / b.counts.unsqueeze(-1)).float().where(kept, centroids)


@needs_native
@pytest.mark.parametrize(
    ("dtype", "metric"), [(torch.float16, "euclidean"), (torch.bfloat16, "cosine")]
)
@pytest.mark.parametrize("d", [6, 128, 400])
def test_half_precision_and_cosine(d: int, metric: str, dtype: torch.dtype) -> None:
    x = noise(few(100_000), d).to(dtype)
    centroids = torch.nn.functional.normalize(x[: few(500, 20)].float(), dim=-1).unsqueeze(0)
    own = TritonWorkspace(x.to(DEVICE), metric=metric)
    own.statistics(centroids.to(DEVICE), farthest=False)
    native = NativeWorkspace(x, metric=metric, dtype=torch.float32)
    assert torch.equal(own.labels.cpu(), native.assign(centroids)[0])


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.float32, "triton"), (torch.float16, "triton"), (torch.bfloat16, "triton"),
        (torch.uint8, "triton"), (torch.int8, "triton"), (torch.int32, "triton"),
        (torch.bool, "triton"), (torch.float64, "reference"),
    ],
)  # fmt: skip
def test_which_backend_serves_which_rows(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, name: str
) -> None:
    x = noise(few(3_000), 12)
    x = (x > 0 if dtype == torch.bool else (20 * x).abs().to(dtype)).to(DEVICE)
    if DEVICE.type == "cuda":
        monkeypatch.delenv("KMEANS_KERNEL", raising=False)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        assert backends.backend_for(x, wide).name == name
    elif name != "triton":
        return
    layer = KMeansLayer(8, 12, dtype=torch.float64 if name == "reference" else torch.float32)
    layer.to(DEVICE).fit(x, init=x[:8].to(layer.centroids), max_iter=3)
    assert_nearest(x, layer(x), layer.centroids)


def test_integers_beyond_float32_are_left_to_the_reference() -> None:
    x = torch.randint(1 << 26, (few(1_000), 5)).to(DEVICE)
    obstacle = backends.triton.BACKEND.obstacle(x, torch.float32)
    assert obstacle is not None
    assert "2^24" in obstacle
    assert "float64" in str(backends.triton.BACKEND.obstacle(x.double()))


def test_the_reference_serves_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMEANS_KERNEL", "reference")
    x = noise(few(5_000), 20).to(DEVICE)
    assert backends.backend_for(x).name == "reference"
    layer = KMeansLayer(16, 20).to(DEVICE)
    layer.fit(x, init=x[:16], max_iter=4)
    assert_nearest(x, layer(x), layer.centroids)
