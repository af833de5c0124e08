"""Promises of layer.search: the m nearest centroids, by the sum that decides in E-steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from kmeans_module import KMeansLayer, Neighbors, NotInitializedError
from kmeans_module import functional as F
from kmeans_module.arrays import as_tensor
from kmeans_module.backends import neighbors
from kmeans_module.backends.native import calls
from kmeans_module.core import distances
from tests.conftest import brute_force, seeded

KINDS = ("plain", "duplicates", "offset", "integers", "outliers", "scales", "tiny")


def problem(
    kind: str, n: int, d: int, k: int, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Samples (n, d) and centroids (k, d) that tie, cancel, overflow products or underflow."""
    generator = seeded(seed + n + d + k)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    centroids = x[torch.randint(n, (k,), generator=generator)]
    centroids = centroids + 0.3 * torch.randn(k, d, generator=generator, dtype=torch.float64)
    x[0] = 0
    if kind == "duplicates":
        centroids = centroids[torch.randint(k, (k,), generator=generator)]
    elif kind == "offset":
        x, centroids = x + 1e4, centroids + 1e4
    elif kind == "integers":
        x, centroids = (3 * x).round(), (3 * centroids).round()
    elif kind == "outliers":
        x[::7] *= 1e6
        centroids[::5] *= 1e5
    elif kind == "scales":
        scale = 10 ** torch.linspace(-4, 4, d, dtype=torch.float64)
        x, centroids = x * scale, centroids * scale
    elif kind == "tiny":
        x, centroids = x * 1e-15, centroids * 1e-15
    centroids[(centroids == 0).all(dim=-1)] = 1
    return x.to(dtype), centroids.to(dtype)


def assert_nearest(x: Tensor, layer: KMeansLayer, m: int) -> Neighbors:
    """What is found is what an E-step finds first, and then the nearest, within rounding."""
    found, step = layer.search(x, m), layer.e_step(x)
    assert found.labels.shape == found.distances.shape == (*step.labels.shape, m)
    assert found.labels.dtype == torch.int64
    assert torch.equal(found.labels[..., 0], layer(x))
    assert torch.equal(found.distances[..., 0], step.distances)
    rows = x.double()
    if layer.metric == "cosine":
        lengths = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        rows = rows / lengths.where(lengths > 0, 1.0)
    centroids = layer.centroids.double()
    apart = brute_force(rows, centroids)
    if layer.metric == "cosine":
        apart = (apart / 2).where((x != 0).any(dim=-1, keepdim=True), 1.0)
    eps = 8 * x.shape[-1] * torch.finfo(found.distances.dtype).eps
    sizes = rows.abs().amax() + centroids.abs().amax() if layer.metric == "cosine" else 0
    expected = apart.sort(dim=-1).values[..., :m]
    torch.testing.assert_close(
        found.distances.double(), expected, rtol=2 * eps, atol=eps * float(sizes)
    )
    chosen = apart.gather(-1, found.labels)
    torch.testing.assert_close(chosen, expected, rtol=2 * eps, atol=eps * float(sizes))
    steps, up = found.distances.diff(dim=-1), found.labels.diff(dim=-1) > 0
    assert (steps >= 0).all()
    assert (up | (steps > 0)).all(), "ties go to the lowest index"
    assert (found.labels.sort(dim=-1).values.diff(dim=-1) > 0).all()
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_nearest_are_found_whatever_the_data(
    kind: str, metric: str, dtype: torch.dtype, kernel: str
) -> None:
    for n, d, k, m in (
        (50, 1, 6, 3),
        (40, 8, 33, 5),
        (40, 9, 20, 20),
        (30, 40, 130, 64),
        (20, 17, 90, 70),
    ):
        x, centroids = problem(kind, n, d, k, dtype)
        assert_nearest(x, KMeansLayer.from_centroids(centroids, metric=metric), m)


@given(
    kind=st.sampled_from(KINDS), metric=st.sampled_from(["euclidean", "cosine"]),
    n=st.integers(1, 30), d=st.integers(1, 40), k=st.integers(1, 200), share=st.floats(0, 1),
    dtype=st.sampled_from([torch.float32, torch.float64]), seed=st.integers(0, 999),
)  # fmt: skip
def test_any_number_of_the_nearest_is_found(
    kind: str, metric: str, n: int, d: int, k: int, share: float, dtype: torch.dtype, seed: int
) -> None:
    x, centroids = problem(kind, n, d, k, dtype, seed)
    layer = KMeansLayer.from_centroids(centroids, metric=metric)
    assert_nearest(x, layer, 1 + int(share * (k - 1)))


