"""Ranks that run out of batches before others do, see torch.distributed.algorithms.Join."""

from __future__ import annotations

from collections.abc import Callable

from torch.distributed.algorithms.join import JoinHook


class QuantizerJoinHook(JoinHook):
    """Takes part, without samples, in what the other ranks' quantizers find together.

    Args:
        train_on_nothing: a training step on no samples, with all its collectives.
    """

    def __init__(self, train_on_nothing: Callable[[], None]) -> None:
        self.train_on_nothing = train_on_nothing

    def main_hook(self) -> None:
        self.train_on_nothing()
