"""Promises of sample weights: a weight is so many samples, in training and offline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kmeans_module import ProductQuantizer, ResidualQuantizer, VectorQuantizer
from kmeans_module.backends import triton
from kmeans_module.quantization import decisions, fused, samples, steps
from kmeans_module.quantization.offline import least_squares
from tests.backends.conftest import needs_native
from tests.conftest import blobs, seeded
from tests.quantization.helpers import assert_same, normal, quantizer_at, state_of
from tests.waits import counted

K, D = 16, 8
LEARNING: dict[str, Callable[[], Any]] = {
    "ema": lambda: VectorQuantizer(K, D),
    "decay": lambda: VectorQuantizer(K, D, decay=0.8, revive_below=1.0, smoothing=0.1),
    "batches": lambda: VectorQuantizer(K, D, init_batches=3),
    "gradient": lambda: VectorQuantizer(K, D, update="gradient"),
    "cosine": lambda: VectorQuantizer(K, D, metric="cosine"),
    "heads": lambda: VectorQuantizer(K, D, heads=2),
    "separate": lambda: VectorQuantizer(K, D, heads=2, separate_codebooks=True),
    "projection": lambda: VectorQuantizer(K, D, projection=4),
    "channels": lambda: VectorQuantizer(K, D, channel_first=True),
    "skip": lambda: VectorQuantizer(K, D, nonfinite="skip"),
    "product": lambda: ProductQuantizer(K, D, 4),
    "residual": lambda: ResidualQuantizer(K, D, 3),
    "dropout of samples": lambda: ResidualQuantizer(K, D, 3, dropout="sample"),
    "shared": lambda: ResidualQuantizer(K, D, 3, shared_codebook=True),
}


def batch(step: int) -> Tensor:
    """Rows that leave codes behind, so that some die and are revived."""
    return blobs(150, D, centers=5, seed=step // 3) / (1 + step % 2)


def train(
    name: str,
    weight_of: Callable[[int], Tensor | None],
    mask_of: Callable[[int], Any] = lambda _: None,
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Codes and losses of some steps, and what was learnt."""
    torch.manual_seed(0)
    quantizer = LEARNING[name]()
    optimizer = torch.optim.SGD([*quantizer.parameters(), torch.zeros(1)], 0.05)
    found = []
    for step in range(6):
        torch.manual_seed(step)
        x = batch(step)
        if quantizer.channel_first:
            x = x.view(15, 10, D).movedim(-1, 1)
        shape = x.movedim(1, -1).shape[:-1] if quantizer.channel_first else x.shape[:-1]
        weight, mask = weight_of(step), mask_of(step)
        output = quantizer(
            x,
            None if mask is None else mask.view(shape),
            None if weight is None else weight.view(shape),
        )
        optimizer.zero_grad()
        if output.loss.requires_grad:
            output.loss.backward()
        optimizer.step()
        found += [output.codes, output.loss.detach()]
    return found, quantizer.state_dict()


def assert_alike(one: Any, other: Any) -> None:
    for found, expected in zip(one[0], other[0], strict=True):
        torch.testing.assert_close(found, expected)
    for key, tensor in one[1].items():
        torch.testing.assert_close(tensor, other[1][key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LEARNING)
def test_a_weight_of_one_is_no_weight(name: str) -> None:
    assert_alike(train(name, lambda _: torch.ones(150)), train(name, lambda _: None))


@pytest.mark.parametrize("name", LEARNING)
@pytest.mark.parametrize("scale", [2.0**-30, 2.0**30])
def test_no_scale_of_the_weights_changes_a_codebook(name: str, scale: float) -> None:
    weights = [normal(150, seed=step).abs() for step in range(6)]
    one, other = (train(name, lambda step, s=s: weights[step] * s) for s in (1.0, scale))
    keys = [key for key in one[1] if "counts" in key]
    for key in keys:
        torch.testing.assert_close(one[1].pop(key), other[1].pop(key) / scale)
    assert_alike(one, other)


@pytest.mark.parametrize("name", LEARNING)
def test_a_weight_of_zero_is_a_mask_for_learning_alone(name: str) -> None:
    masks = [normal(150, seed=step) > -0.7 for step in range(6)]
    weighted = train(name, lambda step: masks[step].double())
    masked = train(name, lambda _: None, lambda step: masks[step])
    codes = zip(weighted[0][::2], masked[0][::2], strict=True)
    for step, (found, expected) in enumerate(codes):
        assert (found.view(150, -1)[:, 0] >= 0).all()  # levels that are dropped have none
        kept = masks[step]
        assert torch.equal(found.view(150, -1)[kept], expected.view(150, -1)[kept])
    assert_alike((weighted[0][1::2], weighted[1]), (masked[0][1::2], masked[1]))


@pytest.mark.parametrize("options", [{}, {"metric": "cosine"}, {"update": "gradient"}])
def test_a_weight_is_so_many_equal_samples(options: dict[str, Any]) -> None:
    x, repeats = normal(60, D), torch.arange(60) % 4
    states, losses = [], []
    for rows, weight in ((x, repeats), (x.repeat_interleave(repeats, dim=0), None)):
        quantizer = quantizer_at(normal(K, D, seed=1), revive_below=0, decay=0.8, **options)
        losses.append(quantizer(rows, sample_weight=weight).loss)
        quantizer.apply_update()
        states.append(state_of(quantizer.codebook))
    torch.testing.assert_close(losses[0], losses[1])
    for key, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][key])


