"""Training on ranks with unequal numbers of batches."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.join import Join, Joinable, JoinHook

from kmeans_module.quantization.codebook_state import CodebookState
from kmeans_module.rows.ranks import ProcessGroup, agree


class JoinableCodebook(Joinable):
    """The side of a codebook that meets other ranks, which may run out of batches sooner or later.

    Attributes:
        process_group: whose samples the codebook learns from: "default" for all ranks where
            torch.distributed is in use, a ProcessGroup, or None for this process only.
    """

    process_group: ProcessGroup | str | None
    _agreed = False

    @abstractmethod
    def codebook_state(self) -> CodebookState:
        """The tensors that a training step changes."""

    @abstractmethod
    def take_state(self, state: CodebookState) -> None:
        """Take over what steps on a copy of :meth:`codebook_state` have changed."""

    @abstractmethod
    def begin_at(self, rows: Tensor, valid: Tensor | None, state: CodebookState) -> None:
        """The first half of a training step."""

    @abstractmethod
    def record_at(
        self, rows: Tensor, valid: Tensor | None, codes: Tensor | None, state: CodebookState
    ) -> Tensor:
        """The second half of a training step."""

    def leave_join(self) -> None:
        """Forget the collectives of earlier epochs, which belong to one process."""
        self._join_group: ProcessGroup | None = None
        self._without_samples = False

    @property
    def group(self) -> ProcessGroup | None:
        """The ranks whose samples the codebook learns from; None for this process only."""
        return self.join_process_group if self._join_group is None else self._join_group

    def notify_joined_ranks(self) -> None:
        """Tell ranks without batches that a training step begins, so that they take part."""
        if self._without_samples:
            return
        notice = Join.notify_join_context(self)
        if notice is not None:
            notice.wait()

    def agree_once(self, arguments: Callable[[], dict[str, object]]) -> None:
        """Refuse codebooks that differ between ranks, by name, at the first training step."""
        if self._agreed:
            return
        agree(self.group, **arguments())
        self._agreed = True

    def step_without_samples(self, state: CodebookState) -> None:
        """Take part in a training step of other ranks."""
        problems, _, d = state.centroids.shape
        nothing = state.centroids.new_empty((problems, 0, d))
        self._without_samples = True
        try:
            self.begin_at(nothing, None, state)
            self.record_at(nothing, None, None, state)
        finally:
            self._without_samples = False

    def join_hook(self, **kwargs: Any) -> QuantizerJoinHook:
        # Hooks of other modules run collectives in between: these need an order, and so a group,
        # that no other module shares.
        if self._join_group is None and self.join_process_group is not None:
            ranks = dist.get_process_group_ranks(self.join_process_group)
            group = dist.new_group(ranks)
            assert isinstance(group, ProcessGroup)  # this rank is among its own group's
            self._join_group = group
        return QuantizerJoinHook(self)

    @property
    def join_device(self) -> torch.device:
        return self.codebook_state().centroids.device

    @property
    def join_process_group(self) -> Any:
        if isinstance(self.process_group, dist.ProcessGroup):
            return self.process_group
        everyone = self.process_group is not None and dist.is_initialized()
        return dist.group.WORLD if everyone else None


class QuantizerJoinHook(JoinHook):
    """Takes part, without samples, in what the other ranks' quantizers learn together."""

    def __init__(self, codebook: JoinableCodebook) -> None:
        self.codebook = codebook
        # The hooks of other modules may meanwhile write the buffers: steps change copies.
        self.copies: CodebookState | None = None

    @torch.no_grad()
    def main_hook(self) -> None:
        if self.copies is None:
            state = self.codebook.codebook_state()
            self.copies = CodebookState(*(tensor.clone() for tensor in state))
        self.codebook.step_without_samples(self.copies)

    @torch.no_grad()
    def post_hook(self, is_last_joiner: bool) -> None:
        if self.copies is not None:
            self.codebook.take_state(self.copies)


class _AtOnce(JoinHook):
    """Hooks of quantizers, run beside the hooks of other modules.

    A quantizer waits for all ranks in the middle of a forward pass, in a process group of its
    own; DistributedDataParallel waits for its backward pass. Neither may hold up the other.
    """

    def __init__(self, hooks: Sequence[JoinHook]) -> None:
        self.other_hooks = [hook for hook in hooks if not isinstance(hook, QuantizerJoinHook)]
        self.quantizers = [hook for hook in hooks if isinstance(hook, QuantizerJoinHook)]

    def main_hook(self) -> None:
        with ThreadPoolExecutor(max_workers=max(1, len(self.quantizers))) as threads:
            waiting = [threads.submit(hook.main_hook) for hook in self.quantizers]
            for hook in self.other_hooks:
                hook.main_hook()
            for future in waiting:
                future.result()

    def post_hook(self, is_last_joiner: bool) -> None:
        for hook in [*self.other_hooks, *self.quantizers]:
            hook.post_hook(is_last_joiner)


class _JoinAtOnce(Join):
    def __init__(self, joinables: list[Joinable], **options: Any) -> None:
        super().__init__(joinables, **options)
        self._join_hooks = [_AtOnce(self._join_hooks)]


def join(model: nn.Module, **options: Any) -> Join:
    """Let ranks with unequal numbers of batches train together.

    What ``model.join()`` is to a DistributedDataParallel without quantizers: a rank that has no
    batch left takes part in the collectives of the other ranks until all are done.

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
