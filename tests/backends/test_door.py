"""Promises of the door to the backends: who serves, and in words who does not and why."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from kmeans_module import KMeansLayer, backends, show_backends
from kmeans_module import functional as F
from kmeans_module.backends import backend_for, native, operators, reference, triton
from kmeans_module.backends.native import NativeWorkspace
from kmeans_module.backends.reference import ReferenceWorkspace
from kmeans_module.core.scale import Scale
from kmeans_module.rows.sampling import block_sums
from tests.backends.conftest import needs_native
from tests.conftest import blobs, seeded

X = torch.zeros(4, 3)
TINY = X.to(torch.float8_e4m3fn)  # of a type that no backend but the reference takes
NATIVE, REFERENCE = native.BACKEND, reference.BACKEND


@pytest.fixture(autouse=True)
def known_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The door is tested with these backends, whichever others there are."""
    known = (NATIVE, triton.BACKEND, REFERENCE)
    monkeypatch.setattr(backends, "BACKENDS", known)
    monkeypatch.setattr(backends, "_BY_NAME", {backend.name: backend for backend in known})


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: None)


@needs_native
@pytest.mark.parametrize(
    ("x", "dtype", "operation", "expected"),
    [
        (X, None, "e_step", None),
        (X, torch.float32, "e_step", None),
        (X, torch.float16, "e_step", None),
        (X, torch.float64, "e_step", None),
        (X.double(), torch.float32, "e_step", None),
        (X.half(), None, "e_step", None),
        (X.long(), torch.float32, "e_step", None),
        (TINY, None, "e_step", "x is torch.float8_e4m3fn"),
        (X.to("meta"), None, "e_step", "x is on meta"),
        (X, torch.float32, "beam", None),
        (X.double(), torch.float64, "beam", None),
        (X.double(), None, "sums", None),
        (X.long(), None, "sums", "sums are of float32 or float64; x is torch.int64"),
        (X, None, "moments", None),
        (X.bool(), None, "moments", None),
    ],
)
def test_the_native_backend_says_what_it_does_not_take(
    x: Tensor, dtype: torch.dtype | None, operation: str, expected: str | None
) -> None:
    assert NATIVE.obstacle(x, dtype, operation) == expected
    chosen = backend_for(x, dtype, operation)
    assert chosen is (NATIVE if expected is None else REFERENCE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.int64, torch.float32])
@pytest.mark.parametrize("operation", ["e_step", "beam", "sums", "moments"])
def test_the_reference_takes_everything(dtype: torch.dtype, operation: str) -> None:
    assert REFERENCE.missing() is None
    assert REFERENCE.obstacle(X.to(dtype), torch.float64, operation) is None


def test_without_the_library_the_reference_serves(no_library: None) -> None:
    text = "there is no native kernel: no C++ compiler built it"
    assert NATIVE.missing() == NATIVE.obstacle(X) == text
    for operation in ("e_step", "beam", "sums", "moments"):
        assert backend_for(X, operation=operation) is REFERENCE
    x = blobs(100, 3)
    layer = KMeansLayer(4, 3)
    assert torch.equal(layer.fit(x, generator=seeded()).labels, layer(x))


