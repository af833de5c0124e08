"""Promises of what quantizers hold: random codebooks, the meta device, casts of a network."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kmeans_module import (
    KMeansLayer,
    NotInitializedError,
    ProductQuantizer,
    ResidualQuantizer,
    VectorQuantizer,
)
from kmeans_module.quantization.quantizer import Quantizer
from tests.end_to_end.helpers import quiet_trainer
from tests.quantization.helpers import assert_same, normal, state_of

Make = Callable[..., Any]
QUANTIZERS: dict[str, Make] = {
    "vector": lambda **given: VectorQuantizer(8, 4, **given),
    "gradient": lambda **given: VectorQuantizer(8, 4, update="gradient", **given),
    "frozen": lambda **given: VectorQuantizer(8, 4, update="frozen", **given),
    "gumbel": lambda **given: VectorQuantizer(8, 4, estimator="gumbel", **given),
    "cosine": lambda **given: VectorQuantizer(8, 4, metric="cosine", **given),
    "heads": lambda **given: VectorQuantizer(
        8, 4, heads=2, separate_codebooks=True, **given
    ),
    "residual": lambda **given: ResidualQuantizer(8, 4, 3, **given),
    "shared": lambda **given: ResidualQuantizer(8, 4, 3, shared_codebook=True, **given),
    "product": lambda **given: ProductQuantizer(8, 4, 2, **given),
    "rotated": lambda **given: ProductQuantizer(8, 4, 2, rotation=True, **given),
}  # fmt: skip
LEARNING = [name for name in QUANTIZERS if name != "frozen"]
every_quantizer = pytest.mark.parametrize("make", QUANTIZERS.values(), ids=QUANTIZERS)
UNTRAINED = "has no centroids yet.* answers from random ones"


def trained(make: Make) -> Quantizer:
    quantizer: Quantizer = make()
    if any(level.update_rule == "frozen" for level in levels_of(quantizer)):
        quantizer.load_state_dict(trained(QUANTIZERS["vector"]).state_dict())
        return quantizer.eval()
    for seed in range(3):
        quantizer(normal(60, 4, seed=seed))
    return quantizer.eval()


def levels_of(quantizer: nn.Module) -> list[VectorQuantizer]:
    return [module for module in quantizer.modules() if isinstance(module, VectorQuantizer)]


@every_quantizer
@pytest.mark.parametrize("first", ["forward", "decode"])
def test_evaluation_before_training_answers_and_warns_once(make: Make, first: str) -> None:
    torch.manual_seed(0)
    quantizer, x = make().eval(), normal(40, 4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if first == "decode":
            quantizer.decode(torch.zeros_like(make().eval()(x).codes))
            caught.pop(0)  # that of the other quantizer, for its codes
        found = quantizer(x)
        again = quantizer(x)
        torch.testing.assert_close(quantizer.decode(found.codes), found.quantized)
    assert [warning.category for warning in caught] == [UserWarning]
    assert type(quantizer).__name__ in str(caught[0].message)
    assert found.quantized.shape == x.shape
    assert found.loss.isfinite()
    assert len(found.codes.unique()) > 1
    assert torch.equal(again.codes, found.codes)
    with pytest.raises(NotInitializedError, match=type(quantizer).__name__):
        quantizer.encode(x)


@pytest.mark.parametrize("name", LEARNING)
def test_the_first_batch_in_training_initializes_what_was_random(name: str) -> None:
    quantizer, x = QUANTIZERS[name]().eval(), normal(60, 4)
    with pytest.warns(UserWarning, match=UNTRAINED):
        quantizer(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantizer.train()(x)
        quantizer.eval()(x)
    assert all(layer.initialized for layer in quantizer.codebook_layers())
    codes = quantizer.encode(x)
    error = (quantizer.decode(codes) - x).square().mean()
    assert error < (x.norm(dim=-1, keepdim=True) if name == "cosine" else x).var()


def test_frozen_random_codes_are_not_trained_with() -> None:
    with pytest.raises(NotInitializedError, match="VectorQuantizer has no centroids"):
        QUANTIZERS["frozen"]()(normal(5, 4))


def test_random_centroids_are_drawn_as_those_of_an_embedding() -> None:
    torch.manual_seed(3)
    centroids = VectorQuantizer(500, 20).codebook.centroids
    torch.manual_seed(3)
    assert torch.equal(centroids, nn.Embedding(500, 20).weight)
    cosine = VectorQuantizer(50, 20, metric="cosine").codebook
    torch.testing.assert_close(cosine.centroids.norm(dim=-1), torch.ones(50))
    before = cosine.centroids.clone()
    cosine.reset_parameters()
    assert not torch.equal(before, cosine.centroids)


@every_quantizer
def test_a_state_from_before_training_is_one_of_random_centroids(make: Make) -> None:
    source, target, x = make().eval(), trained(make), normal(40, 4)
    target.load_state_dict(source.state_dict())
    with pytest.warns(UserWarning, match=UNTRAINED):
        assert torch.equal(source(x).codes, target(x).codes)
    with pytest.raises(NotInitializedError):
        target.encode(x)
    target.load_state_dict(trained(make).state_dict())
    target.encode(x)


class Autoencoder(LightningModule):
    """As people write it, with a validation loader."""

    def __init__(self, make: Make) -> None:
        super().__init__()
        self.encoder, self.quantizer, self.decoder = nn.Linear(4, 4), make(), nn.Linear(4, 4)
        self.validated: list[bool] = []

    def error(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = self.quantizer(self.encoder(x))
        assert found.quantized.dtype == x.dtype
        return (self.decoder(found.quantized) - x).square().mean(), found.loss

    def training_step(self, x: Tensor, batch_idx: int) -> Tensor:
        return sum(self.error(x), start=torch.zeros(()))

    def validation_step(self, x: Tensor, batch_idx: int) -> None:
        layers = self.quantizer.codebook_layers()
        self.validated.append(all(bool(layer.initialized) for layer in layers))
        self.log("val/error", self.error(x)[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-3)


@pytest.mark.parametrize("name", ["vector", "gradient", "shared", "rotated"])
def test_a_network_passes_the_sanity_check_of_lightning(name: str) -> None:
    model = Autoencoder(QUANTIZERS[name])
    loader = DataLoader(normal(64, 4), 16)  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match=UNTRAINED):
        quiet_trainer(num_sanity_val_steps=2, max_epochs=1).fit(model, loader, loader)
    assert model.validated == [False] * 2 + [True] * 4


@pytest.mark.parametrize("name", ["vector", "residual"])
def test_a_network_trains_in_true_half_precision(name: str) -> None:
    model = Autoencoder(QUANTIZERS[name])
    loader = DataLoader(normal(64, 4), 16)  # type: ignore[arg-type]
    quiet_trainer(precision="bf16-true", max_epochs=2).fit(model, loader, loader)
    assert model.encoder.weight.dtype == torch.bfloat16
    for layer in model.quantizer.codebook_layers():
        assert layer.centroids.dtype == torch.float32
        assert int(layer.n_iter.max()) > 0


@pytest.mark.parametrize("make", [*QUANTIZERS.values(), lambda: KMeansLayer(8, 4)])
@pytest.mark.parametrize("how", ["export", "trace"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_random_codebook_is_not_exported(make: Make, how: str) -> None:
    x = normal(10, 4)
    record: Callable[..., object] = {"export": torch.export.export, "trace": torch.jit.trace}[how]
    with pytest.raises(NotInitializedError, match="has no centroids yet"):
        record(make().eval(), (x,))


def test_compiled_code_evaluates_before_training_too() -> None:
    quantizer, x = VectorQuantizer(8, 4).eval(), normal(40, 4)
    compiled = torch.compile(quantizer, backend="eager")
    with pytest.warns(UserWarning, match=UNTRAINED):
        assert torch.equal(compiled(x).codes, quantizer(x).codes)
    quantizer.train()(x)
    quantizer.eval()
    assert torch.equal(compiled(x).codes, quantizer.encode(x))
    torch.compiler.reset()


LAYERS: dict[str, Make] = {**QUANTIZERS, "layer": lambda **given: KMeansLayer(8, 4, **given)}


def ready(name: str) -> nn.Module:
    if name != "layer":
        return trained(QUANTIZERS[name])
    layer = KMeansLayer(8, 4)
    layer.fit(normal(60, 4))
    return layer


def answer(module: Any, x: Tensor) -> Tensor:
    found = module.eval()(x)
    return found if isinstance(found, Tensor) else found.codes


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("way", ["context", "argument", "assign", "moved"])
def test_a_state_fills_what_was_made_on_the_meta_device(name: str, way: str) -> None:
    source, x = ready(name), normal(40, 4, seed=9)
    if way == "argument":
        module = LAYERS[name](device="meta")
    elif way == "moved":
        module = ready(name).to("meta")
    else:
        with torch.device("meta"):
            module = LAYERS[name]()
    assert all(buffer.is_meta for buffer in module.buffers())
    if way != "assign":
        module.to_empty(device="cpu")
        for buffer in module.buffers():
            buffer.fill_(1)
    module.load_state_dict(copy.deepcopy(source.state_dict()), assign=way == "assign")
    assert not any(buffer.is_meta for buffer in module.buffers())
    assert torch.equal(answer(module, x), answer(source, x))
    if name in LEARNING:
        for twin in (module, source):
            torch.manual_seed(0)
            for seed in range(2):
                twin.train()(normal(60, 4, seed=seed))
        assert_same(dict(module.eval().state_dict()), dict(source.eval().state_dict()))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("recursive", [True, False])
def test_reset_parameters_makes_new_what_was_empty(name: str, recursive: bool) -> None:
    with torch.device("meta"):
        module = LAYERS[name]()
    for part in [module] if recursive else list(module.modules()):
        part.to_empty(device="cpu", recurse=recursive)
        for buffer in part.buffers(recurse=recursive):
            buffer.fill_(1)
        # As torch.distributed does it; torch resets no weight that has a parametrization.
        if hasattr(part, "reset_parameters") and (recursive or part._buffers):
            part.reset_parameters()
    if name == "rotated" and not recursive:
        module.reset_parameters()
    for key, buffer in module.named_buffers():
        if key.split(".")[-1] not in ("centroids", "base"):
            assert not buffer.any(), key
    if name == "layer":
        assert not module.centroids.any()
        return
    assert len(module.codebook_layers()[0].centroids.unique()) > 8
    with pytest.warns(UserWarning, match=UNTRAINED):
        module.eval()(normal(40, 4))
    if name in LEARNING:
        module.train()(normal(40, 4))
        module.eval().encode(normal(40, 4))


@pytest.mark.parametrize("name", [name for name in QUANTIZERS if name != "rotated"])
def test_an_untrained_quantizer_can_be_copied(name: str) -> None:
    quantizer, x = QUANTIZERS[name]().eval(), normal(40, 4)
    for twin in (copy.deepcopy(quantizer), pickle.loads(pickle.dumps(quantizer))):
        with pytest.warns(UserWarning, match=UNTRAINED):
            assert torch.equal(twin(x).codes, quantizer(x).codes)
        assert_same(state_of(twin), state_of(quantizer))


CASTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "bfloat16": lambda module: module.bfloat16(),
    "half": lambda module: module.half(),
    "to": lambda module: module.to(torch.bfloat16),
    "to, twice": lambda module: module.to(torch.float16).to(torch.bfloat16),
    "network": lambda module: nn.Sequential(module).bfloat16()[0],
}


@pytest.mark.parametrize("name", ["vector", "cosine", "heads", "residual", "shared", "product"])
@pytest.mark.parametrize("cast", CASTS)
def test_moving_averages_of_a_cast_network_are_those_of_float32(name: str, cast: str) -> None:
    """What a batch moves is less than a rounding step of half precision."""
    torch.manual_seed(0)
    full = QUANTIZERS[name](decay=0.9999)
    full(normal(60, 4))
    half = CASTS[cast](copy.deepcopy(full))
    start = [layer.centroids.clone() for layer in full.codebook_layers()]
    for seed in range(10):
        x = normal(60, 4, seed=seed).bfloat16() + 0.25
        found, expected = half(x), full(x.float())
        assert found.quantized.dtype == torch.bfloat16
        assert torch.equal(found.codes, expected.codes)
    assert_same(dict(half.eval().state_dict()), dict(full.eval().state_dict()))
    for layer, before in zip(half.codebook_layers(), start, strict=True):
        assert layer.counts.dtype == torch.float64
        assert not torch.equal(layer.centroids, before)
    dtype = torch.float16 if cast == "half" else torch.bfloat16
    found = half(x)
    decoded = half.decode(found.codes)
    assert decoded.dtype == dtype
    torch.testing.assert_close(decoded.float(), found.quantized.float(), rtol=0.01, atol=0.01)


def test_a_quantizer_made_in_half_precision_averages_in_float32() -> None:
    by_argument = VectorQuantizer(8, 4, dtype=torch.float16)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        by_default = VectorQuantizer(8, 4)
    finally:
        torch.set_default_dtype(before)
    for quantizer in (by_argument, by_default):
        assert quantizer.codebook.centroids.dtype == torch.float32
        assert quantizer.decode(quantizer(normal(60, 4).half()).codes).dtype == torch.float16
    double = by_argument.double()
    assert double.codebook.centroids.dtype == torch.float64
    assert double.decode(torch.tensor([0])).dtype == torch.float64
    assert double.half().codebook.centroids.dtype == torch.float32


@pytest.mark.parametrize("update", ["gradient", "frozen"])
def test_centroids_that_no_average_moves_are_cast(update: str) -> None:
    quantizer = VectorQuantizer(8, 4, update=update).bfloat16()
    assert quantizer.codebook.centroids.dtype == torch.bfloat16
    if update == "gradient":
        assert quantizer(normal(60, 4).bfloat16()).quantized.dtype == torch.bfloat16
        assert quantizer.decode(torch.tensor([0])).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["vector", "cosine", "heads", "residual", "shared", "product"])
def test_codes_that_learn_by_gradient_are_revived_in_half_precision(
    name: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    quantizer = QUANTIZERS[name](update="gradient", revive_below=20).to(dtype)
    for seed in range(3):
        quantizer(normal(60, 4, seed=seed).to(dtype))
        before = [layer.centroids.clone() for layer in quantizer.codebook_layers()]
        quantizer.apply_update()
    for layer, centroids in zip(quantizer.codebook_layers(), before, strict=True):
        assert layer.centroids.dtype == dtype
        assert not torch.equal(layer.centroids, centroids)


@pytest.mark.parametrize("cast", CASTS)
def test_the_rotation_of_a_cast_network_learns(cast: str) -> None:
    """The exponential that keeps it orthogonal has no derivative in half precision."""
    quantizer = CASTS[cast](ProductQuantizer(8, 4, 2, rotation=True))
    optimizer = torch.optim.Adam(quantizer.parameters(), 1e-2)
    for seed in range(3):
        x = normal(60, 4, seed=seed).bfloat16()
        loss = (quantizer(x).quantized - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    weight = quantizer.rotation.weight.detach()
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight @ weight.T, torch.eye(4))
    assert not torch.equal(weight, torch.eye(4))
    assert quantizer.double().rotation.weight.dtype == torch.float64


@pytest.mark.parametrize("assign", [True, False])
def test_a_rotation_loaded_in_half_precision_learns(assign: bool) -> None:
    state = trained(QUANTIZERS["rotated"]).state_dict()
    half = {name: x.bfloat16() if x.is_floating_point() else x for name, x in state.items()}
    quantizer = QUANTIZERS["rotated"]()
    quantizer.load_state_dict(half, assign=assign)
    quantizer(normal(60, 4)).quantized.square().mean().backward()
    for parameter in quantizer.rotation.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("assign", [True, False])
def test_a_state_in_half_precision_is_averaged_in_float32(assign: bool) -> None:
    state = {
        key: tensor.bfloat16() if tensor.is_floating_point() else tensor
        for key, tensor in trained(QUANTIZERS["vector"]).state_dict().items()
    }
    quantizer = VectorQuantizer(8, 4)
    quantizer.load_state_dict(state, assign=assign)
    assert quantizer.codebook.centroids.dtype == torch.float32
    assert quantizer.codebook.counts.dtype == torch.float64
    assert torch.equal(quantizer.codebook.centroids, state["codebook.centroids"].float())