def test_neighbors_of_a_hand_computed_case(kernel: str) -> None:
    layer = KMeansLayer.from_centroids([[0.0], [4.0], [4.0], [-2.0]])
    found = layer.search(torch.tensor([[0.0], [3.0], [1.0]]), 3)
    assert found.labels.tolist() == [[0, 3, 1], [1, 2, 0], [0, 1, 2]]
    assert found.distances.tolist() == [[0, 4, 16], [1, 1, 9], [1, 9, 9]]
    whole = layer.search(torch.tensor([[1.0]]), 4)
    assert whole.labels.tolist() == [[0, 1, 2, 3]]  # 1, then three at distance 9


@pytest.mark.parametrize("size", [1e25, 2e38])
@pytest.mark.parametrize("d", [3, 12])
def test_centroids_so_far_that_products_overflow_hide_no_other(
    d: int, size: float, kernel: str
) -> None:
    x = torch.randn(40, d, generator=seeded())
    centroids = x[:20].clone()
    far = [1, 3, 7, 8, 12, 19]
    centroids[far] = size * centroids[far].sign()
    near = torch.tensor([c for c in range(20) if c not in far])
    found = KMeansLayer.from_centroids(centroids).search(x, 5)
    alone = KMeansLayer.from_centroids(centroids[near]).search(x, 5)
    assert torch.equal(found.labels, near[alone.labels])
    assert torch.equal(found.distances, alone.distances)


def test_a_zero_row_has_the_first_centroids_under_the_cosine_metric(kernel: str) -> None:
    layer = KMeansLayer.from_centroids(torch.eye(4), metric="cosine")
    found = layer.search(torch.zeros(1, 4), 3)
    assert found.labels.tolist() == [[0, 1, 2]]
    assert found.distances.tolist() == [[1, 1, 1]]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bfloat16, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32],
)
def test_halves_and_integers_are_searched_as_float32(
    dtype: torch.dtype, metric: str, kernel: str
) -> None:
    x = (3 * torch.randn(60, 12, generator=seeded())).to(dtype)
    layer = KMeansLayer.from_centroids(torch.randn(9, 12, generator=seeded(1)), metric=metric)
    found, expected = layer.search(x, 4), layer.search(x.float(), 4)
    assert torch.equal(found.labels, expected.labels)
    assert torch.equal(found.distances, expected.distances)


def test_large_integers_are_searched_in_float64(kernel: str) -> None:
    x = torch.tensor([[2**25 + 1], [2**25 + 3]])
    layer = KMeansLayer.from_centroids(torch.tensor([[2.0**25], [2.0**25 + 4]]))
    found = assert_nearest(x, layer, 2)
    assert found.labels.tolist() == [[0, 1], [1, 0]]
    assert found.distances.dtype == torch.float64


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.mT.contiguous().mT,
    "strided": lambda x: torch.cat([x, x], dim=-1)[..., : x.shape[-1]],
    "reversed": lambda x: x.flip(-2).clone().flip(-2),
    "expanded": lambda x: x[..., :1, :].expand_as(x),
    "no rows": lambda x: x[..., :0, :],
    "requires grad": lambda x: x.clone().requires_grad_(),
}


