"""Promises of quantizers on CUDA: graphs replay their steps, nothing waits, the CPU agrees."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kmeans_module import ProductQuantizer, ResidualQuantizer, VectorQuantizer
from tests.quantization.helpers import Network, assert_same, objective

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")

ROWS, WIDTH, CODES = 2048, 32, 128
KINDS: dict[str, Any] = {
    "ema": lambda: VectorQuantizer(CODES, WIDTH),
    "decay": lambda: VectorQuantizer(CODES, WIDTH, decay=0.8, revive_below=1.0),
    "gradient": lambda: VectorQuantizer(CODES, WIDTH, update="gradient"),
    "half": lambda: VectorQuantizer(CODES, WIDTH, update="gradient", dtype=torch.bfloat16),
    "cosine": lambda: VectorQuantizer(CODES, WIDTH, metric="cosine"),
    "rotation": lambda: VectorQuantizer(CODES, WIDTH, estimator="rotation"),
    "skip": lambda: VectorQuantizer(CODES, WIDTH, nonfinite="skip"),
    "few features": lambda: VectorQuantizer(CODES, WIDTH, heads=8),
    "residual": lambda: ResidualQuantizer(CODES, WIDTH, 4),
    "shared": lambda: ResidualQuantizer(CODES, WIDTH, 3, shared_codebook=True),
    "product": lambda: ProductQuantizer(CODES, WIDTH, 4),
}


def batch(step: int, device: str = "cuda") -> Tensor:
    """Rows of a few groups, which leave codes behind from step to step."""
    generator = torch.Generator().manual_seed(step)
    middles = torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(step // 3)) * 4
    own = torch.randint(40, (ROWS,), generator=generator)
    rows = middles[own] + torch.randn(ROWS, WIDTH, generator=generator)
    return (rows / (1 + step % 2)).to(device)


def started(name: str) -> nn.Module:
    """A quantizer on the device after some steps, and nothing left to be compiled."""
    torch.manual_seed(0)
    quantizer: nn.Module = KINDS[name]().cuda()
    for step in range(3):
        backwards(quantizer, batch(step))
    return quantizer


def backwards(quantizer: nn.Module, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Codes and the gradient of a step."""
    x = x.detach().requires_grad_()
    found = quantizer(x, mask)
    (found.loss + found.quantized.float().square().sum()).backward()
    assert x.grad is not None
    return found.codes, x.grad


def state_of(quantizer: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}


@contextmanager
def no_waits() -> Iterator[None]:
    """An error where the host would wait for the device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", KINDS)
def test_a_graph_replays_training_steps(name: str) -> None:
    quantizer = started(name)
    twin = copy.deepcopy(quantizer)
    x = batch(3).requires_grad_()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for step in range(3, 6):
            for one in (quantizer, twin):
                with torch.no_grad():
                    x.copy_(batch(step))
                x.grad = None
                found = one(x)
                (found.loss + found.quantized.float().square().sum()).backward()
    torch.cuda.current_stream().wait_stream(stream)
    x.grad = None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = quantizer(x)
        (found.loss + found.quantized.float().square().sum()).backward()
    for step in range(6, 11):
        with torch.no_grad():
            x.copy_(batch(step))
        graph.replay()
        codes, gradient = backwards(twin, batch(step))
        assert torch.equal(found.codes, codes)
        assert x.grad is not None
        torch.testing.assert_close(x.grad, gradient)
    close(state_of(quantizer), state_of(twin))


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(
            tensor, expected[name].to(tensor.device), rtol=1e-5, atol=1e-5, msg=name
        )


@pytest.mark.parametrize("name", ["ema", "gradient", "residual"])
def test_compiled_code_with_reduced_overhead_learns_what_eager_code_does(name: str) -> None:
    torch.compiler.reset()
    quantizer = started(name)
    twin = copy.deepcopy(quantizer)
    compiled = torch.compile(quantizer, mode="reduce-overhead")
    for step in range(3, 9):
        torch.compiler.cudagraph_mark_step_begin()
        codes, gradient = backwards(compiled, batch(step))
        expected, other = backwards(twin, batch(step))
        assert torch.equal(codes, expected)
        torch.testing.assert_close(gradient, other)
    close(state_of(quantizer), state_of(twin))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("masked", [False, True])
def test_no_step_waits_for_the_host(name: str, masked: bool) -> None:
    quantizer = started(name)
    batches = [batch(step) for step in range(4)]
    masks = [x[:, 0] > -3 if masked else None for x in batches]
    with no_waits():
        for x, mask in zip(batches, masks, strict=True):
            backwards(quantizer, x, mask)


def test_a_batch_that_is_not_finite_is_named_at_the_next_wait() -> None:
    quantizer = started("ema")
    before = state_of(quantizer)
    x = batch(3)
    x[17, 2] = x[90, 5] = torch.nan
    with no_waits():
        quantizer(x)
    with pytest.raises(ValueError, match=r"x should be finite; 2 rows hold NaN .* row 17"):
        quantizer.eval()
    assert_same(state_of(quantizer), before)


@pytest.mark.parametrize("name", KINDS)
def test_codes_are_those_of_the_cpu_for_the_same_state(name: str) -> None:
    quantizer = started(name)
    torch.manual_seed(0)
    on_cpu = KINDS[name]()
    for step in range(3, 7):
        on_cpu.load_state_dict(state_of(quantizer))
        codes, gradient = backwards(quantizer, batch(step))
        expected, other = backwards(on_cpu, batch(step, "cpu"))
        assert torch.equal(codes.cpu(), expected)
        torch.testing.assert_close(gradient.cpu(), other, rtol=1e-4, atol=1e-4)
        close(state_of(on_cpu), state_of(quantizer))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_changes_no_code(dtype: torch.dtype) -> None:
    quantizer = started("ema")
    twin = copy.deepcopy(quantizer)
    for step in range(3, 6):
        with torch.autocast("cuda", dtype):
            found = quantizer(batch(step))
        assert torch.equal(found.codes, twin(batch(step)).codes)
    assert_same(state_of(quantizer), state_of(twin))


def test_no_matrix_of_vectors_and_codes_is_kept() -> None:
    n, k, d = 1 << 15, 1 << 13, 64
    quantizer = VectorQuantizer(k, d).cuda()
    x = torch.randn(n, d, device="cuda")
    quantizer(x)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    backwards(quantizer, x)
    assert torch.cuda.max_memory_allocated() - before < n * k * 4 / 3


def test_a_network_learns_over_nccl(tmp_path: Any) -> None:
    dist.init_process_group(
        "nccl", store=dist.HashStore(), rank=0, world_size=1, device_id=torch.device("cuda:0")
    )
    try:
        torch.manual_seed(0)
        network = Network(VectorQuantizer(CODES, WIDTH)).cuda()
        alone = copy.deepcopy(network)
        alone.quantizer.process_group = None
        parallel = DistributedDataParallel(network, device_ids=[0])
        for step in range(4):
            x = batch(step)
            outputs, expected = parallel(x), alone(x)
            objective(outputs, x).backward()
            assert torch.equal(outputs[1], expected[1])
            if step == 2:
                with no_waits():
                    network.quantizer(x)
                alone.quantizer(x)
    finally:
        dist.destroy_process_group()
