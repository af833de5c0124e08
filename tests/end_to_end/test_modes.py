"""Promises of the modes of torch: what programs record, transform or watch is what eager code
does, on other inputs too; what cannot be so is refused in words."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim
from torch.func import functional_call, functionalize, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from kmeans_module import KMeansLayer, ProductQuantizer, ResidualQuantizer, VectorQuantizer
from kmeans_module import functional as F
from tests.conftest import layer_at, seeded

D = 8
X = torch.randn(40, D, generator=seeded())
OTHER = torch.randn(23, D, generator=seeded(1))

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore::UserWarning"
)


def layer(metric: str = "euclidean", batch_shape: tuple[int, ...] = ()) -> KMeansLayer:
    centroids = torch.randn(*batch_shape, 5, D, generator=seeded(2))
    if metric == "cosine":
        centroids = nn.functional.normalize(centroids, dim=-1)
    return layer_at(centroids, metric=metric)


def quantizer(kind: str, **options: Any) -> Any:
    torch.manual_seed(0)
    made: Any = {
        "vector": lambda: VectorQuantizer(5, D, **options),
        "heads": lambda: VectorQuantizer(5, D, heads=2, separate_codebooks=True, **options),
        "residual": lambda: ResidualQuantizer(5, D, 3, **options),
        "product": lambda: ProductQuantizer(5, D, 4, **options),
    }[kind]()
    made(torch.randn(100, D, generator=seeded(3)))
    return made


def step_of(step: Any) -> tuple[Tensor, ...]:
    stats = step.stats
    return step.labels, step.distances, stats.sums, stats.counts, stats.inertia


def moved(module: Any, x: Tensor) -> Any:
    stats = F.e_step(x, module.centroids).stats
    return F.update_centroids(module.centroids, module.counts, stats)


# What reads a module: how to make it, and the call.
READING: dict[str, tuple[Callable[[], Any], Callable[[Any, Tensor], Any]]] = {
    "forward": (layer, lambda m, x: m(x)),
    "forward cosine": (lambda: layer("cosine"), lambda m, x: m(x)),
    "forward batch_shape": (lambda: layer(batch_shape=(2,)), lambda m, x: m(x)),
    "transform": (layer, lambda m, x: m.transform(x)),
    "transform cosine": (lambda: layer("cosine"), lambda m, x: m.transform(x)),
    "soft_assign": (layer, lambda m, x: m.soft_assign(x)),
    "soft_assign t": (layer, lambda m, x: m.soft_assign(x, kernel="student-t")),
    "decode": (lambda: layer(batch_shape=(2,)), lambda m, x: m.decode(m(x))),
    "e_step": (layer, lambda m, x: step_of(m.e_step(x))),
    "e_step weights": (layer, lambda m, x: step_of(m.e_step(x, x[:, 0].detach() ** 2))),
    "assign": (layer, lambda m, x: F.assign(x, m.centroids)[0]),
    "inertia": (layer, lambda m, x: F.inertia(x, m.centroids)),
    "update_centroids": (layer, moved),
    "vector": (lambda: quantizer("vector"), lambda m, x: tuple(m(x))),
    "vector rotation": (
        lambda: quantizer("vector", estimator="rotation", update="gradient"),
        lambda m, x: tuple(m(x)),
    ),
    "heads codes": (lambda: quantizer("heads"), lambda m, x: m.decode(m.encode(x))),
    "residual": (lambda: quantizer("residual"), lambda m, x: tuple(m(x))),
    "residual weights": (
        lambda: quantizer("residual", nonfinite="skip"),
        lambda m, x: tuple(m(x, sample_weight=x[:, 0].detach() ** 2)),
    ),
    "residual beam": (
        lambda: quantizer("residual"),
        lambda m, x: m.decode(m.encode(x, beam_size=3)),
    ),
    "residual distances": (
        lambda: quantizer("residual"),
        lambda m, x: m.distances(x, m.encode(x, beam_size=1)),
    ),
    "product rotation": (lambda: quantizer("product", rotation=True), lambda m, x: tuple(m(x))),
    "product distances": (lambda: quantizer("product"), lambda m, x: m.distances(x, m.encode(x))),
    "product packed": (lambda: quantizer("product"), lambda m, x: m.unpack(m.pack(m.encode(x)))),
}
DERIVED = (
    "transform", "transform cosine", "soft_assign", "soft_assign t", "vector", "vector rotation",
    "residual", "product rotation", "product distances",
)  # fmt: skip
FITTING: dict[str, tuple[Callable[[], Any], Callable[[Any, Tensor], Any]]] = {
    "fit": (layer, lambda m, x: m.fit(x, init="current").labels),
    "initialize": (layer, lambda m, x: m.initialize(x, "random")),
    "prepare": (layer, lambda m, x: m.e_step(m.prepare(x)).labels),
    "residual fit": (lambda: quantizer("residual"), lambda m, x: m.fit(x)),
    "product fit": (lambda: quantizer("product"), lambda m, x: m.fit(x)),
}
LEARNING: dict[str, tuple[Callable[[], Any], Callable[[Any, Tensor], Any]]] = {
    kind: (lambda kind=kind: quantizer(kind), lambda m, x: tuple(m(x)))  # type: ignore[misc]
    for kind in ("vector", "residual", "product")
}


class Called(nn.Module):
    """A network that makes one call of a module."""

    def __init__(self, module: Any, call: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.module = module
        self.call = call

    def forward(self, x: Tensor) -> Any:
        return self.call(self.module, x)


def reading(name: str) -> Called:
    make, call = READING[name]
    return Called(make(), call).eval()


def tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def assert_same(found: Any, expected: Any) -> None:
    """Integers are equal, floats within rounding."""
    found, expected = tensors(found), tensors(expected)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-4, atol=1e-5)


def traced(module: nn.Module) -> Any:
    """A trace, after it was saved and loaded."""
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(module, X, check_trace=False), file)
    file.seek(0)
    return torch.jit.load(file)


def exported(module: nn.Module) -> Any:
    """An exported program for any number of rows, after it was saved and loaded."""
    file = io.BytesIO()
    rows = {"x": {0: Dim("n", min=2)}}
    torch.export.save(torch.export.export(module, (X,), dynamic_shapes=rows), file)
    file.seek(0)
    return torch.export.load(file).module()


def compiled(module: nn.Module) -> Any:
    torch.compiler.reset()
    program = torch.compile(module, fullgraph=True, dynamic=True, backend="eager")
    program(X)
    return program


# Each of them takes torch a second or so.
EXPORTED = (
    "forward batch_shape", "transform", "soft_assign", "decode", "e_step weights",
    "vector rotation", "residual weights", "residual beam", "residual distances",
    "product rotation", "product packed",
)  # fmt: skip
COMPILED = ("transform", "soft_assign t", "vector rotation", "residual beam", "product packed")
MADE = [
    *((traced, name) for name in READING),
    *((exported, name) for name in EXPORTED),
    *((compiled, name) for name in COMPILED),
]


@pytest.mark.parametrize(("made", "name"), MADE)
def test_a_program_gives_for_other_rows_what_eager_code_gives(
    made: Callable[[nn.Module], Any], name: str
) -> None:
    module = reading(name)
    with torch.no_grad():
        assert_same(made(module)(OTHER), module(OTHER))


def test_a_program_with_a_projection_is_saved_and_loaded() -> None:
    module = Called(quantizer("vector", projection=4), READING["vector"][1]).eval()
    with torch.no_grad():
        assert_same(exported(module)(OTHER), module(OTHER))


@pytest.mark.parametrize(
    "name",
    ["forward cosine", "transform", "soft_assign", "heads codes", "residual beam",
     "product rotation", "product distances"],
)  # fmt: skip
def test_onnx_by_a_trace_gives_for_other_rows_what_eager_code_gives(name: str) -> None:
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    module, file = reading(name), io.BytesIO()
    torch.onnx.export(
        module, (X,), file, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}}
    )
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    found = [torch.as_tensor(value) for value in session.run(None, {"x": OTHER.numpy()})]
    assert_same(found, module(OTHER))


@pytest.mark.parametrize("call", ["e_step", "inertia"])
def test_an_e_step_is_not_exported_to_onnx(call: str) -> None:
    pytest.importorskip("onnx")
    with pytest.raises(NotImplementedError, match="an E-step cannot be exported to ONNX"):
        torch.onnx.export(reading(call), (X,), io.BytesIO(), dynamo=False)


class Watching(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Sub(Tensor):
    """A subclass with memory of its own."""


def watched(mode: Any) -> Callable[[nn.Module], Any]:
    def call(module: nn.Module) -> Any:
        with mode():
            return module(X)

    return call


EAGER_MODES: dict[str, Callable[[nn.Module], Any]] = {
    "dispatch mode": watched(lambda: FlopCounterMode(display=False)),
    "function mode": watched(Watching),
    "inference": watched(torch.inference_mode),
    "anomaly": watched(lambda: torch.autograd.set_detect_anomaly(True)),
    "autocast": watched(lambda: torch.autocast("cpu", dtype=torch.bfloat16)),
    "another default device": watched(lambda: torch.device("meta")),
    "functionalize": lambda module: functionalize(module)(X),
    "negated view": lambda module: module(torch._neg_view(-X)),
    "subclass": lambda module: [t.as_subclass(Tensor) for t in tensors(module(X.as_subclass(Sub)))],
}


@pytest.mark.parametrize("name", READING)
@pytest.mark.parametrize("mode", EAGER_MODES)
def test_a_mode_changes_no_result(mode: str, name: str) -> None:
    module = reading(name)
    with torch.no_grad():
        assert_same(EAGER_MODES[mode](module), module(X))


@pytest.mark.parametrize("name", ["forward", "transform", "soft_assign", "heads codes", "e_step"])
def test_a_graph_of_make_fx_gives_for_other_rows_what_eager_code_gives(name: str) -> None:
    module = reading(name)
    with torch.no_grad():
        graph = make_fx(module, tracing_mode="symbolic", _allow_non_fake_inputs=True)(X)
        assert_same(graph(X + 1), module(X + 1))


@pytest.mark.parametrize("name", READING)
@pytest.mark.parametrize("device", ["fake", "meta"])
def test_tensors_without_numbers_get_the_shapes_of_eager_code(device: str, name: str) -> None:
    module = reading(name)
    expected = [(t.shape, t.dtype) for t in tensors(module(X))]
    if device == "meta":
        found = module.to("meta")(X.to("meta"))
    else:
        with FakeTensorMode(allow_non_fake_inputs=True):
            found = module(torch.empty(X.shape))
    assert [(t.shape, t.dtype) for t in tensors(found)] == expected


def stacked(results: list[Any]) -> list[Tensor]:
    return [torch.stack(parts) for parts in zip(*map(tensors, results), strict=True)]


@pytest.mark.parametrize("name", READING)
def test_vmap_over_rows_is_a_loop(name: str) -> None:
    module, x = reading(name), torch.randn(2, 3, 20, D, generator=seeded(4))
    expected = [stacked([module(rows) for rows in part]) for part in x]
    assert_same(vmap(module)(x[0]), expected[0])
    assert_same(vmap(module, in_dims=1)(x[0].movedim(0, 1)), expected[0])
    assert_same(vmap(vmap(module))(x), stacked(expected))


@pytest.mark.parametrize("name", READING)
def test_vmap_over_centroids_is_a_loop(name: str) -> None:
    module = reading(name)
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    key = next(key for key in state if key.endswith(".centroids"))
    every = torch.stack([state[key].detach(), state[key].detach().flip(-1)])
    x = torch.stack([X, X.flip(0)])

    def call(centroids: Tensor, x: Tensor) -> Any:
        return functional_call(module, {key: centroids}, (x,))

    expected = [[call(centroids, rows) for rows in x] for centroids in every]
    assert_same(vmap(call, in_dims=(0, None))(every, X), stacked([row[0] for row in expected]))
    assert_same(vmap(call)(every, x), stacked([expected[0][0], expected[1][1]]))


def first_float(module: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: next(t for t in tensors(module(x)) if t.is_floating_point())


@pytest.mark.parametrize("name", DERIVED)
def test_derivatives_of_functorch_are_those_of_autograd(name: str) -> None:
    call, x = first_float(reading(name).double()), X[:6].double()
    expected = torch.autograd.functional.jacobian(call, x)
    assert expected.abs().sum() > 0
    assert_same(torch.func.jacrev(call)(x), expected)
    assert_same(torch.func.jacfwd(call)(x), expected)
    along = torch.randn(x.shape, generator=seeded(5), dtype=x.dtype)
    tangent = torch.func.jvp(call, (x,), (along,))[1]
    assert_same(tangent, (expected * along).sum(dim=(-2, -1)))
    hessian = torch.func.hessian(lambda x: call(x).square().sum())(x)
    assert_same(hessian, torch.autograd.functional.hessian(lambda x: call(x).square().sum(), x))


@pytest.mark.parametrize("shapes", [((4, 3), (5, 3)), ((2, 4, 3), (5, 3)), ((4, 3), (2, 5, 3))])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_distances_have_derivatives_of_every_order(
    metric: str, shapes: tuple[tuple[int, ...], ...]
) -> None:
    x, centroids = (
        torch.randn(shape, generator=seeded(i), dtype=torch.float64).requires_grad_()
        for i, shape in enumerate(shapes)
    )

    def call(x: Tensor, centroids: Tensor) -> Tensor:
        return F.pairwise_distances(x, centroids, metric=metric)

    assert torch.autograd.gradcheck(call, (x, centroids), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, (x, centroids))


@pytest.mark.parametrize("name", DERIVED)
def test_checkpointed_gradients_are_those_without(name: str) -> None:
    call, plain, again = first_float(reading(name)), X.clone(), X.clone()
    call(plain.requires_grad_()).square().sum().backward()
    result = checkpoint(call, again.requires_grad_(), use_reentrant=False)
    result.square().sum().backward()
    assert_same(again.grad, plain.grad)


def test_gradients_of_distances_do_not_cancel_far_from_the_origin() -> None:
    x, centroids = X[:10] + 1e5, (X[10:15] + 1e5).clone().requires_grad_()
    x.requires_grad_()
    F.pairwise_distances(x, centroids).sum().backward()
    difference = x.detach().double().unsqueeze(1) - centroids.detach().double()
    torch.testing.assert_close(x.grad, 2 * difference.sum(1).float(), rtol=1e-3, atol=0.2)
    torch.testing.assert_close(centroids.grad, -2 * difference.sum(0).float(), rtol=1e-3, atol=0.2)


@pytest.mark.parametrize("name", ["vector", "vector rotation", "residual", "transform"])
def test_a_compiled_gradient_is_that_of_eager_code(name: str) -> None:
    torch.compiler.reset()
    module, found, expected = reading(name), X.clone(), X.clone()
    program = torch.compile(module, fullgraph=True, backend="aot_eager")
    first_float(program)(found.requires_grad_()).square().sum().backward()
    first_float(module)(expected.requires_grad_()).square().sum().backward()
    assert_same(found.grad, expected.grad)


def faked(module: nn.Module) -> Any:
    with FakeTensorMode(allow_non_fake_inputs=True):
        return module(torch.empty(X.shape))


RECORDING: dict[str, Callable[[nn.Module], Any]] = {
    "trace": traced,
    "onnx": lambda m: torch.onnx.export(
        m, (X,), io.BytesIO(), dynamo=False, training=torch.onnx.TrainingMode.PRESERVE
    ),
    "export": exported,
    "functionalize": lambda m: functionalize(m)(X),
    "vmap": lambda m: vmap(m, randomness="different")(X[None]),
    "grad": lambda m: torch.func.grad(lambda x: tensors(m(x))[0].sum())(X),
    "meta": lambda m: m.to("meta")(X.to("meta")),
}


@pytest.mark.parametrize("name", FITTING)
@pytest.mark.parametrize("mode", [*RECORDING, "fake", "make_fx"])
def test_what_reads_values_is_refused_in_words(mode: str, name: str) -> None:
    make, call = FITTING[name]
    record = {**RECORDING, "fake": faked, "make_fx": lambda m: make_fx(m)(X)}[mode]
    module = Called(make(), call).eval()
    with pytest.raises(RuntimeError, match=r"reads the values of tensors, which it cannot where"):
        record(module)


@pytest.mark.parametrize("name", LEARNING)
@pytest.mark.parametrize("mode", RECORDING)
def test_a_quantizer_in_training_is_refused_in_words(mode: str, name: str) -> None:
    make, call = LEARNING[name]
    with pytest.raises(RuntimeError, match=r"a quantizer learns in training, which it cannot"):
        RECORDING[mode](Called(make(), call))


@pytest.mark.parametrize("mode", ["functionalize", "vmap", "grad"])
def test_an_m_step_in_a_transform_is_refused_in_words(mode: str) -> None:
    module = Called(layer(), lambda m, x: m.m_step(m.e_step(x).stats))
    with pytest.raises(RuntimeError, match=r"changes the module in place.*update_centroids"):
        RECORDING[mode](module)


def test_a_fit_in_one_graph_is_refused_in_words() -> None:
    torch.compiler.reset()
    module = Called(layer(), FITTING["fit"][1])
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"fit reads the values of tensors"):
        torch.compile(module, fullgraph=True, backend="eager")(X)


@pytest.mark.slow
def test_a_fit_in_compiled_code_stays_eager() -> None:
    torch.compiler.reset()
    module = Called(layer(), FITTING["fit"][1])
    expected = layer().fit(X, init="current").labels
    assert_same(torch.compile(module, backend="eager")(X), expected)


@pytest.mark.parametrize("name", ["forward", "vector", "residual", "product distances"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_script_is_refused_in_words(inside: bool, name: str) -> None:
    module = READING[name][0]()
    with pytest.raises(TypeError, match=r"torch.jit.script cannot read .*: use torch.jit.trace"):
        torch.jit.script(nn.Sequential(nn.Linear(D, D), module) if inside else module)


@pytest.fixture
def one_rank() -> Iterator[Any]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


ODD: dict[str, Callable[[Tensor], Tensor]] = {
    "sparse": Tensor.to_sparse,
    "sparse columns": Tensor.to_sparse_csc,
    "sparse blocks": lambda x: x.to_sparse_bsr((1, 1)),
    "nested": lambda x: torch.nested.nested_tensor([x, x[:3]]),
    "ragged": lambda x: torch.nested.nested_tensor([x, x[:3]], layout=torch.jagged),
    "quantized": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
    "mkldnn": Tensor.to_mkldnn,
    "complex": lambda x: x.to(torch.complex64),
}
TAKING: dict[str, Callable[[Tensor], Any]] = {
    "forward": lambda x: layer()(x),
    "transform": lambda x: layer().transform(x),
    "e_step": lambda x: layer().e_step(x),
    "fit": lambda x: layer().fit(x),
    "vector": lambda x: quantizer("vector")(x),
    "encode": lambda x: quantizer("residual").encode(x),
    "assign": lambda x: F.assign(x, layer().centroids),
    "functional e_step": lambda x: F.e_step(x, layer().centroids),
    "pairwise_distances": lambda x: F.pairwise_distances(x, layer().centroids),
    "soft_assign": lambda x: F.soft_assign(x, layer().centroids),
}


# Layers and functions take sparse rows (tests/rows/test_sparse.py), quantizers do not.
REFUSED = [
    (kind, call)
    for kind in ODD
    for call in TAKING
    if kind != "sparse rows" or call in ("vector", "encode")
]


@pytest.mark.parametrize(("kind", "call"), REFUSED)
def test_tensors_that_are_no_rows_of_numbers_are_refused_in_words(kind: str, call: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = ODD[kind](X)
    with pytest.raises(TypeError, match=r"^x should (be a dense tensor|hold)"):
        TAKING[call](x)


@pytest.mark.parametrize("function", [F.assign, F.e_step, F.inertia, F.pairwise_distances])
@pytest.mark.parametrize("kind", ODD)
def test_centroids_that_are_no_rows_of_numbers_are_refused_in_words(
    kind: str, function: Callable[[Tensor, Tensor], Any]
) -> None:
    with pytest.raises(TypeError, match=r"^centroids should (be a dense tensor|hold)"):
        function(X, ODD[kind](OTHER))


def test_distributed_tensors_are_refused_in_words(one_rank: Any) -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    x = distribute_tensor(X, one_rank, [Shard(0)])
    for name in ("forward", "transform", "vector", "assign"):
        with pytest.raises(TypeError, match=r"got a DTensor: hand in x.to_local\(\)"):
            TAKING[name](x)
    with pytest.raises(TypeError, match=r"got a DTensor: hand in centroids.to_local\(\)"):
        F.assign(X, distribute_tensor(OTHER, one_rank, [Shard(0)]))


def labels_of(x: Tensor, centroids: Tensor) -> Tensor:
    return F.assign(x, centroids)[0]


@pytest.mark.parametrize("function", [labels_of, F.e_step, F.inertia])
def test_centroids_of_any_kind_are_never_read_by_a_pointer(
    function: Callable[[Tensor, Tensor], Any],
) -> None:
    centroids = layer().centroids
    assert_same(function(X, torch._neg_view(-centroids)), function(X, centroids))
    with pytest.raises(ValueError, match="x is on cpu, the centroids are on meta"):
        function(X, centroids.to("meta"))
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(centroids)
    with pytest.raises(Exception, match=r"Fake|fake"):
        function(X, fake)


def test_weights_that_are_a_negated_view_count_as_what_they_are() -> None:
    weight = X[:, 0].abs().double()
    negated = torch._neg_view(-weight)
    assert_same(step_of(layer().e_step(X, negated)), step_of(layer().e_step(X, weight)))
    fits = [layer().fit(X, init="current", sample_weight=w) for w in (negated, weight)]
    assert_same(fits[0].inertia, fits[1].inertia)


@pytest.mark.parametrize("kind", ["residual", "product"])
def test_a_fit_of_codebooks_under_autocast_is_that_without(kind: str) -> None:
    options = {"rotation": True} if kind == "product" else {}
    plain, casting = quantizer(kind, **options), quantizer(kind, **options)
    plain.fit(X, generator=seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        casting.fit(X, generator=seeded())
    assert torch.equal(casting.codebooks, plain.codebooks)
