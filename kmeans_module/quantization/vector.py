"""VectorQuantizer: a codebook inside a network."""

from __future__ import annotations

import torch
from torch import Tensor

from kmeans_module import checks as check
from kmeans_module.core.distances import compute_dtype
from kmeans_module.core.guard import readable
from kmeans_module.core.soft import check_soft
from kmeans_module.core.statistics import gather_rows
from kmeans_module.quantization import learning
from kmeans_module.quantization.centroids import Codebook
from kmeans_module.quantization.codebook import UPDATES, LearningCodebook
from kmeans_module.quantization.codebook_state import CodebookState
from kmeans_module.quantization.gradients import (
    ESTIMATORS,
    gumbel,
    quantization_loss,
    rotate,
    straight_through,
)
from kmeans_module.quantization.layout import NO_CODE, Layout, check_codes, check_range, hide_rows
from kmeans_module.quantization.quantized import Quantized
from kmeans_module.rows.ranks import ProcessGroup


class VectorQuantizer(LearningCodebook):
    r"""Replaces every vector by the nearest of a codebook that learns in training.

    .. math:: \text{loss} = \beta \, \text{mean} \|x - \text{sg}[q]\|^2
              \; (+ \, \text{mean} \|\text{sg}[x] - q\|^2
              \text{ where the codebook learns by gradient})

    with means over samples and features. A forward pass in training only records what it saw:
    the codebook moves at the next one, on leaving training, or by :meth:`apply_update`; so
    backward sees the codebook that forward saw. The first batches in training initialize the
    codebook. Evaluation before that answers from random centroids, see :class:`Codebook`, and
    warns once; :meth:`encode` refuses.

    Under torch.distributed all ranks record the same, over the samples of all of them. Where
    ranks have unequal numbers of batches, train within
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
            "gradient". None, the default, lets the codebook remember a twentieth of the samples
            that it has seen: 4 for each code at least, until the decay is 0.99.
        smoothing: Laplace smoothing of the counts, in samples of a batch.
        estimator: of the gradient for x: "straight-through", "rotation" (Fifty 2024), or
            "gumbel": codes are drawn from softmax(-distance / temperature) in training.
        temperature: of "gumbel"; may be changed in training.
        commitment: β.
        init_batches: batches that initialize the codebook, by k-means++ and a few of Lloyd's
            steps; more, while they have fewer samples than there are codes.
        revive_below: a code that gets fewer samples of a batch than this, on average, moves
            to a sample, the farthest of a few random ones from its code, or towards it from
            that code, by half the spread of the codebook at most. None, the default, is on: a
            tenth of an even share. 0 is off.
        channel_first: whether features are dimension 1 of x, as in images.
        nonfinite: what a batch with NaN or infinity in training does: raise an "error", or
            "skip": nothing is learnt from it, and rows that are not finite count as masked. On an
            accelerator the next apply_update, eval or state_dict raises; nothing waits before.
        process_group: the ranks whose samples the codebook learns from: "default" for all ranks
            where torch.distributed is in use; a ProcessGroup; or None for this process only,
            whatever the other ranks do.
        device: of the codebook.
        dtype: of what :meth:`decode` returns, and of the codebook: but one that learns by moving
            average is float32 at least, also after ``network.bfloat16()``.

    Shape:
        - Input: (\*, d), or (N, d, \*) with channel_first.
        - Output: quantized like the input, codes (\*) or (\*, heads), loss ().

    Attributes:
        codebook: a :class:`KMeansLayer` of k centroids, with a batch_shape (heads,) where
            codebooks are separate.
        precision: an empty tensor of the module's dtype.
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

    def __init__(
        self,
        n_clusters: int,
        n_features: int,
        *,
        metric: str = "euclidean",
        heads: int = 1,
        separate_codebooks: bool = False,
        update: str = "ema",
        decay: float | None = None,
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
        n_features = check.check_integer("n_features", n_features, minimum=1)
        heads = check.check_integer("heads", heads, minimum=1)
        if n_features % heads:
            raise ValueError(f"heads should divide n_features={n_features}; got {heads}")
        check.check_choice("update", update, UPDATES)
        check.check_flag("separate_codebooks", separate_codebooks)
        check.check_flag("channel_first", channel_first)
        check.check_choice("estimator", estimator, ESTIMATORS)
        check_soft(temperature)
        layout = Layout(n_features, heads, separate_codebooks and heads > 1, channel_first)
        codebook = Codebook(
            n_clusters,
            n_features // heads,
            metric=metric,
            empty_cluster="keep",
            batch_shape=(heads,) if layout.separate_codebooks else (),
            requires_grad=update == "gradient",
            moving_average=update == "ema",
            device=device,
            dtype=dtype,
        )
        super().__init__(
            codebook,
            dtype=dtype,
            update=update,
            decay=decay,
            smoothing=smoothing,
            init_batches=init_batches,
            revive_below=revive_below,
            nonfinite=nonfinite,
            process_group=process_group,
        )
        self.layout = layout
        self.estimator = estimator
        self.temperature = temperature
        self.commitment = check.check_number("commitment", commitment, minimum=0)

    @property
    def heads(self) -> int:
        """Parts of the features that are quantized each on its own."""
        return self.layout.heads

    @property
    def separate_codebooks(self) -> bool:
        """Whether each head has a codebook of its own."""
        return self.layout.separate_codebooks

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
            mask: True for samples that count, of the shape of x without its features. Masked
                samples get code -1, quantized 0, and no part in loss or learning.

        Returns:
            quantized, codes, loss.

        Raises:
            NotInitializedError: frozen in training before the codebook has centroids.
            ValueError: x of another number of features, a mask of another shape; NaN or
                infinity in training unless nonfinite is "skip", and in evaluation.
        """
        layout, codebook = self.layout, self.codebook
        x, mask = layout.check(x, mask, codebook.centroids.device)
        rows = layout.to_rows(x, compute_dtype(x, codebook.centroids))
        valid = None if mask is None else layout.mask_to_rows(mask)
        rows, seen, (valid,) = hide_rows(
            rows, [valid], metric=codebook.metric, skip_nonfinite=self.nonfinite == "skip"
        )
        if not self.learns:
            self.check_answers()
        state = self.begin(seen, valid) if self.learns else None
        relaxed, codes = self._draw(rows)
        if state is not None:
            codes = self.record(seen, valid, codes, state)
        elif codes is None:
            codes = self._nearest(rows, state)
        quantized, codes, loss = self._replace(rows, codes, relaxed, valid)
        quantized = layout.from_rows(quantized, x.shape, x.dtype)
        return Quantized(
            layout.features_back(quantized), layout.codes_from_rows(codes, x.shape), loss
        )

    def quantize_in_turn(self, x: Tensor, masks: list[Tensor | None]) -> list[Quantized]:
        """Quantize x, then what is left of it, and so on; the codebook learns from all of it at
        once. What the levels of a residual quantizer do that share a codebook.

        Args:
            x: (*, d), in the precision of distances.
            masks: for each level, True for samples that count, (*) bool; None for all.

        Returns:
            For each level quantized (*, d), codes (*), loss ().
        """
        layout = self.layout
        rows = layout.to_rows(x, x.dtype)
        valids = [None if mask is None else layout.mask_to_rows(mask) for mask in masks]
        rows, seen, valids = hide_rows(
            rows, valids, metric=self.codebook.metric, skip_nonfinite=self.nonfinite == "skip"
        )
        state = self.begin(seen, valids[0]) if self.learns else None
        levels: list[Quantized] = []
        recorded: list[tuple[Tensor, Tensor]] = []
        for valid in valids:
            relaxed, nearest = self._draw(rows)
            if nearest is None:
                nearest = self._nearest(rows, state)
            recorded.append((seen, nearest))
            quantized, codes, loss = self._replace(rows, nearest, relaxed, valid)
            rows = rows - quantized.detach()
            seen = rows.detach()
            quantized = layout.from_rows(quantized, x.shape, x.dtype)
            levels.append(Quantized(quantized, layout.codes_from_rows(codes, x.shape), loss))
        if state is not None:
            counting = [valid for valid in valids if valid is not None]
            self.record(
                torch.cat([seen for seen, _ in recorded], dim=1),
                torch.cat(counting, dim=1) if counting else None,
                torch.cat([codes for _, codes in recorded], dim=1),
                state,
            )
        return levels

    def encode(self, x: Tensor) -> Tensor:
        """Codes of the nearest centroids; learns nothing, whatever mode the module is in.

        Args:
            x: (*, d), or (N, d, *) with channel_first; floats, or integers.

        Returns:
            (*), or (*, heads), int64.

        Raises:
            NotInitializedError: the codebook has no centroids.
            ValueError: x of another number of features; NaN or infinity.
        """
        self.check_initialized()
        layout, centroids = self.layout, self.codebook.centroids
        x, _ = layout.check(x, None, centroids.device, integers=True)
        rows = layout.to_rows(x, compute_dtype(x, centroids))
        codes = self._nearest(rows, None)
        return layout.codes_from_rows(codes, x.shape)

    def decode(self, codes: Tensor) -> Tensor:
        """The centroids of codes; 0 for -1, which says that there is none.

        Args:
            codes: integers (*), or (*, heads).

        Returns:
            (*, d), or (N, d, *) with channel_first, of the dtype of the module.

        Raises:
            NotInitializedError: in training, before the codebook has centroids.
            ValueError: a code that is neither -1 nor one of 0 .. k-1 (seen on the CPU).
        """
        return self.layout.features_back(self.looked_up(codes).to(self.precision.dtype))

    def looked_up(self, codes: Tensor) -> Tensor:
        """What :meth:`decode` gives, (*, d), of the dtype of the centroids."""
        self.check_answers()
        layout = self.layout
        codes = check_codes(codes, n_codes=layout.heads if layout.heads > 1 else None)
        if readable(codes):
            check_range(codes, self.n_clusters, lowest=NO_CODE)
        codes = codes.long()
        shape = codes.shape if layout.heads == 1 else codes.shape[:-1]
        by_row = layout.codes_to_rows(codes)
        rows = self._centroids_of(by_row.clamp(min=0))
        rows = rows.where((by_row != NO_CODE).unsqueeze(-1), 0.0)
        return layout.from_rows(rows, torch.Size((*shape, layout.n_features)), rows.dtype)

    def _draw(self, rows: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Codes (P, n) drawn by "gumbel" in training, and their centroids with relaxed gradients,
        (P, n, d / heads); None and None where codes are not drawn but the nearest."""
        if self.estimator != "gumbel" or not self.training:
            return None, None
        centroids = self.codebook.centroids
        if not self.layout.separate_codebooks:
            centroids = centroids.unsqueeze(0)
        # Backward needs these centroids, also after an update.
        return gumbel(
            rows,
            centroids.clone(),
            temperature=self.temperature,
            metric=self.codebook.metric,
        )

    def _nearest(self, rows: Tensor, state: CodebookState | None) -> Tensor:
        """Codes (P, n) of the nearest centroids: of a layer, which refuses rows that are not
        finite, or of a state that learns, which refuses them on all ranks at once, later."""
        if state is None:
            return self.codebook.nearest(rows)
        with torch.no_grad():
            return learning.nearest(rows.detach(), state.centroids)

    def _replace(
        self, rows: Tensor, codes: Tensor, relaxed: Tensor | None, valid: Tensor | None
    ) -> Quantized:
        """Centroids in place of rows, with the gradient of the estimator, and the loss.

        Args:
            rows: (P, n, d / heads).
            codes: (P, n).
            relaxed: the centroids with the gradient of :meth:`_draw`, if it drew the codes.
            valid: which rows count, (P, n) bool; None for all.
        """
        target = self._centroids_of(codes)
        quantized = relaxed
        if quantized is None:
            estimate = rotate if self.estimator == "rotation" else straight_through
            quantized = estimate(rows, target.detach())
        loss = quantization_loss(
            rows, target, valid, commitment=self.commitment,
            learns_by_gradient=self.update_rule == "gradient",
        )  # fmt: skip
        if valid is not None:
            codes = codes.where(valid, NO_CODE)
            quantized = quantized.where(valid.unsqueeze(-1), 0.0)
        return Quantized(quantized, codes, loss)

    def _centroids_of(self, codes: Tensor) -> Tensor:
        """Centroids (P, n, d / heads) of codes (P, n)."""
        centroids = self.codebook.centroids
        if not self.layout.separate_codebooks:
            return centroids[codes]
        return gather_rows(centroids, codes)
