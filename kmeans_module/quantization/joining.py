"""Training on ranks of which some run out of batches before others do."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import torch
from torch import nn
from torch.distributed.algorithms.join import Join, Joinable, JoinHook

from kmeans_module.quantization.learning import CodebookState


class Joined(Protocol):
    """What the hook calls: see :class:`kmeans_module.quantization.codebook.LearningCodebook`."""

    def codebook_state(self) -> CodebookState:
        """The tensors that a training step changes."""

    def step_on_nothing(self, state: CodebookState) -> None:
        """A training step on no samples, with all its collectives."""


class QuantizerJoinHook(JoinHook):
    """Takes part, without samples, in what the other ranks' quantizers learn together.

    Args:
        codebook: of this rank.
        gradient: whether its centroids learn by gradient, and so outside of these steps.
    """

    def __init__(self, codebook: Joined, *, gradient: bool) -> None:
        self.codebook = codebook
        self.gradient = gradient
        self.state: CodebookState | None = None

    @torch.no_grad()
    def main_hook(self) -> None:
        if self.state is None:
            buffers = self.codebook.codebook_state()
            self.state = CodebookState(*(tensor.clone() for tensor in buffers))
        self.codebook.step_on_nothing(self.state)

    @torch.no_grad()
    def post_hook(self, is_last_joiner: bool) -> None:
        if self.state is None:
            return
        for name, buffer in self.codebook.codebook_state()._asdict().items():
            if name != "centroids" or not self.gradient:
                buffer.copy_(getattr(self.state, name))


class _AtOnce(JoinHook):
    """Hooks of quantizers beside those of others.

    A quantizer waits for all ranks in the middle of a forward pass, in a process group of its
    own; DistributedDataParallel waits for its backward pass. Neither may hold up the other.
    """

    def __init__(self, hooks: Sequence[JoinHook]) -> None:
        self.others = [hook for hook in hooks if not isinstance(hook, QuantizerJoinHook)]
        self.quantizers = [hook for hook in hooks if isinstance(hook, QuantizerJoinHook)]

    def main_hook(self) -> None:
        with ThreadPoolExecutor(max_workers=max(1, len(self.quantizers))) as threads:
            waiting = [threads.submit(hook.main_hook) for hook in self.quantizers]
            for hook in self.others:
                hook.main_hook()
            for future in waiting:
                future.result()

    def post_hook(self, is_last_joiner: bool) -> None:
        for hook in [*self.others, *self.quantizers]:
            hook.post_hook(is_last_joiner)


class _JoinAtOnce(Join):
    def __init__(self, joinables: list[Joinable], **options: Any) -> None:
        super().__init__(joinables, **options)
        self._join_hooks = [_AtOnce(self._join_hooks)]


def join(model: nn.Module, **options: Any) -> Join:
    """Let ranks train together although some have fewer batches than others.

    What ``model.join()`` is to a DistributedDataParallel without quantizers: a rank that has no
    batch left takes part in the collectives of the others until all are done.

    Args:
        model: a DistributedDataParallel, or a module that holds quantizers.
        options: of :class:`torch.distributed.algorithms.join.Join`.

    Returns:
        A context manager, to be entered by all ranks for each epoch.

    Raises:
        ValueError: nothing in the model needs to be joined.
    """
    joinables: list[Joinable] = [
        module for module in model.modules() if isinstance(module, Joinable)
    ]
    return _JoinAtOnce(joinables, **options)