def test_codes_start_and_are_revived_where_samples_weigh() -> None:
    x = torch.cat([normal(500, D), normal(500, D) + 100])
    weight = torch.cat([torch.ones(500), torch.zeros(500)])
    quantizer = VectorQuantizer(K, D, decay=0.5, revive_below=3.0)
    for _ in range(6):
        quantizer(x, sample_weight=weight)
    quantizer.apply_update()
    assert (quantizer.codebook.centroids < 50).all()


def test_samples_are_drawn_in_proportion_to_their_weights() -> None:
    numbers = torch.arange(20_000)
    weight = 1.0 + (numbers % 2).double() * 3
    drawn = samples.draw(
        numbers.view(1, -1, 1).float(),
        weight.unsqueeze(0),
        numbers.unsqueeze(0),
        most=1_000,
        step=torch.zeros(1, dtype=torch.int64),
        numbering=samples.Numbering(0, 1),
        metric="euclidean",
        dtype=torch.float32,
    )
    assert drawn.known.all()
    assert 0.75 < (drawn.codes % 2).double().mean() < 0.85  # 4 of 5
    keys = samples.hashed(numbers).unsqueeze(0)
    equal = samples.by_weight(keys, torch.full((1, 20_000), 0.3).double())
    assert torch.equal(equal.argsort(), keys.argsort())


@needs_native  # plain torch waits for the rows in doubt
@pytest.mark.parametrize("name", ["ema", "separate", "gradient", "residual", "shared"])
def test_a_device_takes_the_decisions_of_the_cpu_without_a_wait(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = [normal(150, seed=step).abs() for step in range(6)]
    expected = train(name, weights.__getitem__)
    monkeypatch.setattr(decisions, "decides_on_device", lambda x: True)
    assert_alike(train(name, weights.__getitem__), expected)
    quantizer = LEARNING[name]()
    quantizer(batch(0), sample_weight=weights[0])
    monkeypatch.setattr("kmeans_module.quantization.layout.readable", lambda x: False)
    with counted() as waits:
        quantizer(batch(1), sample_weight=weights[1])
    assert not waits


def test_the_kernels_of_a_step_take_masks_and_leave_weights_to_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decisions, "decides_on_device", lambda x: True)
    monkeypatch.setattr(fused, "backend_for", lambda *_: triton.BACKEND)
    quantizer, rows = quantizer_at(normal(K, D)), normal(1, 30, D)
    state = quantizer.codebook_state()
    for valid in (None, torch.ones(1, 30, dtype=torch.bool)):
        assert fused.serves(state, rows, valid)
    assert not fused.serves(state, rows, torch.ones(1, 30))
    taken: list[Tensor] = []
    monkeypatch.setattr(fused, "apply", steps.apply)
    monkeypatch.setattr(fused, "record", lambda *_: taken.append(rows))
    quantizer(rows, sample_weight=torch.ones(1, 30))
    assert not taken


