"""VectorQuantizer: a codebook inside a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.join import Join, Joinable

from kmeans_module import validation as check
from kmeans_module.distributed import ProcessGroup, all_sum, all_sum_stats
from kmeans_module.functional import METRICS
from kmeans_module.kernels import ClusterStats, compute_dtype, full_precision, prepare, unit_rows
from kmeans_module.layer import KMeansLayer
from kmeans_module.quantization import learning, operators
from kmeans_module.quantization.gradients import ESTIMATORS, gumbel, rotate, straight_through
from kmeans_module.quantization.joining import QuantizerJoinHook
from kmeans_module.quantization.learning import CodebookState
from kmeans_module.soft import check_soft

UPDATES = ("ema", "gradient", "frozen")
NONFINITE = ("error", "skip")
NO_CODE = -1


def in_backward() -> bool:
    """Whether activation checkpointing runs this forward pass for the second time."""
    return torch._C._current_graph_task_id() != -1


def _update_first(module: VectorQuantizer, prefix: str, keep_vars: bool) -> None:
    """A state_dict holds what is recorded."""
    module.update()


class Quantized(NamedTuple):
    """What a quantizer makes of x.

    Attributes:
        quantized: the centroids of the codes, of the shape and dtype of x; 0 where masked.
        codes: int64, the shape of x without its features, then (heads,) if there are several;
            -1 where masked.
        loss: ().
    """

    quantized: Tensor
    codes: Tensor
    loss: Tensor


class VectorQuantizer(nn.Module, Joinable):
    r"""Replaces every vector by the nearest of a codebook that learns in training.

    .. math:: \text{loss} = \beta \, \text{mean} \|x - \text{sg}[q]\|^2
              \; (+ \, \text{mean} \|\text{sg}[x] - q\|^2
              \text{ where the codebook learns by gradient})

    with means over samples and features. A forward pass in training only records what it saw:
    the codebook moves at the next one, on leaving training, or by :meth:`update`; so backward
    sees the codebook that forward saw. The first batches in training initialise the codebook.

    Under torch.distributed all ranks record the same, over the samples of all of them. Where
    ranks may have fewer batches than others, train within
    :func:`kmeans_module.quantization.join`.

    Args:
        n_clusters: codes, k.
        n_features: features of a vector, d.
        metric: "euclidean", or "cosine": vectors and codes of unit length.
        heads: parts of the features that are quantized each on its own; divides n_features.
        separate_codebooks: whether each head has a codebook of its own.
        update: how the codebook learns: "ema", a moving average of the samples of each code
            (van den Oord 2017, appendix A); "gradient", the centroids are a Parameter and the
            loss has a term for them; or "frozen".
        decay: of the moving average, for each batch; of the counts also where update is
            "gradient".
        smoothing: Laplace smoothing of the counts, in samples of a batch.
        estimator: of the gradient for x: "straight-through", "rotation" (Fifty 2024), or
            "gumbel": codes are drawn from softmax(-distance / temperature) in training.
        temperature: of "gumbel"; may be changed in training.
        commitment: β.
        init_batches: batches that initialise the codebook, by k-means++ and a few of Lloyd's
            steps; more, while they have fewer samples than there are codes.
        revive_below: a code that gets fewer samples of a batch, on average, moves to a random
            sample; None for a hundredth of an even share, 0 for never.
        channel_first: whether features are dimension 1 of x, as in images.
        nonfinite: what a batch with NaN or infinity in training does: raise an "error", or
            "skip": nothing is learnt from it, and rows that are not finite count as masked.
        process_group: whose samples the codebook learns from: "default", all of
            torch.distributed where that is in use; None, this process only.
        device, dtype: of the codebook.

    Shape:
        - Input: (\*, d), or (N, d, \*) with channel_first.
        - Output: quantized like the input, codes (\*) or (\*, heads), loss ().

    Attributes:
        codebook: a :class:`KMeansLayer` of k centroids, with a batch_shape (heads,) where
            codebooks are separate.
        skipped: batches that were not finite where nonfinite is "skip", () int64.

    Examples:
        >>> import torch
        >>> from kmeans_module import VectorQuantizer
        >>> _ = torch.manual_seed(0)
        >>> vq = VectorQuantizer(n_clusters=16, n_features=4)
        >>> quantized, codes, loss = vq(torch.randn(8, 50, 4))
        >>> quantized.shape, codes.shape, loss.shape
        (torch.Size([8, 50, 4]), torch.Size([8, 50]), torch.Size([]))
        >>> bool((vq.decode(codes) == quantized).all())
        True
    """

    next_centroids: Tensor
    next_counts: Tensor
    moves: Tensor
    skipped: Tensor

    def __init__(
        self,
        n_clusters: int,
        n_features: int,
        *,
        metric: str = "euclidean",
        heads: int = 1,
        separate_codebooks: bool = False,
        update: str = "ema",
        decay: float = 0.99,
        smoothing: float = 1e-5,
        estimator: str = "straight-through",
        temperature: float = 1.0,
        commitment: float = 0.25,
        init_batches: int = 1,
        revive_below: float | None = None,
        channel_first: bool = False,
        nonfinite: str = "error",
        process_group: ProcessGroup | str | None = "default",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Module.__init__(self)
        Joinable.__init__(self)
        self.n_features = check.check_integer("n_features", n_features, minimum=1)
        self.heads = check.check_integer("heads", heads, minimum=1)
        if n_features % heads:
            raise ValueError(f"heads should divide n_features={n_features}; got {heads}")
        check.check_choice("metric", metric, METRICS)
        check.check_choice("update", update, UPDATES)
        check.check_choice("estimator", estimator, ESTIMATORS)
        check.check_choice("nonfinite", nonfinite, NONFINITE)
        check_soft(temperature)
        self.update_rule = update
        self.estimator = estimator
        self.temperature = temperature
        self.decay = check.check_number("decay", decay, minimum=0, maximum=1)
        if decay == 1:
            raise ValueError("decay should be less than 1, or the codebook never forgets; got 1")
        self.smoothing = check.check_number("smoothing", smoothing, minimum=0)
        self.commitment = check.check_number("commitment", commitment, minimum=0)
        self.init_batches = check.check_integer("init_batches", init_batches, minimum=1)
        if revive_below is not None:
            revive_below = check.check_number("revive_below", revive_below, minimum=0)
        self.revive_below = revive_below
        self.channel_first = channel_first
        self.nonfinite = nonfinite
        if process_group != "default":
            check.check_process_group(process_group)
        self.process_group = process_group
        self.separate_codebooks = separate_codebooks and heads > 1
        self.codebook = KMeansLayer(
            n_clusters, n_features // heads, metric=metric, empty_cluster="keep",
            batch_shape=(heads,) if self.separate_codebooks else (),
            requires_grad=update == "gradient", device=device, dtype=dtype,
        )  # fmt: skip
        centroids, counts = self.codebook.centroids, self.codebook.counts
        # What is recorded is there for all ranks alike, and never saved: see _finish.
        for name, buffer in (
            ("next_centroids", torch.zeros_like(centroids, requires_grad=False)),
            ("next_counts", torch.zeros_like(counts)),
            ("moves", torch.zeros_like(counts, dtype=torch.bool)),
        ):
            self.register_buffer(name, buffer.detach(), persistent=False)
        self.register_buffer("skipped", torch.zeros_like(self.codebook.initialized).long())
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

    def extra_repr(self) -> str:
        parts = [f"n_features={self.n_features}, update={self.update_rule!r}"]
        if self.heads > 1:
            parts.append(f"heads={self.heads}, separate_codebooks={self.separate_codebooks}")
        if self.estimator != "straight-through":
            parts.append(f"estimator={self.estimator!r}")
        return ", ".join(parts)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Quantized:
        """Quantize; in training also record the batch.

        Args:
            x: (*, d), or (N, d, *) with channel_first; any float dtype.
            mask: True for samples that count, of the shape of x without its features. Others
                get code -1, quantized 0, and no part in loss or learning.

        Returns:
            quantized, codes, loss.

        Raises:
            NotInitializedError: in evaluation, or frozen, before the codebook has centroids.
            ValueError: x of another number of features, a mask of another shape; NaN or
                infinity in training unless nonfinite is "skip", and in evaluation.
        """
        x, mask = self._check(x, mask)
        rows = self._rows(x)
        valid = None if mask is None else self._per_row(mask)
        if valid is not None:
            rows = rows.where(valid.unsqueeze(-1), 0.0)
        finite = None
        if self.nonfinite == "skip":
            finite = rows.detach().isfinite().all(dim=-1)
            rows = rows.where(finite.unsqueeze(-1), 0.0)
            valid = finite if valid is None else valid & finite
        if self.codebook.metric == "cosine":
            rows = unit_rows(rows)
        learns = self.training and self.update_rule != "frozen"
        draws = self.training and self.estimator == "gumbel"
        if learns:
            # What is learnt from has to show that it is not finite.
            seen = rows if finite is None else rows.where(finite.unsqueeze(-1), torch.nan)
            self._begin(seen, valid)
        elif not torch.compiler.is_compiling():
            self.codebook._check_initialized()
        if draws:
            # Backward needs these centroids, also after an update.
            centroids = self._centroids().clone()
            quantized, codes = gumbel(
                rows, centroids, temperature=self.temperature, metric=self.codebook.metric
            )
            target = self._decode(codes)
        if learns:
            found = self._record(seen, valid, codes if draws else None)
            codes = codes if draws else found
        elif not draws:
            codes = self.codebook(rows if self.separate_codebooks else rows[0])
            codes = codes.view(rows.shape[:-1])
        if not draws:
            target = self._decode(codes)
            estimate = rotate if self.estimator == "rotation" else straight_through
            quantized = estimate(rows, target.detach())
        loss = self._loss(rows, target, valid)
        if valid is not None:
            codes = codes.where(valid, NO_CODE)
            quantized = quantized.where(valid.unsqueeze(-1), 0.0)
        return Quantized(self._unrows(quantized, x), self._uncodes(codes, x), loss)

    def _quantize_in_turn(self, x: Tensor, masks: list[Tensor | None]) -> list[Quantized]:
        """What the levels of a :class:`ResidualQuantizer` that share this codebook find in x
        (*, d): a codebook that learns from all levels at once."""
        learns = self.training and self.update_rule != "frozen"
        rows = self._rows(x)
        valids = [None if mask is None else self._per_row(mask) for mask in masks]
        if valids[0] is not None:
            rows = rows.where(valids[0].unsqueeze(-1), 0.0)
        finite = None
        if self.nonfinite == "skip":
            finite = rows.detach().isfinite().all(dim=-1)
            rows = rows.where(finite.unsqueeze(-1), 0.0)
            valids = [finite if valid is None else valid & finite for valid in valids]
        found, seen, chosen = [], [], []
        if learns:
            # What is learnt from has to show that it is not finite.
            first = rows if finite is None else rows.where(finite.unsqueeze(-1), torch.nan)
            seen.append(first)
            self._begin(first, valids[0])
        elif not torch.compiler.is_compiling():
            self.codebook._check_initialized()
        for valid in valids:
            if self.training and self.estimator == "gumbel":
                quantized, codes = gumbel(
                    rows, self._centroids().clone(), temperature=self.temperature
                )
                target = self._decode(codes)
            else:
                if learns:
                    with torch.no_grad():
                        codes = prepare(rows.detach()).assign(self._centroids().detach())[0]
                else:
                    codes = self.codebook(rows[0]).view(rows.shape[:-1])
                quantized = target = self._decode(codes)
            loss = self._loss(rows, target, valid)
            chosen.append(codes)
            if valid is not None:
                codes = codes.where(valid, NO_CODE)
                quantized = quantized.where(valid.unsqueeze(-1), 0.0)
            rows = rows - quantized.detach()
            seen.append(rows)
            quantized = quantized.reshape(x.shape).to(x.dtype)
            found.append(Quantized(quantized, self._uncodes(codes, x), loss))
        if learns:
            valid = None
            if valids[0] is not None:
                valid = torch.cat([v for v in valids if v is not None], dim=1)
            self._record(torch.cat(seen[:-1], dim=1), valid, torch.cat(chosen, dim=1))
        return found

    def encode(self, x: Tensor) -> Tensor:
        """Codes of the nearest centroids; learns nothing, whatever mode the module is in.

        Args:
            x: (*, d), or (N, d, *) with channel_first.

        Returns:
            (*), or (*, heads), int64.
        """
        x, _ = self._check(x, None)
        rows = self._rows(x)
        codes = self.codebook(rows if self.separate_codebooks else rows[0])
        return self._uncodes(codes.view(rows.shape[:-1]), x)

    def decode(self, codes: Tensor) -> Tensor:
        """The centroids of codes; 0 for -1, which says that there is none.

        Args:
            codes: integers (*), or (*, heads).

        Returns:
            (*, d), or (N, d, *) with channel_first.

        Raises:
            ValueError: a code that is neither -1 nor one of 0 .. k-1 (seen on the CPU).
        """
        codes = check.check_tensor("codes", codes)
        if self.heads > 1 and (codes.ndim < 1 or codes.shape[-1] != self.heads):
            raise ValueError(
                f"codes should have shape (..., {self.heads}); got {tuple(codes.shape)}"
            )
        if codes.dtype.is_floating_point or codes.dtype == torch.bool:
            raise TypeError(f"codes should be integers; got {codes.dtype}")
        if codes.device.type == "cpu" and codes.numel() and not torch.compiler.is_compiling():
            low, high = (int(bound) for bound in codes.aminmax())
            if low < NO_CODE or high >= self.n_clusters:
                raise ValueError(
                    f"codes should be from 0 to {self.n_clusters - 1}, or {NO_CODE} for none; "
                    f"got {low} to {high}"
                )
        codes = codes.long()
        known = (codes != NO_CODE).unsqueeze(-1)
        flat = codes.clamp(min=0).reshape(-1, self.heads)
        flat = flat.T if self.separate_codebooks else flat.reshape(1, -1)
        rows = self._decode(flat)
        if self.separate_codebooks:
            rows = rows.transpose(0, 1)
        decoded = rows.reshape(*codes.shape, -1).where(known, 0.0)
        if self.heads > 1:
            decoded = decoded.flatten(-2)
        return decoded.movedim(-1, 1) if self.channel_first else decoded

    @torch.no_grad()
    def update(self) -> None:
        """Move the codebook to what the last forward pass in training recorded, if any did."""
        if self._recorded:
            self._apply_recorded(self._state())

    def _forget(self) -> None:
        """Drop what was recorded, for a codebook from elsewhere."""
        self._recorded = False
        self._first_rows = []

    def train(self, mode: bool = True) -> VectorQuantizer:
        if not mode:
            self.update()
        super().train(mode)
        return self

    # Training.

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
        ones = torch.ones(rows.shape[:-1], device=rows.device, dtype=torch.float64)
        return ones if valid is None else valid.to(ones)

    def _begin(self, rows: Tensor, valid: Tensor | None) -> None:
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
            self.codebook._known_initialized = True

    def _record(self, rows: Tensor, valid: Tensor | None, codes: Tensor | None) -> Tensor:
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
        dead = learning.dead_codes(total, decay=self.decay, threshold=self.revive_below)
        if bool(dead.any()):
            centroids, total, revived = learning.revive(
                rows, weight, centroids, total, dead, metric=self.codebook.metric,
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
            step = prepare(rows, weight).e_step(state.centroids)
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
        state.centroids.copy_(
            state.next_centroids.where(state.moves.unsqueeze(-1), state.centroids)
        )
        state.counts.copy_(state.next_counts)
        state.n_iter.add_(1)

    def _generator(self, state: CodebookState) -> torch.Generator:
        """Draws that do not disturb the default generator, which a recomputed pass replays."""
        seed = (torch.initial_seed() + 2**32 * int(state.n_iter[0])) % 2**63
        return torch.Generator().manual_seed(seed)

    # Shapes: P problems of n rows.

    def _check(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        x = check.check_tensor("x", x)
        if not x.dtype.is_floating_point:
            raise TypeError(f"x should hold floats; got {x.dtype}")
        if self.channel_first:
            if x.ndim < 2 or x.shape[1] != self.n_features:
                raise ValueError(
                    f"x should have shape (n, {self.n_features}, ...); got {tuple(x.shape)}"
                )
            x = x.movedim(1, -1)
        x = check.check_features(x, self.n_features)
        check.check_device("x", x, self.codebook.centroids.device)
        if mask is not None:
            mask = check.check_tensor("mask", mask)
            if mask.shape != x.shape[:-1]:
                raise ValueError(
                    f"mask should have shape {tuple(x.shape[:-1])}; got {tuple(mask.shape)}"
                )
            mask = mask.to(torch.bool)
        return x, mask

    def _rows(self, x: Tensor) -> Tensor:
        """x (*, d) as (P, n, d / heads), in the precision of distances."""
        dtype = compute_dtype(x, self.codebook.centroids)
        rows = x.reshape(-1, self.heads, self.codebook.n_features).to(dtype)
        if self.separate_codebooks:
            return rows.transpose(0, 1)
        return rows.reshape(1, -1, self.codebook.n_features)

    def _per_row(self, mask: Tensor) -> Tensor:
        """A mask (*) as (P, n)."""
        flat = mask.reshape(1, -1)
        if self.separate_codebooks:
            return flat.expand(self.heads, -1)
        return flat.repeat_interleave(self.heads, dim=1)

    def _unrows(self, rows: Tensor, x: Tensor) -> Tensor:
        if self.separate_codebooks:
            rows = rows.transpose(0, 1)
        rows = rows.reshape(x.shape).to(x.dtype)
        return rows.movedim(-1, 1) if self.channel_first else rows

    def _uncodes(self, codes: Tensor, x: Tensor) -> Tensor:
        if self.separate_codebooks:
            codes = codes.T
        shape = x.shape[:-1] if self.heads == 1 else (*x.shape[:-1], self.heads)
        return codes.reshape(shape)

    def _centroids(self) -> Tensor:
        return self.codebook.centroids.view(-1, self.n_clusters, self.codebook.n_features)

    def _decode(self, codes: Tensor) -> Tensor:
        """(P, n) codes as (P, n, d)."""
        centroids = self._centroids()
        if len(centroids) == 1:
            return centroids[0][codes]
        index = codes.unsqueeze(-1).expand(*codes.shape, centroids.shape[-1])
        return centroids.gather(1, index)

    def _loss(self, rows: Tensor, target: Tensor, valid: Tensor | None) -> Tensor:
        target = target.to(rows.dtype)
        with full_precision(rows.device):
            losses = self.commitment * (rows - target.detach()).square().mean(dim=-1)
            if self.update_rule == "gradient":
                losses = losses + (rows.detach() - target).square().mean(dim=-1)
        if valid is None:
            return losses.sum() / max(losses.numel(), 1)
        return losses.where(valid, 0.0).sum() / valid.sum().clamp(min=1)

    # Of torch.nn.Module and of Join.

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        centroids = state_dict.get(f"{prefix}codebook.centroids")
        if isinstance(centroids, Tensor) and centroids.shape != self.codebook.centroids.shape:
            return  # the codebook refuses it
        self._forget()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> VectorQuantizer:
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
        problems = self.heads if self.separate_codebooks else 1
        nothing = self.codebook.centroids.new_empty((problems, 0, self.codebook.n_features))
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
