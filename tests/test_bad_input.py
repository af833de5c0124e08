"""Promises about bad input: a clear message that names the argument, and nothing is changed."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kmeans_module import ClusterStats, KMeansLayer
from kmeans_module.core.metrics import METRICS
from kmeans_module.core.seeding import INITS
from tests.conftest import blobs, layer_at, seeded

X = blobs(30, 3)


def with_value(value: float, *rows: int) -> torch.Tensor:
    x = X.clone()
    x[list(rows), 1] = value
    return x


CONSTRUCTOR = [
    ({"n_clusters": 0}, ValueError, "n_clusters should be >= 1; got 0"),
    ({"n_clusters": -3}, ValueError, "n_clusters should be >= 1; got -3"),
    ({"n_clusters": 2.5}, TypeError, "n_clusters should be an integer; got 2.5"),
    ({"n_clusters": True}, TypeError, "n_clusters should be an integer; got True"),
    ({"n_features": "2"}, TypeError, "n_features should be an integer; got '2'"),
    ({"n_clusters": 2**63}, ValueError, "n_clusters=9223372036854775808 overflows"),
    ({"n_clusters": 2**40, "n_features": 2**40}, ValueError, "overflow a 64-bit size"),
    ({"n_clusters": 2**29, "n_features": 2**29}, ValueError, "no room for centroids of shape"),
    (
        {"metric": "manhattan"},
        ValueError,
        f"metric should be one of {', '.join(METRICS)}; got 'manhattan'",
    ),
    ({"metric": None}, ValueError, f"metric should be one of {', '.join(METRICS)}; got None"),
    (
        {"empty_cluster": "drop"},
        ValueError,
        "empty_cluster should be one of relocate, split, keep, error; got 'drop'",
    ),
    ({"batch_shape": 3}, TypeError, "batch_shape should be a tuple of integers; got 3"),
    ({"batch_shape": (2, 0)}, ValueError, "batch_shape should be >= 1; got 0"),
    ({"batch_shape": (2.0,)}, TypeError, "batch_shape should be an integer; got 2.0"),
    ({"dtype": torch.int64}, TypeError, "dtype should be one of torch.float16.*got torch.int64"),
    ({"dtype": torch.float8_e5m2}, TypeError, "dtype should be one of .*got torch.float8_e5m2"),
    ({"dtype": "float32"}, TypeError, "dtype should be one of .*got 'float32'"),
]


@pytest.mark.parametrize(("options", "error", "message"), CONSTRUCTOR)
def test_the_constructor_names_the_argument(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        KMeansLayer(**{"n_clusters": 4, "n_features": 3, **options})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a device here")
def test_a_device_that_is_not_here_is_named() -> None:
    with pytest.raises(ValueError, match=r"device should be one .*cuda|for centroids") as error:
        KMeansLayer(4, 3, device="cuda")
    assert "\n" not in str(error.value)


DATA = [
    (X[0], ValueError, r"x should have shape \(n_samples, 3\); got \(3,\)"),
    (X[None], ValueError, r"x should have shape \(n_samples, 3\); got \(1, 30, 3\)"),
    (X[:, :2], ValueError, r"x should have shape \(n_samples, 3\); got \(30, 2\)"),
    (X.numpy(), TypeError, "x should be a torch.Tensor; got ndarray"),
    (X.tolist(), TypeError, "x should be a torch.Tensor; got list"),
    (None, TypeError, "x should be a torch.Tensor; got NoneType"),
    (X.to(torch.complex64), TypeError, "x should hold real numbers; got torch.complex64"),
    (X.to_sparse(), TypeError, "x should be a dense tensor; got torch.sparse_coo"),
    (X.to(torch.float8_e5m2), TypeError, "x should hold floats, .*; got torch.float8_e5m2"),
    (X.abs().to(torch.uint16), TypeError, "x should hold floats, .*; got torch.uint16"),
    (X.to("meta"), ValueError, "x is on meta, the centroids are on cpu"),
]
VALUES = [
    (with_value(torch.nan, 4), "x should be finite; 1 row holds NaN or infinity, .* row 4"),
    (with_value(torch.inf, 9, 2), "x should be finite; 2 rows hold NaN or infinity, .* row 2"),
    (with_value(-torch.inf, 0), "x should be finite; 1 row holds NaN or infinity, .* row 0"),
    (
        with_value(1e30, 3),
        "squared distances overflow torch.float32[:;] scale x down",
    ),
]


def calls(layer: KMeansLayer, x: Any) -> dict[str, Callable[[], object]]:
    return {
        "fit": lambda: layer.fit(x, generator=seeded()),
        "initialize": lambda: layer.initialize(x, generator=seeded()),
        "e_step": lambda: layer.e_step(x),
    }


def assert_refused(
    layer: KMeansLayer, call: Callable[[], object], error: type[Exception], message: str
) -> None:
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    with pytest.raises(error, match=message):
        call()
    for name, buffer in layer.named_buffers():
        assert torch.equal(buffer, before[name])


@pytest.mark.parametrize("call", ["fit", "initialize", "e_step"])
@pytest.mark.parametrize(("x", "error", "message"), DATA)
def test_data_of_another_kind_is_refused(
    call: str, x: Any, error: type[Exception], message: str
) -> None:
    layer = layer_at(X[:4])
    assert_refused(layer, calls(layer, x)[call], error, message)


@pytest.mark.parametrize("call", ["fit", "initialize", "e_step", "forward", "transform"])
@pytest.mark.parametrize(("x", "message"), VALUES)
def test_values_that_cannot_be_clustered_are_located(
    call: str, x: torch.Tensor, message: str
) -> None:
    layer = layer_at(X[:4])
    looks = {"forward": lambda: layer(x), "transform": lambda: layer.transform(x)}
    if call == "forward" and "overflow" in message:
        return  # whether an assignment overflows is up to the kernel
    assert_refused(layer, {**calls(layer, x), **looks}[call], ValueError, message)


@pytest.mark.parametrize("call", ["forward", "transform"])
@pytest.mark.parametrize("x", [X[:, :2], torch.tensor(1.0), torch.zeros(0)])
def test_forward_wants_the_features_last(call: str, x: torch.Tensor) -> None:
    layer = layer_at(X[:4])
    message = re.escape(f"x should have shape (..., 3); got {tuple(x.shape)}")
    look = layer if call == "forward" else layer.transform
    assert_refused(layer, lambda: look(x), ValueError, message)


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (torch.zeros(5, 3), r"\(2, n_samples, 3\) or \(n_samples, 3\)"),
        (torch.zeros(3, 9, 3), r"\(2, n_samples, 3\) or \(n_samples, 3\)"),
        (torch.zeros(3), r"\(2, n_samples, 3\) or \(n_samples, 3\)"),
    ],
)
def test_batched_layers_say_both_shapes(x: torch.Tensor, expected: str) -> None:
    layer = layer_at(torch.stack([X[:4], X[4:8]]))
    if x.shape == (5, 3):
        assert layer(x).shape == (2, 5)
        return
    assert_refused(layer, lambda: layer(x), ValueError, f"x should have shape {expected}; got")


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("init", INITS)
def test_fewer_samples_than_clusters_quotes_both_numbers(n: int, init: str) -> None:
    layer = layer_at(X[:4])
    message = f"n_samples={n} should be >= n_clusters=4"
    assert_refused(layer, lambda: layer.fit(X[:n], init=init), ValueError, message)
    assert_refused(layer, lambda: layer.initialize(X[:n], init), ValueError, message)


WEIGHTS = [
    (-torch.ones(30), ValueError, "should be >= 0; 30 weights are negative, the smallest is -1"),
    (torch.zeros(30), ValueError, "should be positive for n_clusters=4 samples at least; .* 0"),
    (torch.full((30,), torch.nan), ValueError, "should be finite; it contains NaN or infinity"),
    (torch.full((30,), torch.inf), ValueError, "should be finite; it contains NaN or infinity"),
    (torch.full((30,), 1e300, dtype=torch.float64) * 1e300, ValueError, "should be finite"),
    (torch.full((30,), 1e200, dtype=torch.float64), ValueError, "should be at most 1e.100"),
    (torch.ones(29), ValueError, r"should have shape \(30,\), .*; got \(29,\)"),
    (torch.ones(30, 1), ValueError, r"should have shape \(30,\), .*; got \(30, 1\)"),
    (torch.ones(30, dtype=torch.complex64), TypeError, "should hold real numbers"),
    ([1.0] * 30, TypeError, "should be a torch.Tensor; got list"),
    (3.0, TypeError, "should be a torch.Tensor; got float"),
]


@pytest.mark.parametrize("call", ["fit", "initialize", "e_step"])
@pytest.mark.parametrize(("weight", "error", "message"), WEIGHTS)
def test_bad_weights_are_refused(
    call: str, weight: Any, error: type[Exception], message: str
) -> None:
    layer = layer_at(X[:4])
    if call == "e_step" and "n_clusters" in message:
        assert not layer.e_step(X, weight).stats.counts.any()
        return
    run = {
        "fit": lambda: layer.fit(X, sample_weight=weight),
        "initialize": lambda: layer.initialize(X, sample_weight=weight),
        "e_step": lambda: layer.e_step(X, weight),
    }[call]
    assert_refused(layer, run, error, f"sample_weight {message}")


INIT = [
    ("kmeans", ValueError, r"init should be one of k-means\+\+, k-means\|\|, random, .*'kmeans'"),
    (X[:3], ValueError, r"init should have shape \(4, 3\); got \(3, 3\)"),
    (X[:4, :2], ValueError, r"init should have shape \(4, 3\); got \(4, 2\)"),
    (X[:4].unsqueeze(0), ValueError, r"init should have shape \(4, 3\); got \(1, 4, 3\)"),
    (X[0], ValueError, r"init should have shape \(4, 3\); got \(3,\)"),
    (X[:4] * torch.nan, ValueError, "init should be finite in torch.float32; it contains NaN"),
    (X[:4].double() * 1e100, ValueError, "init should be finite in torch.float32"),
    (X[:4].to(torch.complex64), TypeError, "init should hold real numbers; got torch.complex64"),
    (7, TypeError, "init should be a name, a tensor or a callable; got 7"),
    (None, TypeError, "init should be a name, a tensor or a callable; got None"),
    (lambda x, k, g: x, ValueError, r"init should have shape \(4, 3\); got \(30, 3\)"),
    (lambda x, k, g: "random", TypeError, "init should be .*; got 'random'"),
    (lambda x, k, g: print, TypeError, "init should be .*; got <built-in"),
]


@pytest.mark.parametrize("call", ["fit", "initialize"])
@pytest.mark.parametrize(("init", "error", "message"), INIT)
def test_bad_inits_are_refused(call: str, init: Any, error: type[Exception], message: str) -> None:
    layer = layer_at(X[:4])
    run = {"fit": lambda: layer.fit(X, init=init), "initialize": lambda: layer.initialize(X, init)}
    assert_refused(layer, run[call], error, message)


OPTIONS = [
    ({"max_iter": -1}, ValueError, "max_iter should be >= 0; got -1"),
    ({"max_iter": 3.0}, TypeError, "max_iter should be an integer; got 3.0"),
    ({"n_init": 0}, ValueError, "n_init should be >= 1; got 0"),
    ({"n_init": "auto"}, TypeError, "n_init should be an integer; got 'auto'"),
    ({"tol": -1e-4}, ValueError, "tol should be from 0 to inf; got -0.0001"),
    ({"tol": torch.nan}, ValueError, "tol should be from 0 to inf; got nan"),
    ({"tol": "small"}, TypeError, "tol should be a number; got 'small'"),
    ({"generator": 0}, TypeError, "generator should be a torch.Generator or None; got int"),
    ({"process_group": 0}, TypeError, "process_group should be a ProcessGroup .* got int"),
]


@pytest.mark.parametrize(("options", "error", "message"), OPTIONS)
def test_bad_options_of_fit_are_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    layer = layer_at(X[:4])
    assert_refused(layer, lambda: layer.fit(X, **options), error, message)


def test_data_beyond_the_layers_dtype_is_refused() -> None:
    for dtype, scale in ((torch.float16, 1e5), (torch.float32, 1e50)):
        layer = layer_at(X[:4].to(dtype))
        x = X.double() * scale
        for call in ("fit", "initialize"):
            run = calls(layer, x)[call]
            assert_refused(layer, run, ValueError, f"x reaches .* centroids overflow {dtype}")


@pytest.mark.parametrize("scale", [1e-15, 1e15, 1e17])
def test_extreme_scales_that_fit_are_clustered(scale: float) -> None:
    x = X * scale
    layer = KMeansLayer(4, 3)
    found = layer.fit(x, generator=seeded())
    expected = KMeansLayer(4, 3, dtype=torch.float64).fit(X.double(), generator=seeded())
    assert found.inertia.isfinite()
    assert found.inertia.item() == pytest.approx(expected.inertia.item() * scale**2, rel=0.3)


@pytest.mark.parametrize(
    ("stats", "error", "message"),
    [
        (None, TypeError, "stats should be ClusterStats; got NoneType"),
        (torch.zeros(4, 3), TypeError, "stats should be ClusterStats; got Tensor"),
        (
            ClusterStats(torch.zeros(5, 3), torch.zeros(5), torch.zeros(())),
            ValueError,
            r"stats should be of centroids \(4, 3\); got sums, counts and inertia of shapes",
        ),
        (
            ClusterStats(torch.zeros(4, 3), torch.zeros(1), torch.zeros(())),
            ValueError,
            r"stats should be of centroids \(4, 3\)",
        ),
        (
            ClusterStats(torch.full((4, 3), torch.nan), torch.ones(4), torch.zeros(())),
            ValueError,
            "stats should be finite",
        ),
    ],
)
def test_bad_statistics_are_refused(stats: Any, error: type[Exception], message: str) -> None:
    layer = layer_at(X[:4])
    assert_refused(layer, lambda: layer.m_step(stats), error, message)


@pytest.mark.parametrize("decay", [-0.1, 1.1, torch.nan, "half", None])
def test_decay_is_from_0_to_1(decay: Any) -> None:
    layer = layer_at(X[:4])
    stats = layer.e_step(X).stats
    assert_refused(
        layer,
        lambda: layer.m_step(stats, decay=decay),
        (ValueError, TypeError),  # type: ignore[arg-type]
        "decay should be (from 0 to 1|a number); got",
    )


@pytest.mark.parametrize("start", [-1, 0.5, None, 2**70])
def test_start_is_a_row_number(start: Any) -> None:
    layer = layer_at(X[:4])
    assert_refused(
        layer,
        lambda: layer.e_step(X, start=start),
        (ValueError, TypeError),  # type: ignore[arg-type]
        "^start",
    )


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (torch.tensor([0, 4]), ValueError, "labels should be from 0 to 3; got 0 to 4"),
        (torch.tensor(-1), ValueError, "labels should be from 0 to 3; got -1 to -1"),
        (torch.tensor([0.0]), TypeError, "labels should be integers; got torch.float32"),
        (torch.tensor([True]), TypeError, "labels should be integers; got torch.bool"),
        ([0, 1], TypeError, "labels should be a torch.Tensor; got list"),
    ],
)
def test_bad_labels_are_refused(labels: Any, error: type[Exception], message: str) -> None:
    layer = layer_at(X[:4])
    assert_refused(layer, lambda: layer.decode(labels), error, message)


def test_labels_of_a_batched_layer_have_its_shape() -> None:
    layer = layer_at(torch.stack([X[:4], X[4:8]]))
    with pytest.raises(ValueError, match=r"labels should have shape \(2, n\); got \(4,\)"):
        layer.decode(torch.zeros(4, dtype=torch.int64))


def test_an_empty_cluster_is_refused_by_the_policy_error_and_nothing_changes() -> None:
    layer = layer_at(torch.tensor([[0.0], [99.0]]), empty_cluster="error")
    x = torch.tensor([[0.0], [1.0]])
    stats = layer.e_step(x).stats
    message = r"1 of 2 clusters have no samples \(clusters 1\)"
    assert_refused(layer, lambda: layer.m_step(stats), ValueError, message)
    assert_refused(layer, lambda: layer.fit(x, init="current"), ValueError, message)


FILES: dict[str, bytes] = {
    "empty.safetensors": b"",
    "noise.safetensors": bytes(range(256)) * 4,
    "text.safetensors": b"these are no numbers",
    "huge_header.safetensors": b"\xff" * 8 + b"{}",
    "pickled.safetensors": b"\x80\x04N.",
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_none_is_named_in_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name])
    with pytest.raises(ValueError, match=re.escape(name)) as caught:
        KMeansLayer.from_file(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_named(keep: float, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    layer_at(X[:4]).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ValueError, match=r"cut\.safetensors"):
        KMeansLayer.from_file(path)


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"weights": torch.zeros(2, 2)}, {}),
        ({"centroids": torch.zeros(2)}, {}),
        ({"centroids": torch.zeros(2, 2, dtype=torch.int64)}, {}),
        ({"centroids": torch.zeros(0, 2)}, {}),
        ({"centroids": torch.zeros(2, 2), "counts": torch.zeros(3)}, {}),
        ({"centroids": torch.zeros(2, 2), "stranger": torch.zeros(3)}, {}),
        ({"centroids": torch.full((2, 2), torch.nan)}, {}),
        ({"centroids": torch.zeros(2, 2)}, {"kmeans_module": '{"metric": "manhattan"}'}),
        ({"centroids": torch.zeros(2, 2)}, {"kmeans_module": "[1"}),
        ({"centroids": torch.zeros(2, 2)}, {"kmeans_module": "[1]"}),
        ({"centroids": torch.zeros(2, 2)}, {"kmeans_module": '{"colour": 3}'}),
        ({"centroids": torch.zeros(2, 2).to(torch.float8_e5m2)}, {}),
    ],
)
def test_a_file_of_something_else_is_refused(
    tensors: dict[str, torch.Tensor], metadata: dict[str, str], tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "other.safetensors"
    save_file(tensors, path, metadata)
    with pytest.raises(ValueError, match=r"other\.safetensors") as caught:
        KMeansLayer.from_file(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors"):
        KMeansLayer.from_file(tmp_path / "nowhere.safetensors")


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "layer.safetensors"
    layer_at(X[:4]).save(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="no centroids"):
        KMeansLayer(4, 3).save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["layer.safetensors"]


# what a careless caller hands in, for every argument
GARBAGE: list[Any] = [
    None, True, -1, 0, 1, 3, 2**31, 2**63, 1e30, 0.5, -0.0, float("nan"), float("inf"), "",
    "random", "cosine", "x.npy", b"x", (), (0,), (2, -1), [], [1, 2], {}, object(), lambda *a: a,
    print, torch.float16, torch.int8, torch.device("meta"), torch.tensor(1.0), torch.tensor([]),
    torch.tensor(True), torch.zeros(3), torch.zeros(0, 3), torch.zeros(4, 3), torch.ones(30, 3),
    torch.zeros(30), -torch.ones(30), torch.full((30,), 1e308, dtype=torch.float64),
    torch.full((30,), 5e-324, dtype=torch.float64), torch.arange(30), torch.zeros(30, 2),
    torch.zeros(2, 30, 3), torch.zeros(1, 1, 1, 3), torch.full((30, 3), torch.nan),
    torch.full((30, 3), torch.inf), torch.full((30, 3), 3e38), X * 1e18, X * 1e19, X * 1e-30,
    X.double() * 1e200, X.double() * 1e-200, X.half(), X.to(torch.bfloat16), X.long(), X.bool(),
    X.to(torch.uint8), X.abs().to(torch.uint16), X.abs().to(torch.uint64), X.to(torch.complex64),
    X.to(torch.float8_e4m3fn), X.to_sparse(), X.to("meta"), X.numpy(), X.requires_grad_(False),
    X.t(), X[::2], X.expand(2, 30, 3), with_value(torch.nan, 3),
    with_value(torch.inf, 7), with_value(1e30, 5), torch.Generator(), torch.nn.Identity(),
    ClusterStats,
]  # fmt: skip
METHODS: dict[str, tuple[str, ...]] = {
    "forward": ("x",),
    "transform": ("x",),
    "decode": ("labels",),
    "initialize": ("x", "init", "sample_weight", "generator", "process_group"),
    "e_step": ("x", "sample_weight", "start"),
    "m_step": ("stats", "decay"),
    "fit": (
        "x", "init", "max_iter", "tol", "n_init", "sample_weight", "generator", "process_group",
    ),
}  # fmt: skip
CREATION = ("n_clusters", "n_features", "metric", "empty_cluster", "batch_shape", "device", "dtype")


def tensors_in(value: object) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, ClusterStats):
        value = list(vars(value).values())
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in tensors_in(item)]
    return [] if not isinstance(value, KMeansLayer) else [value.centroids]


def argument(name: str, dice: random.Random, layer: KMeansLayer) -> Any:
    """Mostly good, sometimes garbage."""
    if dice.random() < 0.4:
        return dice.choice(GARBAGE)
    good: dict[str, Callable[[], Any]] = {
        "x": lambda: X,
        "labels": lambda: torch.randint(4, (5,)),
        "init": lambda: dice.choice([*INITS, X[:4], "current"]),
        "sample_weight": lambda: dice.choice([None, torch.rand(30)]),
        "max_iter": lambda: 5,
        "tol": lambda: dice.choice([0, 1e-4]),
        "n_init": lambda: 2,
        "start": lambda: 3,
        "stats": lambda: layer_at(X[:4]).e_step(X).stats,
        "decay": lambda: 0.5,
        "n_clusters": lambda: 4,
        "n_features": lambda: 3,
        "metric": lambda: dice.choice(["euclidean", "cosine"]),
        "empty_cluster": lambda: dice.choice(["relocate", "split", "keep", "error"]),
        "batch_shape": lambda: dice.choice([(), (2,)]),
    }
    return good.get(name, lambda: None)()


def outcome(call: Callable[[], Any]) -> tuple[str, Any]:
    """The message of the error, which has to be one of those a user can understand, or a result."""
    try:
        return "", call()
    except (ValueError, TypeError, FileNotFoundError) as error:
        assert str(error)  # noqa: PT017
        return str(error), None


@pytest.mark.filterwarnings("ignore:.*clusters have no samples")
@pytest.mark.parametrize("part", range(10))
def test_a_thousand_careless_calls_end_in_a_clear_error_or_a_finite_result(part: int) -> None:
    dice = random.Random(part)
    torch.manual_seed(part)
    refused = 0
    for _ in range(150):
        layer = layer_at(
            torch.nn.functional.normalize(X[:4]).to(dice.choice([torch.float32, torch.float16])),
            metric=dice.choice(["euclidean", "cosine"]),
            empty_cluster=dice.choice(["relocate", "split", "keep", "error"]),
        )
        if dice.random() < 0.15:
            layer.reset_parameters()
        name = dice.choice([*METHODS, "KMeansLayer"])
        names = METHODS.get(name, CREATION)
        given = {key: argument(key, dice, layer) for key in names}
        if isinstance(given.get("max_iter"), int):
            given["max_iter"] = min(given["max_iter"], 50)
        if isinstance(given.get("n_init"), int):
            given["n_init"] = min(given["n_init"], 3)
        call = KMeansLayer if name == "KMeansLayer" else getattr(layer, name)
        before = {key: buffer.clone() for key, buffer in layer.named_buffers()}
        called = f"{name}({given})"
        message, result = outcome(lambda call=call, given=given: call(**given))
        if message:
            refused += 1
            told = [*names, "clusters have no samples", "no centroids yet", "n_samples"]
            assert any(word in message for word in told), f"{called}: {message}"
            for key, buffer in layer.named_buffers():
                assert torch.equal(buffer, before[key]), f"{called} changed {key}"
        for tensor in [*tensors_in(result), *layer.buffers()]:
            assert tensor.is_meta or tensor.isfinite().all(), called
    assert refused > 50


@pytest.mark.parametrize("part", range(2))
def test_careless_paths_end_in_a_clear_error(part: int, tmp_path: Path) -> None:
    dice = random.Random(part)
    layer = layer_at(X[:4])
    good = tmp_path / "good.safetensors"
    layer.save(good)
    content = good.read_bytes()
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(dice.randint(1, 4)):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        path = tmp_path / "damaged.safetensors"
        path.write_bytes(bytes(damaged[: dice.randint(0, len(damaged))]))
        target = dice.choice([path, path, path, tmp_path, tmp_path / "none", *GARBAGE])
        message, loaded = outcome(lambda target=target: KMeansLayer.from_file(target))
        assert "\n" not in message, message
        assert message or loaded.centroids.isfinite().all()


def test_integers_that_the_precision_does_not_tell_apart_are_refused() -> None:
    x = torch.tensor([[2**31], [2**31 + 1], [2**31 + 60], [2**31 + 61]])
    with pytest.raises(ValueError, match=r"integers up to 2\.14748e\+09, which overflow"):
        KMeansLayer(2, 1).fit(x)
    result = KMeansLayer(2, 1, dtype=torch.float64).fit(x)
    assert float(result.inertia) == 1
    with pytest.raises(ValueError, match="overflow"):
        KMeansLayer(2, 1, dtype=torch.float64).fit(x * 2**28 + 1)


def test_values_whose_squares_underflow_are_refused() -> None:
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * 1e-25
    with pytest.raises(ValueError, match="squared distances underflow"):
        KMeansLayer(5, 4).fit(x)
    assert float(KMeansLayer(5, 4, dtype=torch.float64).fit(x.double()).inertia) > 0


def test_a_zero_centroid_has_no_direction() -> None:
    with pytest.raises(ValueError, match="init should have no zero row"):
        KMeansLayer(4, 3, metric="cosine").initialize(torch.randn(9, 3), torch.zeros(4, 3))
