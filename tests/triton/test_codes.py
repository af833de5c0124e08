"""Promises of codebooks that learn by the Triton kernels: codes and state are those of the CPU."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

pytest.importorskip("triton")

from kmeans_module import VectorQuantizer, backends
from kmeans_module.backends.triton import codebook
from kmeans_module.quantization import decisions, fused, samples, steps
from kmeans_module.quantization.codebook_state import CodebookState
from tests.quantization.helpers import assert_same, state_of
from tests.quantization.test_waits import KINDS, batch, step_of
from tests.waits import counted

MISSING = backends.triton.BACKEND.missing()
SERVES = MISSING is None and backends.triton.BACKEND.serves(torch.device("cpu"))
pytestmark = [
    pytest.mark.skipif(
        not SERVES, reason=MISSING or "the kernels are not interpreted: TRITON_INTERPRET=1"
    ),
    # A device does not say so; the interpreter computes by numpy, which does.
    pytest.mark.filterwarnings("ignore:.* encountered:RuntimeWarning"),
]


def steps_of(name: str, kernel: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    """Steps by a backend, the first of which another one takes: both start from one codebook."""
    torch.manual_seed(0)
    monkeypatch.setenv("KMEANS_KERNEL", "native")
    quantizer = KINDS[name]()
    steps = [step_of(quantizer, batch(0))]
    monkeypatch.setenv("KMEANS_KERNEL", kernel)
    monkeypatch.setattr(decisions, "decides_on_device", lambda x: kernel == "triton")
    with counted() as waits:
        steps += [step_of(quantizer, batch(i)) for i in range(1, 4)]
    assert kernel == "native" or not waits
    return steps, quantizer.state_dict()


NAMES = ("ema", "decay", "gradient", "cosine", "gumbel", "separate", "no revival", "half", "shared")


@pytest.mark.parametrize("name", NAMES)
def test_codes_and_codebooks_are_those_of_the_native_kernel(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, state = steps_of(name, "native", monkeypatch)
    found_steps, found_state = steps_of(name, "triton", monkeypatch)
    for step, expected in zip(found_steps, steps, strict=True):
        assert torch.equal(step[0], expected[0]), "codes"
        for tensor, other in zip(step[1:], expected[1:], strict=True):
            close(tensor, other)
    assert found_state.keys() == state.keys()
    for key, tensor in found_state.items():
        close(tensor, state[key])


def close(found: Tensor, expected: Tensor) -> None:
    """But for the last bits of means: float64 is added up in another order."""
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("d", [3, 20, 150])
def test_sums_of_given_labels_are_exact(d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMEANS_KERNEL", "triton")
    x = torch.randn(2, 70, d, generator=torch.Generator().manual_seed(0)) * 100
    labels = torch.randint(9, (2, 70), generator=torch.Generator().manual_seed(1))
    own = torch.nn.functional.one_hot(labels, 9).double()
    weight = (labels > 2).double()
    for weights in (None, weight):
        space = backends.workspace(x, weights, once=True)
        assert type(space).__name__ == "TritonWorkspace"
        stats = space.sums_of(labels, 9)
        shares = own if weights is None else own * weights.unsqueeze(-1)
        torch.testing.assert_close(stats.sums, shares.mT @ x.double(), rtol=1e-14, atol=1e-11)
        assert torch.equal(stats.counts, shares.sum(dim=1))
        found = space.statistics(x[:, :9].contiguous())
        again = backends.workspace(x, weights).statistics(x[:, :9].contiguous())
        assert torch.equal(found.sums, again.sums), "an E-step afterwards starts afresh"


@pytest.mark.parametrize("d", [3, 20, 150])
def test_rows_that_are_not_finite_have_labels_in_range(
    d: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KMEANS_KERNEL", "triton")
    x = torch.randn(1, 40, d)
    centroids = x[:, :9].clone()
    x[0, 11], x[0, 12, 0], x[0, 13, 1] = torch.nan, torch.inf, -torch.inf
    labels = backends.workspace(x, once=True).assign(centroids)[0]
    assert labels.min() >= 0
    assert labels.max() < 9
    assert labels[0, :9].tolist() == list(range(9)), "the others have their own"


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_draws_are_those_of_torch(unit: bool, masked: bool) -> None:
    x = torch.randn(2, 70, 5, generator=torch.Generator().manual_seed(0)).repeat(1, 2, 1)
    x[:, 7] = 0.0
    x[1, 9, 2] = -0.0
    x[1, 79, 2] = 0.0
    valid = torch.rand(2, 140, generator=torch.Generator().manual_seed(1)) < 0.3
    steps, codes = torch.tensor([3, 8]), torch.arange(140).expand(2, -1)
    metric = "cosine" if unit else "euclidean"
    expected = samples.draw(
        x, valid if masked else None, codes, most=50, step=steps,
        numbering=samples.Numbering(11, -5), metric=metric, dtype=x.dtype,
    )  # fmt: skip
    for numbers in ((11, -5), torch.tensor([11, -5])):
        _, keys = codebook.look(
            x, valid if masked else None, steps, numbers, (samples.OF_STEP, samples.OF_PROBLEM)
        )
        keys, rows, own = samples.least(keys, x, codes, 50, x.dtype, None)
        known = codebook.known_of(rows, keys, unit=unit) > 0
        assert torch.equal(known, expected.known)
        assert torch.equal(own[known], expected.codes[known])
        assert torch.equal(rows[known], expected.rows[known])


def test_a_batch_that_is_not_finite_leaves_everything_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KMEANS_KERNEL", "triton")
    monkeypatch.setattr(decisions, "decides_on_device", lambda x: True)
    quantizer = VectorQuantizer(8, 4, heads=2, separate_codebooks=True)
    quantizer(torch.randn(50, 4))
    quantizer.apply_update()
    before = state_of(quantizer)
    x = torch.randn(50, 4)
    x[17, 3] = x[40, 0] = torch.nan
    quantizer(x)
    assert quantizer.refused.tolist() == [1, 2, 17]
    with pytest.raises(ValueError, match=r"2 rows hold NaN or infinity, the first is row 17"):
        quantizer.apply_update()
    assert_same(state_of(quantizer), before)
    skipping = VectorQuantizer(8, 4, nonfinite="skip")
    skipping(torch.randn(50, 4))
    skipping.apply_update()
    before = state_of(skipping)
    skipping(x)
    skipping.apply_update()
    assert_same(state_of(skipping), {**before, "skipped": torch.tensor(1)})
    hidden = torch.zeros(50, dtype=torch.bool)
    skipping(torch.randn(50, 4), hidden)
    skipping.apply_update()
    assert_same(state_of(skipping), {**before, "skipped": torch.tensor(1)})


def test_a_group_of_ranks_draws_what_one_process_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMEANS_KERNEL", "triton")
    monkeypatch.setattr(decisions, "decides_on_device", lambda x: True)
    torch.manual_seed(0)
    alone = VectorQuantizer(16, 8, process_group=None)
    alone(batch(0))
    twin = copy.deepcopy(alone)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        twin.process_group = "default"
        assert twin.group is not None
        revived = 0
        for step in range(1, 5):
            x = batch(step)
            assert torch.equal(twin(x).codes, alone(x).codes)
            assert torch.equal(twin.leaders, alone.leaders)
            revived += int((alone.leaders > 0).sum())
        assert revived
        assert_same(twin.state_dict(), alone.state_dict())
    finally:
        dist.destroy_process_group()


OPTIONS: dict[str, dict[str, Any]] = {
    "ema": {},
    "decay": {"decay": 0.9, "revive_below": 2.0, "smoothing": 0.1},
    "forgets": {"decay": 0.0},
    "gradient": {"update": "gradient"},
    "cosine": {"metric": "cosine"},
    "separate": {"heads": 2, "separate_codebooks": True, "nonfinite": "skip"},
}


CASES = [
    *((name, "many dead") for name in OPTIONS),
    *(("ema", kind) for kind in ("few samples", "no sample", "all dead", "one")),
    *(("separate", kind) for kind in ("few samples", "NaN")),
]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_step_is_that_of_torch(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMEANS_KERNEL", "triton")
    monkeypatch.setattr(decisions, "decides_on_device", lambda x: True)
    torch.manual_seed(1)
    quantizer = VectorQuantizer(19, 6, **OPTIONS[name])
    state = quantizer.codebook_state()
    state.initialized.fill_(True)
    state.counts.copy_(torch.rand_like(state.counts) * 9)
    state.counts[:, 5:] = 0.0
    state.n_iter.fill_(7)
    problems, _, d = state.centroids.shape
    rows = torch.randn(problems, 40, d) * 3
    rows[:, 20:30] = rows[:, 10:20]
    if name == "cosine":
        rows = torch.nn.functional.normalize(rows, dim=-1)
    valid = None
    if kind in ("few samples", "no sample"):
        valid = (torch.arange(40) < (3 if kind == "few samples" else 0)).expand(problems, -1)
    if kind == "NaN":
        rows[0, 3, 1], rows[-1, 9, 0] = torch.nan, torch.inf
    if kind == "all dead":
        state.counts.zero_()
    if kind == "one":
        rows = rows[:, :1]
    states = [CodebookState(*(tensor.clone() for tensor in state)) for _ in range(2)]
    assert fused.serves(state, rows)
    for way, own in zip((steps, fused), states, strict=True):
        for _ in range(2):
            way.record(own, quantizer.rule, rows, valid, None, None)  # type: ignore[attr-defined]
            way.apply(own, quantizer.rule)  # type: ignore[attr-defined]
        way.record(own, quantizer.rule, rows, valid, None, None)  # type: ignore[attr-defined]
    for key, expected, found in zip(state._fields, *states, strict=True):
        if not key.startswith("next") or bool(states[0].recorded):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, msg=key)
    assert bool(states[0].recorded) == (kind not in ("no sample", "NaN"))
