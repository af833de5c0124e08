"""A codebook that learns from the batches of training, alike on all ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.join import Join, Joinable

from kmeans_module import checks as check
from kmeans_module.backends import ClusterStats, accumulator_dtype, prepare
from kmeans_module.layer import KMeansLayer
from kmeans_module.quantization import learning, operators
from kmeans_module.quantization.joining import QuantizerJoinHook
from kmeans_module.quantization.learning import CodebookState
from kmeans_module.rows.ranks import ProcessGroup, all_sum, all_sum_stats

UPDATES = ("ema", "gradient", "frozen")
NONFINITE = ("error", "skip")


def in_backward() -> bool:
    """Whether activation checkpointing runs this forward pass for the second time."""
    return torch._C._current_graph_task_id() != -1


def _update_first(module: LearningCodebook, prefix: str, keep_vars: bool) -> None:
    """A state_dict holds what is recorded."""
    module.update()


class LearningCodebook(nn.Module, Joinable):
    """Records batches, and moves the centroids of a :class:`KMeansLayer` afterwards.

    The base of :class:`VectorQuantizer`, which says what the options mean. A pass forward
    calls :meth:`begin` and then :meth:`record` with P problems of n rows, (P, n, d).
    """

    next_centroids: Tensor
    next_counts: Tensor
    moves: Tensor
    skipped: Tensor

    def __init__(
        self,
        codebook: KMeansLayer,
        *,
        update: str,
        decay: float,
        smoothing: float,
        init_batches: int,
        revive_below: float | None,
        nonfinite: str,
        process_group: ProcessGroup | str | None,
    ) -> None:
        nn.Module.__init__(self)
        Joinable.__init__(self)
        check.check_choice("update", update, UPDATES)
        check.check_choice("nonfinite", nonfinite, NONFINITE)
        self.update_rule = update
        self.decay = check.check_number("decay", decay, minimum=0, maximum=1)
        if decay == 1:
            raise ValueError("decay should be less than 1, or the codebook never forgets; got 1")
        self.smoothing = check.check_number("smoothing", smoothing, minimum=0)
        self.init_batches = check.check_integer("init_batches", init_batches, minimum=1)
        if revive_below is not None:
            revive_below = check.check_number("revive_below", revive_below, minimum=0)
        self.revive_below = revive_below
        self.nonfinite = nonfinite
        if process_group != "default":
            check.check_process_group(process_group)
        self.process_group = process_group
        self.codebook = codebook
        # What is recorded is the same on all ranks, and never saved: a state_dict updates first.
        centroids, counts = codebook.centroids.detach(), codebook.counts
        for name, buffer in (
            ("next_centroids", torch.zeros_like(centroids)),
            ("next_counts", torch.zeros_like(counts)),
            ("moves", torch.zeros_like(counts, dtype=torch.bool)),
        ):
            self.register_buffer(name, buffer, persistent=False)
        self.register_buffer("skipped", torch.zeros_like(codebook.initialized).long())
        self.register_state_dict_pre_hook(_update_first)  # type: ignore[no-untyped-call]
        self._reset()

    def _reset(self) -> None:
        """What is known of this object in this process alone."""
        self._recorded = False
        self._first_rows: list[tuple[Tensor, Tensor]] = []
        self._join_group: ProcessGroup | None = None
        self._joined = False
        self._number = operators.register(self)

    def __getstate__(self) -> dict[str, Any]:
        self.update()
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
    def learns(self) -> bool:
        """Whether batches are recorded."""
        return self.training and self.update_rule != "frozen"

    @torch.no_grad()
    def update(self) -> None:
        """Move the codebook to what the last forward pass in training recorded, if any did."""
        if self._recorded:
            self._apply_recorded(self._state())

    def _forget(self) -> None:
        """Drop what was recorded, for a codebook from elsewhere."""
        self._recorded = False
        self._first_rows = []

    def train(self, mode: bool = True) -> LearningCodebook:
        if not mode:
            self.update()
        super().train(mode)
        return self

    def _state(self) -> CodebookState:
        codebook = self.codebook
        shape = (-1, self.n_clusters, codebook.n_features)
        return CodebookState(
            codebook.centroids.detach().view(shape), codebook.counts.view(shape[:2]),
            codebook.n_iter.view(-1), codebook.initialized, self.next_centroids.view(shape),
            self.next_counts.view(shape[:2]), self.moves.view(shape[:2]), self.skipped,
        )  # fmt: skip

    @property
    def _base_group(self) -> ProcessGroup | None:
        if isinstance(self.process_group, dist.ProcessGroup):
            return self.process_group
        everyone = self.process_group is not None and dist.is_initialized()
        return dist.group.WORLD if everyone else None

    @property
    def _group(self) -> ProcessGroup | None:
        return self._base_group if self._join_group is None else self._join_group

    def _weight(self, rows: Tensor, valid: Tensor | None) -> Tensor:
        exact = accumulator_dtype(rows.device)
        ones = torch.ones(rows.shape[:-1], device=rows.device, dtype=exact)
        return ones if valid is None else valid.to(ones)

    def begin(self, rows: Tensor, valid: Tensor | None) -> None:
        """Apply what was recorded, and initialise, before a batch is quantized."""
        rows = rows.detach()
        if torch.compiler.is_compiling():
            operators.begin(rows, valid, self._number, *self._state())
            return
        with torch.no_grad():
            self.begin_at(rows, valid, self._state())

    def begin_at(self, rows: Tensor, valid: Tensor | None, state: CodebookState) -> None:
        """See :class:`kmeans_module.quantization.operators.Learner`."""
        if in_backward():
            return
        if not self._joined:
            notice = Join.notify_join_context(self)
            if notice is not None:
                notice.wait()
        if self._recorded:
            self._apply_recorded(state)
        if self._first_rows or not bool(state.initialized):
            self._initialize(rows, valid, state)
            self.codebook.note_initialized(bool(state.initialized))

    def record(self, rows: Tensor, valid: Tensor | None, codes: Tensor | None) -> Tensor:
        """Learn from a batch, for the next update; its codes, the nearest where none are given."""
        rows = rows.detach()
        if torch.compiler.is_compiling():
            found: Tensor = operators.record(rows, valid, codes, self._number, *self._state())
            return found
        with torch.no_grad():
            return self.record_at(rows, valid, codes, self._state())

    def record_at(
        self, rows: Tensor, valid: Tensor | None, codes: Tensor | None, state: CodebookState
    ) -> Tensor:
        """See :class:`kmeans_module.quantization.operators.Learner`."""
        finite = rows.isfinite().all()
        if in_backward():  # recomputed by activation checkpointing
            if codes is not None:
                return codes
            return prepare(rows).assign(state.centroids)[0]
        weight = self._weight(rows, valid)
        stats, codes = self._statistics(rows, None if valid is None else weight, codes, state)
        bad = (~finite).to(stats.inertia).view(1)
        stats, (bad,) = all_sum_stats(stats, self._group, also=[bad])
        refused = self._refuse(rows, bool(bad))
        state.skipped.add_(refused)
        if refused or not bool(stats.counts.sum() > 0):
            return codes
        centroids, total = learning.moving_average(
            state.centroids, state.counts, stats.sums, stats.counts,
            decay=self.decay, smoothing=self.smoothing, metric=self.codebook.metric,
        )  # fmt: skip
        moves = torch.ones_like(state.moves)
        if self.update_rule == "gradient":
            centroids, moves = state.centroids, torch.zeros_like(state.moves)
        least = learning.least_counts(total, decay=self.decay, threshold=self.revive_below)
        if bool((total < least).any()):
            centroids, total, revived = learning.revive(
                rows, weight, centroids, total, least, decay=self.decay,
                metric=self.codebook.metric,
                generator=self._generator(state), group=self._group,
            )  # fmt: skip
            moves |= revived
        state.next_centroids.copy_(centroids)
        state.next_counts.copy_(total)
        state.moves.copy_(moves)
        self._recorded = True
        return codes

    def _statistics(
        self, rows: Tensor, weight: Tensor | None, codes: Tensor | None, state: CodebookState
    ) -> tuple[ClusterStats, Tensor]:
        if codes is None:
            step = prepare(rows, weight, once=True).e_step(state.centroids)
            return step.stats, step.labels
        problems, k, d = state.centroids.shape
        first = torch.arange(problems, device=rows.device).unsqueeze(-1) * k
        clusters = (codes + first).flatten()
        weight = self._weight(rows, None) if weight is None else weight
        counts = weight.new_zeros(problems * k).index_add_(0, clusters, weight.flatten())
        weighted = (rows * weight.unsqueeze(-1)).flatten(0, 1)
        sums = weight.new_zeros((problems * k, d)).index_add_(0, clusters, weighted)
        return ClusterStats(
            sums.view(problems, k, d), counts.view(problems, k), weight.new_zeros(problems)
        ), codes

    def _refuse(self, rows: Tensor, bad: bool) -> bool:
        """Whether nothing is to be learnt from a batch, some rank's part of which is not finite."""
        if not bad:
            return False
        if self.nonfinite == "skip":
            return True
        if not rows.isfinite().all():
            check.raise_nonfinite(rows.flatten(0, 1), rows.dtype)
        raise ValueError("x should be finite; another rank's contains NaN or infinity")

    def _initialize(self, rows: Tensor, valid: Tensor | None, state: CodebookState) -> None:
        """From this batch and those kept of earlier ones."""
        weight = self._weight(rows, valid)
        bad = (~rows.isfinite().all()).to(weight).view(1)
        available = weight[0].sum().view(1)
        bad, available = all_sum([bad, available], self._group)
        if self._refuse(rows, bool(bad)) or not bool(available > 0):
            return
        kept = [*self._first_rows, (rows.clone(), weight)]
        rows = torch.cat([part for part, _ in kept], dim=1)
        weight = torch.cat([part for _, part in kept], dim=1)
        centroids, counts = learning.start(
            rows, weight, self.n_clusters, metric=self.codebook.metric,
            generator=self._generator(state), group=self._group,
        )  # fmt: skip
        state.centroids.copy_(centroids)
        # As if all batches before had been such ones.
        state.counts.copy_(counts / len(kept) / (1 - self.decay))
        state.n_iter.zero_()
        state.initialized.fill_(True)
        (total,) = all_sum([weight[0].sum().view(1)], self._group)
        enough = len(kept) >= self.init_batches and bool(total >= self.n_clusters)
        self._first_rows = [] if enough else kept

    def _apply_recorded(self, state: CodebookState) -> None:
        self._recorded = False
        if self.update_rule == "ema" or bool(state.moves.any()):
            moved = state.next_centroids.where(state.moves.unsqueeze(-1), state.centroids)
            state.centroids.copy_(moved)
        state.counts.copy_(state.next_counts)
        state.n_iter.add_(1)

    def _generator(self, state: CodebookState) -> torch.Generator:
        """Draws that do not disturb the default generator, which a recomputed pass replays."""
        seed = (torch.initial_seed() + 2**32 * int(state.n_iter[0])) % 2**63
        return torch.Generator().manual_seed(seed)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        centroids = state_dict.get(f"{prefix}codebook.centroids")
        if isinstance(centroids, Tensor) and centroids.shape != self.codebook.centroids.shape:
            return  # the codebook refuses it
        self._forget()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LearningCodebook:
        counts = self.next_counts
        self.next_counts = counts.float()  # no float64 goes to MPS
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.next_counts = (counts if not self.next_counts.is_meta else self.next_counts).to(
            dtype=self.codebook.counts.dtype, device=self.codebook.counts.device
        )
        return self

    def join_hook(self, **kwargs: Any) -> QuantizerJoinHook:
        # Collectives in an order of their own: the hooks of others run theirs in between.
        if self._join_group is None and self._group is not None:
            ranks = dist.get_process_group_ranks(self._group)
            self._join_group = dist.new_group(ranks)
        problems, _, d = self._state().centroids.shape
        nothing = self.codebook.centroids.new_empty((problems, 0, d))
        # Others' hooks may meanwhile write the buffers: the steps have their own.
        states: list[CodebookState] = []

        @torch.no_grad()
        def train_on_nothing() -> None:
            if not states:
                states.append(CodebookState(*(tensor.clone() for tensor in self._state())))
            self._joined = True
            try:
                self.begin_at(nothing, None, states[0])
                self.record_at(nothing, None, None, states[0])
            finally:
                self._joined = False

        @torch.no_grad()
        def finish() -> None:
            for state in states:
                for name, own, found in zip(state._fields, self._state(), state, strict=True):
                    if name != "centroids" or self.update_rule != "gradient":
                        own.copy_(found)

        return QuantizerJoinHook(train_on_nothing, finish)

    @property
    def join_device(self) -> torch.device:
        return self.codebook.centroids.device

    @property
    def join_process_group(self) -> Any:
        return self._base_group
