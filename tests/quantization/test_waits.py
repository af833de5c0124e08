"""Promises of training steps on accelerators: none waits, each replays, the CPU agrees.

The CPU plays the accelerator: what a step decides, it decides in tensors. Plain torch, which
serves where there is no native kernel, waits for the number of rows in doubt.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kmeans_module import ProductQuantizer, ResidualQuantizer, VectorQuantizer
from kmeans_module.backends import reference
from kmeans_module.quantization import decisions
from tests.backends.conftest import needs_native
from tests.conftest import blobs
from tests.quantization.helpers import assert_same, normal, state_of
from tests.waits import counted

# What differs between quantizers that learn; revival takes place in all of them.
KINDS: dict[str, Callable[[], Any]] = {
    "ema": lambda: VectorQuantizer(16, 8),
    "decay": lambda: VectorQuantizer(16, 8, decay=0.8, revive_below=1.0),
    "gradient": lambda: VectorQuantizer(16, 8, update="gradient"),
    "skip": lambda: VectorQuantizer(16, 8, nonfinite="skip"),
    "cosine": lambda: VectorQuantizer(16, 8, metric="cosine"),
    "rotation": lambda: VectorQuantizer(16, 8, estimator="rotation"),
    "gumbel": lambda: VectorQuantizer(16, 8, estimator="gumbel"),
    "heads": lambda: VectorQuantizer(16, 8, heads=2),
    "separate": lambda: VectorQuantizer(16, 8, heads=2, separate_codebooks=True),
    "no revival": lambda: VectorQuantizer(16, 8, revive_below=0),
    "half": lambda: VectorQuantizer(16, 8, update="gradient", dtype=torch.bfloat16),
    "residual": lambda: ResidualQuantizer(16, 8, 3, dropout=True),
    "residual, gradient": lambda: ResidualQuantizer(16, 8, 3, update="gradient"),
    "shared": lambda: ResidualQuantizer(16, 8, 3, shared_codebook=True),
    "product": lambda: ProductQuantizer(16, 8, 4),
    "rotated": lambda: ProductQuantizer(16, 8, 4, rotation=True, update="gradient"),
}


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing looks at numbers of the CPU."""
    monkeypatch.setattr(decisions, "decides_on_device", lambda x: True)


