"""Rows and the centroids that stand for them: gradients, losses, and what is measured of both."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kmeans_module.core.distances import unit_rows
from kmeans_module.core.guard import for_onnx
from kmeans_module.quantization.gradients import (
    gumbel,
    mean_loss,
    quantization_losses,
    rotate,
    straight_through,
)
from kmeans_module.quantization.layout import NO_CODE, hide_rows, weigh_rows
from kmeans_module.quantization.quantized import Measures, Quantized
from kmeans_module.quantization.vector_codes import VectorCodes


class Replaced(NamedTuple):
    """Rows (P, n, d / heads) that codes stand for, codes, loss (), and errors and losses of each
    row, all three (P, n)."""

    quantized: Tensor
    codes: Tensor
    loss: Tensor
    errors: Tensor
    losses: Tensor


class VectorRows(VectorCodes):
    """Replaces rows by centroids; the base of :class:`VectorQuantizer`, which says what the
    attributes mean."""

    temperature: float
    commitment: float
    # scale, sizes and axis of Measures
    measured: tuple[float, tuple[int, ...], str | None]

    def quantize_in_turn(
        self, x: Tensor, masks: list[Tensor | None], sample_weight: Tensor | None = None
    ) -> list[Quantized]:
        """Quantize x, then what is left of it, and so on; the codebook learns from all of it at
        once. What the levels of a residual quantizer do that share a codebook.

        Args:
            x: (*, d), in the precision of distances.
            masks: for each level, True for samples that count, (*) bool; None for all.
            sample_weight: (*), as :meth:`Layout.check_weight` returned it.

        Returns:
            For each level quantized (*, d), codes (*) int64, loss ().
        """
        parts, cosine = self.parts, self.codebook.metric == "cosine"
        left = parts.to_rows(x, x.dtype)
        valids = [None if mask is None else parts.mask_to_rows(mask) for mask in masks]
        left, seen, valids = hide_rows(
            left, valids, metric="euclidean", skip_nonfinite=self.nonfinite == "skip"
        )
        weight = None if sample_weight is None else parts.mask_to_rows(sample_weight)
        state = None
        levels: list[Quantized] = []
        recorded: list[tuple[Tensor, Tensor | None, Tensor]] = []
        for valid in valids:
            rows = unit_rows(left) if cosine else left
            seen, counted = weigh_rows(unit_rows(seen) if cosine else seen, valid, weight)
            if self.learns and state is None:
                state = self.begin(seen, counted)
            relaxed, nearest = self.draw(rows)
            if nearest is None:
                nearest = self._nearest(rows, state)
            recorded.append((seen, counted, nearest))
            found = self.replace(rows, nearest, relaxed, valid, counted)
            left = left - found.quantized.detach()
            seen = left.detach()
            levels.append(self.output(found, valid, x.shape, x.dtype))
        if state is not None:
            counting = [counted for _, counted, _ in recorded if counted is not None]
            self.record(
                torch.cat([seen for seen, _, _ in recorded], dim=1),
                torch.cat(counting, dim=1) if counting else None,
                torch.cat([codes for _, _, codes in recorded], dim=1),
                state,
            )
        return levels

    def draw(self, rows: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Codes (P, n) drawn by "gumbel" in training, and their centroids with relaxed gradients,
        (P, n, d / heads); None and None where codes are not drawn but the nearest."""
        if self.estimator != "gumbel" or not self.training:
            return None, None
        centroids = self.codebook.centroids
        if not self.parts.separate_codebooks:
            centroids = centroids.unsqueeze(0)
        # Backward needs these centroids, also after an update.
        return gumbel(
            rows,
            centroids.clone(),
            temperature=self.temperature,
            metric=self.codebook.metric,
        )

    def replace(
        self,
        rows: Tensor,
        codes: Tensor,
        relaxed: Tensor | None,
        valid: Tensor | None,
        counted: Tensor | None,
    ) -> Replaced:
        """Centroids in place of rows, with the gradient of the estimator, and the loss.

        Args:
            rows: (P, n, d / heads).
            codes: (P, n).
            relaxed: the centroids with the gradient of :meth:`draw`, if it drew the codes.
            valid: which rows count, (P, n) bool; None for all.
            counted: the same, or weights in its place.
        """
        target = self._centroids_of(codes)
        quantized = relaxed
        if quantized is None:
            estimate = rotate if self.estimator == "rotation" else straight_through
            quantized = estimate(rows, target.detach())
        errors, losses = quantization_losses(
            rows, target, commitment=self.commitment,
            learns_by_gradient=self.update_rule == "gradient",
        )  # fmt: skip
        loss = mean_loss(losses, counted)
        if valid is not None:
            codes = codes.where(valid, NO_CODE)
            quantized = quantized.where(valid.unsqueeze(-1), 0.0)
        if self.codebook.metric == "cosine" and not for_onnx():
            # 1 - cos of a zero row is 1, as the layer has it: half of the squared difference.
            empty: Tensor = torch.linalg.vector_norm(rows.detach(), dim=-1) == 0
            errors = errors.masked_fill(empty, 2 / rows.shape[-1])
        return Replaced(quantized, codes, loss, errors, losses)

    def output(
        self, found: Replaced, valid: Tensor | None, shape: torch.Size, dtype: torch.dtype
    ) -> Quantized:
        """What is handed to users.

        Args:
            found: of rows.
            valid: which rows count, (P, n) bool; None for all.
            shape: (*, width) of what the codebook took.
            dtype: of the quantized vectors.
        """
        parts = self.parts
        codes = parts.codes_from_rows(found.codes, shape)
        if self.projection is None:
            quantized = parts.from_rows(found.quantized, shape, dtype)
        else:
            inner = parts.from_rows(found.quantized, shape, found.quantized.dtype)
            known = None if valid is None else self._known(codes)
            quantized = self.projection.back(inner, known).to(dtype)
        measures = None
        if not for_onnx():  # whose programs return three tensors
            measures = Measures((found.errors,), (found.losses,), *self.measured)
        return Quantized(
            self.layout.features_back(quantized),
            codes.to(self.code_dtype),
            found.loss,
            measures=measures,
        )
