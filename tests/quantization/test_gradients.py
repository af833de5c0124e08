"""Promises of the estimators: the gradients that the papers define, and nothing kept to excess."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kmeans_module import VectorQuantizer
from kmeans_module.core.distances import squared_distances
from kmeans_module.functional import soft_assign
from kmeans_module.quantization.gradients import gumbel, rotate, straight_through
from tests.conftest import brute_force
from tests.quantization.helpers import (
    Network,
    assert_same,
    normal,
    objective,
    quantizer_at,
    state_of,
)

ESTIMATORS = ("straight-through", "rotation", "gumbel")
UPDATES = ("ema", "gradient", "frozen")


def input_gradient(function: Callable[[Tensor], Tensor], x: Tensor, gradient: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(function(x), x, gradient)
    return found


def rotations(x: Tensor, quantized: Tensor) -> Tensor:
    """λ (I - 2 r rᵀ + 2 q̂ êᵀ) of every row, (n, d, d): Fifty et al., section 4.2."""
    source, target = F.normalize(x, dim=-1), F.normalize(quantized, dim=-1)
    middle = F.normalize(source + target, dim=-1)
    reflect = 2 * middle.unsqueeze(-1) * middle.unsqueeze(-2)
    turn = 2 * target.unsqueeze(-1) * source.unsqueeze(-2)
    scale = quantized.norm(dim=-1) / x.norm(dim=-1)
    return scale.view(-1, 1, 1) * (torch.eye(x.shape[-1], dtype=x.dtype) - reflect + turn)


def test_straight_through_passes_the_gradient_unchanged() -> None:
    x, quantized, gradient = normal(3, 50, 4)
    assert torch.equal(straight_through(x, quantized), quantized)
    found = input_gradient(lambda x: straight_through(x, quantized), x, gradient)
    assert torch.equal(found, gradient)


def test_rotation_gives_the_gradient_of_its_paper() -> None:
    x, quantized, gradient = normal(3, 50, 4, dtype=torch.float64)
    matrices = rotations(x, quantized)
    torch.testing.assert_close((matrices @ x.unsqueeze(-1)).squeeze(-1), quantized)
    assert torch.equal(rotate(x, quantized), quantized)
    found = input_gradient(lambda x: rotate(x, quantized), x, gradient)
    expected = (matrices.transpose(-1, -2) @ gradient.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(found, expected)


def test_rotation_is_that_of_vector_quantize_pytorch() -> None:
    theirs = pytest.importorskip("vector_quantize_pytorch.vector_quantize_pytorch")
    x, quantized, gradient = normal(3, 50, 4, dtype=torch.float64)
    found = input_gradient(lambda x: rotate(x, quantized), x, gradient)
    expected = input_gradient(lambda x: theirs.rotate_to(x, quantized), x, gradient)
    torch.testing.assert_close(found, expected)


def test_rotation_of_nothing_or_by_half_a_turn_is_finite() -> None:
    x, gradient = normal(2, 6, 4)
    quantized = -x
    assert input_gradient(lambda x: rotate(x, quantized), x, gradient).isfinite().all()
    zero = torch.zeros_like(x)
    for source, target in ((zero, x), (x, zero), (zero, zero)):
        found = input_gradient(partial(rotate, quantized=target), source, gradient)
        assert torch.equal(found, gradient)


def relaxed(x: Tensor, centroids: Tensor, temperature: float, metric: str) -> Tensor:
    """Gumbel-softmax as torch has it."""
    if metric == "cosine":
        distances = 1 - F.normalize(x, dim=-1) @ F.normalize(centroids, dim=-1).T
    else:
        distances = (x.unsqueeze(-2) - centroids).square().sum(-1)
    return F.gumbel_softmax(-distances / temperature, hard=True) @ centroids


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("chunked", [False, True])
def test_gumbel_is_the_gumbel_softmax_of_torch(
    metric: str, chunked: bool, request: pytest.FixtureRequest
) -> None:
    size = 40
    if chunked:
        request.getfixturevalue("tiny_chunks")
        size = 64 // (6 + 4 * 3)
    x, centroids, gradient = normal(40, 3), normal(6, 3, seed=1), normal(40, 3, seed=2)
    tensors = [tensor.double().requires_grad_() for tensor in (x, centroids)]
    torch.manual_seed(5)
    found, codes = gumbel(*tensors, temperature=0.7, metric=metric)
    gradients = torch.autograd.grad(found, tensors, gradient.double())
    torch.manual_seed(5)
    parts = [relaxed(rows, tensors[1], 0.7, metric) for rows in tensors[0].split(size)]
    expected = torch.cat(parts)
    torch.testing.assert_close(found, expected)
    assert torch.equal(found, tensors[1][codes])
    for ours, theirs in zip(
        gradients, torch.autograd.grad(expected, tensors, gradient.double()), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_gumbel_draws_by_the_shares_of_the_codes() -> None:
    x, centroids = normal(1, 3).expand(20_000, 3), normal(4, 3, seed=1)
    torch.manual_seed(0)
    _, codes = gumbel(x, centroids, temperature=2.0)
    shares = soft_assign(x[:1], centroids, temperature=2.0)[0]
    found = codes.bincount(minlength=4) / len(codes)
    torch.testing.assert_close(found, shares, rtol=0, atol=4 * 0.5 / len(codes) ** 0.5)


def test_gumbel_draws_the_nearest_where_it_is_cold() -> None:
    x, codebook = normal(200, 4), normal(8, 4, seed=1)
    quantizer = quantizer_at(codebook, estimator="gumbel")
    nearest = brute_force(x, codebook).argmin(-1)
    assert not torch.equal(quantizer(x).codes, nearest)
    quantizer.load_state_dict(quantizer_at(codebook).state_dict())
    quantizer.temperature = 1e-6
    assert torch.equal(quantizer(x).codes, nearest)
    assert torch.equal(quantizer_at(codebook, estimator="gumbel").eval()(x).codes, nearest)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_nothing_is_kept_of_every_sample_and_code(estimator: str, update: str, metric: str) -> None:
    n, k, d = 3000, 64, 4
    x, sizes = normal(n, d).requires_grad_(), []
    quantizer = quantizer_at(
        F.normalize(normal(k, d, seed=1), dim=-1), estimator=estimator, update=update, metric=metric
    )

    def keep(tensor: Tensor) -> Tensor:
        sizes.append(tensor.untyped_storage().nbytes() // tensor.itemsize)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = quantizer(x)
    assert sizes
    assert max(sizes) < n * k / 4
    (found.quantized.square().sum() + found.loss).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("update", UPDATES)
def test_the_loss_has_the_gradients_of_its_formula(update: str) -> None:
    codebook, x = normal(8, 4, seed=1, dtype=torch.float64), normal(50, 4, dtype=torch.float64)
    quantizer = quantizer_at(codebook, update=update, commitment=0.3)
    x.requires_grad_()
    found = quantizer(x)
    codes = brute_force(x, codebook).argmin(-1)
    error = x.detach() - codebook[codes]
    factor = 1.3 if update == "gradient" else 0.3
    torch.testing.assert_close(found.loss, factor * error.square().mean())
    found.loss.backward()
    torch.testing.assert_close(x.grad, 0.3 * 2 * error / x.numel())
    if update == "gradient":
        expected = torch.zeros_like(codebook).index_add_(0, codes, -2 * error / x.numel())
        torch.testing.assert_close(quantizer.codebook.centroids.grad, expected)
    else:
        assert not list(quantizer.parameters())


def network(**options: Any) -> Network:
    """With a codebook of which half is far from all samples, so that codes are revived."""
    codebook = normal(12, 6, seed=1)
    codebook[6:] += 100
    counts = torch.tensor([10.0] * 6 + [0.0] * 6)
    quantizer = quantizer_at(codebook, counts, decay=0.8, revive_below=0.5, **options)
    return Network(quantizer, dropout=0.4)


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("start", ["a codebook", "the first batch"])
def test_activation_checkpointing_changes_no_bit(
    use_reentrant: bool, estimator: str, update: str, start: str
) -> None:
    plain = network(estimator=estimator, update=update)
    if start == "the first batch" and update != "frozen":
        plain.quantizer.codebook.reset_parameters()
    twin = copy.deepcopy(plain)
    gradients = []
    for module in (plain, twin):
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        for step in range(4):
            torch.manual_seed(step)
            x = normal(50, 6, seed=step).requires_grad_()
            if module is plain:
                outputs = module(x)
            else:
                outputs = checkpoint(module, x, use_reentrant=use_reentrant)
            optimizer.zero_grad()
            objective(outputs, x).backward()
            optimizer.step()
            assert x.grad is not None
            gradients.append((x.grad, outputs[1]))
    for (found, codes), (expected, expected_codes) in zip(
        gradients[4:], gradients[:4], strict=True
    ):
        assert torch.equal(found, expected)
        assert torch.equal(codes, expected_codes)
    assert_same(twin.state_dict(), plain.state_dict())
    if update != "frozen":
        assert int(twin.quantizer.codebook.n_iter) == 4
        assert (twin.quantizer.codebook.centroids < 50).all(), "codes were revived"


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("update", UPDATES)
def test_two_forward_passes_before_backward_give_the_gradients_of_two_steps(
    estimator: str, update: str
) -> None:
    separate = network(estimator=estimator, update=update)
    together = copy.deepcopy(separate)
    batches = [normal(50, 6, seed=seed) for seed in (3, 4)]
    torch.manual_seed(0)
    for x in batches:
        objective(separate(x), x).backward()
    torch.manual_seed(0)
    torch.stack([objective(together(x), x) for x in batches]).sum().backward()
    for (name, found), expected in zip(
        together.named_parameters(), separate.parameters(), strict=True
    ):
        assert found.grad is not None, name
        torch.testing.assert_close(found.grad, expected.grad)
    assert_same(state_of(together.quantizer), state_of(separate.quantizer))


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_pass_that_is_computed_again_records_nothing(use_reentrant: bool) -> None:
    plain = quantizer_at(normal(8, 4), nonfinite="skip")
    twin = copy.deepcopy(plain)
    batches = [normal(50, 4, seed=seed).requires_grad_() for seed in (1, 2, 3)]
    batches[0].detach()[5] = torch.nan
    for x in batches:
        plain(x)
    losses = [checkpoint(twin, x, use_reentrant=use_reentrant)[2] for x in batches]
    before = state_of(twin)
    torch.stack(losses).sum().backward()
    assert_same(state_of(twin), before)
    assert int(twin.skipped) == 1
    assert_same(twin.state_dict(), plain.state_dict())


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_that_means_nothing_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature should be more than 0"):
        VectorQuantizer(8, 4, estimator="gumbel", temperature=temperature)


def test_distances_far_from_the_origin_keep_their_digits() -> None:
    x, centroids = normal(50, 3) + 1000, normal(6, 3, seed=1) + 1000
    expected = brute_force(x, centroids).float()
    torch.testing.assert_close(squared_distances(x, centroids), expected, rtol=1e-3, atol=1e-3)