def test_a_library_that_was_not_built_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the line of the caller, who may know nothing of compilers."""
    module = sys.modules[native.library.__module__]
    monkeypatch.setattr(module, "INSTALLED", False)
    with pytest.warns(UserWarning, match=r"no native kernel.*KMEANS_REQUIRE_NATIVE=1") as warned:
        assert native.library.__wrapped__() is None
    assert warned[0].filename == __file__


@needs_native
def test_a_workspace_is_that_of_the_backend() -> None:
    assert isinstance(backends.workspace(X), NativeWorkspace)
    assert isinstance(backends.workspace(X.half()), NativeWorkspace)
    assert isinstance(backends.workspace(TINY), ReferenceWorkspace)
    assert isinstance(backends.workspace(X, dtype=torch.float64), NativeWorkspace)
    assert isinstance(backends.workspace(X.double(), dtype=torch.float32), NativeWorkspace)


@pytest.mark.parametrize("operation", ["e_step", "beam", "sums", "moments"])
def test_the_reference_can_be_asked_for(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMEANS_KERNEL", "reference")
    for x in (X, X.double(), X.to("meta")):
        assert backend_for(x, operation=operation) is REFERENCE
    assert type(backends.workspace(X)) is ReferenceWorkspace


@needs_native
@pytest.mark.filterwarnings(
    "ignore:`torch.jit.trace:DeprecationWarning", "ignore::torch.jit.TracerWarning"
)
def test_a_backend_that_is_asked_for_stands_back_from_traces_and_shapes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = KMeansLayer(3, 2).eval()
    layer.set_centroids(torch.eye(3, 2))
    x = blobs(20, 2)
    expected = layer(x)
    for asked in ("native", "reference", "triton"):
        monkeypatch.setenv("KMEANS_KERNEL", asked)
        traced = torch.jit.trace(layer, x)
        assert torch.equal(traced(x), expected)
        with FakeTensorMode(allow_non_fake_inputs=True):
            assert layer(torch.empty(7, 2)).shape == (7,)


def test_the_reference_can_be_asked_for_before_the_start() -> None:
    code = (
        "import torch; from kmeans_module import backends;"
        "print(type(backends.workspace(torch.zeros(2, 2))).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"KMEANS_KERNEL": "reference", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "ReferenceWorkspace"


@needs_native
@pytest.mark.parametrize(
    ("x", "operation", "message"),
    [
        (TINY, "e_step", "x is torch.float8_e4m3fn"),
        (X.half(), "beam", "beam search takes float32 or float64; x is torch.float16"),
    ],
)
def test_a_backend_that_is_asked_for_serves_or_says_why_not(
    x: Tensor, operation: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KMEANS_KERNEL", "native")
    assert backend_for(X) is NATIVE
    with pytest.raises(RuntimeError, match=f"^KMEANS_KERNEL=native, but {message}$"):
        backend_for(x, operation=operation)
    with pytest.raises(RuntimeError, match=r"KMEANS_KERNEL=native, but x is torch\.float8"):
        backends.workspace(TINY)


def test_a_backend_that_is_asked_for_and_not_there_is_an_error(
    no_library: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KMEANS_KERNEL", "native")
    with pytest.raises(RuntimeError, match="KMEANS_KERNEL=native, but there is no native kernel"):
        F.e_step(X, X)


@needs_native
def test_tensors_of_other_devices_are_served_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMEANS_KERNEL", "native")
    assert backend_for(X.to("meta")) is REFERENCE
    monkeypatch.setenv("KMEANS_KERNEL", "triton")
    assert backend_for(X) is NATIVE
    assert backend_for(TINY) is REFERENCE


def test_a_backend_that_this_version_lacks_is_an_error_for_its_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if any(backend.name == "triton" for backend in backends.BACKENDS):
        pytest.skip("it is there")
    monkeypatch.setenv("KMEANS_KERNEL", "triton")
    with FakeTensorMode():
        x = torch.empty(4, 3, device="cuda")
    with pytest.raises(RuntimeError, match="KMEANS_KERNEL=triton, but this version has no such"):
        backend_for(x)


@pytest.mark.parametrize("name", ["native", "reference", "triton"])
def test_the_operators_do_not_ask_what_is_asked_for(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, centroids = blobs(60, 3), blobs(5, 3, seed=1).unsqueeze(0)
    expected = operators.e_step(x, None, centroids, "euclidean", 0)
    half = operators.assign(x.half(), centroids, "euclidean")
    monkeypatch.setenv("KMEANS_KERNEL", name)
    found = torch.ops.kmeans_module.e_step(x, None, centroids, "euclidean", 0)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(torch.ops.kmeans_module.assign(x.half(), centroids, "euclidean"), half)


@pytest.mark.parametrize("name", ["faiss", "Native", "torch"])
def test_an_unknown_name_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMEANS_KERNEL", name)
    message = f"KMEANS_KERNEL should be one of native, triton, reference; got {name}"
    for x in (X, X.half(), X.to("meta")):
        with pytest.raises(ValueError, match=message):
            backend_for(x)
    with pytest.raises(ValueError, match=message):
        block_sums(X, Scale.of(torch.ones(len(X)), 4))


def test_an_empty_name_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = backend_for(X)
    monkeypatch.setenv("KMEANS_KERNEL", "")
    assert backend_for(X) is usual


@needs_native
def test_it_is_shown_which_backends_there_are() -> None:
    shown = show_backends().splitlines()
    assert [line.split(":")[0] for line in shown] == ["native", "triton", "reference"]
    assert shown[0] == "native: for cpu; there"
    assert shown[-1] == "reference: for any device; there"


def test_it_is_shown_why_a_backend_is_not_there_and_what_is_asked_for(
    no_library: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KMEANS_KERNEL", "reference")
    shown = show_backends().splitlines()
    assert shown[0] == "KMEANS_KERNEL=reference is set"
    assert shown[1] == "native: for cpu; there is no native kernel: no C++ compiler built it"


class FitSays:
    """Lines of the log of a fit, each of them once."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.caplog = caplog

    def __call__(self, x: Tensor, dtype: torch.dtype = torch.float32) -> str:
        self.caplog.clear()
        KMeansLayer(4, 3, dtype=dtype).fit(x, init=x[:4].to(dtype))
        name = "kmeans_module.backends"
        lines = [r.getMessage() for r in self.caplog.records if r.name == name]
        return "\n".join(dict.fromkeys(lines))


