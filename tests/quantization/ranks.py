"""What one rank, or one process on all data, trains: several ranks are spawned by test_ranks."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.join import Join, Joinable
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from kmeans_module import ResidualQuantizer, VectorQuantizer
from kmeans_module.quantization import decisions, join
from tests.conftest import blobs
from tests.quantization.helpers import Network, objective, quantizer_at
from tests.waits import counted

STEPS, WIDTH = 6, 3
Outcome = dict[str, Any]

# Of each step, the samples of rank 0, 1, ...; one process has them all.
EVEN = [[40, 40], [40, 40, 40]]
UNEVEN = [[50, 23], [50, 1, 30]]
EMPTY = [[60, 0], [0, 60, 20]]


def options_of(name: str) -> dict[str, Any]:
    """Of the quantizer, by what a case is called."""
    options: dict[str, Any] = {"decay": 0.6}
    for word, update in (("gradient", "gradient"), ("frozen", "frozen")):
        if word in name:
            options["update"] = update
    if "cosine" in name:
        options["metric"] = "cosine"
    if "heads" in name:
        options.update(heads=3, separate_codebooks=True)
    if "batches" in name:
        options["init_batches"] = 3
    options["revive_below"] = 0.5 if "revival" in name else 0
    return options


CASES = (
    "even", "uneven", "empty", "masked", "uneven, revival", "empty, revival", "uneven, cosine",
    "uneven, heads, revival", "uneven, gradient, revival", "uneven, frozen", "uneven, batches",
    "empty, few samples", "uneven, weighted", "empty, weighted, revival",
)  # fmt: skip
STARTED_BY_BATCHES = ("uneven, batches", "empty, few samples")


def sizes_of(name: str, world: int) -> list[int]:
    sizes = EMPTY if "empty" in name else EVEN if name == "even" else UNEVEN
    own = sizes[world - 2]
    return [size // 20 for size in own] if "few samples" in name else own


def start(name: str) -> VectorQuantizer:
    options = options_of(name)
    if "revival" in name or "frozen" in name:
        codebook = blobs(8, WIDTH) / 10
        if "revival" in name:
            codebook[4:] += 100
        if "heads" in name:
            codebook = codebook.T.unsqueeze(-1)
        counts = torch.zeros(codebook.shape[:-1])
        counts[..., :4] = 10
        return quantizer_at(codebook, counts, **options)
    return VectorQuantizer(8, WIDTH, **options)


def train(name: str, world: int, rank: int | None) -> Outcome:
    """Some steps of a rank, or for None of one process with the samples of all ranks.

    The encoder is the same at each step, so that codebooks can be compared exactly.
    """
    torch.manual_seed(0 if rank is None else rank)
    quantizer = start(name)
    network = Network(quantizer)
    parallel = network if rank is None else DistributedDataParallel(network)
    steps, codes = [], []
    for step in range(STEPS):
        sizes = sizes_of(name, world)
        x = blobs(sum(sizes), WIDTH, seed=step) / 10
        mask = torch.ones(len(x), dtype=torch.bool)
        if name == "masked":
            mask[sum(sizes[:1]) : sum(sizes[:2])] = False
        weight = (torch.arange(len(x)) * 7 % 10) / 1e3
        if rank is not None:
            x, mask, weight = (part.split(sizes)[rank] for part in (x, mask, weight))
        if name == "masked":
            found = quantizer(network.encoder(x), mask)
            codes.append(found.codes)
        elif "weighted" in name:
            found = quantizer(network.encoder(x), sample_weight=weight)
            codes.append(found.codes)
        else:
            outputs = parallel(x)
            loss = outputs[0].sum() * 0 + outputs[2] * 0
            (loss if len(x) else loss.nan_to_num(0)).backward()
            codes.append(outputs[1])
        quantizer.apply_update()
        steps.append(quantizer.codebook.centroids.detach().clone())
    return {
        "steps": torch.stack(steps), "codes": codes, "counts": quantizer.codebook.counts,
        "n_iter": quantizer.codebook.n_iter,
    }  # fmt: skip


def gradient_step(world: int, rank: int | None) -> Outcome:
    """A step of the codebook's own gradient: DistributedDataParallel averages over the ranks."""
    quantizer = quantizer_at(blobs(8, WIDTH) / 10, update="gradient", revive_below=0)
    network = Network(quantizer)
    parallel = network if rank is None else DistributedDataParallel(network)
    x = blobs(40 * world, WIDTH, seed=3) / 10
    x = x if rank is None else x.split(40)[rank]
    optimizer = torch.optim.SGD(parallel.parameters(), 0.5)
    for _ in range(3):
        optimizer.zero_grad()
        objective(parallel(x), x).backward()
        optimizer.step()
    return {"centroids": quantizer.codebook.centroids.detach(), "counts": quantizer.codebook.counts}


def refusal(rank: int, started: bool) -> Outcome:
    """The last rank meets NaN."""
    quantizer = VectorQuantizer(8, WIDTH)
    x = blobs(40, WIDTH, seed=rank)
    if started:
        quantizer(x)
        quantizer.apply_update()
    before = copy.deepcopy(quantizer.codebook.centroids)
    if rank == dist.get_world_size() - 1:
        x[7] = torch.nan
    try:
        quantizer(x)
    except ValueError as error:
        quantizer.apply_update()
        unchanged = torch.equal(before, quantizer.codebook.centroids)
        return {"error": str(error), "unchanged": unchanged}
    return {}


