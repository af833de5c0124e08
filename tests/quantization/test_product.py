"""Promises of ProductQuantizer: sub-spaces are independent, and a rotation balances them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kmeans_module import KMeansLayer, ProductQuantizer, VectorQuantizer
from kmeans_module.quantization.offline import principal_rotation
from tests.conftest import brute_force, layer_at, seeded
from tests.quantization.helpers import assert_same, normal, state_of


def fitted(x: Tensor, k: int = 16, m: int = 4, **options: Any) -> ProductQuantizer:
    quantizer = ProductQuantizer(k, x.shape[1], m, **options)
    quantizer.fit(x, max_iter=5, generator=seeded())
    return quantizer


def in_training(x: Tensor, k: int = 8, m: int = 2, **options: Any) -> ProductQuantizer:
    torch.manual_seed(0)
    features = x.shape[1 if options.get("channel_first") else -1]
    quantizer = ProductQuantizer(k, features, m, **options)
    for _ in range(2):
        quantizer(x)
    quantizer.apply_update()
    return quantizer


def turned(quantizer: ProductQuantizer, seed: int = 5) -> ProductQuantizer:
    """The quantizer with another rotation."""
    assert quantizer.rotation is not None
    d = quantizer.n_features
    quantizer.rotation.weight = torch.linalg.qr(normal(d, d, seed=seed)).Q
    return quantizer


def correlated(n: int, d: int, scale: float = 1.0) -> Tensor:
    """(n, d), of which few directions hold most of the variance."""
    spread = torch.linalg.qr(normal(d, d, seed=1)).Q * 0.7 ** torch.arange(d)
    return scale * normal(n, d) @ spread.T


def error(quantizer: ProductQuantizer, x: Tensor) -> float:
    return float((x - quantizer.decode(quantizer.encode(x))).detach().square().sum(-1).mean())


@pytest.mark.parametrize("rotation", [False, True])
@pytest.mark.parametrize("m", [1, 2, 4])
@pytest.mark.parametrize(
    ("channel_first", "shape", "expected"),
    [(False, (40, 4), (40,)), (False, (2, 3, 9, 4), (2, 3, 9)), (True, (6, 4, 5, 3), (6, 5, 3))],
)
def test_outputs_have_the_shapes_that_are_promised(
    channel_first: bool, shape: tuple[int, ...], expected: tuple[int, ...], m: int, rotation: bool
) -> None:
    x = normal(*shape)
    quantizer = in_training(x, m=m, channel_first=channel_first, rotation=rotation)
    for training in (True, False):
        found = quantizer.train(training)(x)
        assert found.quantized.shape == shape
        assert found.quantized.dtype == x.dtype
        assert found.codes.shape == (*expected, m)
        assert found.loss.shape == ()
    assert torch.equal(quantizer.encode(x), found.codes)
    torch.testing.assert_close(quantizer.decode(found.codes), found.quantized)
    packed = quantizer.pack(found.codes)
    assert torch.equal(quantizer.unpack(packed), found.codes)


@pytest.mark.parametrize("m", [1, 4])
def test_codes_are_those_of_a_k_means_layer_for_each_sub_space(m: int) -> None:
    x = normal(400, 8)
    quantizer = fitted(x, m=m)
    for part, (rows, codebook) in enumerate(
        zip(x.chunk(m, dim=1), quantizer.codebooks, strict=True)
    ):
        assert torch.equal(quantizer.encode(x)[:, part], layer_at(codebook)(rows))


@pytest.mark.parametrize("m", [1, 4])
def test_fit_runs_lloyds_algorithm_in_each_sub_space_to_its_end(m: int) -> None:
    x = normal(300, 8)
    quantizer = ProductQuantizer(16, 8, m)
    quantizer.fit(x, max_iter=300, generator=seeded())
    for rows, codebook in zip(x.chunk(m, dim=1), quantizer.codebooks, strict=True):
        inertia = brute_force(rows, codebook).min(dim=1).values.sum()
        layer = KMeansLayer(16, 8 // m)
        further = layer.fit(rows, init=codebook.clone(), max_iter=300).inertia
        again = layer.fit(rows, max_iter=300, generator=seeded()).inertia
        assert 0.99 * inertia <= further <= 1.001 * inertia
        assert inertia <= 1.15 * again


def test_in_a_network_it_is_a_quantizer_with_heads() -> None:
    x = normal(60, 8)
    torch.manual_seed(0)
    quantizer = ProductQuantizer(8, 8, 4, decay=0.5)
    torch.manual_seed(0)
    heads = VectorQuantizer(8, 8, heads=4, separate_codebooks=True, decay=0.5)
    for _ in range(3):
        found, expected = quantizer(x), heads(x)
        assert torch.equal(found.codes, expected.codes)
        assert torch.equal(found.quantized, expected.quantized)
        assert torch.equal(found.loss, expected.loss)
    assert_same(quantizer.quantizer.state_dict(), heads.state_dict())
    assert int(quantizer.quantizer.codebook.n_iter.min()) == 3


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_rotation_is_orthogonal_and_lowers_the_error(scale: float) -> None:
    x = correlated(1000, 8, scale)
    plain, rotated = fitted(x), fitted(x, rotation=True)
    assert rotated.rotation is not None
    weight = rotated.rotation.weight.detach()
    torch.testing.assert_close(weight @ weight.T, torch.eye(8), rtol=0, atol=1e-5)
    # Directions are balanced whatever the unit of measure.
    assert error(rotated, x) < 0.5 * error(plain, x)
    start = ProductQuantizer(16, 8, 4, rotation=True)
    start.fit(x, max_iter=5, rotations=0, generator=seeded())
    assert error(start, x) < 0.7 * error(plain, x)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_principal_directions_are_dealt_out_evenly(scale: float) -> None:
    x = scale * normal(5000, 6) * torch.tensor([32.0, 16, 8, 4, 2, 1])
    rotation = principal_rotation(x, 3)
    variances = (x @ rotation.T).var(dim=0).log().view(3, 2).sum(dim=1)
    assert variances.max() - variances.min() < 0.2
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(6), rtol=0, atol=1e-5)
    assert principal_rotation(x[:, :1], 1).abs().tolist() == [[1.0]]


def test_a_rotation_learns_by_gradient_and_stays_orthogonal() -> None:
    x = correlated(400, 8)
    quantizer = in_training(x, k=16, m=4, rotation=True)
    assert quantizer.rotation is not None
    optimizer = torch.optim.Adam(quantizer.parameters(), 0.03)
    losses = []
    for _ in range(60):
        found = quantizer(x)
        loss = found.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    weight = quantizer.rotation.weight.detach()
    assert (weight - torch.eye(8)).abs().max() > 0.1
    torch.testing.assert_close(weight @ weight.T, torch.eye(8), rtol=0, atol=1e-4)


def test_straight_through_passes_a_rotation_unchanged() -> None:
    x, gradient = normal(50, 8).requires_grad_(), normal(50, 8, seed=1)
    quantizer = turned(in_training(x.detach(), rotation=True))
    quantizer(x).quantized.backward(gradient)
    torch.testing.assert_close(x.grad, gradient)


@pytest.mark.parametrize("how", ["masked", "skipped"])
def test_rows_that_do_not_count_leave_all_gradients_finite(how: str) -> None:
    quantizer = in_training(normal(50, 8), rotation=True, nonfinite="skip")
    twin = copy.deepcopy(quantizer)
    x, mask = normal(50, 8, seed=1), torch.arange(50) != 7
    gradients = []
    for module, value in ((quantizer, torch.nan), (twin, 0.0)):
        rows = x.clone()
        rows[7] = value
        rows.requires_grad_()
        hides = how == "masked" or value == 0
        found = module(rows, mask if hides else None)
        assert (found.codes[7] == -1).all()
        assert (found.quantized[7] == 0).all()
        (found.quantized.square().sum() + found.loss).backward()
        assert rows.grad is not None
        gradients.append([rows.grad, *(parameter.grad for parameter in module.parameters())])
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected)
    assert int(quantizer.quantizer.skipped) == (how == "skipped")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_choose_the_codes_of_float32(dtype: torch.dtype) -> None:
    x = normal(300, 8).to(dtype)
    quantizer = turned(fitted(x.float(), rotation=True)).eval()
    expected = quantizer(x.float())
    found = quantizer(x)
    assert torch.equal(found.codes, expected.codes)
    assert torch.equal(found.quantized, expected.quantized.to(dtype))
    with torch.autocast("cpu", dtype):
        found = quantizer(x.float())
    assert torch.equal(found.codes, expected.codes)
    assert torch.equal(found.quantized, expected.quantized)


@pytest.mark.parametrize("rotation", [False, True])
@pytest.mark.parametrize("m", [1, 2, 4])
def test_distances_from_tables_are_those_to_decoded_vectors(m: int, rotation: bool) -> None:
    x, queries = normal(200, 8), normal(30, 8, seed=1)
    quantizer = fitted(x, m=m, rotation=rotation)
    codes = quantizer.encode(x)
    assert quantizer.tables(queries).shape == (30, m, 16)
    found = quantizer.distances(queries, codes).detach()
    expected = torch.cdist(queries.double(), quantizer.decode(codes).double()).square().detach()
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_fitting_again_with_the_same_generator_gives_the_same_bits() -> None:
    x = normal(200, 8)
    for rotation in (False, True):
        assert_same(state_of(fitted(x, rotation=rotation)), state_of(fitted(x, rotation=rotation)))


def test_float64_stays_float64() -> None:
    x = normal(200, 8, dtype=torch.float64)
    quantizer = fitted(x, rotation=True, dtype=torch.float64)
    found = quantizer.decode(quantizer.encode(x))
    assert found.dtype == quantizer.distances(x, quantizer.encode(x)).dtype == torch.float64
    assert quantizer.eval()(x).quantized.dtype == torch.float64


@pytest.mark.parametrize("rotation", [False, True])
def test_fit_forgets_what_was_recorded(rotation: bool) -> None:
    x = normal(100, 8)
    quantizer = in_training(x, rotation=rotation, init_batches=5)
    quantizer(x)
    quantizer.fit(x)
    before = state_of(quantizer.quantizer.codebook)
    quantizer.apply_update()
    assert_same(state_of(quantizer.quantizer.codebook), before)
    quantizer.train()(x)
    assert_same(state_of(quantizer.quantizer.codebook), before)


@pytest.mark.parametrize("rotation", [False, True])
def test_a_copy_goes_on_as_the_original_does(rotation: bool) -> None:
    x = normal(3, 80, 8)
    quantizer = in_training(x[0], rotation=rotation, decay=0.5)
    if rotation:
        turned(quantizer)
    loaded = ProductQuantizer(8, 8, 2, rotation=rotation, decay=0.5)
    loaded.load_state_dict(quantizer.state_dict())
    for twin in (copy.deepcopy(quantizer), loaded):
        original = copy.deepcopy(quantizer)
        for rows in x[1:]:
            found, expected = twin(rows), original(rows)
            assert torch.equal(found.codes, expected.codes)
            torch.testing.assert_close(found.quantized, expected.quantized)
        for name, tensor in original.state_dict().items():
            torch.testing.assert_close(twin.state_dict()[name], tensor)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_network_is_compiled_in_one_graph() -> None:
    torch.compiler.reset()
    network = nn.Sequential(nn.Linear(8, 8), ProductQuantizer(8, 8, 4, rotation=True))
    twin = copy.deepcopy(network)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    for seed in range(3):
        x = normal(64, 8, seed=seed)
        outcomes = []
        for module, forward in ((network, network), (twin, compiled)):
            module.zero_grad()
            found = forward(x)
            (found.quantized.square().mean() + found.loss).backward()
            outcomes.append((found.codes, [p.grad for p in module.parameters()]))
        assert torch.equal(outcomes[0][0], outcomes[1][0])
        torch.testing.assert_close(outcomes[0][1], outcomes[1][1])
    torch.compiler.reset()


@pytest.mark.parametrize("rotation", [False, True])
def test_samples_that_do_not_serve_are_refused(rotation: bool) -> None:
    quantizer, x = ProductQuantizer(8, 4, 2, rotation=rotation), normal(20, 4)
    for n in (1, 7):
        with pytest.raises(ValueError, match=f"n_samples={n} should be >= n_clusters=8"):
            quantizer.fit(x[:n])
    with pytest.raises(ValueError, match=r"x should have shape \(n_samples, 4\); got \(20, 3\)"):
        quantizer.fit(x[:, :3])
    x[3, 1] = torch.nan
    with pytest.raises(ValueError, match=r"x should be finite; 1 row holds NaN .* row 3"):
        quantizer.fit(x)
    assert not quantizer.quantizer.codebook.initialized


def test_codes_that_do_not_fit_are_refused() -> None:
    x = normal(40, 4)
    quantizer = fitted(x, k=8, m=2)
    with pytest.raises(ValueError, match="n_subspaces should divide n_features=4; got 3"):
        ProductQuantizer(8, 4, 3)
    for call in (quantizer.decode, lambda codes: quantizer.distances(x, codes)):
        with pytest.raises(ValueError, match=r"codes should have shape \(.*, 2\); got \(5, 3\)"):
            call(torch.zeros(5, 3, dtype=torch.int64))
        with pytest.raises(ValueError, match=r"codes should be from 0 to 7.*; got 0 to 8"):
            call(torch.tensor([[0, 8]]))
    assert (quantizer.decode(torch.tensor([[-1, -1]])) == 0).all()
    with pytest.raises(ValueError, match="codes should be from 0 to 7; got -1 to 0"):
        quantizer.distances(x, torch.tensor([[0, -1]]))


def test_parts_have_no_cosine() -> None:
    options: dict[str, Any] = {"metric": "cosine"}
    with pytest.raises(TypeError, match=r"ProductQuantizer.*'metric'"):
        ProductQuantizer(8, 8, 2, **options)
