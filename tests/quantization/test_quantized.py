"""Promises of what a quantizer returns: it unpacks, travels, and tells what its codes cost."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.export import Dim, export
from torch.utils import _pytree as pytree

from kmeans_module import ProductQuantizer, ResidualQuantizer, VectorQuantizer, backends
from kmeans_module.quantization import Quantized
from tests.quantization.helpers import normal
from tests.waits import counted

K, D = 16, 8
Make = Callable[[], Any]
VECTORS: dict[str, Make] = {
    "ema": lambda: VectorQuantizer(K, D),
    "gradient": lambda: VectorQuantizer(K, D, update="gradient"),
    "cosine": lambda: VectorQuantizer(K, D, metric="cosine"),
    "rotation": lambda: VectorQuantizer(K, D, estimator="rotation"),
    "gumbel": lambda: VectorQuantizer(K, D, estimator="gumbel"),
    "skip": lambda: VectorQuantizer(K, D, nonfinite="skip"),
    "heads": lambda: VectorQuantizer(K, D, heads=2),
    "separate": lambda: VectorQuantizer(K, D, heads=2, separate_codebooks=True),
    "projection": lambda: VectorQuantizer(K, D, projection=4, update="gradient"),
    "projection, heads": lambda: VectorQuantizer(K, D, projection=4, heads=2, metric="cosine"),
}
OTHERS: dict[str, Make] = {
    "product": lambda: ProductQuantizer(K, D, 4),
    "one part": lambda: ProductQuantizer(K, D, 1),
    "rotated": lambda: ProductQuantizer(K, D, 4, rotation=True),
    "residual": lambda: ResidualQuantizer(K, D, 3),
    "residual, gradient": lambda: ResidualQuantizer(K, D, 3, update="gradient"),
    "shared": lambda: ResidualQuantizer(K, D, 3, shared_codebook=True),
    "shared, cosine": lambda: ResidualQuantizer(K, D, 3, shared_codebook=True, metric="cosine"),
    "residual, cosine": lambda: ResidualQuantizer(K, D, 3, metric="cosine"),
    "sizes": lambda: ResidualQuantizer([K, 8, 4], D),
    "levels with projections": lambda: ResidualQuantizer(
        [K, 8, 4], D, projection=3, metric="cosine", update="gradient"
    ),
    "dropout": lambda: ResidualQuantizer(K, D, 3, dropout=True),
    "dropout of samples": lambda: ResidualQuantizer(K, D, 3, dropout="sample"),
    "shared, dropout of samples": lambda: ResidualQuantizer(
        K, D, 3, dropout="sample", shared_codebook=True
    ),
}
KINDS = {**VECTORS, **OTHERS}


def trained(name: str) -> Any:
    torch.manual_seed(0)
    quantizer = KINDS[name]()
    for step in range(2):
        quantizer(normal(60, 5, D, seed=step))
    return quantizer


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_the_mean_of_the_loss_of_samples_is_the_loss_with_its_gradient(
    name: str, training: bool
) -> None:
    quantizer = trained(name).train(training)
    mask, weight = normal(30, 5) > -0.5, normal(30, 5, seed=1).abs()
    for given in ({}, {"mask": mask}, {"mask": mask, "sample_weight": weight}):
        x = normal(30, 5, D, seed=3).requires_grad_()
        found = quantizer(x, **given)
        quantized, codes, loss = found
        assert (found.quantized, found.codes, found.loss) == (quantized, codes, loss)
        assert found.sample_loss.shape == (30, 5)
        counted = given.get("sample_weight", torch.ones(30, 5)) * given.get("mask", mask | ~mask)
        mean = (counted * found.sample_loss).sum() / counted.sum()
        torch.testing.assert_close(mean, loss)
        assert (found.sample_loss[counted == 0] == 0).all() or "mask" not in given
        learnt = [x, *(p for p in quantizer.parameters() if p.requires_grad)]
        options: dict[str, Any] = {"retain_graph": True, "allow_unused": True}
        for one, other in zip(
            torch.autograd.grad(mean, learnt, **options),
            torch.autograd.grad(loss, learnt, **options),
            strict=True,
        ):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", VECTORS)
def test_distances_are_those_of_the_layer_to_the_codes(name: str) -> None:
    quantizer = trained(name).eval()
    x = normal(20, 5, D, seed=3)
    mask = normal(20, 5) > -1
    x[0, 0], mask[0, 0] = 0, True
    found = quantizer(x, mask)
    inner = x if quantizer.projection is None else quantizer.projection(x)
    heads = quantizer.heads
    rows = inner.view(100, heads, -1)
    if quantizer.separate_codebooks:
        rows = rows.transpose(0, 1)
    everything = quantizer.codebook.transform(rows)
    if quantizer.separate_codebooks:
        everything = everything.transpose(0, 1)
    everything = everything.reshape(100, heads, K)
    codes = found.codes.view(100, heads)
    expected = everything.gather(-1, codes.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    expected = expected.where(codes >= 0, 0.0).view(found.codes.shape)
    torch.testing.assert_close(found.distances, expected, rtol=1e-4, atol=1e-5)


def test_distances_of_levels_are_of_what_is_left() -> None:
    quantizer = trained("sizes").eval()
    x = normal(20, 5, D, seed=3)
    for beams in (1, 4):
        found = quantizer(x, beam_size=beams)
        left = x
        for level in range(3):
            left = left - quantizer.level(level).decode(found.codes[..., level])
            torch.testing.assert_close(found.distances[..., level], left.square().sum(dim=-1))
    parts = trained("rotated").eval()
    found = parts(x)
    torch.testing.assert_close(
        found.distances.sum(dim=-1), (x - found.quantized).square().sum(dim=-1)
    )


@pytest.mark.parametrize("name", KINDS)
def test_perplexity_and_usage_are_counted_by_codebook(name: str) -> None:
    quantizer = trained(name).eval()
    x, mask = normal(40, 5, D, seed=3), normal(40, 5) > -0.5
    found = quantizer(x, mask)
    several = found.codes.ndim > 2
    codes = found.codes.flatten(0, 1) if several else found.codes.view(-1, 1)
    sizes = getattr(quantizer, "sizes", (K,) * codes.shape[-1])
    expected = []
    for column, k in zip(codes.unbind(dim=-1), sizes, strict=True):
        share = torch.bincount(column[column >= 0], minlength=k) / (column >= 0).sum()
        known = share[share > 0]
        expected.append([float((-(known * known.log()).sum()).exp()), len(known) / k])
    perplexity, usage = torch.tensor(expected).T
    if not several:
        perplexity, usage = perplexity[0], usage[0]
    torch.testing.assert_close(found.perplexity, perplexity)
    torch.testing.assert_close(found.usage, usage)


def test_a_batch_without_samples_uses_no_code() -> None:
    found = trained("sizes").eval()(normal(6, D), torch.zeros(6, dtype=torch.bool))
    for values in (found.perplexity, found.usage, found.distances, found.sample_loss):
        assert (values == 0).all()


def test_what_is_read_asks_for_no_e_step_and_no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [trained(name)(normal(60, 5, D, seed=3)) for name in ("heads", "sizes", "rotated")]

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a backend was asked")

    monkeypatch.setattr(backends, "backend_for", refuse)
    with counted() as waits:
        for output in found:
            for name in ("distances", "sample_loss", "perplexity", "usage"):
                getattr(output, name)
    assert not waits


def attributes(found: Quantized) -> list[Tensor]:
    return [*found, found.distances, found.sample_loss, found.perplexity, found.usage]


TRAVELS: dict[str, Callable[[Quantized], Quantized]] = {
    "pickle": lambda found: pickle.loads(pickle.dumps(found)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "tree": lambda found: pytree.tree_map(lambda leaf: leaf.clone(), found),
    "replace": lambda found: found._replace(loss=found.loss),
}


@pytest.mark.parametrize("way", TRAVELS)
@pytest.mark.parametrize("name", ["ema", "separate", "sizes"])
def test_an_output_keeps_what_it_knows(name: str, way: str) -> None:
    found = trained(name).eval()(normal(20, 5, D))
    other = TRAVELS[way](found)
    assert type(other) is Quantized
    for one, expected in zip(attributes(other), attributes(found), strict=True):
        assert torch.equal(one, expected)


def test_a_plain_tuple_makes_an_output_of_three_tensors_alone() -> None:
    found = trained("ema").eval()(normal(20, D))
    for rebuilt in (Quantized(*found), Quantized(iter(found)), type(found)(list(found))):
        assert rebuilt.codes is found.codes
        assert repr(rebuilt).startswith("Quantized(quantized=tensor(")
        for name in ("distances", "sample_loss", "perplexity", "usage"):
            with pytest.raises(ValueError, match="knows these three alone"):
                getattr(rebuilt, name)
    with pytest.raises(TypeError, match="got 2 values"):
        Quantized([found.quantized, found.codes])


def test_an_exported_program_returns_the_same_object_also_from_a_file() -> None:
    quantizer = trained("sizes").eval()
    program = export(quantizer, (normal(20, D),), dynamic_shapes={"x": {0: Dim("n")}})
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    x = normal(70, D, seed=2)
    expected = attributes(quantizer(x))
    for again in (program, torch.export.load(file)):
        found = again.module()(x)
        assert type(found) is Quantized
        for one, other in zip(attributes(found), expected, strict=True):
            torch.testing.assert_close(one, other)


def test_attributes_are_read_in_one_graph_and_behind_it() -> None:
    torch.compiler.reset()
    quantizer = trained("sizes")
    twin = copy.deepcopy(quantizer)

    def step(x: Tensor, weight: Tensor) -> tuple[Quantized, list[Tensor]]:
        found = twin(x, None, weight)
        return found, attributes(found)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    x, weight = normal(60, D, seed=5), normal(60, seed=6).abs()
    found, read = compiled(x, weight)
    expected = quantizer(x, sample_weight=weight)
    assert type(found) is Quantized
    for one, other, third in zip(read, attributes(found), attributes(expected), strict=True):
        torch.testing.assert_close(one, third)
        torch.testing.assert_close(other, third)
    for key, tensor in twin.state_dict().items():
        torch.testing.assert_close(tensor, quantizer.state_dict()[key])
    torch.compiler.reset()