def test_weights_that_nothing_looks_at_are_reported_as_rows_that_are_not_finite(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quantizer = quantizer_at(normal(K, D))
    before = state_of(quantizer.codebook)
    monkeypatch.setattr("kmeans_module.quantization.layout.readable", lambda x: False)
    for bad in (-1.0, torch.nan, torch.inf):
        weight = torch.ones(30)
        weight[4] = bad
        with pytest.raises(ValueError, match="1 row"):
            quantizer(normal(30, D), sample_weight=weight)
    assert_same(state_of(quantizer.codebook), before)


@pytest.mark.parametrize("make", [LEARNING["ema"], LEARNING["product"], LEARNING["residual"]])
@pytest.mark.parametrize(
    ("weight", "error", "words"),
    [
        (torch.ones(29), ValueError, r"sample_weight should have shape \(30,\).*\(29,\)"),
        (-torch.ones(30), ValueError, "sample_weight should be >= 0; 30 weights are negative"),
        (torch.full((30,), torch.nan), ValueError, "sample_weight should be finite"),
        (torch.ones(30, dtype=torch.complex64), TypeError, "sample_weight should hold real"),
        ([1.0] * 30, TypeError, "sample_weight should be a torch.Tensor; got list"),
    ],
)
def test_weights_that_are_none_are_refused_by_name(
    make: Any, weight: Any, error: type[Exception], words: str
) -> None:
    quantizer = make()
    quantizer(normal(60, D))
    for training in (True, False):
        quantizer.train(training)
        with pytest.raises(error, match=words):
            quantizer(normal(30, D), sample_weight=weight)
    if not isinstance(quantizer, VectorQuantizer):
        with pytest.raises(error, match=words):
            quantizer.fit(normal(30, D), sample_weight=weight)


# offline

FITTED: dict[str, Callable[[], Any]] = {
    "product": lambda: ProductQuantizer(4, D, 2),
    "rotated": lambda: ProductQuantizer(4, D, 2, rotation=True),
    "residual": lambda: ResidualQuantizer(4, D, 3),
    "sizes": lambda: ResidualQuantizer([8, 4, 2], D),
}


@pytest.mark.parametrize("name", FITTED)
def test_a_fit_does_not_see_rows_of_weight_zero(name: str) -> None:
    x, weight = blobs(300, D), (torch.arange(300) % 3).double()
    states = []
    for rows, own in ((x, weight), (x[weight > 0], weight[weight > 0])):
        quantizer = FITTED[name]()
        quantizer.fit(rows, sample_weight=own, seed=1)
        states.append(quantizer.state_dict())
    assert_same(*states)


@pytest.mark.parametrize("name", FITTED)
def test_a_fit_serves_the_samples_that_weigh(name: str) -> None:
    x = torch.cat([normal(300, D), normal(300, D, seed=1) + 20])
    weight = torch.cat([torch.full((300,), 1e-4), torch.ones(300)])
    errors = []
    for own in (weight, None, torch.ones(600)):
        quantizer = FITTED[name]().requires_grad_(False)
        quantizer.fit(x, sample_weight=own, seed=1)
        error = (quantizer.decode(quantizer.encode(x)) - x).square().sum(dim=-1)
        errors.append(float((weight * error).sum() / weight.sum()))
    assert errors[0] < 0.97 * errors[1]
    assert errors[0] < 0.97 * errors[2]


def test_levels_fitted_together_take_a_weight_as_equal_samples() -> None:
    x, repeats = normal(200, 4).double(), torch.arange(200) % 3 + 1
    codes = torch.randint(4, (200, 3), generator=seeded())
    books = list(normal(3, 4, 4, seed=1).double())
    found = least_squares(x, codes, books, repeats.double())
    rows = codes.repeat_interleave(repeats, dim=0)
    expected = least_squares(x.repeat_interleave(repeats, dim=0), rows, books)
    one, other = (torch.stack(fitted) for fitted in (found, expected))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)  # but for what keeps codes


@pytest.mark.parametrize("name", FITTED)
def test_a_fit_with_too_few_samples_that_weigh_is_refused(name: str) -> None:
    weight = torch.zeros(300)
    weight[:3] = 1
    with pytest.raises(ValueError, match=r"sample_weight should be positive .* it is for 3"):
        FITTED[name]().fit(blobs(300, D), sample_weight=weight)
