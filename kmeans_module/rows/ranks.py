"""Merge over a process group, or do nothing: ``group=None`` means this process only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kmeans_module.core.statistics import ClusterStats, Farthest

ProcessGroup = dist.ProcessGroup


def rank(group: ProcessGroup | None) -> int:
    return 0 if group is None else dist.get_rank(group)


def world_size(group: ProcessGroup | None) -> int:
    return 1 if group is None else dist.get_world_size(group)


def _wire(tensor: Tensor, group: ProcessGroup) -> Tensor:
    """The tensor where the group's backend can take it."""
    on_gpu = "nccl" in str(dist.get_backend(group))
    device = tensor.device if tensor.is_cuda or not on_gpu else torch.device("cuda")
    return tensor.to("cpu" if device.type == "mps" else device).contiguous()


def all_sum(tensors: Sequence[Tensor], group: ProcessGroup | None) -> list[Tensor]:
    """Sums over the ranks, in one collective; the tensors share one dtype."""
    if group is None:
        return list(tensors)
    packed = _wire(torch.cat([tensor.reshape(-1) for tensor in tensors]), group)
    dist.all_reduce(packed, group=group)
    parts: Sequence[Tensor] = torch.split(
        packed.to(tensors[0].device), [tensor.numel() for tensor in tensors]
    )
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def all_gather(tensor: Tensor, group: ProcessGroup | None) -> Tensor:
    """The tensors of all ranks, of one shape, stacked: (world_size, ...)."""
    if group is None:
        return tensor.unsqueeze(0)
    sent = _wire(tensor, group)
    received = [torch.empty_like(sent) for _ in range(world_size(group))]
    dist.all_gather(received, sent, group=group)
    return torch.stack(received).to(tensor.device)


def all_cat(tensor: Tensor, group: ProcessGroup | None) -> Tensor:
    """The tensors (n, ...) of all ranks, which differ in n only, in the order of the ranks."""
    if group is None:
        return tensor
    lengths = all_gather(torch.tensor([len(tensor)], device=tensor.device), group).flatten()
    # As bytes: not every backend sends every dtype.
    sent = (
        tensor.contiguous().view(torch.uint8)
        if tensor.ndim > 1
        else (tensor.contiguous().unsqueeze(-1).view(torch.uint8))
    )
    sent = torch.cat([sent, sent.new_zeros((int(lengths.max()) - len(sent), *sent.shape[1:]))])
    parts = all_gather(sent, group)
    whole = torch.cat([part[:n] for part, n in zip(parts, lengths.tolist(), strict=True)])
    return whole.view(tensor.dtype).view(-1, *tensor.shape[1:])


def broadcast(tensor: Tensor, group: ProcessGroup | None) -> Tensor:
    """The tensor of the group's first rank."""
    if group is None:
        return tensor
    sent = _wire(tensor, group).clone()
    dist.broadcast(sent, src=dist.get_global_rank(group, 0), group=group)
    return sent.to(tensor.device)


def all_sum_stats(
    stats: ClusterStats, group: ProcessGroup | None, *, also: Sequence[Tensor] = ()
) -> tuple[ClusterStats, list[Tensor]]:
    """Statistics of the data of all ranks; ``also`` travels in the same collective.

    The farthest samples follow in a second one, only where some cluster is empty.
    """
    if group is None:
        return stats, list(also)
    sums, counts, inertia, *rest = all_sum(
        [stats.sums, stats.counts, stats.inertia, *(tensor.to(stats.sums) for tensor in also)],
        group,
    )
    merged = ClusterStats(sums, counts, inertia)
    if stats.farthest is not None and bool((counts == 0).any()):
        gathered = [all_gather(field, group) for field in stats.farthest]
        ranks = [Farthest(*fields) for fields in zip(*gathered, strict=True)]
        merged = replace(merged, farthest=sum(ranks[1:], start=ranks[0]))
    return merged, rest


def from_first(make: Callable[[], Any], group: ProcessGroup | None, device: torch.device) -> Any:
    """What the group's first rank makes, on all ranks; an error there is one on every rank."""
    if group is None:
        return make()
    made: list[Any] = [None]
    with errors_shared(group):
        if rank(group) == 0:
            made = [make()]
    dist.broadcast_object_list(made, src=dist.get_global_rank(group, 0), group=group)
    return made[0].to(device) if isinstance(made[0], Tensor) else made[0]


def common_example(example: Tensor, n_samples: int, group: ProcessGroup | None) -> Tensor:
    """No rows, (0, d), of the dtype and features of the ranks that hold some.

    Raises:
        ValueError: the rows of ranks differ in dtype.
    """
    if group is None:
        return example
    mine = (example.dtype, example.shape[-1]) if n_samples else None
    kinds = [kind for kind in _everywhere(mine, group) if kind is not None]
    if not kinds:
        return example
    if any(kind != kinds[0] for kind in kinds):
        names = ", ".join(f"{dtype} of {d} features" for dtype, d in kinds)
        raise ValueError(f"x should be alike on all ranks; they hold {names}")
    dtype, d = kinds[0]
    return torch.empty(0, d, dtype=dtype, device=example.device)


def _everywhere(value: Any, group: ProcessGroup) -> list[Any]:
    """A plain value of each rank."""
    values: list[Any] = [None] * world_size(group)
    dist.all_gather_object(values, value, group=group)
    return values


def anywhere(value: bool, group: ProcessGroup | None) -> bool:
    """Whether it is so on any rank; a collective."""
    if group is None:
        return value
    return bool(all_sum([torch.tensor([float(value)], dtype=torch.float64)], group)[0])


def agree(group: ProcessGroup | None, **arguments: object) -> None:
    """Refuse arguments that differ between the ranks of a group, by name.

    Args:
        group: the ranks; None for this process only.
        arguments: plain values.
    """
    if group is None:
        return
    everywhere = _everywhere(arguments, group)
    for name, value in everywhere[0].items():
        for number, others in enumerate(everywhere):
            other = others.get(name, "not given")
            if other != value:
                raise ValueError(
                    f"{name} should be the same on all ranks; it is {value} on rank 0 and "
                    f"{other} on rank {number}"
                )


class ErrorElsewhere(ValueError):
    """Another rank has the cause, and its message."""


@contextmanager
def errors_shared(group: ProcessGroup | None) -> Iterator[None]:
    """An error of one rank is raised on every rank, with its message.

    A collective: every rank has to enter and leave. Without it the others would wait for
    the failed rank until the process group times out.
    """
    if group is None:
        yield
        return
    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        error = raised
    failed = torch.tensor([float(error is not None)], dtype=torch.float64, device="cpu")
    if all_sum([failed], group)[0].item() == 0:
        return
    own = None if error is None or isinstance(error, ErrorElsewhere) else error
    messages: list[str | None] = [None] * world_size(group)
    dist.all_gather_object(messages, None if own is None else str(own), group=group)
    if own is not None:
        raise own
    first = next(r for r, message in enumerate(messages) if message is not None)
    raise ValueError(f"rank {first}: {messages[first]}")
