"""VectorQuantizer: a codebook inside a network."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kmeans_module import checks as check
from kmeans_module.backends import compute_dtype, full_precision, prepare, unit_rows
from kmeans_module.core.soft import check_soft
from kmeans_module.layer import KMeansLayer
from kmeans_module.quantization.codebook import LearningCodebook
from kmeans_module.quantization.gradients import ESTIMATORS, gumbel, rotate, straight_through
from kmeans_module.rows.ranks import ProcessGroup

NO_CODE = -1


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


class VectorQuantizer(LearningCodebook):
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
            sample; None for a tenth of an even share, 0 for never.
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
        n_features = check.check_integer("n_features", n_features, minimum=1)
        heads = check.check_integer("heads", heads, minimum=1)
        if n_features % heads:
            raise ValueError(f"heads should divide n_features={n_features}; got {heads}")
        check.check_choice("estimator", estimator, ESTIMATORS)
        check_soft(temperature)
        separate_codebooks = separate_codebooks and heads > 1
        super().__init__(
            KMeansLayer(
                n_clusters, n_features // heads, metric=metric, empty_cluster="keep",
                batch_shape=(heads,) if separate_codebooks else (),
                requires_grad=update == "gradient", device=device, dtype=dtype,
            ),
            update=update, decay=decay, smoothing=smoothing, init_batches=init_batches,
            revive_below=revive_below, nonfinite=nonfinite, process_group=process_group,
        )  # fmt: skip
        self.n_features = n_features
        self.heads = heads
        self.separate_codebooks = separate_codebooks
        self.estimator = estimator
        self.temperature = temperature
        self.commitment = check.check_number("commitment", commitment, minimum=0)
        self.channel_first = channel_first

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
        rows, seen, (valid,) = self._counted(x, [mask])
        draws = self.training and self.estimator == "gumbel"
        if self.learns:
            self.begin(seen, valid)
        elif not torch.compiler.is_compiling():
            self.codebook.check_initialized()
        if draws:
            # Backward needs these centroids, also after an update.
            centroids = self._centroids().clone()
            quantized, codes = gumbel(
                rows, centroids, temperature=self.temperature, metric=self.codebook.metric
            )
            target = self._decode(codes)
        if self.learns:
            found = self.record(seen, valid, codes if draws else None)
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
        rows, first, valids = self._counted(x, masks)
        found, seen, chosen = [], [first], []
        if self.learns:
            self.begin(first, valids[0])
        elif not torch.compiler.is_compiling():
            self.codebook.check_initialized()
        for valid in valids:
            if self.training and self.estimator == "gumbel":
                quantized, codes = gumbel(
                    rows, self._centroids().clone(), temperature=self.temperature
                )
                target = self._decode(codes)
            else:
                if self.learns:
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
        if self.learns:
            valid = None
            if valids[0] is not None:
                valid = torch.cat([v for v in valids if v is not None], dim=1)
            self.record(torch.cat(seen[:-1], dim=1), valid, torch.cat(chosen, dim=1))
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

    def _counted(
        self, x: Tensor, masks: list[Tensor | None]
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """x (*, d) as rows (P, n, d / heads), 0 where the first mask hides them; the same to
        learn from, which still shows what is not finite; and who counts, (P, n) for each mask."""
        rows = self._rows(x)
        valids = [None if mask is None else self._per_row(mask) for mask in masks]
        if valids[0] is not None:
            rows = rows.where(valids[0].unsqueeze(-1), 0.0)
        if self.nonfinite == "skip":
            finite = rows.detach().isfinite().all(dim=-1)
            rows = rows.where(finite.unsqueeze(-1), 0.0)
            valids = [finite if valid is None else valid & finite for valid in valids]
        if self.codebook.metric == "cosine":
            rows = unit_rows(rows)
        if self.nonfinite == "skip":
            return rows, rows.where(finite.unsqueeze(-1), torch.nan), valids
        return rows, rows, valids

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
