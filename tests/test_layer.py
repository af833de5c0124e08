"""Promises of KMeansLayer: a well-behaved module that assigns and never changes by surprise."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kmeans_module import KMeansLayer, NotInitializedError
from kmeans_module import functional as F
from tests.conftest import blobs, brute_force, layer_at, seeded


def fitted(x: torch.Tensor | None = None, k: int = 5, **options: Any) -> KMeansLayer:
    x = blobs(200, 3) if x is None else x
    layer = KMeansLayer(k, x.shape[-1], **options)
    layer.fit(x, generator=seeded(), max_iter=5)
    return layer


def snapshot(layer: KMeansLayer) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in layer.named_buffers()}


def assert_same_state(layer: KMeansLayer, expected: dict[str, torch.Tensor]) -> None:
    assert layer.state_dict().keys() == expected.keys()
    for name, buffer in layer.named_buffers():
        assert buffer.dtype == expected[name].dtype
        assert torch.equal(buffer, expected[name])


@pytest.mark.parametrize("shape", [(), (1,), (7,), (0,), (4, 5), (2, 0, 3), (2, 3, 4)])
@pytest.mark.parametrize("metric", F.METRICS)
def test_forward_takes_any_leading_shape(shape: tuple[int, ...], metric: str) -> None:
    layer = fitted(metric=metric)
    x = torch.randn(*shape, 3, generator=seeded(1))
    labels = layer(x)
    assert labels.shape == shape
    assert labels.dtype == torch.int64
    assert torch.equal(labels.flatten(), layer(x.reshape(-1, 3)))
    distances = layer.transform(x)
    assert distances.shape == (*shape, 5)
    assert torch.equal(distances.argmin(-1), labels)
    assert layer.decode(labels).shape == (*shape, 3)


def test_forward_takes_any_strides() -> None:
    layer, x = fitted(), blobs(60, 3)
    expected = layer(x)
    wide = torch.zeros(120, 6)
    wide[::2, ::2] = x
    assert torch.equal(layer(wide[::2, ::2]), expected)
    assert torch.equal(layer(x.t().contiguous().t()), expected)
    assert torch.equal(layer(x[:1].expand(9, 3)), expected[:1].expand(9))
    assert torch.equal(layer(x.view(6, 10, 3).transpose(0, 1)), expected.view(6, 10).t())
    assert layer.fit(wide[::2, ::2], init="current").labels.shape == (60,)


@pytest.mark.parametrize(
    "call",
    [
        lambda layer, x: layer(x),
        lambda layer, x: layer.e_step(x),
        lambda layer, x: layer.transform(x),
        lambda layer, x: layer.decode(torch.tensor([0, 1])),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_looking_changes_neither_layer_nor_input(
    call: Callable[[KMeansLayer, torch.Tensor], object], training: bool
) -> None:
    layer, x = fitted().train(training), blobs(50, 3)
    state, before = snapshot(layer), x.clone()
    call(layer, x)
    assert_same_state(layer, state)
    assert torch.equal(x, before)


def test_learning_changes_buffers_in_place() -> None:
    layer, x = KMeansLayer(4, 3), blobs(100, 3)
    pointers = [buffer.data_ptr() for buffer in layer.buffers()]
    layer.initialize(x, generator=seeded())
    layer.m_step(layer.e_step(x).stats)
    layer.fit(x, generator=seeded())
    layer.reset_parameters()
    assert [buffer.data_ptr() for buffer in layer.buffers()] == pointers


def test_steps_by_hand_are_a_fit() -> None:
    x = torch.rand(400, 3, generator=seeded(1))
    ours, theirs = KMeansLayer(6, 3), KMeansLayer(6, 3)
    ours.initialize(x, generator=seeded())
    assert not ours.counts.any()
    assert ours.n_iter == 0
    shifts = [ours.m_step(ours.e_step(x).stats).item() for _ in range(4)]
    found = theirs.fit(x, generator=seeded(), max_iter=4, tol=0)
    assert torch.equal(ours.centroids, theirs.centroids)
    assert ours.n_iter == found.n_iter == 4
    assert shifts[0] > shifts[-1] >= 0


def test_steps_over_batches_are_steps_over_the_whole() -> None:
    x = blobs(301, 3)
    whole, parts = layer_at(x[:7]), layer_at(x[:7])
    for _ in range(5):
        whole.m_step(whole.e_step(x).stats)
        stats = [parts.e_step(x[i : i + 64], start=i).stats for i in range(0, 301, 64)]
        parts.m_step(sum(stats[1:], start=stats[0]))
    torch.testing.assert_close(whole.centroids, parts.centroids)
    torch.testing.assert_close(whole.counts, parts.counts)


@pytest.mark.parametrize(
    "call",
    [
        lambda layer: layer(torch.zeros(1, 3)),
        lambda layer: layer.e_step(torch.zeros(1, 3)),
        lambda layer: layer.transform(torch.zeros(1, 3)),
        lambda layer: layer.decode(torch.tensor(0)),
        lambda layer: layer.fit(torch.zeros(9, 3), init="current"),
        lambda layer: layer.save("never.safetensors"),
    ],
)
def test_a_layer_without_centroids_says_so(call: Callable[[KMeansLayer], object]) -> None:
    layer = KMeansLayer(5, 3)
    message = "no centroids yet: call fit or initialize, or load a state_dict"
    with pytest.raises(NotInitializedError, match=message):
        call(layer)
    layer = fitted()
    layer.reset_parameters()
    with pytest.raises(NotInitializedError, match=message):
        call(layer)


@pytest.mark.parametrize("batch_shape", [(), (2,), (2, 3)])
def test_state_dict_goes_round_into_a_fresh_layer(batch_shape: tuple[int, ...]) -> None:
    x = torch.randn(*batch_shape, 60, 3, generator=seeded())
    layer = fitted(x, batch_shape=batch_shape)
    fresh = KMeansLayer(5, 3, batch_shape=batch_shape)
    fresh.load_state_dict(layer.state_dict())
    assert_same_state(fresh, snapshot(layer))
    assert fresh.initialized
    assert fresh.counts.sum() == layer.counts.sum() > 0
    assert torch.equal(fresh(x), layer(x))


def test_an_uninitialised_state_uninitialises() -> None:
    layer = fitted()
    layer.load_state_dict(KMeansLayer(5, 3).state_dict())
    with pytest.raises(NotInitializedError):
        layer(torch.zeros(1, 3))


def test_a_state_of_another_shape_is_refused() -> None:
    with pytest.raises(RuntimeError, match="size mismatch for centroids"):
        KMeansLayer(4, 3).load_state_dict(fitted().state_dict())


@pytest.mark.parametrize(
    "clone",
    [
        copy.deepcopy,
        lambda layer: pickle.loads(pickle.dumps(layer)),
        lambda layer: nn.Sequential(layer).requires_grad_(False)[0],
    ],
)
def test_copies_are_equal_and_independent(clone: Callable[[KMeansLayer], KMeansLayer]) -> None:
    layer, x = fitted(metric="cosine", empty_cluster="split"), blobs(30, 3)
    state = snapshot(layer)
    twin = clone(layer)
    assert_same_state(twin, state)
    assert repr(twin) == repr(layer)
    assert torch.equal(twin(x), layer(x))
    if twin is not layer:
        twin.reset_parameters()
        assert_same_state(layer, state)


@pytest.mark.parametrize(
    ("cast", "dtype"),
    [
        (lambda m: m.half(), torch.float16),
        (lambda m: m.bfloat16(), torch.bfloat16),
        (lambda m: m.double(), torch.float64),
        (lambda m: m.float(), torch.float32),
        (lambda m: m.to(torch.float16), torch.float16),
        (lambda m: m.to("cpu", torch.float64), torch.float64),
        (lambda m: m.to(torch.zeros(0, dtype=torch.bfloat16)), torch.bfloat16),
        (lambda m: nn.Sequential(m).half()[0], torch.float16),
    ],
)
def test_casts_spare_the_counts(
    cast: Callable[[KMeansLayer], KMeansLayer], dtype: torch.dtype
) -> None:
    layer = fitted()
    layer.counts[0] = 2**24 + 1  # float32 would lose the 1
    cast(layer)
    assert layer.centroids.dtype == dtype
    assert layer.counts.dtype == torch.float64
    assert layer.counts[0] == 2**24 + 1
    assert layer.n_iter.dtype == torch.int64
    assert layer.initialized.dtype == torch.bool
    x = blobs(50, 3)
    assert torch.equal(layer(x), layer.transform(x).argmin(-1))


def test_meta_to_empty_and_a_state_make_a_layer() -> None:
    layer = KMeansLayer(5, 3, device="meta")
    assert layer.centroids.is_meta
    assert layer.counts.is_meta
    assert layer.counts.dtype == torch.float64
    layer.to_empty(device="cpu")
    assert layer.counts.dtype == torch.float64
    source = fitted()
    layer.load_state_dict(source.state_dict())
    assert_same_state(layer, snapshot(source))


def test_to_empty_after_meta_forgets_the_centroids() -> None:
    layer = fitted().to("meta").to_empty(device="cpu")
    layer.reset_parameters()
    with pytest.raises(NotInitializedError):
        layer(torch.zeros(1, 3))
    source = fitted()
    moved = fitted().to("meta").to_empty(device="cpu")
    moved.centroids.copy_(source.centroids)
    moved.initialized.fill_(False)
    with pytest.raises(NotInitializedError):
        moved(torch.zeros(1, 3))


def test_repr_says_what_differs_from_the_defaults() -> None:
    assert repr(KMeansLayer(5, 3)) == "KMeansLayer(n_clusters=5, n_features=3)"
    layer = KMeansLayer(5, 3, metric="cosine", empty_cluster="keep", batch_shape=(2,))
    assert layer.extra_repr() == (
        "n_clusters=5, n_features=3, metric='cosine', empty_cluster='keep', batch_shape=(2,)"
    )


def test_buffers_have_the_shapes_and_dtypes_of_the_contract() -> None:
    layer = KMeansLayer(5, 3, batch_shape=(2, 4), dtype=torch.float16)
    described = {name: (tuple(b.shape), b.dtype) for name, b in layer.named_buffers()}
    assert described == {
        "centroids": ((2, 4, 5, 3), torch.float16),
        "counts": ((2, 4, 5), torch.float64),
        "n_iter": ((2, 4), torch.int64),
        "initialized": ((), torch.bool),
    }
    assert not list(layer.parameters())


def test_default_dtype_is_torchs() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert KMeansLayer(2, 2).centroids.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("metric", F.METRICS)
@pytest.mark.parametrize("batch_shape", [(), (2,)])
def test_transform_is_differentiable(metric: str, batch_shape: tuple[int, ...]) -> None:
    x = torch.randn(*batch_shape, 6, 3, generator=seeded(), dtype=torch.float64)
    layer = fitted(
        torch.randn(*batch_shape, 20, 3, generator=seeded(1), dtype=torch.float64),
        metric=metric, batch_shape=batch_shape, dtype=torch.float64,
    )  # fmt: skip
    assert torch.autograd.gradcheck(layer.transform, x.requires_grad_())
    shared = x.detach().reshape(-1, 3)[:4].requires_grad_()
    assert torch.autograd.gradcheck(layer.transform, shared)


def test_transform_is_the_squared_distance() -> None:
    layer, x = fitted(), blobs(40, 3, seed=2)
    torch.testing.assert_close(
        layer.transform(x).double(), brute_force(x, layer.centroids), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("batch_shape", [(), (3,), (2, 2)])
def test_decode_looks_up_the_centroids(batch_shape: tuple[int, ...]) -> None:
    x = torch.randn(*batch_shape, 30, 3, generator=seeded())
    layer = fitted(x, batch_shape=batch_shape)
    labels = layer(x)
    decoded = layer.decode(labels)
    assert decoded.shape == x.shape
    expected = layer.e_step(x).distances
    torch.testing.assert_close((x - decoded).square().sum(-1), expected)
    assert torch.equal(layer.decode(labels.to(torch.uint8)), decoded)


def test_forward_gives_no_gradient_and_takes_a_parameter() -> None:
    x = nn.Parameter(blobs(20, 3))
    labels = fitted()(x)
    assert not labels.requires_grad
    layer = KMeansLayer(4, 3)
    found = layer.fit(x, generator=seeded())
    assert not found.inertia.requires_grad
    assert not layer.centroids.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_narrow_input_gets_the_labels_of_its_values(dtype: torch.dtype) -> None:
    x = (torch.randn(200, 3, generator=seeded()) * 2).to(dtype)
    layer = fitted()
    layer.centroids.mul_(0.2)
    assert torch.equal(layer(x), layer(x.float()))
    assert torch.equal(layer(x), brute_force(x, layer.centroids).argmin(-1))


def test_m_step_with_decay_is_sculleys_mini_batch() -> None:
    x = torch.randn(90, 2, generator=seeded())
    layer = layer_at(x[:3])
    centroids, counts = x[:3].double(), torch.zeros(3).double()
    for batch in x.split(30):
        labels = brute_force(batch, centroids).argmin(-1)
        layer.m_step(layer.e_step(batch).stats, decay=1.0)
        for row, label in zip(batch.double(), labels, strict=True):
            counts[label] += 1
            centroids[label] += (row - centroids[label]) / counts[label]
    torch.testing.assert_close(layer.centroids.double(), centroids, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.counts, counts)


@pytest.mark.parametrize("metric", F.METRICS)
@pytest.mark.parametrize("autocast", [False, True])
def test_forward_compiles_into_one_graph(metric: str, autocast: bool) -> None:
    layer, x = fitted(blobs(300, 8), metric=metric), blobs(120, 8, seed=4)
    expected = layer(x)
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        assert torch.equal(compiled(x), expected)
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forward_compiles_with_inductor() -> None:
    layer, x = fitted(blobs(300, 8)), blobs(120, 8, seed=4)
    torch.compiler.reset()
    assert torch.equal(torch.compile(layer, fullgraph=True)(x), layer(x))
    torch.compiler.reset()


def test_forward_exports() -> None:
    layer, x = fitted(), blobs(40, 3, seed=4)
    program = torch.export.export(layer, (x,))
    assert torch.equal(program.module()(x), layer(x))


@pytest.mark.parametrize("batch_shape", [(), (2,), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_file_gives_the_layer_back(
    batch_shape: tuple[int, ...], dtype: torch.dtype, tmp_path: Path
) -> None:
    x = torch.randn(*batch_shape, 60, 3, generator=seeded())
    layer = fitted(x, batch_shape=batch_shape, dtype=dtype, metric="cosine", empty_cluster="split")
    layer.save(tmp_path / "layer.safetensors")
    loaded = KMeansLayer.from_file(tmp_path / "layer.safetensors")
    assert_same_state(loaded, snapshot(layer))
    assert repr(loaded) == repr(layer)
    assert torch.equal(loaded(x), layer(x))
    assert [path.name for path in tmp_path.iterdir()] == ["layer.safetensors"]


def test_a_file_of_centroids_alone_is_enough(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "centroids.safetensors"
    save_file({"centroids": torch.eye(3)}, path)
    layer = KMeansLayer.from_file(path)
    assert torch.equal(layer(torch.eye(3)), torch.arange(3))
