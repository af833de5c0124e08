"""Training steps of codebooks as operators of torch: compiled code holds opaque nodes."""

from __future__ import annotations

import itertools
import weakref
from typing import Protocol

import torch
from torch import Tensor

from kmeans_module.quantization.codebook_state import CodebookState

# What recording a batch changes; an update changes all.
_RECORDED = ("next_centroids", "next_counts", "leaders", "recorded", "skipped", "refused")


def _schema(mutates: tuple[str, ...]) -> str:
    return ", ".join(
        f"Tensor({chr(ord('a') + i)}!) {name}" if name in mutates else f"Tensor {name}"
        for i, name in enumerate(CodebookState._fields)
    )


class Learner(Protocol):
    """What the operators call."""

    def begin_at(self, rows: Tensor, valid: Tensor | None, state: CodebookState) -> None:
        """Update the codebook, or initialize it."""

    def record_at(
        self, rows: Tensor, valid: Tensor | None, codes: Tensor | None, state: CodebookState
    ) -> Tensor:
        """Learn from a batch, for the next update; its codes (P, n)."""


# Operators of torch take tensors and numbers, no objects, and compiled code outlives a call: so
# each quantizer has a number, which finds what it keeps besides tensors (batches of its start, a
# process group). References are weak: a quantizer that is gone
# leaves nothing behind.
_numbers = itertools.count()
_learners: weakref.WeakValueDictionary[int, Learner] = weakref.WeakValueDictionary()


def register(learner: Learner) -> int:
    """The number by which operators find a learner, while it lives."""
    number = next(_numbers)
    _learners[number] = learner
    return number


@torch.library.custom_op(
    "kmeans_module::begin_training_step",
    mutates_args=CodebookState._fields,
    schema=f"(Tensor rows, Tensor? valid, int learner, {_schema(CodebookState._fields)}) -> ()",
)
def begin(rows: Tensor, valid: Tensor | None, learner: int, *state: Tensor) -> None:
    """See :meth:`Learner.begin_at`."""
    _learners[learner].begin_at(rows, valid, CodebookState(*state))


@begin.register_fake
def _(rows: Tensor, valid: Tensor | None, learner: int, *state: Tensor) -> None:
    return None


@torch.library.custom_op(
    "kmeans_module::record_batch",
    mutates_args=_RECORDED,
    schema=(
        f"(Tensor rows, Tensor? valid, Tensor? codes, int learner, {_schema(_RECORDED)}) -> Tensor"
    ),
)
def record(
    rows: Tensor, valid: Tensor | None, codes: Tensor | None, learner: int, *state: Tensor
) -> Tensor:
    """See :meth:`Learner.record_at`."""
    recorded = _learners[learner].record_at(rows, valid, codes, CodebookState(*state))
    return recorded.clone()  # no output may be an input


@record.register_fake
def _(
    rows: Tensor, valid: Tensor | None, codes: Tensor | None, learner: int, *state: Tensor
) -> Tensor:
    return rows.new_empty(rows.shape[:-1], dtype=torch.int64)
