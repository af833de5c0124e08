"""Training on ranks of which some run out of batches before others do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from torch import nn
from torch.distributed.algorithms.join import Join, Joinable, JoinHook


class QuantizerJoinHook(JoinHook):
    """Takes part, without samples, in what the other ranks' quantizers find together.

    Args:
        train_on_nothing: a training step on no samples, with all its collectives.
        finish: what follows when all ranks are done.
    """

    def __init__(self, train_on_nothing: Callable[[], None], finish: Callable[[], None]) -> None:
        self.train_on_nothing = train_on_nothing
        self.finish = finish

    def main_hook(self) -> None:
        self.train_on_nothing()

    def post_hook(self, is_last_joiner: bool) -> None:
        self.finish()


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
