"""Promises of compiled, exported and ONNX quantizers: what eager ones do, in one graph."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export

from kmeans_module import KMeansLayer, VectorQuantizer
from kmeans_module.quantization import operators
from tests.conftest import blobs, layer_at
from tests.quantization.helpers import (
    Network,
    assert_same,
    normal,
    objective,
    quantizer_at,
    state_of,
    trained,
)

# Dynamo instantiates the autograd functions that it traces.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")

CASES: dict[str, dict[str, Any]] = {
    "ema": {},
    "gradient": {"update": "gradient"},
    "frozen": {"update": "frozen"},
    "rotation": {"estimator": "rotation"},
    "gumbel": {"estimator": "gumbel"},
    "gumbel, gradient": {"estimator": "gumbel", "update": "gradient"},
    "cosine": {"metric": "cosine"},
    "heads": {"heads": 2},
    "separate codebooks": {"heads": 2, "separate_codebooks": True},
    "skip": {"nonfinite": "skip"},
}
ONNX = ["euclidean", "cosine", "heads", "separate codebooks", "channel first"]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Encoder(nn.Module):
    """Codes alone."""

    def __init__(self, quantizer: VectorQuantizer) -> None:
        super().__init__()
        self.quantizer = quantizer

    def forward(self, x: Tensor) -> Tensor:
        return self.quantizer.encode(x)


def train(network: Network, forward: Any) -> list[tuple[Tensor, ...]]:
    """Codes and losses of a few steps."""
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    found = []
    for step in range(5):
        x = normal(64, 8, seed=step)
        torch.manual_seed(step)
        outputs = forward(x)
        loss = objective(outputs, x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append((outputs[1].clone(), loss.detach().clone()))
    return found


@pytest.mark.parametrize("name", CASES)
def test_training_in_one_graph_equals_eager(name: str) -> None:
    options = CASES[name]
    frozen = options.get("update") == "frozen"
    torch.manual_seed(0)
    eager = Network(
        quantizer_at(normal(16, 8), **options)
        if frozen
        else VectorQuantizer(16, 8, decay=0.5, revive_below=1.0, **options)
    )
    twin = copy.deepcopy(eager)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    for (codes, loss), (expected, expected_loss) in zip(
        train(twin, compiled), train(eager, eager), strict=True
    ):
        assert torch.equal(codes, expected)
        torch.testing.assert_close(loss, expected_loss)
    found, expected_state = twin.state_dict(), eager.state_dict()
    for key, tensor in expected_state.items():
        torch.testing.assert_close(found[key], tensor)
    assert int(twin.quantizer.codebook.n_iter.max()) == (0 if frozen else 5)
    assert int(twin.quantizer.codebook.n_iter.min()) == (0 if frozen else 5)
    x = normal(30, 8, seed=9)
    assert torch.equal(compiled.eval()(x)[1], eager.eval()(x)[1])


def test_a_compiled_network_learns_only_at_the_next_step() -> None:
    quantizer = quantizer_at(normal(16, 8))
    before = state_of(quantizer.codebook)
    compiled = torch.compile(quantizer, fullgraph=True, backend="aot_eager")
    compiled(normal(64, 8, seed=1))
    assert_same(state_of(quantizer.codebook), before)
    quantizer.eval()
    assert int(quantizer.codebook.n_iter) == 1


def test_a_compiled_quantizer_takes_masks_and_any_number_of_rows() -> None:
    eager = quantizer_at(normal(16, 8))
    twin = copy.deepcopy(eager)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (64, 10, 300):
        x, mask = normal(n, 8, seed=n), normal(n, seed=n) > 0
        found, expected = compiled(x, mask), eager(x, mask)
        assert torch.equal(found.codes, expected.codes)
        assert torch.equal(found.quantized, expected.quantized)
        torch.testing.assert_close(found.loss, expected.loss)
    assert_same(twin.state_dict(), eager.state_dict())


def test_compiled_code_refuses_or_skips_what_is_not_finite() -> None:
    x = normal(64, 8)
    x[5, 3] = torch.nan
    for nonfinite in ("error", "skip"):
        quantizer = quantizer_at(normal(16, 8), nonfinite=nonfinite)
        before = state_of(quantizer.codebook)
        compiled = torch.compile(quantizer, fullgraph=True, backend="aot_eager")
        if nonfinite == "error":
            with pytest.raises(ValueError, match="x should be finite; 1 row"):
                compiled(x)
        else:
            found = compiled(x)
            assert found.loss.isfinite()
            assert found.codes[5] == -1
            assert int(quantizer.skipped) == 1
        quantizer.apply_update()
        assert_same(state_of(quantizer.codebook), before)


def test_the_operators_keep_what_torch_asks_of_them() -> None:
    checks = ("test_schema", "test_faketensor")
    for update in ("ema", "gradient"):
        quantizer = quantizer_at(normal(16, 8), update=update)
        rows, valid = normal(1, 64, 8), normal(1, 64) > 0
        number = quantizer.number
        begin = (rows, valid, number, *quantizer.codebook_state())
        torch.library.opcheck(operators.begin, begin, test_utils=checks)
        codes = quantizer.encode(rows)
        for given in (None, codes):
            state = quantizer.codebook_state()
            record = (rows, valid, given, number, *state)
            torch.library.opcheck(operators.record, record, test_utils=checks)


@pytest.mark.parametrize("name", ["euclidean", *CASES])
def test_evaluation_exports_and_takes_any_number_of_rows(name: str) -> None:
    options = dict(CASES.get(name, {}))
    options.pop("update", None)
    quantizer = trained(normal(200, 8), 16, **options).eval()
    for module in (quantizer, Encoder(quantizer)):
        program = export(module, (normal(16, 8),), dynamic_shapes={"x": {0: Dim("n")}})
        for n in (16, 1, 500):
            x = normal(n, 8, seed=n)
            found, expected = program.module()(x), module(x)
            if module is quantizer:
                for ours, theirs in zip(found, expected, strict=True):
                    torch.testing.assert_close(ours, theirs)
            else:
                assert torch.equal(found, expected)


def onnx_codes(module: nn.Module, example: Tensor, x: Tensor) -> Tensor:
    """What onnxruntime makes of x, with a number of rows that is left open."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    program = torch.onnx.export(
        module.eval(), (example,), dynamic_shapes=({0: Dim("n", min=1, max=100_000)},),
        dynamo=True, verbose=False,
    )  # fmt: skip
    assert program is not None
    file = io.BytesIO()
    program.save(file)
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (codes,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(codes)


@pytest.mark.parametrize("name", ONNX)
def test_onnx_gives_the_codes_of_torch(name: str) -> None:
    options = {"channel_first": True} if name == "channel first" else CASES.get(name, {})
    tail = (8, 5) if name == "channel first" else (8,)
    quantizer = trained(normal(512, *tail), 32, **options).eval()
    x = normal(1000, *tail, seed=1)
    found = onnx_codes(Encoder(quantizer), normal(16, *tail), x)
    assert torch.equal(found, quantizer.encode(x))


def test_onnx_gives_the_labels_of_a_layer() -> None:
    layer: KMeansLayer = layer_at(blobs(20, 3))
    x = blobs(1000, 3, seed=1)
    assert torch.equal(onnx_codes(layer, blobs(16, 3), x), layer(x))


@pytest.mark.parametrize("k", [20, 800])
def test_onnx_gives_the_first_of_equal_centroids(k: int) -> None:
    layer: KMeansLayer = layer_at(blobs(k // 2, 7).repeat(2, 1))
    x = blobs(200, 7, seed=1)
    assert torch.equal(onnx_codes(layer, blobs(16, 7), x), layer(x))
