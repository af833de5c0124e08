"""The centroids of a quantizer, which are there before data have initialized them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kmeans_module.layer import KMeansLayer

_HALF = (torch.float16, torch.bfloat16)


class Codebook(KMeansLayer):
    """A :class:`~kmeans_module.KMeansLayer` whose centroids are random until it is initialized.

    Random centroids are drawn as the weights of :class:`torch.nn.Embedding` are, from N(0, 1), and
    have unit length where the metric is "cosine". Their codes are of no use, but of the right
    shape.

    Args:
        moving_average: whether the centroids are float32 at least, whatever the network is cast
            to: an average in half precision stands still where a batch moves it by less than a
            rounding step.
        dtype, arguments, options: of the layer.
    """

    def __init__(
        self,
        *arguments: Any,
        moving_average: bool = False,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        asked = torch.get_default_dtype() if dtype is None else dtype
        if moving_average and isinstance(asked, torch.dtype) and asked in _HALF:
            dtype = torch.float32
        super().__init__(*arguments, dtype=dtype, **options)
        self.averages = ("centroids",) if moving_average else ()
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw random centroids, and forget that there were others."""
        super().reset_parameters()
        self.centroids.normal_()
        if self.metric == "cosine":
            self.centroids.copy_(nn.functional.normalize(self.centroids, dim=-1))
