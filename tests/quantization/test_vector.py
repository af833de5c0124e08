"""Promises of VectorQuantizer as a module: shapes, masks, precision, and what it keeps."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from kmeans_module import VectorQuantizer
from tests.conftest import blobs
from tests.quantization.helpers import assert_same, normal, quantizer_at, state_of, trained

# Options, the shape of x, and the shape of its codes.
SHAPES: list[tuple[dict[str, Any], tuple[int, ...], tuple[int, ...]]] = [
    ({}, (8, 50, 4), (8, 50)),
    ({}, (40, 4), (40,)),
    ({}, (2, 3, 5, 4), (2, 3, 5)),
    ({"metric": "cosine"}, (40, 4), (40,)),
    ({"channel_first": True}, (6, 4, 5, 7), (6, 5, 7)),
    ({"channel_first": True}, (6, 4, 9), (6, 9)),
    ({"heads": 2}, (30, 4), (30, 2)),
    ({"heads": 2, "separate_codebooks": True}, (3, 30, 4), (3, 30, 2)),
    ({"heads": 2, "separate_codebooks": True, "channel_first": True}, (3, 4, 5, 6), (3, 5, 6, 2)),
    ({"heads": 4, "channel_first": True, "metric": "cosine"}, (3, 4, 20), (3, 20, 4)),
]


def masked_like(codes: Tensor, heads: int) -> Tensor:
    """A mask that hides a third of the samples."""
    shape = codes.shape[:-1] if heads > 1 else codes.shape
    return normal(*shape, seed=9) > -0.4


@pytest.mark.parametrize(("options", "shape", "expected"), SHAPES)
@pytest.mark.parametrize("estimator", ["straight-through", "rotation", "gumbel"])
def test_outputs_have_the_shapes_that_are_promised(
    options: dict[str, Any], shape: tuple[int, ...], expected: tuple[int, ...], estimator: str
) -> None:
    x = normal(*shape)
    quantizer = trained(x, estimator=estimator, **options)
    for training in (True, False):
        quantizer.train(training)
        found = quantizer(x)
        assert found.quantized.shape == shape
        assert found.quantized.dtype == x.dtype
        assert found.codes.shape == expected
        assert found.codes.dtype == torch.int64
        assert found.loss.shape == ()
        assert quantizer.encode(x).shape == expected
    assert quantizer(x[:0]).codes.shape == (0, *expected[1:])


@pytest.mark.parametrize(("options", "shape", "expected"), SHAPES)
def test_codes_decode_to_what_was_quantized(
    options: dict[str, Any], shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    x = normal(*shape)
    quantizer = trained(x, **options).eval()
    mask = masked_like(torch.empty(expected), quantizer.heads)
    for found in (quantizer(x), quantizer(x, mask)):
        assert torch.equal(quantizer.decode(found.codes), found.quantized)
    assert torch.equal(quantizer.encode(x), quantizer(x).codes)


@pytest.mark.parametrize(("options", "shape", "expected"), SHAPES)
def test_codes_are_the_nearest_of_each_head(
    options: dict[str, Any], shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    x = normal(*shape)
    quantizer = trained(x, **options).eval()
    last = x.movedim(1, -1) if quantizer.channel_first else x
    rows = last.reshape(-1, quantizer.heads, 4 // quantizer.heads).double()
    codebook = quantizer.codebook.centroids.double()
    if quantizer.codebook.metric == "cosine":
        rows = torch.nn.functional.normalize(rows, dim=-1)
        assert torch.allclose(codebook.norm(dim=-1), torch.ones(1).double())
    nearest = torch.cdist(rows.transpose(0, 1), codebook).argmin(dim=-1).T
    assert torch.equal(quantizer.encode(x).reshape(nearest.shape), nearest)


@pytest.mark.parametrize(("options", "shape", "expected"), SHAPES)
def test_padding_that_is_masked_changes_nothing(
    options: dict[str, Any], shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    x = normal(*shape)
    options = {**options, "update": "ema"}
    padded = torch.cat([x, torch.full_like(x[:2], torch.nan)])
    heads = options.get("heads", 1)
    inner = expected[1:-1] if heads > 1 else expected[1:]
    mask = torch.ones(len(padded), *inner, dtype=torch.bool)
    mask[len(x) :] = False
    torch.manual_seed(0)
    plain = VectorQuantizer(8, 4, **options)
    hidden = copy.deepcopy(plain)
    for _ in range(3):
        found, expected_outputs = hidden(padded, mask), plain(x)
        assert torch.equal(found.codes[: len(x)], expected_outputs.codes)
        assert torch.equal(found.quantized[: len(x)], expected_outputs.quantized)
        assert (found.codes[len(x) :] == -1).all()
        assert (found.quantized[len(x) :] == 0).all()
        torch.testing.assert_close(found.loss, expected_outputs.loss)
    for name, tensor in plain.eval().state_dict().items():
        torch.testing.assert_close(hidden.eval().state_dict()[name], tensor)


@pytest.mark.parametrize("update", ["ema", "gradient"])
@pytest.mark.parametrize("estimator", ["straight-through", "rotation", "gumbel"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_a_mask_that_hides_everything_teaches_nothing(
    update: str, estimator: str, metric: str
) -> None:
    x = normal(40, 4)
    quantizer = trained(x, update=update, estimator=estimator, metric=metric)
    before = state_of(quantizer)
    x = x.fill_(torch.nan).requires_grad_()
    found = quantizer(x, torch.zeros(40, dtype=torch.bool))
    (found.loss + found.quantized.sum()).backward()
    quantizer.apply_update()
    assert_same(state_of(quantizer), before)
    assert found.loss == 0
    assert (found.codes == -1).all()
    assert (found.quantized == 0).all()
    for tensor in (x, *quantizer.parameters()):
        assert tensor.grad is not None
        assert (tensor.grad == 0).all()


def test_a_mask_that_hides_the_first_batch_leaves_it_to_the_second() -> None:
    quantizer = VectorQuantizer(8, 4)
    found = quantizer(normal(40, 4), torch.zeros(40, dtype=torch.bool))
    assert found.loss == 0
    assert not quantizer.codebook.initialized
    quantizer(normal(40, 4))
    assert quantizer.codebook.initialized
    assert quantizer.eval()(normal(40, 4)).loss > 0


@pytest.mark.parametrize("options", [{}, {"heads": 2}, {"heads": 2, "separate_codebooks": True}])
def test_a_first_batch_of_no_direction_leaves_the_start_to_the_second(
    options: dict[str, Any],
) -> None:
    quantizer = VectorQuantizer(8, 4, metric="cosine", **options)
    x = normal(50, 4)
    nothing = torch.zeros(50, 4)
    if "separate_codebooks" in options:
        nothing[:, :2] = x[:, :2]  # of one head alone
    loss = quantizer(nothing).loss
    assert loss.isfinite()
    assert not quantizer.codebook.initialized
    quantizer(x)
    assert quantizer.codebook.initialized


@pytest.mark.parametrize("options", [{}, {"heads": 2, "separate_codebooks": True}])
def test_codes_that_learn_by_gradient_stay_at_unit_length(options: dict[str, Any]) -> None:
    quantizer = VectorQuantizer(8, 4, metric="cosine", update="gradient", **options)
    optimizer = torch.optim.Adam(quantizer.parameters(), 0.05)
    for seed in range(5):
        optimizer.zero_grad()
        quantizer(normal(50, 4, seed=seed)).loss.backward()
        optimizer.step()
    found = quantizer.eval()(normal(20, 4))
    lengths = quantizer.codebook.centroids.norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))
    rows = quantizer.parts.to_rows(normal(20, 4), torch.float32)
    distances = quantizer.codebook.transform(rows if options else rows[0]).amin(dim=-1)
    expected = distances.T if options else distances
    torch.testing.assert_close(found.distances, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("codes", [[0, 8], [-2, 0]])
def test_codes_out_of_range_are_refused(codes: list[int]) -> None:
    quantizer = trained(normal(40, 4))
    with pytest.raises(ValueError, match="codes should be from 0 to 7, or -1 for none; got"):
        quantizer.decode(torch.tensor(codes))
    assert (quantizer.decode(torch.tensor([-1])) == 0).all()


def test_what_does_not_fit_is_refused() -> None:
    quantizer = trained(normal(40, 4), heads=2)
    with pytest.raises(ValueError, match=r"codes should have shape \(..., 2\); got \(3,\)"):
        quantizer.decode(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(TypeError, match="codes should be integers"):
        quantizer.decode(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"x should have shape \(..., 4\); got \(40, 5\)"):
        quantizer(normal(40, 5))
    with pytest.raises(TypeError, match="x should hold floats"):
        quantizer(torch.zeros(40, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"mask should have shape \(40,\); got \(39,\)"):
        quantizer(normal(40, 4), torch.ones(39))
    with pytest.raises(ValueError, match="heads should divide n_features=4; got 3"):
        VectorQuantizer(8, 4, heads=3)
    with pytest.raises(ValueError, match="decay should be less than 1"):
        VectorQuantizer(8, 4, decay=1.0)


@pytest.mark.parametrize("training", [True, False])
def test_encode_and_decode_learn_nothing(training: bool) -> None:
    quantizer = trained(normal(40, 4)).train(training)
    before = state_of(quantizer)
    codes = quantizer.encode(normal(40, 4, seed=1))
    quantizer.decode(codes)
    quantizer.apply_update()
    assert_same(state_of(quantizer), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_codes_of_half_precision_are_those_of_float32(dtype: torch.dtype) -> None:
    x = blobs(500, 8).to(dtype)
    for training in (True, False):
        half = trained(blobs(500, 8), 30).train(training)
        full, cast = copy.deepcopy(half), copy.deepcopy(half)
        found, expected = half(x), full(x.float())
        assert found.quantized.dtype == dtype
        assert torch.equal(found.codes, expected.codes)
        assert torch.equal(found.quantized, expected.quantized.to(dtype))
        assert torch.equal(found.loss, expected.loss)
        with torch.autocast("cpu", dtype):
            found = cast(x.float())
        assert torch.equal(found.codes, expected.codes)
        assert torch.equal(found.loss, expected.loss)
        for quantizer in (half, cast):
            assert_same(quantizer.state_dict(), full.state_dict())


@pytest.mark.parametrize("update", ["ema", "gradient", "frozen"])
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "state_dict"])
def test_a_copy_goes_on_as_the_original_does(update: str, way: str) -> None:
    options: dict[str, Any] = {"decay": 0.7, "revive_below": 1.0, "update": update}
    quantizer = quantizer_at(normal(12, 4), **options)
    batches = normal(5, 60, 4, seed=3)
    quantizer(batches[0])
    if way == "deepcopy":
        twin = copy.deepcopy(quantizer)
    elif way == "pickle":
        twin = pickle.loads(pickle.dumps(quantizer))
    else:
        file = io.BytesIO()
        torch.save(quantizer.state_dict(), file)
        file.seek(0)
        twin = VectorQuantizer(12, 4, **options)
        twin.load_state_dict(torch.load(file))
    for x in batches[1:]:
        found, expected = twin(x), quantizer(x)
        assert torch.equal(found.codes, expected.codes)
        assert torch.equal(found.loss, expected.loss)
    assert_same(twin.state_dict(), quantizer.state_dict())
    assert int(twin.codebook.n_iter) == (0 if update == "frozen" else 5)


def test_a_deepcopy_shares_nothing_with_its_original() -> None:
    quantizer = trained(normal(40, 4))
    before = state_of(quantizer)
    twin = copy.deepcopy(quantizer)
    for seed in range(3):
        twin(normal(40, 4, seed=seed))
    twin.apply_update()
    assert_same(state_of(quantizer), before)


def test_the_codebook_has_one_key_whether_it_learns_by_gradient_or_not() -> None:
    states = {
        update: quantizer_at(normal(8, 4, seed=seed), update=update).state_dict()
        for seed, update in enumerate(("ema", "gradient", "frozen"))
    }
    for update, state in states.items():
        for other in states:
            quantizer = VectorQuantizer(8, 4, update=other)
            quantizer.load_state_dict(state)
            is_parameter = "codebook.centroids" in dict(quantizer.named_parameters())
            assert is_parameter == (other == "gradient")
            assert torch.equal(quantizer.codebook.centroids, states[update]["codebook.centroids"])


def test_a_state_of_another_shape_is_refused_and_changes_nothing() -> None:
    quantizer, other = trained(normal(40, 4)), trained(normal(40, 4), 9)
    other.skipped.fill_(3)
    twin = copy.deepcopy(quantizer)
    quantizer(normal(40, 4, seed=1))
    twin(normal(40, 4, seed=1))
    before = state_of(quantizer)
    with pytest.raises(RuntimeError, match=r"size mismatch for codebook\.centroids"):
        quantizer.load_state_dict(other.state_dict())
    assert_same(state_of(quantizer), before)
    assert_same(quantizer.state_dict(), twin.state_dict())


def test_loading_forgets_what_was_recorded() -> None:
    quantizer, other = trained(normal(40, 4)), trained(normal(40, 4, seed=1))
    quantizer(normal(40, 4))
    quantizer.load_state_dict(other.state_dict())
    assert_same(quantizer.state_dict(), other.state_dict())
