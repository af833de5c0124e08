"""Linear maps to the few features that are quantized, and back: factorized codes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kmeans_module.core.guard import nan_like


class Projection(nn.Module):
    """What a quantizer does to vectors before they are quantized, and to their codes after.

    Learns by the gradients of the network and of the loss, as the encoder does.

    Source: Yu et al., Vector-quantized image modeling with improved VQGAN, ICLR 2022, section
    3.2 (factorized codes); Kumar et al., High-fidelity audio compression with improved RVQGAN,
    NeurIPS 2023.

    Args:
        n_features: features of a vector, d.
        width: features that are quantized.
        device, dtype: of the maps.
    """

    def __init__(
        self,
        n_features: int,
        width: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.project_in = nn.Linear(n_features, width, device=device, dtype=dtype)
        self.project_out = nn.Linear(width, n_features, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Draw both maps anew."""
        self.project_in.reset_parameters()
        self.project_out.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """x (*, d) as what is quantized, (*, width). A vector that is not finite stays so, and
        leaves the gradients of the others alone."""
        finite = x.detach().isfinite().all(dim=-1, keepdim=True)
        projected = self.project_in(x.where(finite, 0.0).to(self.project_in.weight.dtype))
        hidden: Tensor = projected.where(finite, nan_like(projected))
        return hidden

    def back(self, quantized: Tensor, known: Tensor | None) -> Tensor:
        """Vectors (*, d) of codes (*, width); 0 where there is none.

        Args:
            quantized: (*, width).
            known: which of them there are, (*) bool; None for all.
        """
        vectors: Tensor = self.project_out(quantized.to(self.project_out.weight.dtype))
        return vectors if known is None else vectors.where(known.unsqueeze(-1), 0.0)
