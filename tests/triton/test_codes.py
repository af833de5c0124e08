"""Promises of codebooks that learn by the Triton kernels: codes and state are those of the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from kmeans_module import backends
from kmeans_module.quantization import decisions
from tests.quantization.helpers import assert_same
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


@pytest.mark.parametrize("name", ["ema", "gradient", "cosine", "separate", "shared", "residual"])
def test_codes_and_codebooks_are_those_of_the_native_kernel(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, state = steps_of(name, "native", monkeypatch)
    found_steps, found_state = steps_of(name, "triton", monkeypatch)
    for step, expected in zip(found_steps, steps, strict=True):
        for tensor, other in zip(step, expected, strict=True):
            assert torch.equal(tensor, other)
    assert_same(found_state, state)


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
