"""Promises of soft assignment: shares by the formulas, exact gradients, no (n, k) kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kmeans_module import KMeansLayer, NotInitializedError
from kmeans_module.core.metrics import METRICS
from kmeans_module.core.soft import KERNELS
from kmeans_module.functional import soft_assign
from tests.conftest import blobs, brute_force, layer_at, seeded


def expected_shares(
    x: Tensor, centroids: Tensor, temperature: float, kernel: str, metric: str
) -> Tensor:
    """By the formulas, in float64."""
    if metric == "cosine":
        distances = 1 - torch.cosine_similarity(
            x.double().unsqueeze(-2), centroids.double().unsqueeze(-3), dim=-1
        )
    else:
        distances = brute_force(x, centroids)
    if kernel == "softmax":
        weights = (-distances / temperature).exp()
    else:
        weights = (1 + distances / temperature) ** (-(temperature + 1) / 2)
    return weights / weights.sum(dim=-1, keepdim=True)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("chunked", [False, True])
def test_shares_are_those_of_the_formula(
    kernel: str, metric: str, temperature: float, chunked: bool, request: pytest.FixtureRequest
) -> None:
    if chunked:
        request.getfixturevalue("tiny_chunks")
    for shape in ((30,), (2, 30)):
        x = torch.randn(*shape, 3, generator=seeded())
        centroids = torch.randn(*shape[:-1], 5, 3, generator=seeded(1))
        found = soft_assign(x, centroids, temperature=temperature, kernel=kernel, metric=metric)
        expected = expected_shares(x, centroids, temperature, kernel, metric)
        torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.sum(dim=-1), torch.ones(shape))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("chunked", [False, True])
def test_gradients_are_exact(
    kernel: str, metric: str, chunked: bool, request: pytest.FixtureRequest
) -> None:
    if chunked:
        request.getfixturevalue("tiny_chunks")
    x = torch.randn(2, 5, 3, generator=seeded(), dtype=torch.float64).requires_grad_()
    centroids = torch.randn(2, 4, 3, generator=seeded(1), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, c: soft_assign(x, c, temperature=0.8, kernel=kernel, metric=metric),
        (x, centroids),
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_is_kept_of_every_sample_and_cluster(kernel: str, tiny_chunks: None) -> None:
    n, k = 400, 50
    x = torch.randn(n, 3, generator=seeded()).requires_grad_()
    centroids = torch.randn(k, 3, generator=seeded(1)).requires_grad_()
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        shares = soft_assign(x, centroids, kernel=kernel)
    assert sum(sizes.values()) < n * k / 4
    shares[:, 0].sum().backward()
    for tensor in (x, centroids):
        assert tensor.grad is not None
        assert (tensor.grad != 0).any()


def test_a_cold_softmax_is_the_nearest_centroid() -> None:
    x, centroids = blobs(200, 3), blobs(6, 3, seed=1)
    nearest = torch.nn.functional.one_hot(brute_force(x, centroids).argmin(-1), 6).float()
    assert torch.equal(soft_assign(x, centroids, temperature=1e-9).round(), nearest)


def test_options_that_mean_nothing_are_refused() -> None:
    x = blobs(10, 3)
    with pytest.raises(ValueError, match="kernel should be one of softmax, student-t; got 'rbf'"):
        soft_assign(x, x, kernel="rbf")
    for temperature in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="temperature should be more than 0 and finite; got"):
            soft_assign(x, x, temperature=temperature)


@pytest.mark.parametrize("batch_shape", [(), (2,), (2, 3)])
@pytest.mark.parametrize("metric", METRICS)
def test_a_layer_assigns_softly_by_its_own_metric(
    batch_shape: tuple[int, ...], metric: str
) -> None:
    centroids = torch.randn(*batch_shape, 5, 3, generator=seeded())
    if metric == "cosine":
        centroids = torch.nn.functional.normalize(centroids, dim=-1)
    layer = layer_at(centroids, metric=metric)
    x = torch.randn(40, 3, generator=seeded(1))
    shares = layer.soft_assign(x, temperature=0.5)
    assert shares.shape == (*batch_shape, 40, 5)
    expected = expected_shares(x, centroids, 0.5, "softmax", metric)
    torch.testing.assert_close(shares, expected.float(), rtol=1e-4, atol=1e-6)
    assert torch.equal(shares.argmax(-1), layer(x))


def test_a_layer_refuses_what_it_cannot_assign() -> None:
    x = blobs(20, 3)
    with pytest.raises(NotInitializedError):
        KMeansLayer(5, 3).soft_assign(x)
    layer = layer_at(blobs(5, 3))
    assert layer.soft_assign(x.view(4, 5, 3)).shape == (4, 5, 5)
    x[7] = torch.nan
    with pytest.raises(ValueError, match=r"x should be finite; 1 row holds NaN .* row 7"):
        layer.soft_assign(x)


def test_centroids_are_a_parameter_where_gradients_are_wanted() -> None:
    x = blobs(200, 3)
    learning, plain = KMeansLayer(5, 3, requires_grad=True), KMeansLayer(5, 3)
    assert [name for name, _ in learning.named_parameters()] == ["centroids"]
    assert not list(plain.parameters())
    assert learning.state_dict().keys() == plain.state_dict().keys()
    found, expected = (layer.fit(x, generator=seeded()) for layer in (learning, plain))
    assert torch.equal(found.labels, expected.labels)
    assert torch.equal(learning.centroids, plain.centroids)
    for source in (learning, plain):
        for requires_grad in (True, False):
            other = KMeansLayer(5, 3, requires_grad=requires_grad)
            other.load_state_dict(source.state_dict())
            assert torch.equal(other.centroids, plain.centroids)
            assert other.centroids.requires_grad == requires_grad


@pytest.mark.parametrize("call", ["transform", "decode", "soft_assign"])
def test_gradients_reach_the_centroids_of_a_layer(call: str) -> None:
    x = blobs(200, 3)
    layer = KMeansLayer(5, 3, requires_grad=True)
    labels = layer.fit(x, generator=seeded()).labels
    found = layer.decode(labels) if call == "decode" else getattr(layer, call)(x)
    found.square().sum().backward()
    gradient = layer.centroids.grad
    assert gradient is not None
    if call == "decode":
        expected = 2 * layer.centroids.detach() * layer.counts.float().unsqueeze(-1)
    else:
        other = layer.centroids.detach().clone().requires_grad_()
        function = soft_assign if call == "soft_assign" else torch.cdist
        (expected,) = torch.autograd.grad(
            function(x, other).pow(2 if call == "soft_assign" else 4).sum(), other
        )
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4)


def test_gradient_steps_lower_the_soft_distance() -> None:
    x = blobs(300, 3)
    layer = KMeansLayer(6, 3, requires_grad=True)
    layer.initialize(x, init="random", generator=seeded(2))
    optimizer = torch.optim.Adam(layer.parameters(), 0.3)
    losses = []
    for _ in range(60):
        loss = (layer.soft_assign(x, temperature=5.0) * layer.transform(x).square()).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