@pytest.mark.parametrize("shape", [(), (2, 3)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_samples_may_lie_in_memory_as_they_like(
    layout: str, shape: tuple[int, ...], kernel: str, tiny_chunks: None
) -> None:
    x = LAYOUTS[layout](torch.randn(*shape, 20, 6, generator=seeded()))
    centroids = torch.randn(*shape, 7, 6, generator=seeded(1))
    layer = KMeansLayer.from_centroids(centroids)
    found = layer.search(x, 3)
    plain = layer.search(x.detach().clone(memory_format=torch.contiguous_format), 3)
    assert torch.equal(found.labels, plain.labels)
    assert torch.equal(found.distances, plain.distances)
    assert not found.distances.requires_grad
    assert_nearest(x.detach(), layer, 3)


def test_shapes_are_those_of_the_layer(kernel: str) -> None:
    layer = KMeansLayer.from_centroids(torch.randn(5, 3, generator=seeded()))
    for shape in ((), (7,), (2, 3), (0, 4)):
        found = layer.search(torch.randn(*shape, 3, generator=seeded()), 2)
        assert found.labels.shape == found.distances.shape == (*shape, 2)
    shared = KMeansLayer.from_centroids(torch.randn(2, 5, 3, generator=seeded()))
    x = torch.randn(6, 3, generator=seeded())
    assert torch.equal(shared.search(x, 2).labels, shared.search(x.expand(2, 6, 3), 2).labels)
    step = F.search(x, shared.centroids, 5)
    assert step.labels.shape == (2, 6, 5)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_sparse_samples_have_the_neighbors_of_the_dense_ones(metric: str, kernel: str) -> None:
    x = torch.randn(40, 6, generator=seeded())
    layer = KMeansLayer.from_centroids(x[:9], metric=metric)
    x[x.abs() < 1] = 0
    for found, expected in zip(layer.search(x.to_sparse_csr(), 4), layer.search(x, 4), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("m", [3, 70])
def test_chunks_are_small_and_change_nothing(
    m: int, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(300, 5, generator=seeded())
    layer = KMeansLayer.from_centroids(x[:80])
    expected = layer.search(x, m)
    monkeypatch.setattr(distances, "CHUNK_ELEMENTS", {"cpu": 1000, "accelerator": 1000})
    monkeypatch.setattr(calls, "_NUMBERS", 1000)
    together: list[int] = []

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(rows: Tensor, *args: Any) -> Any:
            together.append(rows.shape[-2])
            return function(rows, *args)

        return run

    monkeypatch.setattr(neighbors, "_screen", watched(neighbors._screen))
    monkeypatch.setattr(calls, "_search_rows", watched(calls._search_rows))
    found = layer.search(x, m)
    assert torch.equal(found.labels, expected.labels)
    assert torch.equal(found.distances, expected.distances)
    assert max(together) * (80 if m > 64 or kernel == "reference" else m) <= 1000


MODES: dict[str, Callable[[nn.Module, Tensor], Callable[[Tensor], Any]]] = {
    "compile": lambda net, x: torch.compile(net, fullgraph=True, backend="aot_eager"),
    "export": lambda net, x: torch.export.export(
        net, (x,), dynamic_shapes=({0: torch.export.Dim("n")},)
    ).module(),
    "trace": lambda net, x: torch.jit.trace(net, (x,)),
    "vmap": lambda net, x: (
        lambda rows: tuple(
            found.squeeze(1) for found in torch.func.vmap(lambda row: net(row.unsqueeze(0)))(rows)
        )
    ),
}


class Net(nn.Module):
    def __init__(self, layer: KMeansLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = self.layer.search(x, 3)
        return found.distances, found.labels


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("mode", MODES)
def test_recorded_code_finds_the_same(mode: str, metric: str, kernel: str) -> None:
    x = torch.randn(30, 9, generator=seeded())
    net = Net(KMeansLayer.from_centroids(x[5:12] + 0.01, metric=metric))
    recorded = MODES[mode](net, x)
    for rows in (x, x[:11]):
        found, expected = recorded(rows), net(rows)
        assert torch.equal(found[1], expected[1])
        torch.testing.assert_close(found[0], expected[0])


def test_meta_tensors_have_shapes() -> None:
    layer = KMeansLayer(5, 3, device="meta", batch_shape=(2,))
    assert layer.search(torch.empty(4, 3, device="meta"), 2).labels.shape == (2, 4, 2)


def test_bad_arguments_are_refused(kernel: str) -> None:
    layer = KMeansLayer.from_centroids(torch.randn(5, 3, generator=seeded()))
    x = torch.randn(4, 3, generator=seeded())
    cases: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: layer.search(x, 0), ValueError, "m should be >= 1; got 0"),
        (lambda: layer.search(x, 6), ValueError, "m should be <= n_clusters=5; got 6"),
        (lambda: layer.search(x, 2.0), TypeError, "m should be an integer"),  # type: ignore[arg-type]
        (lambda: layer.search(x[:, :2], 2), ValueError, "x should have shape"),
        (lambda: layer.search(x / 0, 2), ValueError, "4 rows hold NaN or infinity"),
        (lambda: layer.search(x * 1e30, 2), ValueError, "squared distances overflow"),
        (lambda: KMeansLayer(5, 3).search(x, 2), NotInitializedError, "no centroids yet"),
        (lambda: F.search(x, layer.centroids, 1, metric="l1"), ValueError, "metric should be"),
    ]
    for call, kind, message in cases:
        with pytest.raises(kind, match=message):
            call()


def test_a_layer_searches_sparse_rows_as_their_dense_rows() -> None:
    x = torch.randn(50, 12, generator=seeded(0)).relu()
    layer = KMeansLayer.from_centroids(x[:6])
    sparse = as_tensor(csr_matrix(x.numpy()), sparse=True)
    for found, dense in zip(layer.search(sparse, 3), layer.search(x, 3), strict=True):
        assert torch.equal(found, dense)