@pytest.fixture
def fit_says(caplog: pytest.LogCaptureFixture) -> FitSays:
    caplog.set_level(logging.DEBUG, logger="kmeans_module")
    return FitSays(caplog)


@needs_native
def test_a_debug_line_says_which_backend_serves_and_why(fit_says: FitSays) -> None:
    x = torch.randn(100, 3, generator=seeded())
    said = fit_says(x)
    assert said == "E-steps by the native backend"
    assert fit_says(x, torch.float64) == fit_says(x.half()) == said
    fit_says.caplog.clear()
    assert backend_for(TINY) is REFERENCE
    assert "than native: x is torch.float8_e4m3fn" in fit_says.caplog.text


def test_a_debug_line_says_that_the_reference_is_asked_for(
    fit_says: FitSays, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KMEANS_KERNEL", "reference")
    said = fit_says(torch.randn(100, 3, generator=seeded()))
    assert "reference backend" in said
    assert "KMEANS_KERNEL=reference" in said


def test_a_debug_line_says_that_there_is_no_library(no_library: None, fit_says: FitSays) -> None:
    said = fit_says(torch.randn(100, 3, generator=seeded()))
    assert "E-steps by the reference backend" in said
    assert "than native: there is no native kernel" in said


@pytest.mark.parametrize("kind", [NativeWorkspace, ReferenceWorkspace])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_statistics_are_those_of_the_e_step(
    kind: type[NativeWorkspace] | type[ReferenceWorkspace], metric: str
) -> None:
    if kind is NativeWorkspace and native.library() is None:
        pytest.skip("the package was installed without a C++ compiler")
    x = blobs(300, 3)
    far = torch.full((2, 3), -900.0) if metric == "euclidean" else -x[:2] * 0
    centroids = torch.nn.functional.normalize(torch.cat([x[:5], far]), dim=-1)
    centroids = centroids if metric == "cosine" else torch.cat([x[:5], far])
    weight = torch.rand(300, generator=seeded()).double()
    step = kind(x, weight, metric=metric).e_step(centroids[None], start=7)
    space = kind(x, weight, metric=metric)
    stats = space.statistics(centroids[None], start=7)
    assert torch.equal(space.labels, step.labels)
    for name in ("sums", "counts", "inertia"):
        torch.testing.assert_close(
            getattr(stats, name), getattr(step.stats, name), rtol=1e-12, atol=1e-12
        )
    assert stats.farthest is not None
    assert step.stats.farthest is not None
    for ours, theirs in zip(stats.farthest, step.stats.farthest, strict=True):
        assert torch.equal(ours, theirs)
    without = kind(x, weight, metric=metric).statistics(centroids[None], farthest=False)
    assert without.farthest is None
    assert torch.equal(without.counts, stats.counts)
