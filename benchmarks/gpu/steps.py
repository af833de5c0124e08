"""Training steps of quantizers, gradients included: ours, ours in a CUDA graph, the peer's."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.cases import GRAPH, PEER, Case
from benchmarks.gpu.clock import Absent, Trial
from benchmarks.gpu.labels import check

STEPS = 10  # of one timed call
BATCHES = 4  # in turns: one alone a codebook would learn by heart


class Quantizer:
    """A quantizer that has seen its first batch, and its steps.

    Both libraries start their codebook by k-means, move dead codes, learn by moving averages and
    pass gradients straight through.
    """

    def __init__(self, contestant: str, case: Case, x: Tensor) -> None:
        self.peer = contestant == PEER
        if self.peer and importlib.util.find_spec("vector_quantize_pytorch") is None:
            raise Absent("vector-quantize-pytorch is not installed")
        self.module = (_theirs if self.peer else _ours)(case, x.device)
        generator = torch.Generator(x.device).manual_seed(3)
        self.batches = [x] + [
            torch.randn(x.shape, device=x.device, generator=generator) for _ in range(BATCHES - 1)
        ]
        self.turn = 0
        self.step()

    def step(self) -> None:
        """One on the next batch."""
        self.turn += 1
        self.learn(self.batches[self.turn % BATCHES])

    def learn(self, batch: Tensor) -> None:
        """Forward, and backward of a loss of the quantized vectors and the quantizer's."""
        rows = batch.detach().requires_grad_()
        quantized, _, loss = self.module(rows[None] if self.peer else rows)
        (quantized.square().mean() + loss.sum()).backward()

    def captured(self) -> Callable[[], None]:
        """A step on the next batch by a CUDA graph, which is captured here."""
        device = self.batches[0].device
        if device.type != "cuda":
            raise Absent("CUDA graphs need a CUDA device")
        batch = self.batches[0].clone()
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(3):
                self.learn(batch)
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.learn(batch)

        def replay() -> None:
            self.turn += 1
            batch.copy_(self.batches[self.turn % BATCHES])
            graph.replay()

        return replay

    def checked(self) -> tuple[float, float]:
        """Codes of a batch in evaluation; those of the first level where there are several."""
        self.module.eval()
        x = self.batches[0]
        with torch.no_grad():
            if self.peer:
                codes = self.module(x[None])[1][0]
                books = getattr(self.module, "codebooks", None)
                book = self.module.codebook if books is None else books[0]
            else:
                codes = self.module.encode(x)
                books = getattr(self.module, "codebooks", None)
                book = self.module.codebook.centroids if books is None else books[0]
        self.module.train()
        return check(x, book, codes[:, 0] if codes.ndim > 1 else codes)


def step(case: Case, contestant: str, data: Any) -> Trial:
    """Milliseconds of one step, of several in a row."""
    quantizer = Quantizer(contestant, case, data.x)
    one = quantizer.captured() if contestant == GRAPH else quantizer.step

    def several() -> None:
        for _ in range(STEPS):
            one()

    return Trial(
        {"steps": several},
        lambda ms, results: {"ms": ms["steps"] / STEPS} if ms else {},
        lambda results: quantizer.checked(),
    )


def _ours(case: Case, device: torch.device) -> nn.Module:
    from kmeans_module import ResidualQuantizer, VectorQuantizer

    if case.levels > 1:
        return ResidualQuantizer(case.k, case.d, case.levels, device=device)
    return VectorQuantizer(case.k, case.d, device=device)


def _theirs(case: Case, device: torch.device) -> nn.Module:
    from vector_quantize_pytorch import ResidualVQ, VectorQuantize

    options = {
        "dim": case.d, "codebook_size": case.k, "kmeans_init": True,
        "threshold_ema_dead_code": 2, "rotation_trick": False,
    }  # fmt: skip
    if case.levels > 1:
        return ResidualVQ(num_quantizers=case.levels, **options).to(device)
    return VectorQuantize(**options).to(device)
