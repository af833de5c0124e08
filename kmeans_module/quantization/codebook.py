"""A codebook that learns from the batches of training, alike on all ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kmeans_module import checks as check
from kmeans_module.core.distances import at_unit_length
from kmeans_module.core.guard import in_backward, no_values, require_training, under_mode
from kmeans_module.layer import KMeansLayer
from kmeans_module.quantization import decisions, fused, learning, operators, steps
from kmeans_module.quantization.centroids import Codebook
from kmeans_module.quantization.codebook_state import CodebookState, fill_unsaved, update_first
from kmeans_module.quantization.joining import JoinableCodebook
from kmeans_module.quantization.quantizer import Quantizer
from kmeans_module.quantization.rule import Rule
from kmeans_module.rows.ranks import ProcessGroup, all_sum
from kmeans_module.state import ExactBuffers, holds_centroids_alone, loaded_to

UPDATES = ("ema", "gradient", "frozen")
NONFINITE = ("error", "skip")


class LearningCodebook(Quantizer, ExactBuffers, JoinableCodebook):
    """Records batches, and moves the centroids of a :class:`KMeansLayer` afterwards.

    The base of :class:`VectorQuantizer`, which says what the options mean. A forward pass
    calls :meth:`begin` and then :meth:`record` with P problems of n rows, (P, n, d).
    """

    exact = ("next_counts",)
    averages = ("next_centroids",)
    codebook: Codebook
    estimator: str
    next_centroids: Tensor
    next_counts: Tensor
    leaders: Tensor
    recorded: Tensor
    skipped: Tensor
    refused: Tensor
    precision: Tensor

    def __init__(
        self,
        codebook: Codebook,
        *,
        dtype: torch.dtype | None,
        update: str,
        decay: float | None,
        smoothing: float,
        init_batches: int,
        revive_below: float | None,
        nonfinite: str,
        process_group: ProcessGroup | str | None,
    ) -> None:
        nn.Module.__init__(self)
        JoinableCodebook.__init__(self)
        check.check_choice("update", update, UPDATES)
        check.check_choice("nonfinite", nonfinite, NONFINITE)
        self.update_rule = update
        self.decay = None
        if decay is not None:
            self.decay = check.check_number("decay", decay, minimum=0, maximum=1)
        if decay == 1:
            raise ValueError("decay should be less than 1, or the codebook never forgets; got 1")
        self.smoothing = check.check_number("smoothing", smoothing, minimum=0)
        self.init_batches = check.check_integer("init_batches", init_batches, minimum=1)
        if revive_below is not None:
            revive_below = check.check_number("revive_below", revive_below, minimum=0)
        self.revive_below = revive_below
        self.nonfinite = nonfinite
        if not isinstance(process_group, str) or process_group != "default":
            check.check_process_group(process_group)
        self.process_group = process_group
        self.codebook = codebook
        # What is recorded is the same on all ranks, and never saved: a state_dict updates first.
        size = (codebook.n_clusters, codebook.n_features)
        centroids = torch.zeros_like(codebook.centroids.detach()).view(-1, *size)
        centroids = centroids.to(torch.promote_types(centroids.dtype, torch.float32))
        counts = torch.zeros_like(codebook.counts).view(-1, size[0])
        self.register_buffer("next_centroids", centroids, persistent=False)
        self.register_buffer("next_counts", counts, persistent=False)
        leaders = torch.zeros_like(counts, dtype=torch.int64)
        self.register_buffer("leaders", leaders, persistent=False)
        recorded = torch.zeros_like(codebook.initialized)
        self.register_buffer("recorded", recorded, persistent=False)
        self.register_buffer("skipped", recorded.long())
        refused = torch.zeros(decisions.NOTE, dtype=torch.int64, device=recorded.device)
        self.register_buffer("refused", refused, persistent=False)
        precision = torch.empty(0, dtype=dtype, device=centroids.device)
        self.register_buffer("precision", precision, persistent=False)
        self.register_load_state_dict_post_hook(fill_unsaved)  # type: ignore[no-untyped-call]
        self.register_state_dict_pre_hook(update_first)  # type: ignore[no-untyped-call]
        self._reset()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw a random codebook, and forget what was learnt."""
        self.codebook.reset_parameters()
        self.forget_recorded()
        for buffer in (self.next_centroids, self.next_counts, self.skipped):
            buffer.zero_()

    def _reset(self) -> None:
        """What is known of this object in this process alone."""
        self._first_rows: list[tuple[Tensor, Tensor]] = []
        self.leave_join()
        self.number = operators.register(self)

    def __getstate__(self) -> dict[str, Any]:
        self.apply_update()
        group = None if self.process_group is None else "default"
        return {**self.__dict__, "_first_rows": [], "_join_group": None, "process_group": group}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._reset()

    @property
    def n_clusters(self) -> int:
        """Codes, k."""
        return self.codebook.n_clusters

    @property
    def rule(self) -> Rule:
        """How the codebook learns."""
        return Rule(
            self.update_rule,
            self.decay,
            self.smoothing,
            self.revive_below,
            self.codebook.metric,
            self.nonfinite,
            self.estimator == "gumbel",
        )

    def codebook_layers(self) -> list[KMeansLayer]:
        return [self.codebook]

    @property
    def learns(self) -> bool:
        """Whether batches are recorded."""
        return self.training and self.update_rule != "frozen"

    @torch.no_grad()
    def apply_update(self) -> None:
        """Move the codebook to what the last forward pass in training recorded, if any did.

        Raises:
            ValueError: on an accelerator, which is not waited for before: a batch held NaN or
                infinity, and nonfinite is "error".
        """
        state = self.codebook_state()
        if no_values(state.recorded) is None:
            self._apply_recorded(state)
            decisions.report_refused(state.refused)

    def forget_recorded(self) -> None:
        """Drop what was recorded, for a codebook from elsewhere."""
        for buffer in (self.recorded, self.refused, self.leaders):
            buffer.zero_()
        self._first_rows = []

    def train(self, mode: bool = True) -> LearningCodebook:
        if not mode:
            self.apply_update()
        super().train(mode)
        return self

    def codebook_state(self) -> CodebookState:
        """The tensors that a training step changes, with a leading axis of P problems."""
        codebook = self.codebook
        centroids, counts, n_iter = codebook.centroids.detach(), codebook.counts, codebook.n_iter
        if not codebook.batch_shape:
            centroids, counts = centroids.unsqueeze(0), counts.unsqueeze(0)
            n_iter = n_iter.unsqueeze(0)
        return CodebookState(
            centroids,
            counts,
            n_iter,
            codebook.initialized,
            self.next_centroids,
            self.next_counts,
            self.leaders,
            self.recorded,
            self.skipped,
            self.refused,
        )

    def take_state(self, state: CodebookState) -> None:
        """Take over what steps on a copy of :meth:`codebook_state` have changed."""
        for name, tensor in self.codebook_state()._asdict().items():
            # Centroids that learn by gradient are the optimizer's.
            if name != "centroids" or self.update_rule != "gradient":
                tensor.copy_(getattr(state, name))

    def begin(self, rows: Tensor, valid: Tensor | None) -> CodebookState:
        """Apply what was recorded, and initialize, before a batch is quantized.

        Args:
            rows: (P, n, d), without a gradient.
            valid: which rows count, (P, n) bool, or how much, floats; None for all alike.

        Returns:
            What :meth:`record` changes.
        """
        require_training(rows)
        state = self.codebook_state()
        if under_mode():
            operators.begin(rows, valid, self.number, *state)
        else:
            with torch.no_grad():
                self.begin_at(rows, valid, state)
        return state

    def begin_at(self, rows: Tensor, valid: Tensor | None, state: CodebookState) -> None:
        """See :class:`kmeans_module.quantization.operators.Learner`."""
        if in_backward():
            return
        self.notify_joined_ranks()
        self.agree_once(
            lambda: {
                "codebook": repr(self.codebook),
                "dtype": state.centroids.dtype,
                "initialized": bool(state.initialized),
                "update": self.update_rule,
                "decay": self.decay,
                "revive_below": self.revive_below,
            }
        )
        self._apply_recorded(state)
        if self._first_rows or not self._is_initialized(state):
            self._initialize(rows, valid, state)
            self.codebook.note_initialized(bool(state.initialized))

    def record(
        self, rows: Tensor, valid: Tensor | None, codes: Tensor | None, state: CodebookState
    ) -> Tensor:
        """Learn from a batch, for the next update.

        Args:
            rows: (P, n, d), without a gradient.
            valid: which rows count, (P, n) bool, or how much, floats; None for all alike.
            codes: (P, n); None for the codes of the nearest centroids.
            state: what :meth:`begin` returned.

        Returns:
            The codes.
        """
        if under_mode():
            recorded: Tensor = operators.record(rows, valid, codes, self.number, *state)
            return recorded
        with torch.no_grad():
            return self.record_at(rows, valid, codes, state)

    def record_at(
        self, rows: Tensor, valid: Tensor | None, codes: Tensor | None, state: CodebookState
    ) -> Tensor:
        """See :class:`kmeans_module.quantization.operators.Learner`."""
        if in_backward():  # recomputed by activation checkpointing
            return learning.nearest(rows, state.centroids) if codes is None else codes
        record = fused.record if fused.serves(state, rows, valid) else steps.record
        return record(state, self.rule, rows, valid, codes, self.group)

    def _apply_recorded(self, state: CodebookState) -> None:
        apply = fused.apply if fused.serves(state) else steps.apply
        stepped = self.update_rule == "gradient" and self.codebook.metric == "cosine"
        stepped = stepped and decisions.may_be(state.recorded)
        apply(state, self.rule)
        if stepped:  # an optimizer knows nothing of lengths
            state.centroids.copy_(at_unit_length(state.centroids))

    def _is_initialized(self, state: CodebookState) -> bool:
        """Whether there are centroids: the layer remembers it, to wait for an accelerator once."""
        if not decisions.decides_on_device(state.initialized):
            return bool(state.initialized)
        try:
            self.check_initialized()
        except check.NotInitializedError:
            return False
        return True

    def _initialize(self, rows: Tensor, valid: Tensor | None, state: CodebookState) -> None:
        """Start the codebook from this batch and the batches kept before it."""
        group = self.group
        weight = learning.weights_of(rows, valid)
        if self.codebook.metric == "cosine":  # zero rows have no direction
            weight = weight * (rows != 0).any(dim=-1)
        bad = (~rows.isfinite().all()).to(weight)
        bad, available = all_sum([bad.view(1), (weight > 0).sum(dim=-1).to(weight)], group)
        if bad and self.nonfinite == "error":
            decisions.raise_refused(rows)
        if bad or not available.all():
            return
        kept = [*self._first_rows, (rows.clone(), weight)]
        rows = torch.cat([part for part, _ in kept], dim=1)
        weight = torch.cat([part for _, part in kept], dim=1)
        centroids, counts = learning.start(
            rows,
            weight,
            self.n_clusters,
            metric=self.codebook.metric,
            generator=self._generator(state),
            group=group,
        )
        state.centroids.copy_(centroids)
        if self.decay is not None:
            # The counts to which a moving average over endlessly many equal batches comes.
            counts = counts / len(kept) / (1 - self.decay)
        state.counts.copy_(counts)
        state.n_iter.zero_()
        state.initialized.fill_(True)
        (total,) = all_sum([(weight > 0).sum(dim=-1).to(weight)], group)
        enough = len(kept) >= self.init_batches and bool(total.min() >= self.n_clusters)
        self._first_rows = [] if enough else kept

    def _generator(self, state: CodebookState) -> torch.Generator:
        """Draws that do not disturb the default generator, which a recomputed pass replays."""
        # An odd number that fills 32 bits: torch's generator on the CPU sees no others of a seed.
        seed = (torch.initial_seed() + 0x9E3779B9 * int(state.n_iter[0])) % 2**63
        return torch.Generator("cpu").manual_seed(seed)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        centroids = state_dict.get(f"{prefix}codebook.centroids")
        if isinstance(centroids, Tensor) and centroids.shape != self.codebook.centroids.shape:
            return  # the codebook refuses it
        self.forget_recorded()
        if holds_centroids_alone(state_dict, f"{prefix}codebook."):
            device = loaded_to(self.skipped, state_dict[f"{prefix}codebook.centroids"], args[0])
            skipped = torch.zeros_like(self.skipped, device=device)
            state_dict = {f"{prefix}skipped": skipped, **state_dict}
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
