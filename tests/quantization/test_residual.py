"""Promises of ResidualQuantizer: each level codes what is left, and they learn as one."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kmeans_module import NotInitializedError, ProductQuantizer, ResidualQuantizer, VectorQuantizer
from kmeans_module.quantization.gradients import rotate
from kmeans_module.quantization.offline import least_squares
from tests.conftest import brute_force, seeded
from tests.quantization.helpers import assert_same, normal, quantizer_at, state_of

SHARED = pytest.mark.parametrize("shared", [False, True])


def level_of(quantizer: ResidualQuantizer, number: int) -> VectorQuantizer:
    level = quantizer.levels[number]
    assert isinstance(level, VectorQuantizer)
    return level


def residual_at(codebooks: Tensor, **options: Any) -> ResidualQuantizer:
    """A quantizer that holds these codebooks, (L, k, d), or a shared one, (k, d)."""
    levels = options.pop("n_levels", len(codebooks))
    shared = codebooks.ndim == 2
    quantizer = ResidualQuantizer(
        *codebooks.shape[-2:], levels, shared_codebook=shared, dtype=codebooks.dtype, **options
    )
    own = {k: v for k, v in options.items() if k not in ("dropout", "beam_size")}
    for number, codebook in enumerate([codebooks] if shared else codebooks):
        level_of(quantizer, number).load_state_dict(quantizer_at(codebook, **own).state_dict())
    return quantizer


def trained(x: Tensor, k: int = 8, levels: int = 3, **options: Any) -> ResidualQuantizer:
    """A quantizer in training that has learnt from x."""
    torch.manual_seed(0)
    features = x.shape[1 if options.get("channel_first") else -1]
    quantizer = ResidualQuantizer(k, features, levels, **options)
    for _ in range(2):
        quantizer(x)
    quantizer.apply_update()
    return quantizer


def fitted(x: Tensor, k: int = 16, levels: int = 4, **options: Any) -> ResidualQuantizer:
    arguments = {name: options.pop(name) for name in ("max_iter", "refinements") if name in options}
    quantizer = ResidualQuantizer(k, x.shape[1], levels, **options)
    quantizer.fit(x, generator=seeded(), **arguments)
    return quantizer


def error(quantizer: ResidualQuantizer, x: Tensor, **options: Any) -> float:
    decoded = quantizer.decode(quantizer.encode(x, **options))
    return float((x - decoded).detach().square().sum(dim=-1).mean())


@SHARED
@pytest.mark.parametrize("estimator", ["straight-through", "rotation", "gumbel"])
@pytest.mark.parametrize(
    ("channel_first", "shape", "expected"),
    [(False, (40, 4), (40,)), (False, (2, 3, 9, 4), (2, 3, 9)), (True, (6, 4, 5, 3), (6, 5, 3))],
)
def test_outputs_have_the_shapes_that_are_promised(
    channel_first: bool, shape: tuple[int, ...], expected: tuple[int, ...], estimator: str,
    shared: bool,
) -> None:  # fmt: skip
    x = normal(*shape)
    options: dict[str, Any] = {"channel_first": channel_first, "shared_codebook": shared}
    quantizer = trained(x, estimator=estimator, **options)
    for training in (True, False):
        found = quantizer.train(training)(x)
        assert found.quantized.shape == shape
        assert found.quantized.dtype == x.dtype
        assert found.codes.shape == (*expected, 3)
        assert found.loss.shape == ()
    for codes in (quantizer.encode(x), quantizer.encode(x, beam_size=1)):
        assert codes.shape == (*expected, 3)
        assert codes.dtype == torch.int64
    assert torch.equal(codes, found.codes)
    torch.testing.assert_close(quantizer.decode(codes), found.quantized)
    assert torch.equal(quantizer.unpack(quantizer.pack(codes)), codes)
    assert quantizer.encode(x[:0]).shape == (0, *expected[1:], 3)
    assert quantizer(x[:0]).codes.shape == (0, *expected[1:], 3)


@SHARED
def test_each_level_takes_the_nearest_to_what_is_left(shared: bool) -> None:
    x = normal(80, 4)
    quantizer = trained(x, shared_codebook=shared).eval()
    left, found = x.double(), quantizer(x)
    for number, codebook in enumerate(quantizer.codebooks.double()):
        codes = torch.cdist(left, codebook).argmin(dim=1)
        assert torch.equal(found.codes[:, number], codes)
        left = left - codebook[codes]
    torch.testing.assert_close(found.quantized.double(), x - left)


def test_a_wider_beam_finds_no_worse_codes() -> None:
    x = normal(400, 4)
    quantizer = trained(x, levels=5).eval()
    errors = [error(quantizer, x, beam_size=size) for size in (1, 2, 5, 20)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.98 * errors[0]
    assert error(quantizer, x) == errors[0]


@SHARED
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [0.0, 1e3, 1e4])
def test_encode_is_what_forward_does(offset: float, dtype: torch.dtype, shared: bool) -> None:
    x = normal(500, 12, dtype=dtype) + offset
    quantizer = trained(x, k=32, levels=4, shared_codebook=shared, dtype=dtype).eval()
    found = quantizer(x)
    assert torch.equal(quantizer.encode(x), found.codes)
    assert torch.equal(quantizer.decode(found.codes), found.quantized)
    errors = [error(quantizer, x.double(), beam_size=size) for size in (1, 5, 20)]
    assert errors[1] <= errors[0]
    assert errors[2] <= errors[0]


@SHARED
@pytest.mark.parametrize("channel_first", [False, True])
def test_the_first_levels_are_prefixes(shared: bool, channel_first: bool) -> None:
    x = normal(6, 4, 50)
    x = x if channel_first else x.mT.contiguous()
    options: dict[str, Any] = {"shared_codebook": shared, "channel_first": channel_first}
    quantizer = trained(x, levels=4, **options).eval()
    everything, found = quantizer.encode(x), quantizer(x)
    for m in range(1, 5):
        codes = quantizer.encode(x, n_levels=m)
        assert torch.equal(codes, everything[..., :m])
        few = quantizer(x, n_levels=m)
        assert torch.equal(few.codes, codes)
        assert torch.equal(few.quantized, quantizer.decode(codes))
        assert torch.equal(few.quantized, quantizer.decode(found.codes, n_levels=m))
        assert few.loss <= found.loss
        assert torch.equal(quantizer.unpack(quantizer.pack(codes), n_levels=m), codes)
        best = quantizer.encode(x, n_levels=m, beam_size=8**m)
        assert best.shape == codes.shape
        errors = [(x - quantizer.decode(chosen)).square().sum() for chosen in (best, codes)]
        assert errors[0] <= errors[1] * 1.000001


@SHARED
def test_training_of_the_first_levels_leaves_the_others_alone(shared: bool) -> None:
    x = normal(3, 100, 4)
    quantizer = trained(x[0], levels=4, shared_codebook=shared, decay=0.5, commitment=1.0)
    before = quantizer.codebooks.detach().clone()
    rows = x[1].clone().requires_grad_()
    found = quantizer(rows, n_levels=2)
    assert found.codes.shape == (100, 2)
    (gradient,) = torch.autograd.grad(found.quantized.sum(), rows)
    assert torch.equal(gradient, torch.ones_like(rows))
    quantizer.apply_update()
    moved = (quantizer.codebooks != before).flatten(1).any(dim=1).tolist()
    assert moved == ([True] * 4 if shared else [True, True, False, False])


def test_levels_that_were_never_used_are_not_needed() -> None:
    x = normal(100, 4)
    quantizer = ResidualQuantizer(8, 4, 3)
    for _ in range(2):
        quantizer(x, n_levels=2)
    quantizer.eval()
    codes = quantizer.encode(x, n_levels=2)
    assert torch.equal(quantizer(x, n_levels=2).codes, codes)
    assert torch.equal(quantizer.encode(x, n_levels=2, beam_size=1), codes)
    with pytest.raises(NotInitializedError):
        quantizer.encode(x)
    with pytest.warns(UserWarning, match="no centroids yet"):
        quantizer(x)


def test_dropout_draws_from_the_levels_that_are_asked_for() -> None:
    x, used = normal(60, 4), set()
    quantizer = trained(x, levels=4, dropout=True)
    for seed in range(20):
        torch.manual_seed(seed)
        codes = quantizer(x, n_levels=2).codes
        assert codes.shape == (60, 2)
        used.add(int((codes[0] != -1).sum()))
    assert used == {1, 2}


@SHARED
@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_forward_takes_the_beams_that_encode_takes(update: str, shared: bool) -> None:
    x = normal(2, 100, 4)
    quantizer = trained(x, levels=4, update=update, shared_codebook=shared)
    with pytest.raises(ValueError, match="beam_size should be 1 in training; got 5"):
        quantizer(x, beam_size=5)
    quantizer.eval()
    mask = normal(2, 100, seed=1) > 0
    rows = x.clone().requires_grad_()
    found = quantizer(rows, mask, beam_size=5, n_levels=3)
    codes = quantizer.encode(x, beam_size=5, n_levels=3)
    assert torch.equal(found.codes, codes.where(mask.unsqueeze(-1), -1))
    torch.testing.assert_close(found.quantized, quantizer.decode(found.codes))
    (gradient,) = torch.autograd.grad(found.quantized.sum(), rows)
    assert torch.equal(gradient, mask.unsqueeze(-1).expand_as(x).float())
    left, loss = x[mask].double(), 0.0
    for level in range(3):
        left = left - quantizer.codebooks[level].detach().double()[codes[mask][:, level]]
        loss += (0.25 + (update == "gradient")) * float(left.square().mean())
    assert float(found.loss.detach()) == pytest.approx(loss, rel=1e-5)
    one = quantizer(x, mask, beam_size=1)
    for value, expected in zip(one, quantizer(x, mask), strict=True):
        assert torch.equal(value, expected)


def test_levels_that_there_are_not_are_refused() -> None:
    x = normal(40, 4)
    quantizer = trained(x).eval()
    codes = quantizer.encode(x)
    calls: list[Any] = [
        lambda m: quantizer(x, n_levels=m),
        lambda m: quantizer.encode(x, n_levels=m),
        lambda m: quantizer.decode(codes, n_levels=m),
        lambda m: quantizer.unpack(quantizer.pack(codes), n_levels=m),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="n_levels should be from 1 to 3; got 4"):
            call(4)
        with pytest.raises(ValueError, match="n_levels should be >= 1; got 0"):
            call(0)
        with pytest.raises(TypeError, match=r"n_levels should be an integer; got 1\.5"):
            call(1.5)
    with pytest.raises(ValueError, match="n_levels should be from 1 to 2; got 3"):
        quantizer.decode(codes[:, :2], n_levels=3)


def test_fit_keeps_as_many_beams_as_it_is_told() -> None:
    x = normal(400, 6)
    default, told = fitted(x, k=8), ResidualQuantizer(8, 6, 4, beam_size=1)
    told.fit(x, beam_size=5, generator=seeded())
    assert torch.equal(default.codebooks, told.codebooks)
    other = ResidualQuantizer(8, 6, 4)
    other.fit(x, beam_size=1, generator=seeded())
    assert not torch.equal(default.codebooks, other.codebooks)


def test_an_exhaustive_beam_finds_the_best_sum() -> None:
    x = normal(60, 3)
    quantizer = trained(x, k=4)
    every = torch.tensor(list(itertools.product(range(4), repeat=3)))
    nearest = brute_force(x, quantizer.decode(every)).min(dim=1).values
    codes = quantizer.encode(x, beam_size=16)
    found = (x.double() - quantizer.decode(codes).double()).square().sum(dim=1)
    torch.testing.assert_close(found, nearest, rtol=1e-5, atol=1e-6)


@SHARED
def test_dropout_uses_the_first_levels_in_training_only(shared: bool) -> None:
    x = normal(60, 4)
    quantizer = trained(x, levels=4, dropout=True, shared_codebook=shared)
    for _ in range(10):  # until all levels have been used
        quantizer(x)
    quantizer.apply_update()
    used = set()
    for seed in range(30):
        torch.manual_seed(seed)
        quantizer.train()
        rows = x.clone().requires_grad_()
        before = updates_of(quantizer)
        found = quantizer(rows)
        levels = int((found.codes[0] != -1).sum())
        used.add(levels)
        assert (found.codes[:, :levels] >= 0).all()
        assert (found.codes[:, levels:] == -1).all()
        torch.testing.assert_close(quantizer.decode(found.codes), found.quantized)
        found.quantized.sum().backward()
        assert rows.grad is not None
        assert torch.equal(rows.grad, torch.ones_like(x))
        quantizer.apply_update()
        learnt = (updates_of(quantizer) - before).tolist()
        assert learnt == ([1] if shared else [int(number < levels) for number in range(4)])
    assert used == {1, 2, 3, 4}
    quantizer.eval()
    for seed in range(10):
        torch.manual_seed(seed)
        codes = quantizer(x).codes
        assert (codes >= 0).all()
    assert torch.equal(quantizer.decode(codes[:, :2]), sum_of(quantizer, codes[:, :2]))


def updates_of(quantizer: ResidualQuantizer) -> Tensor:
    numbers = range(len(quantizer.levels))
    return torch.stack([level_of(quantizer, number).codebook.n_iter for number in numbers])


def sum_of(quantizer: ResidualQuantizer, codes: Tensor) -> Tensor:
    """Centroids of the codes, none of which is -1, added one by one."""
    parts = [book[own] for book, own in zip(quantizer.codebooks, codes.T, strict=False)]
    return torch.stack(parts).sum(dim=0)


def test_a_shared_codebook_learns_from_all_levels_at_once() -> None:
    codebook = normal(7, 4, seed=1, dtype=torch.float64)
    x = normal(80, 4, dtype=torch.float64)
    quantizer = residual_at(codebook, n_levels=3, decay=0.7, revive_below=0)
    found = quantizer(x)
    left, rows, losses = x, [], []
    for number in range(3):
        rows.append(left)
        codes = brute_force(left, codebook).argmin(dim=1)
        assert torch.equal(found.codes[:, number], codes)
        losses.append(0.25 * (left - codebook[codes]).square().mean())
        left = left - codebook[codes]
    torch.testing.assert_close(found.loss, torch.stack(losses).sum())
    alone = quantizer_at(codebook, decay=0.7, revive_below=0)
    alone(torch.cat(rows))
    quantizer.apply_update()
    alone.apply_update()
    own = F.one_hot(found.codes.T.flatten(), 7).double()
    counts = 0.7 * 10 + own.sum(dim=0)
    expected = (0.7 * 10 * codebook + own.T @ torch.cat(rows)) / counts.unsqueeze(-1)
    shared = level_of(quantizer, 0).codebook
    torch.testing.assert_close(shared.centroids, expected, rtol=1e-4, atol=1e-4)  # smoothed
    torch.testing.assert_close(shared.centroids, alone.codebook.centroids)
    torch.testing.assert_close(shared.counts, counts)
    assert int(shared.n_iter) == 1
    quantizer(x)
    quantizer.apply_update()
    assert int(shared.n_iter) == 2
    assert len(list(quantizer.levels)) == 1


def test_levels_learn_as_quantizers_of_what_is_left() -> None:
    codebooks, x = normal(3, 7, 4, seed=1), normal(80, 4)
    quantizer, left = residual_at(codebooks, decay=0.7), x
    found, losses = quantizer(x), []
    for number, codebook in enumerate(codebooks):
        alone = quantizer_at(codebook, decay=0.7)
        expected = alone(left)
        assert torch.equal(found.codes[:, number], expected.codes)
        assert_same(level_of(quantizer, number).state_dict(), alone.state_dict())
        left = left - expected.quantized
        losses.append(expected.loss)
    torch.testing.assert_close(found.loss, torch.stack(losses).sum())


@SHARED
@pytest.mark.parametrize("update", ["ema", "gradient", "frozen"])
def test_straight_through_passes_the_gradient_once(update: str, shared: bool) -> None:
    codebooks = normal(8, 4, seed=1) if shared else normal(3, 8, 4, seed=1)
    quantizer = residual_at(codebooks, n_levels=3, update=update)
    x, gradient = normal(50, 4).requires_grad_(), normal(50, 4, seed=2)
    quantizer(x).quantized.backward(gradient)
    assert x.grad is not None
    assert torch.equal(x.grad, gradient)
    assert all(p.grad is None or (p.grad == 0).all() for p in quantizer.parameters())


@SHARED
def test_every_level_commits_the_encoder_to_its_code(shared: bool) -> None:
    codebooks = normal(8, 4, seed=1) if shared else normal(3, 8, 4, seed=1)
    quantizer = residual_at(codebooks, n_levels=3, commitment=0.4)
    x = normal(50, 4).requires_grad_()
    found = quantizer(x)
    (gradient,) = torch.autograd.grad(found.loss, x)
    left, expected = x.detach(), torch.zeros(50, 4)
    for book, codes in zip(quantizer.codebooks, found.codes.T, strict=True):
        left = left - book[codes]
        expected += 2 * 0.4 * left / x.numel()
    torch.testing.assert_close(gradient, expected)


@SHARED
def test_rotation_turns_the_gradient_as_a_rotation_to_the_sum(shared: bool) -> None:
    codebooks = normal(8, 4, seed=1) if shared else normal(3, 8, 4, seed=1)
    quantizer = residual_at(codebooks, n_levels=3, estimator="rotation")
    x, gradient = normal(50, 4).requires_grad_(), normal(50, 4, seed=2)
    found = quantizer(x).quantized
    (ours,) = torch.autograd.grad(found, x, gradient)
    (expected,) = torch.autograd.grad(rotate(x, found.detach()), x, gradient)
    torch.testing.assert_close(ours, expected)


@SHARED
def test_gumbel_draws_each_level_and_learns_from_what_it_drew(shared: bool) -> None:
    codebooks = normal(8, 4, seed=1) if shared else normal(3, 8, 4, seed=1)
    options: dict[str, Any] = {"n_levels": 3, "estimator": "gumbel", "temperature": 2.0}
    quantizer = residual_at(codebooks, update="gradient", **options)
    x = normal(50, 4).requires_grad_()
    draws = [quantizer(x) for _ in range(2)]
    assert not torch.equal(draws[0].codes, draws[1].codes)
    for found in draws:
        torch.testing.assert_close(found.quantized, quantizer.decode(found.codes))
    (found.quantized.square().sum() + found.loss).backward()
    for tensor in (x, *quantizer.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().sum() > 0
    quantizer.eval()
    assert torch.equal(quantizer(x).codes, quantizer.encode(x.detach(), beam_size=1))


@SHARED
def test_a_codebook_with_a_gradient_is_drawn_to_what_it_codes(shared: bool) -> None:
    codebooks = normal(8, 4, seed=1) if shared else normal(3, 8, 4, seed=1)
    x = normal(50, 4)
    quantizer = residual_at(codebooks, n_levels=3, update="gradient")
    found = quantizer(x)
    found.loss.backward()
    left, expected = x, torch.zeros(3, 8, 4)
    for number, codes in enumerate(found.codes.T):
        quantized = quantizer.codebooks[number].detach()[codes]
        expected[number].index_add_(0, codes, 2 * (quantized - left) / x.numel())
        left = left - quantized
    gradients = [parameter.grad for parameter in quantizer.parameters()]
    if shared:
        torch.testing.assert_close(gradients, [expected.sum(dim=0)])
    else:
        torch.testing.assert_close(gradients, list(expected))


@SHARED
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 5.0])
@pytest.mark.parametrize("estimator", ["straight-through", "rotation"])
def test_samples_that_are_masked_change_nothing(estimator: str, value: float, shared: bool) -> None:
    x = normal(40, 4)
    quantizer = trained(x, estimator=estimator, shared_codebook=shared)
    twin = copy.deepcopy(quantizer)
    padded = torch.cat([x, torch.full_like(x[:5], value)]).requires_grad_()
    mask = torch.arange(45) < 40
    found, expected = quantizer(padded, mask), twin(x)
    assert torch.equal(found.codes[:40], expected.codes)
    torch.testing.assert_close(found.quantized[:40], expected.quantized)
    torch.testing.assert_close(found.loss, expected.loss)
    assert (found.codes[40:] == -1).all()
    assert (found.quantized[40:] == 0).all()
    (found.quantized.sum() + found.loss).backward()
    assert padded.grad is not None
    assert (padded.grad[40:] == 0).all()
    for name, tensor in twin.state_dict().items():
        torch.testing.assert_close(quantizer.state_dict()[name], tensor)


@SHARED
@pytest.mark.parametrize("update", ["ema", "gradient"])
@pytest.mark.parametrize("estimator", ["straight-through", "rotation", "gumbel"])
def test_a_mask_that_hides_everything_teaches_nothing(
    estimator: str, update: str, shared: bool
) -> None:
    quantizer = trained(normal(40, 4), estimator=estimator, update=update, shared_codebook=shared)
    before = state_of(quantizer)
    x = torch.full((40, 4), torch.nan).requires_grad_()
    found = quantizer(x, torch.zeros(40, dtype=torch.bool))
    (found.loss + found.quantized.sum()).backward()
    quantizer.apply_update()
    assert_same(state_of(quantizer), before)
    assert found.loss == 0
    assert (found.codes == -1).all()
    assert (found.quantized == 0).all()
    assert x.grad is not None
    assert (x.grad == 0).all()


@SHARED
def test_a_batch_that_is_not_finite_is_skipped_by_all_levels(shared: bool) -> None:
    x = normal(40, 4)
    bad = x.clone()
    bad[3, 1] = torch.nan
    fresh = ResidualQuantizer(8, 4, 3, nonfinite="skip", shared_codebook=shared)
    fresh(bad)
    assert not level_of(fresh, 0).codebook.initialized
    quantizer = trained(x, nonfinite="skip", shared_codebook=shared)
    before = state_of(quantizer)
    bad.requires_grad_()
    found = quantizer(bad)
    (found.quantized.sum() + found.loss).backward()
    assert bad.grad is not None
    assert (bad.grad[3] == 0).all()
    assert bad.grad.isfinite().all()
    assert (found.codes[3] == -1).all()
    assert (found.codes[:3] >= 0).all()
    quantizer.apply_update()
    for name, tensor in state_of(quantizer).items():
        if "skipped" in name:
            assert int(tensor) == 1
        else:
            assert torch.equal(tensor, before[name])
    quantizer(x)
    quantizer.apply_update()
    assert int(level_of(quantizer, 0).codebook.n_iter) == 2 + 1


@SHARED
@pytest.mark.parametrize("training", [True, False])
def test_what_is_not_finite_is_refused(training: bool, shared: bool) -> None:
    quantizer, x = trained(normal(40, 4), shared_codebook=shared).train(training), normal(40, 4)
    before = state_of(quantizer)
    for value, message in ((torch.nan, "x should be finite"), (1e25, "overflow torch.float32")):
        x[3, 1] = value
        for beam_size in (1, 5):
            with pytest.raises(ValueError, match=message):
                quantizer.encode(x, beam_size=beam_size)
        if value != 1e25 or not training:
            with pytest.raises(ValueError, match=message):
                quantizer(x)
    quantizer.apply_update()
    assert_same(state_of(quantizer), before)


@SHARED
def test_nothing_is_encoded_before_there_are_codebooks(shared: bool) -> None:
    quantizer, x = ResidualQuantizer(8, 4, 3, shared_codebook=shared), normal(40, 4)
    frozen = ResidualQuantizer(8, 4, 3, shared_codebook=shared, update="frozen")
    for call in (quantizer.encode, quantizer.tables, frozen):
        with pytest.raises(NotInitializedError):
            call(x)


@SHARED
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_choose_the_codes_of_float32(
    dtype: torch.dtype, shared: bool
) -> None:
    x = normal(300, 8).to(dtype)
    for training in (True, False):
        half = trained(x.float(), 16, 4, shared_codebook=shared).train(training)
        full, cast = copy.deepcopy(half), copy.deepcopy(half)
        assert torch.equal(half.encode(x, beam_size=1), half.encode(x.float(), beam_size=1))
        found, expected = half(x), full(x.float())
        assert torch.equal(found.codes, expected.codes)
        assert torch.equal(found.quantized, expected.quantized.to(dtype))
        assert torch.equal(found.loss, expected.loss)
        with torch.autocast("cpu", dtype):
            found = cast(x.float())
        assert torch.equal(found.codes, expected.codes)
        assert torch.equal(found.loss, expected.loss)
        for quantizer in (half, cast):
            assert_same(quantizer.state_dict(), full.state_dict())


@SHARED
def test_what_is_recorded_is_applied_at_the_next_step_or_in_evaluation(shared: bool) -> None:
    x = normal(60, 4)
    by_forward = trained(x, shared_codebook=shared)
    before = by_forward.codebooks.clone()
    by_forward(x)
    assert torch.equal(by_forward.codebooks, before)
    by_eval, by_update = copy.deepcopy(by_forward), copy.deepcopy(by_forward)
    by_forward(x)
    by_eval.eval()
    by_update.apply_update()
    by_update.apply_update()
    for quantizer in (by_eval, by_update):
        assert torch.equal(quantizer.codebooks, by_forward.codebooks)
        assert not torch.equal(quantizer.codebooks, before)


@SHARED
@pytest.mark.parametrize("way", ["deepcopy", "state_dict"])
def test_a_copy_goes_on_as_the_original_does(way: str, shared: bool) -> None:
    batches = normal(4, 60, 4)
    options: dict[str, Any] = {"decay": 0.7, "revive_below": 1.0, "shared_codebook": shared}
    quantizer = trained(batches[0], **options)
    quantizer(batches[0])
    if way == "deepcopy":
        twin = copy.deepcopy(quantizer)
    else:
        twin = ResidualQuantizer(8, 4, 3, **options)
        twin.load_state_dict(quantizer.state_dict())
    for x in batches[1:]:
        found, expected = twin(x), quantizer(x)
        assert torch.equal(found.codes, expected.codes)
        assert torch.equal(found.loss, expected.loss)
    assert_same(twin.state_dict(), quantizer.state_dict())


@SHARED
@pytest.mark.parametrize(
    "options",
    [{}, {"dropout": True}, {"estimator": "rotation"}, {"nonfinite": "skip"},
     {"update": "gradient"}],
    ids=lambda options: "".join(options) or "plain",
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_training_in_one_graph_equals_eager(options: dict[str, Any], shared: bool) -> None:
    torch.compiler.reset()
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(8, 8), ResidualQuantizer(8, 8, 3, shared_codebook=shared, **options)
    )
    twin = copy.deepcopy(network)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    for seed in range(3):
        x, outcomes = normal(64, 8, seed=seed), []
        for module, forward in ((network, network), (twin, compiled)):
            torch.manual_seed(seed)
            module.zero_grad()
            found = forward(x)
            (found.quantized.square().mean() + found.loss).backward()
            gradients = [parameter.grad for parameter in module.parameters()]
            outcomes.append((found.codes, found.loss.detach(), gradients))
        torch.testing.assert_close(outcomes[1], outcomes[0])
    found_state = twin.state_dict()
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(found_state[name], tensor)
    torch.compiler.reset()


def test_fit_leaves_less_with_every_level_and_with_refinements() -> None:
    x = normal(1500, 6)
    errors = [error(fitted(x, levels=levels), x) for levels in (1, 2, 3, 4)]
    assert all(after < 0.8 * before for before, after in itertools.pairwise(errors))
    plain = fitted(x, refinements=0)
    assert errors[-1] < error(plain, x)
    parts = [
        float((x - plain.decode(plain.encode(x)[:, :n])).square().sum(dim=1).mean())
        for n in (1, 2, 3, 4)
    ]
    assert parts == sorted(parts, reverse=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_levels_fitted_together_leave_the_least_squares(dtype: torch.dtype) -> None:
    x, codes = normal(200, 4, dtype=dtype), torch.randint(6, (200, 3), generator=seeded())
    codes[codes[:, 1] == 2, 1] = 3
    codebooks = normal(3, 6, 4, seed=1, dtype=dtype)
    found = torch.stack(least_squares(x, codes, codebooks))
    assert found.dtype == dtype
    design = F.one_hot(codes, 6).flatten(1).double()
    best = torch.linalg.lstsq(design, x.double(), driver="gelsd").solution
    torch.testing.assert_close(
        design @ found.flatten(0, 1).double(), design @ best, rtol=1e-3, atol=1e-3
    )
    torch.testing.assert_close(found[1, 2], codebooks[1, 2])  # a code without samples


def test_one_level_is_k_means() -> None:
    x = normal(300, 3)
    quantizer = fitted(x, k=8, levels=1, refinements=0)
    nearest = brute_force(x, quantizer.codebooks[0]).argmin(dim=1)
    assert torch.equal(quantizer.encode(x)[:, 0], nearest)
    assert torch.equal(
        level_of(quantizer, 0).codebook.counts, torch.bincount(nearest, minlength=8).double()
    )


def test_fitting_again_with_the_same_generator_gives_the_same_bits() -> None:
    x = normal(400, 6)
    assert_same(state_of(fitted(x)), state_of(fitted(x)))


def test_float64_is_fitted_and_coded_in_float64() -> None:
    x = normal(400, 6, dtype=torch.float64)
    quantizer = fitted(x, dtype=torch.float64)
    codes = quantizer.encode(x)
    assert quantizer.decode(codes).dtype == quantizer.distances(x, codes).dtype == torch.float64
    assert error(quantizer, x) < 1.05 * error(fitted(x.float()), x.float())


def test_samples_that_cannot_be_fitted_are_refused() -> None:
    quantizer, x = ResidualQuantizer(8, 4, 3), normal(20, 4)
    with pytest.raises(ValueError, match="n_samples=7 should be >= n_clusters=8"):
        quantizer.fit(x[:7])
    with pytest.raises(ValueError, match=r"x should have shape \(n_samples, 4\); got \(20, 3\)"):
        quantizer.fit(x[:, :3])
    x[3, 1] = torch.nan
    with pytest.raises(ValueError, match=r"x should be finite; 1 row holds NaN .* row 3"):
        quantizer.fit(x)
    assert not level_of(quantizer, 0).codebook.initialized
    with pytest.raises(NotImplementedError, match="share a codebook"):
        ResidualQuantizer(8, 4, 3, shared_codebook=True).fit(normal(20, 4))


@pytest.mark.parametrize("x", [None, 1.5, [[0.0] * 4] * 20])
@pytest.mark.parametrize("kind", [ResidualQuantizer, ProductQuantizer])
def test_a_fit_of_no_tensor_is_refused_by_name(kind: Any, x: object) -> None:
    with pytest.raises(TypeError, match=r"x should be a torch\.Tensor; got"):
        kind(8, 4, 2).fit(x)


@pytest.mark.parametrize("kind", [ResidualQuantizer, ProductQuantizer])
@pytest.mark.parametrize("spread", [False, True])
def test_a_fit_of_samples_whose_products_overflow_is_refused(kind: Any, spread: bool) -> None:
    x = 1e18 * normal(2000, 4) if spread else torch.full((2000, 4), 3e38)
    with pytest.raises(ValueError, match=r"overflow torch\.float32: scale x down"):
        kind(8, 4, 2).fit(x)


@pytest.mark.parametrize("kind", [VectorQuantizer, ResidualQuantizer, ProductQuantizer])
@pytest.mark.parametrize("dtype", [torch.zeros(3), torch.zeros(2, 2), "float16", 1.5])
def test_a_dtype_that_is_none_is_refused_by_name(kind: Any, dtype: object) -> None:
    parts = () if kind is VectorQuantizer else (2,)
    with pytest.raises(TypeError, match="dtype should be one of"):
        kind(8, 4, *parts, dtype=dtype)


def test_options_that_residuals_have_not_are_refused() -> None:
    with pytest.raises(TypeError, match=r"ResidualQuantizer.*'heads'"):
        ResidualQuantizer(8, 4, 3, heads=2)
    for name in ("n_levels", "beam_size"):
        with pytest.raises(ValueError, match=name):
            ResidualQuantizer(8, 4, **{"n_levels": 3, name: 0})


@SHARED
def test_distances_from_tables_are_those_to_decoded_vectors(shared: bool) -> None:
    x, queries = normal(200, 6), normal(30, 6, seed=1)
    quantizer = trained(x, shared_codebook=shared)
    codes = quantizer.encode(x)
    codes[50:, 2] = -1
    assert quantizer.tables(queries).shape == (30, 3, 8)
    for known in (codes, codes[:, :2]):
        found = quantizer.distances(queries, known)
        expected = torch.cdist(queries.double(), quantizer.decode(known).double()).square()
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_codes_that_do_not_fit_are_refused() -> None:
    x = normal(40, 4)
    quantizer = trained(x)
    for call in (quantizer.decode, lambda codes: quantizer.distances(x, codes)):
        for shape in ((5, 4), (5, 0)):
            with pytest.raises(ValueError, match=r"codes should have shape \(..., 3\); got"):
                call(torch.zeros(shape, dtype=torch.int64))
        with pytest.raises(ValueError, match="codes should be from 0 to 7, or -1 for none; got"):
            call(torch.tensor([[0, 8, 0]]))
        with pytest.raises(TypeError, match="codes should be integers"):
            call(torch.zeros(5, 3))
    assert (quantizer.decode(torch.full((2, 3), -1)) == 0).all()


def test_fit_forgets_what_was_recorded() -> None:
    x = normal(100, 8)
    quantizer = ResidualQuantizer(8, 8, 2, init_batches=5)
    quantizer(x)
    quantizer(x)
    quantizer.fit(x)
    before = quantizer.codebooks.clone()
    quantizer.apply_update()
    assert torch.equal(quantizer.codebooks, before)
    quantizer.train()(x)
    assert torch.equal(quantizer.codebooks, before)


class Encoder(nn.Module):
    """Encodes by a beam search, or the first levels."""

    def __init__(self, quantizer: ResidualQuantizer, **options: Any) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        return self.quantizer.encode(x, **self.options)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("options", [{}, {"beam_size": 5, "n_levels": 2}])
def test_codes_of_compiled_and_exported_code_are_those_of_eager(options: dict[str, Any]) -> None:
    torch.compiler.reset()
    x, others = normal(200, 8), normal(77, 8, seed=1)
    encoder = Encoder(fitted(x).eval(), **options)
    compiled = torch.compile(encoder, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), encoder(x))
    sizes = {"x": {0: torch.export.Dim("n", min=2)}}
    exported = torch.export.export(encoder, (x,), dynamic_shapes=sizes).module()
    assert torch.equal(exported(others), encoder(others))
    torch.compiler.reset()