def batch(step: int) -> Tensor:
    """Rows that leave codes behind, so that some die and are revived."""
    return blobs(150, 8, centers=5, seed=step // 3) / (1 + step % 2)


def step_of(quantizer: nn.Module, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
    """Codes, quantized vectors and gradient of a step forwards and backwards."""
    x = x.detach().requires_grad_()
    found = quantizer(x, mask)
    (found.loss + found.quantized.float().sum()).backward()
    assert x.grad is not None
    return found.codes, found.quantized.detach(), x.grad


def plain(module: nn.Module) -> dict[str, Any]:
    """What Python remembers of a module beside tensors."""
    return {
        f"{name}.{key}": value
        for name, part in module.named_modules()
        for key, value in vars(part).items()
        if not isinstance(value, (Tensor, dict))
    }


@needs_native
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("masked", [False, True])
def test_no_step_after_the_first_waits_or_changes_what_python_knows(
    name: str, masked: bool, device: None
) -> None:
    torch.manual_seed(0)
    quantizer = KINDS[name]()
    masks = [normal(150, seed=i) > -1 if masked else None for i in range(5)]
    step_of(quantizer, batch(0), masks[0])
    before = plain(quantizer)
    with counted() as waits:
        for i in range(1, 5):
            step_of(quantizer, batch(i), masks[i])
    assert not waits
    assert plain(quantizer) == before


@pytest.mark.parametrize("name", ["ema", "gradient", "separate", "shared"])
def test_the_reference_waits_for_nothing_where_a_graph_records_it(
    name: str, device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KMEANS_KERNEL", "reference")
    torch.manual_seed(0)
    quantizer = KINDS[name]()
    step_of(quantizer, batch(0))
    monkeypatch.setattr(reference, "captured", lambda x: True)
    with counted() as waits:
        for i in range(1, 4):
            step_of(quantizer, batch(i))
    assert not waits


@pytest.mark.parametrize("name", KINDS)
def test_a_device_takes_the_decisions_of_the_cpu(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for on_device in (False, True):
        monkeypatch.setattr(decisions, "decides_on_device", lambda x, on=on_device: on)
        torch.manual_seed(0)
        quantizer = KINDS[name]()
        optimizer = torch.optim.SGD([*quantizer.parameters(), torch.zeros(1)], 0.05)
        steps = []
        for i in range(8):
            optimizer.zero_grad()
            mask = normal(150, seed=i) > -1 if i % 2 else None
            if i == 6:
                mask = torch.zeros(150, dtype=torch.bool)
            torch.manual_seed(i)
            steps.append(step_of(quantizer, batch(i), mask))
            optimizer.step()
        found.append((steps, quantizer.state_dict()))
    (steps, state), (on_device_steps, on_device_state) = found
    for one, other in zip(steps, on_device_steps, strict=True):
        for tensor, expected in zip(other, one, strict=True):
            assert torch.equal(tensor, expected)
    assert_same(on_device_state, state)


def test_a_step_on_a_device_revives_codes_and_no_number_of_them_changes_the_step(
    device: None,
) -> None:
    """Operators of a step in which codes are revived, and of one in which none is."""
    torch.manual_seed(0)
    quantizer = VectorQuantizer(16, 8)
    names, revived = [], []
    for i in range(8):
        x = blobs(150, 8, centers=5, seed=1) / (100.0 if i == 4 else 1.0)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            quantizer(x)
        names.append([event.name for event in profile.events() if event.name.startswith("aten")])
        revived.append(int((quantizer.leaders > 0).sum()))
    assert min(revived) == 0
    assert max(revived) > 0
    assert all(own == names[1] for own in names[1:])


@needs_native
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("update", ["ema", "gradient"])
@pytest.mark.parametrize("door", ["apply_update", "state_dict", "eval"])
def test_a_batch_that_is_not_finite_is_named_at_the_next_wait(
    bad: float, update: str, door: str, device: None
) -> None:
    quantizer = VectorQuantizer(8, 4, update=update)
    x = normal(50, 4)
    quantizer(x)
    quantizer.apply_update()
    before = state_of(quantizer.codebook)
    x[17, 2] = x[30, 1] = bad
    with counted() as waits:
        quantizer(x)
        quantizer(torch.full_like(x, bad), torch.zeros(50, dtype=torch.bool))
    assert not waits
    with pytest.raises(ValueError, match=r"x should be finite; 2 rows hold NaN or inf.* row 17"):
        getattr(quantizer, door)()
    assert_same(state_of(quantizer.codebook), before)
    quantizer.eval()
    quantizer.train()(normal(50, 4, seed=1))
    quantizer.apply_update()
    assert int(quantizer.codebook.n_iter) == int(before["n_iter"]) + 1


@needs_native
def test_a_batch_that_is_not_finite_is_skipped_without_a_wait(device: None) -> None:
    quantizer = VectorQuantizer(8, 4, nonfinite="skip")
    x = normal(50, 4)
    quantizer(x)
    quantizer.apply_update()
    before = state_of(quantizer.codebook)
    x[17, 2] = torch.nan
    with counted() as waits:
        found = quantizer(x)
    assert not waits
    assert (found.codes == -1).nonzero().flatten().tolist() == [17]
    quantizer.eval()
    assert_same(state_of(quantizer.codebook), before)
    assert int(quantizer.skipped) == 1


def test_a_first_batch_that_is_not_finite_is_named_at_once(device: None) -> None:
    x = normal(50, 4)
    x[17, 2] = torch.nan
    with pytest.raises(ValueError, match=r"x should be finite; 1 row holds NaN .* row 17"):
        VectorQuantizer(8, 4)(x)


@needs_native
def test_a_step_computes_in_float32_under_autocast(device: None) -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(16, 8, decay=0.8, revive_below=1.0)
    torch.manual_seed(0)
    under = VectorQuantizer(16, 8, decay=0.8, revive_below=1.0)
    for i in range(4):
        expected = quantizer(batch(i))
        with torch.autocast("cpu", torch.bfloat16), counted() as waits:
            found = under(batch(i))
        assert i == 0 or not waits
        assert torch.equal(found.codes, expected.codes)
    assert_same(under.state_dict(), quantizer.state_dict())


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("name", ["decay", "gradient", "separate"])
def test_compiled_steps_are_those_of_eager_code(name: str, device: None) -> None:
    torch.compiler.reset()
    torch.manual_seed(0)
    eager = KINDS[name]()
    step_of(eager, batch(0))
    twin = copy.deepcopy(eager)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    for i in range(1, 5):
        for found, expected in zip(
            step_of(compiled, batch(i)), step_of(eager, batch(i)), strict=True
        ):
            torch.testing.assert_close(found, expected)
    assert_same(twin.state_dict(), eager.state_dict())
    torch.compiler.reset()
