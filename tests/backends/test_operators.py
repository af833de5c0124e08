"""The operators of torch: one opaque node in compiled and exported code, the labels of eager."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, export
from torch.testing import assert_close

from kmeans_module import EStep, KMeansLayer, backends
from kmeans_module import functional as F
from kmeans_module.backends import native, operators, reference
from tests.backends.conftest import needs_native
from tests.conftest import blobs, layer_at, seeded, weights_for

METRICS = ("euclidean", "cosine")
EMPTY = torch.tensor([[0.0, 0, 0], [500, 0, 0], [0, 500, 0], [1, 1, 1]])


class Graphs:
    """A backend that runs graphs as they are, and keeps them."""

    def __init__(self) -> None:
        self.kept: list[torch.fx.GraphModule] = []

    def __call__(self, graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        self.kept.append(graph)
        return graph.forward

    @property
    def operators(self) -> list[list[str]]:
        return [_operators(graph) for graph in self.kept]


def _operators(graph: torch.fx.GraphModule) -> list[str]:
    """Names of the operators of this package in a graph and what it calls."""
    modules = [m for m in graph.modules() if isinstance(m, torch.fx.GraphModule)]
    targets = [str(node.target) for module in modules for node in module.graph.nodes]
    return [target for target in targets if target.startswith("kmeans_module.")]


def _chunks(graph: torch.fx.GraphModule) -> int:
    """How often the torch reference measures in a graph: once in each chunk of rows."""
    return sum("vecdot" in str(node.target) for node in graph.graph.nodes)


@pytest.fixture
def graphs() -> Iterator[Graphs]:
    torch.compiler.reset()
    yield Graphs()
    torch.compiler.reset()


def unit_layer(metric: str = "euclidean", k: int = 6, d: int = 3, **options: Any) -> KMeansLayer:
    return layer_at(torch.nn.functional.normalize(blobs(k, d), dim=-1), metric=metric, **options)


def assert_same_step(found: EStep, expected: EStep) -> None:
    assert torch.equal(found.labels, expected.labels)
    assert torch.equal(found.distances, expected.distances)
    for name in ("sums", "counts", "inertia"):
        assert torch.equal(getattr(found.stats, name), getattr(expected.stats, name)), name


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("centroid_dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("problems", [1, 2])
def test_the_operators_keep_what_torch_asks_of_them(
    metric: str, dtype: torch.dtype, centroid_dtype: torch.dtype, problems: int
) -> None:
    shared = torch.randn(30, 3, generator=seeded(), dtype=dtype)
    centroids = torch.randn(problems, 4, 3, generator=seeded(1), dtype=centroid_dtype)
    own = shared.expand(problems, 30, 3)
    for x in (shared, own, shared[:0], shared[::2]):
        torch.library.opcheck(operators.assign, (x, centroids, metric))
        for weight in (None, weights_for(x) if x.ndim == 2 else torch.rand(30)):
            torch.library.opcheck(operators.e_step, (x, weight, centroids, metric, 7))


def test_the_operators_keep_it_in_half_precision_and_with_empty_clusters() -> None:
    x = torch.randn(100, 3, generator=seeded())
    torch.library.opcheck(operators.e_step, (x, None, EMPTY[None], "euclidean", 0))
    torch.library.opcheck(operators.e_step, (x.half(), None, EMPTY[None], "euclidean", 0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beam_size", [1, 4])
def test_the_operator_of_beam_search_keeps_it(beam_size: int, dtype: torch.dtype) -> None:
    x = torch.randn(30, 3, generator=seeded(), dtype=dtype)
    codebooks = torch.randn(2, 4, 3, generator=seeded(1), dtype=dtype)
    for rows in (x, x[:0], x[::2]):
        torch.library.opcheck(operators.beam_search, (rows, codebooks, beam_size))


# opcheck of torch 2.14 looks at the .grad of what is no leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_nothing_that_the_operators_return_has_a_gradient() -> None:
    x = torch.randn(30, 3, generator=seeded(), requires_grad=True)
    centroids = torch.randn(1, 4, 3, generator=seeded(1), requires_grad=True)
    results = [
        operators.assign(x, centroids, "euclidean"),
        *operators.e_step(x, None, centroids, "euclidean", 0),
        *operators.beam_search(x, centroids, 2),
    ]
    assert not any(result.requires_grad for result in results)
    torch.library.opcheck(operators.assign, (x, centroids, "euclidean"))
    torch.library.opcheck(operators.e_step, (x, None, centroids, "cosine", 0))
    torch.library.opcheck(operators.beam_search, (x, centroids, 2))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("weights", [None, "shared", "own"])
@pytest.mark.parametrize("in_dims", [(0, None), (None, 0), (0, 0), (1, 2)])
def test_the_operators_under_vmap_are_a_loop(
    in_dims: tuple[int | None, int | None], weights: str | None, own: bool
) -> None:
    calls, problems, n = 3, 2, 20
    x = torch.randn(calls, *([problems] if own else []), n, 3, generator=seeded())
    centroids = torch.randn(calls, problems, 4, 3, generator=seeded(1))
    weight = torch.rand(calls, *([problems] if weights == "own" else []), n, generator=seeded(2))
    expected = [
        operators.e_step(
            x[0 if in_dims[0] is None else call],
            None if weights is None else weight[0 if in_dims[0] is None else call],
            centroids[0 if in_dims[1] is None else call],
            "euclidean",
            0,
        )
        for call in range(calls)
    ]

    def placed(tensor: torch.Tensor, dim: int | None) -> torch.Tensor:
        return tensor[0] if dim is None else tensor.movedim(0, dim)

    x, weight = placed(x, in_dims[0]), placed(weight, in_dims[0])
    given, dims = (None, None) if weights is None else (weight, in_dims[0])
    found = torch.func.vmap(operators.e_step, in_dims=(in_dims[0], dims, in_dims[1], None, None))(
        x, given, placed(centroids, in_dims[1]), "euclidean", 0
    )
    # Farthest samples are sought for all problems of a call of which one has an empty cluster.
    for ours, theirs in zip(found[:5], list(zip(*expected, strict=True))[:5], strict=True):
        assert torch.equal(ours, torch.stack(theirs))
    labels = torch.func.vmap(operators.assign, in_dims=(*in_dims, None))(
        x, placed(centroids, in_dims[1]), "euclidean"
    )
    assert torch.equal(labels, found[0])


@needs_native
@pytest.mark.parametrize("metric", METRICS)
def test_forward_compiles_to_one_operator_for_every_number_of_rows(
    metric: str, graphs: Graphs
) -> None:
    layer = unit_layer(metric)
    compiled = torch.compile(layer, fullgraph=True, backend=graphs, dynamic=True)
    for n in (300, 2, 70, 20_000):
        x = blobs(n, 3, seed=n)
        assert torch.equal(compiled(x), layer(x))
    assert graphs.operators == [["kmeans_module.assign.default"]], "compiled once, one operator"


@needs_native
def test_a_dimension_marked_dynamic_stays_dynamic(graphs: Graphs) -> None:
    layer, x = unit_layer(), blobs(300, 3)
    compiled = torch.compile(layer, fullgraph=True, backend=graphs)
    torch._dynamo.mark_dynamic(x, 0)
    for rows in (x, x[:30].clone(), x[:200].clone()):
        assert torch.equal(compiled(rows), layer(rows))
    assert len(graphs.kept) == 1


@needs_native
@pytest.mark.parametrize("batch_shape", [(), (2,), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_every_shape_and_dtype_compiles_to_the_labels_of_eager(
    batch_shape: tuple[int, ...], dtype: torch.dtype, graphs: Graphs
) -> None:
    centroids = torch.randn(*batch_shape, 6, 3, generator=seeded())
    layer = layer_at(centroids)
    compiled = torch.compile(layer, fullgraph=True, backend=graphs)
    own = torch.randn(*batch_shape, 50, 3, generator=seeded(1)).to(dtype)
    shared = torch.randn(40, 3, generator=seeded(2)).to(dtype)
    for x in (own, shared, shared.T.contiguous().T, torch.cat([shared, shared], 1)[:, :3]):
        assert torch.equal(compiled(x), layer(x))
    assert all(graphs.operators)


@needs_native
@pytest.mark.parametrize("metric", METRICS)
def test_an_e_step_compiles_to_one_operator_and_the_very_numbers_of_eager(
    metric: str, graphs: Graphs
) -> None:
    layer = unit_layer(metric)
    compiled = torch.compile(layer.e_step, fullgraph=True, backend=graphs, dynamic=True)
    for n in (300, 7, 5_000):
        x = blobs(n, 3, seed=n)
        assert_same_step(compiled(x), layer.e_step(x))
    assert graphs.operators == [["kmeans_module.e_step.default"]]
    weight = weights_for(x)
    assert_same_step(compiled(x, weight), layer.e_step(x, weight))
    functional = torch.compile(F.e_step, fullgraph=True, backend=graphs, dynamic=True)
    step = functional(x, layer.centroids, metric=metric)
    assert_same_step(step, layer.e_step(x))


@needs_native
def test_a_compiled_e_step_knows_the_farthest_samples_of_empty_clusters(graphs: Graphs) -> None:
    layer, x = layer_at(EMPTY), torch.randn(90, 3, generator=seeded())
    compiled = torch.compile(layer.e_step, fullgraph=True, backend=graphs, dynamic=True)
    found, expected = compiled(x, start=5).stats, layer.e_step(x, start=5).stats
    assert int((expected.counts == 0).sum()) == 2
    assert found.farthest is not None
    assert expected.farthest is not None
    for name, ours, theirs in zip(
        found.farthest._fields, found.farthest, expected.farthest, strict=True
    ):
        assert torch.equal(ours, theirs), name

    eager, once = layer_at(EMPTY), layer_at(EMPTY)
    parts = x.split(30)
    stats = [compiled(part, start=30 * i).stats for i, part in enumerate(parts)]
    once.m_step(stats[0] + stats[1] + stats[2])
    eager.m_step(eager.e_step(x).stats)
    assert_close(once.centroids, eager.centroids)
    assert torch.equal(once.counts, eager.counts)


@needs_native
def test_without_empty_clusters_the_farthest_of_a_compiled_e_step_change_nothing(
    graphs: Graphs,
) -> None:
    x = blobs(200, 3)
    layer, eager = layer_at(x[:4]), layer_at(x[:4])
    compiled = torch.compile(layer.e_step, fullgraph=True, backend=graphs)
    stats = compiled(x).stats
    assert stats.farthest is not None
    assert (stats.farthest.weights == 0).all(), "nobody was looked for"
    layer.m_step(stats)
    eager.m_step(eager.e_step(x).stats)
    assert torch.equal(layer.centroids, eager.centroids)


@needs_native
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("metric", METRICS)
def test_an_export_holds_the_operator_and_takes_any_number_of_rows(
    metric: str, strict: bool
) -> None:
    layer, x = unit_layer(metric), blobs(100, 3)
    program = export(layer, (x,), dynamic_shapes={"x": {0: Dim("n")}}, strict=strict)
    assert _operators(program.graph_module) == ["kmeans_module.assign.default"]
    module = program.module()
    for n in (100, 1, 0, 3_000):
        rows = blobs(n, 3, seed=n)
        assert torch.equal(module(rows), layer(rows))


def test_the_reference_is_compiled_and_exported_through_plain_torch(
    monkeypatch: pytest.MonkeyPatch, graphs: Graphs
) -> None:
    monkeypatch.setenv("KMEANS_KERNEL", "reference")
    layer, x = unit_layer(), blobs(100, 3)
    assert torch.equal(torch.compile(layer, fullgraph=True, backend=graphs)(x), layer(x))
    assert graphs.operators == [[]]
    assert _chunks(graphs.kept[0]) == 1
    program = export(layer, (x,))
    assert _operators(program.graph_module) == []
    assert torch.equal(program.module()(x), layer(x))


def test_without_the_library_plain_torch_is_compiled(
    monkeypatch: pytest.MonkeyPatch, graphs: Graphs
) -> None:
    monkeypatch.setattr(native, "INSTALLED", False)
    monkeypatch.setattr(backends, "BACKENDS", (native.BACKEND, reference.BACKEND))
    layer, x = unit_layer(), blobs(100, 3)
    assert torch.equal(torch.compile(layer, fullgraph=True, backend=graphs)(x), layer(x))
    assert graphs.operators == [[]]


def test_without_the_library_code_is_transformed_as_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer, x = unit_layer(), blobs(100, 3)
    expected = layer.e_step(x)
    monkeypatch.setattr(native, "INSTALLED", False)
    by_row = torch.func.vmap(lambda row: layer.e_step(row.unsqueeze(0)).labels)(x)
    assert torch.equal(by_row.flatten(), expected.labels)

    class Stepped(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            stats = layer.e_step(x).stats
            assert stats.farthest is not None
            return torch.cat([stats.counts, stats.farthest.distances], dim=-1)

    rows = {"x": {0: Dim("n", min=2)}}
    program = export(Stepped(), (x,), dynamic_shapes=rows).module()
    for n in (2, 100):  # fewer rows than clusters, too
        step = layer.e_step(x[:n])
        found = program(x[:n])
        assert torch.equal(found[: layer.n_clusters], step.stats.counts)
        farthest = found[layer.n_clusters :][:n].float()
        assert torch.equal(farthest, step.distances.sort(descending=True).values[: len(farthest)])
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert layer.e_step(mode.from_tensor(x)).labels.shape == (100,)


@pytest.mark.parametrize("compiling", [False, True])
def test_an_operator_whose_library_does_not_load_is_served_by_the_reference(
    compiling: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, centroids = blobs(100, 3), blobs(6, 3, seed=1)
    expected = F.e_step(x, centroids).labels
    monkeypatch.setattr(native, "library", lambda: None)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    assert torch.equal(operators.assign(x, centroids[None], "euclidean")[0], expected)


@pytest.mark.slow
@needs_native
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_inductor_gives_the_labels_of_eager() -> None:
    torch.compiler.reset()
    layer = unit_layer()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    for n in (300, 50):
        x = blobs(n, 3, seed=n)
        assert torch.equal(compiled(x), layer(x))
    torch.compiler.reset()
