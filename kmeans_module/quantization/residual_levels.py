"""One level after the other: which samples each of them counts, and what it leaves."""

from __future__ import annotations

import torch
from torch import Tensor

from kmeans_module.core.guard import for_onnx
from kmeans_module.quantization.gradients import mean_loss, quantization_losses
from kmeans_module.quantization.layout import NO_CODE, hide_rows, weigh_rows
from kmeans_module.quantization.quantized import Measures, Quantized
from kmeans_module.quantization.residual_codes import ResidualCodes

DROPOUTS = ("batch", "sample")


class ResidualLevels(ResidualCodes):
    """Quantizes level by level; the base of :class:`ResidualQuantizer`.

    Attributes:
        dropout: whose number of levels is random in training: of a "batch", of each "sample"
            (entry of dimension 0 of x), or None.
    """

    dropout: str | None

    def level_masks(self, x: Tensor, mask: Tensor | None, n_levels: int) -> list[Tensor | None]:
        """Which samples of x (*, d) count at each level, (*) bool, and None for all: with dropout
        a sample does not at the levels after a random one."""
        masks = [mask] * n_levels
        present = x.new_ones(x.shape[:-1], dtype=torch.bool) if mask is None else mask
        if self.dropout and self.training:
            # A level that is not used takes part in the collectives: ranks draw their own numbers.
            leading = x.shape[:-1] if self.dropout == "sample" else ()
            used = torch.randint(1, n_levels + 1, leading[:1], device=x.device)
            used = used.view(used.shape + (1,) * (len(leading) - 1))
            masks = [present & (level < used) for level in range(n_levels)]
        if n_levels < self.n_levels and self.level(0).learns and self.level(0).group is not None:
            # So it does where ranks ask for numbers of their own.
            if self.shared_codebook:
                masks = [present if mask is None else mask for mask in masks]
            masks += [torch.zeros_like(present)] * (self.n_levels - n_levels)
        return masks

    def quantize_greedily(
        self, x: Tensor, masks: list[Tensor | None], weight: Tensor | None
    ) -> list[Quantized]:
        """Each level on what the levels before it left of x (*, d).

        Args:
            x: in the precision of distances.
            masks: see :meth:`level_masks`.
            weight: of the samples, (*); None for 1.
        """
        if self.shared_codebook:
            return self.level(0).quantize_in_turn(x, masks, weight)
        levels = []
        for number, mask in enumerate(masks):
            level: Quantized = self.level(number)(x, mask, weight)
            levels.append(level)
            x = x - level.quantized.detach()
        return levels

    def quantize_by_beams(
        self,
        x: Tensor,
        mask: Tensor | None,
        weight: Tensor | None,
        beam_size: int,
        n_levels: int,
    ) -> list[Quantized]:
        """The same in evaluation, with the codes of a beam search."""
        valid = None if mask is None else self.layout.mask_to_rows(mask)
        rows, seen, (valid,) = hide_rows(
            self.layout.to_rows(x, x.dtype),
            [valid],
            metric="euclidean",
            skip_nonfinite=self.level(0).nonfinite == "skip",
        )
        weight = None if weight is None else self.layout.mask_to_rows(weight)
        _, counted = weigh_rows(seen, valid, weight)
        searched = self.search(rows[0].detach(), beam_size=beam_size, n_levels=n_levels)
        levels = []
        for number, codes in enumerate(searched.unbind(dim=-1)):
            level = self.level(number)
            if valid is not None:
                codes = codes.where(valid[0], NO_CODE)
            quantized = level.looked_up(codes)
            errors, losses = quantization_losses(
                rows,
                quantized.unsqueeze(0),
                commitment=level.commitment,
                learns_by_gradient=level.update_rule == "gradient",
            )
            loss = mean_loss(losses, counted)
            rows = rows - quantized.detach()
            shape = x.shape[:-1]
            measures = None
            if not for_onnx():
                scale = float(self.n_features)
                measures = Measures((errors,), (losses,), scale, (level.n_clusters,))
            levels.append(
                Quantized(quantized.view(x.shape), codes.view(shape), loss, measures=measures)
            )
        return levels

    def measures_of(self, levels: list[Quantized]) -> Measures | None:
        """Of all levels together."""
        measured = [level.measures for level in levels if level.measures is not None]
        if not measured:
            return None
        return Measures(
            tuple(level.errors[0] for level in measured),
            tuple(level.losses[0] for level in measured),
            measured[0].scale,
            tuple(level.sizes[0] for level in measured),
            "levels",
        )