def skipping(rank: int) -> Outcome:
    """The last rank meets NaN, and nobody learns from that batch."""
    quantizer = VectorQuantizer(8, WIDTH, nonfinite="skip")
    x = blobs(40, WIDTH, seed=rank)
    quantizer(x)
    quantizer.apply_update()
    before = copy.deepcopy(quantizer.codebook.centroids)
    if rank == dist.get_world_size() - 1:
        x[7] = torch.nan
    quantizer(x)
    quantizer.apply_update()
    unchanged = torch.equal(before, quantizer.codebook.centroids)
    return {"skipped": int(quantizer.skipped), "unchanged": unchanged}


def joined(rank: int, update: str, dtype: torch.dtype | None = None) -> Outcome:
    """Rank r has 2 + 2r batches."""
    torch.manual_seed(rank)
    quantizer = VectorQuantizer(8, WIDTH, decay=0.6, revive_below=0.5, update=update, dtype=dtype)
    for _ in range(2):
        with Join([module for module in quantizer.modules() if isinstance(module, Joinable)]):
            for step in range(2 + 2 * rank):
                quantizer(blobs(30, WIDTH, seed=10 * rank + step) / 10).loss.detach()
    quantizer.apply_update()
    return {
        "centroids": quantizer.codebook.centroids.detach(),
        "n_iter": int(quantizer.codebook.n_iter),
    }


class Normalised(nn.Module):
    """A network with all that ranks have to agree on."""

    def __init__(self, update: str) -> None:
        super().__init__()
        options: dict[str, Any] = {"decay": 0.6, "revive_below": 0.5, "update": update}
        self.encoder = nn.Sequential(nn.Linear(WIDTH, 4), nn.BatchNorm1d(4))
        self.quantizer = VectorQuantizer(8, 4, **options)
        self.residual = ResidualQuantizer(8, 4, 3, **options)
        self.decoder = nn.Linear(4, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.encoder(x)
        first, second = self.quantizer(hidden), self.residual(hidden)
        decoded = self.decoder(first.quantized + second.quantized)
        return (decoded - x).square().mean() + first.loss + second.loss


def joined_in_parallel(rank: int, update: str) -> Outcome:
    """Rank r has 2 + 2r batches of a network in DistributedDataParallel."""
    torch.manual_seed(0)
    network = Normalised(update)
    parallel = DistributedDataParallel(network)
    optimizer = torch.optim.SGD(parallel.parameters(), 0.05)
    torch.manual_seed(rank)
    for epoch in range(2):
        with join(parallel):
            for step in range(2 + 2 * rank):
                optimizer.zero_grad()
                parallel(blobs(20 + rank, WIDTH, seed=100 * epoch + 10 * rank + step)).backward()
                optimizer.step()
    # What BatchNorm has seen is that of rank 0, sent at the start of each forward pass.
    network.eval()
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def sharded(rank: int) -> Outcome:
    """Parameters are sharded; the codebook is a buffer, and whole on every rank."""
    network = Network(VectorQuantizer(8, WIDTH, decay=0.6))
    fully_shard(network, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    for step in range(3):
        x = blobs(30 + rank, WIDTH, seed=10 * rank + step)
        objective(network(x), x).backward()
    network.eval()
    codebook = network.quantizer.codebook
    return {"centroids": codebook.centroids, "n_iter": int(codebook.n_iter)}


def on_device(name: str, world: int, rank: int) -> Outcome:
    """As if the tensors were on an accelerator, which nothing waits for after the first step."""
    looks = decisions.decides_on_device
    decisions.decides_on_device = lambda x: True
    try:
        torch.manual_seed(rank)
        quantizer = start(name)
        with counted() as waits:
            for step in range(3):
                if step == 1:
                    waits.clear()
                quantizer(blobs(30 + rank, WIDTH, seed=10 * rank + step) / 10)
        found = train(name, world, rank)
    finally:
        decisions.decides_on_device = looks
    return {**found, "waits": list(waits)}


def alone(rank: int) -> Outcome:
    """Each rank for itself."""
    torch.manual_seed(0)
    quantizer = VectorQuantizer(8, WIDTH, process_group=None)
    if rank == 0:
        quantizer(blobs(40, WIDTH))
        quantizer.apply_update()
    return {"initialized": bool(quantizer.codebook.initialized)}


def run_all(rank: int, world: int) -> dict[str, Outcome]:
    calls: dict[str, Callable[[], Outcome]] = {
        **{name: lambda name=name: train(name, world, rank) for name in CASES},  # type: ignore[misc]
        "gradient step": lambda: gradient_step(world, rank),
        "NaN": lambda: refusal(rank, started=True),
        "NaN at first": lambda: refusal(rank, started=False),
        "skip": lambda: skipping(rank),
        "join": lambda: joined(rank, "ema"),
        "join, gradient": lambda: joined(rank, "gradient"),
        "join, half": lambda: joined(rank, "gradient", torch.bfloat16),
        "join, network": lambda: joined_in_parallel(rank, "ema"),
        "join, network, gradient": lambda: joined_in_parallel(rank, "gradient"),
        "sharded": lambda: sharded(rank),
        "on a device": lambda: on_device("uneven, revival", world, rank),
        "alone": lambda: alone(rank),
    }
    return {name: call() for name, call in calls.items()}


def work(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world,
        timeout=timedelta(seconds=60),
    )  # fmt: skip
    torch.save(run_all(rank, world), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
