"""Promises of the guard: code that is recorded or transformed never sees a pointer."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from kmeans_module import KMeansLayer, backends
from kmeans_module.core.guard import (
    differentiated,
    for_other_inputs,
    no_memory,
    readable,
    under_mode,
    without_gradients,
)
from tests.conftest import blobs, layer_at, seeded

METRICS = ("euclidean", "cosine")
NATIVE = backends.native.library() is not None  # else plain torch is recorded, not an operator


def layer_of(metric: str = "euclidean", **options: Any) -> KMeansLayer:
    centroids = torch.nn.functional.normalize(blobs(6, 3), dim=-1)
    return layer_at(centroids, metric=metric, **options)


class Listed(TorchDispatchMode):
    """Names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


class Wrapped(Tensor):
    """A tensor without memory of its own, whose operators are those of another."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Wrapped:
        made = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        plain = torch.utils._pytree.tree_map(lambda x: x.inner if isinstance(x, cls) else x, args)
        return func(*plain, **(kwargs or {}))


class Named(Tensor):
    """A subclass of tensors with memory, as many libraries have them."""


def traced(call: Any, x: Tensor) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        return torch.jit.trace(call, x, check_trace=False)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n", [100, 1, 300])
def test_a_trace_labels_other_rows_than_it_was_made_with(metric: str, n: int) -> None:
    layer = layer_of(metric)
    program = traced(layer, blobs(100, 3))
    x = blobs(n, 3, seed=5)
    assert torch.equal(program(x), layer(x))


def test_a_trace_follows_the_centroids() -> None:
    layer, x = layer_of(), blobs(100, 3)
    program = traced(layer, x)
    with torch.no_grad():
        dict(program.named_buffers())["centroids"].copy_(x[:6])
    assert torch.equal(program(x), layer_at(x[:6])(x))


def test_a_traced_e_step_sums_up_other_rows() -> None:
    layer = layer_of()

    def inertia(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        step = layer.e_step(x)
        return step.labels, step.distances, step.stats.sums

    program, x = traced(inertia, blobs(100, 3)), blobs(70, 3, seed=5)
    for found, expected in zip(program(x), inertia(x), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("batch_shape", [(), (2,)])
def test_fake_tensors_get_fake_labels(metric: str, batch_shape: tuple[int, ...]) -> None:
    layer = layer_of(metric)
    layer = layer_at(layer.centroids.expand(*batch_shape, 6, 3).contiguous(), metric=metric)
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(50, 3)
        labels, step = layer(x), layer.e_step(x)
    assert isinstance(labels, FakeTensor)
    assert labels.shape == step.labels.shape == (*batch_shape, 50)
    assert labels.dtype == torch.int64
    assert step.distances.shape == (*batch_shape, 50)
    assert step.stats.sums.shape == (*batch_shape, 6, 3)
    assert step.stats.inertia.shape == batch_shape


def test_a_fake_layer_has_no_memory_either() -> None:
    mode = FakeTensorMode()
    with mode:
        layer = KMeansLayer(6, 3)
        labels = layer(torch.empty(20, 3))
    assert isinstance(labels, FakeTensor)
    assert labels.shape == (20,)
    assert "FakeTensor" in str(no_memory(layer.centroids))


@pytest.mark.parametrize("metric", METRICS)
def test_functionalized_labels_are_those_of_eager(metric: str) -> None:
    layer, x = layer_of(metric), blobs(100, 3)
    assert torch.equal(torch.func.functionalize(layer)(x), layer(x))
    step = torch.func.functionalize(lambda x: layer.e_step(x)[:2])(x)
    for found, expected in zip(step, layer.e_step(x)[:2], strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", [(4, 30, 3), (30, 3)])
def test_vmapped_labels_are_those_of_eager(metric: str, shape: tuple[int, ...]) -> None:
    layer = layer_of(metric)
    x = torch.randn(*shape, generator=seeded())
    assert torch.equal(torch.func.vmap(layer)(x), layer(x))
    if len(shape) == 3:
        labels = torch.func.vmap(lambda x: layer.e_step(x).labels)(x)
        assert torch.equal(labels, layer(x))


def test_labels_of_vmapped_centroids_are_those_of_a_batch_of_layers() -> None:
    centroids, x = torch.randn(5, 6, 3, generator=seeded()), blobs(40, 3)
    layer = layer_of()

    def labels(centroids: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"centroids": centroids}, (x,))

    assert torch.equal(torch.func.vmap(labels)(centroids), layer_at(centroids)(x))


def test_gradients_of_functions_that_label_are_those_of_the_rest() -> None:
    layer, x = layer_of(), blobs(50, 3)

    def loss(x: Tensor) -> Tensor:
        return (x - layer.centroids[layer(x)]).square().sum()

    found = torch.func.grad(loss)(x)
    torch.testing.assert_close(found, 2 * (x - layer.centroids[layer(x)]))


@pytest.mark.parametrize("metric", METRICS)
def test_a_dispatch_mode_sees_the_operator(metric: str) -> None:
    layer, x = layer_of(metric), blobs(100, 3)
    expected, expected_step = layer(x), layer.e_step(x)
    with Listed() as listed:
        labels, step = layer(x), layer.e_step(x)
    assert torch.equal(labels, expected)
    assert torch.equal(step.labels, expected_step.labels)
    assert torch.equal(step.stats.sums, expected_step.stats.sums)
    if NATIVE:
        assert {"kmeans_module.assign.default", "kmeans_module.e_step.default"} <= set(listed.names)


@pytest.mark.parametrize("init", ["random", "k-means++", "k-means||"])
def test_a_fit_under_a_dispatch_mode_is_that_of_eager(init: str) -> None:
    x = blobs(200, 3).round()
    eager, seen = KMeansLayer(5, 3), KMeansLayer(5, 3)
    expected = eager.fit(x, init=init, generator=seeded())
    with Listed() as listed:
        found = seen.fit(x, init=init, generator=seeded())
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(seen.centroids, eager.centroids)
    assert "kmeans_module.e_step.default" in listed.names or not NATIVE


def test_a_beam_search_under_a_dispatch_mode_is_that_of_eager() -> None:
    x, codebooks = torch.randn(50, 3, generator=seeded()), torch.randn(2, 5, 3, generator=seeded(1))
    codes, _ = backends.beam_search(x, codebooks, beam_size=3)
    with Listed():
        found, _ = backends.beam_search(x, codebooks, beam_size=3)
    assert torch.equal(found, codes)


@pytest.mark.parametrize("tracing_mode", ["real", "fake", "symbolic"])
def test_a_graph_made_by_fx_labels_other_rows(tracing_mode: str) -> None:
    layer = layer_of()
    graph = make_fx(layer, tracing_mode=tracing_mode, _allow_non_fake_inputs=True)(blobs(40, 3))
    x = blobs(40, 3, seed=5)
    assert torch.equal(graph(x), layer(x))
    assert "kmeans_module.assign" in graph.code or not NATIVE


@pytest.mark.parametrize("kind", ["wrapped", "named", "negative", "parameter", "inference"])
def test_odd_tensors_get_the_labels_of_plain_ones(kind: str) -> None:
    layer, x = layer_of(), blobs(100, 3)
    expected = layer(x)
    with torch.inference_mode(kind == "inference"):
        odd = {
            "wrapped": lambda: Wrapped(x),
            "named": lambda: x.as_subclass(Named),
            "negative": lambda: torch._neg_view(-x),
            "parameter": lambda: torch.nn.Parameter(x),
            "inference": lambda: x.clone(),
        }[kind]()
        assert torch.equal(torch.Tensor(layer(odd)), torch.Tensor(expected))


def test_plain_tensors_have_memory() -> None:
    for x in (torch.ones(3), torch.nn.Parameter(torch.ones(3)), torch.ones(3, dtype=torch.int8)):
        assert no_memory(x) is None
        assert readable(x)
    assert under_mode() is None


def test_it_is_said_why_there_is_no_memory() -> None:
    assert "meta" in str(no_memory(torch.ones(3, device="meta")))
    assert "sparse" in str(no_memory(torch.ones(3, 3).to_sparse()))
    assert "no plain dense tensor" in str(no_memory(torch._neg_view(torch.ones(3))))
    assert no_memory(Wrapped(torch.ones(3))) == "x is a Wrapped"
    assert not readable(torch.ones(3, device="meta"))
    x = torch.ones(3)
    with Listed():
        assert no_memory(x) == under_mode() == "a torch dispatch mode is active"
        assert not readable(x)
    seen = []

    def look(x: Tensor) -> Tensor:
        seen.append(under_mode())
        return x * 2

    torch.func.vmap(look)(x)
    traced(look, x)
    assert seen == ["a functorch transform is active", "torch.jit traces"]
    assert under_mode() is None


def test_values_are_not_looked_at_while_code_is_recorded() -> None:
    layer, x = layer_of(), blobs(50, 3)
    broken = x.clone()
    broken[7] = torch.nan
    program = traced(layer, x)
    assert program(broken).shape == (50,), "no check of the first input is in the program"
    with pytest.raises(ValueError, match=r"1 row holds NaN .* row 7"):
        layer(broken)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
def test_nobody_asks_for_derivatives_in_plain_code() -> None:
    x = torch.ones(2)
    assert not differentiated(x)
    assert differentiated(x, torch.ones(2, requires_grad=True))
    with torch.no_grad():
        assert not differentiated(torch.ones(2, requires_grad=True))
    seen: list[bool] = []
    torch.func.jvp(lambda x: (seen.append(differentiated(x)), x * 2)[1], (x,), (x,))
    with torch.autograd.forward_ad.dual_level():
        seen.append(differentiated(torch.autograd.forward_ad.make_dual(x, x)))
    assert seen == [True, True]


def test_what_is_recorded_for_other_inputs_is_known() -> None:
    seen: list[bool] = []

    def look(x: Tensor) -> Tensor:
        seen.append(for_other_inputs())
        return x * 2

    x = torch.ones(2)
    traced(look, x)
    make_fx(look)(x)
    look(x)
    with Listed():
        look(x)
    assert seen == [True, True, False, False]


def test_a_region_without_gradients_is_none_inside_another_one() -> None:
    call = without_gradients(lambda x: (torch.is_grad_enabled(), x * 2))
    x = torch.ones(2, requires_grad=True)
    enabled, doubled = call(x)
    assert not enabled
    assert not doubled.requires_grad
    assert torch.is_grad_enabled()
