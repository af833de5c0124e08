"""What the three quantizers have in common: their outputs, their shapes, their names."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from kmeans_module import checks as check
from kmeans_module.core.guard import under_mode
from kmeans_module.layer import KMeansLayer
from kmeans_module.quantization.layout import Layout
from kmeans_module.state import NotScripted


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


class Quantizer(NotScripted):
    """The base of the quantizers, whose shapes a :class:`Layout` says."""

    layout: Layout

    @property
    def n_features(self) -> int:
        """Features of a vector, d."""
        return self.layout.n_features

    @property
    def channel_first(self) -> bool:
        """Whether features are dimension 1 of x."""
        return self.layout.channel_first

    def codebook_layers(self) -> list[KMeansLayer]:
        """The layers that hold the centroids."""
        raise NotImplementedError

    def check_initialized(self, n_layers: int | None = None) -> None:
        """Raise NotInitializedError where there are no centroids yet (not in compiled code).

        Args:
            n_layers: of how many of the layers centroids are needed; None for all.
        """
        if under_mode():
            return
        try:
            for layer in self.codebook_layers()[:n_layers]:
                layer.check_initialized()
        except check.NotInitializedError:
            raise check.NotInitializedError(
                f"{type(self).__name__} has no centroids yet: train it, or load a state_dict"
            ) from None

    def __getattr__(self, name: str) -> Any:
        if name == "update":
            raise AttributeError(
                f"{type(self).__name__} has no update(): it is now apply_update(); "
                "update= is an argument of the constructor"
            )
        return nn.Module.__getattr__(self, name)
