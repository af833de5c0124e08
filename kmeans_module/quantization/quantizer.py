"""What the three quantizers have in common: their shapes, their names, how they answer."""

from __future__ import annotations

from typing import Any

from torch import nn

from kmeans_module import checks as check
from kmeans_module.core.guard import compiling, exporting, under_mode
from kmeans_module.core.warn import warn
from kmeans_module.layer import KMeansLayer
from kmeans_module.quantization.layout import Layout
from kmeans_module.state import NotScripted


class Quantizer(NotScripted):
    """The base of the quantizers, whose shapes a :class:`Layout` says."""

    layout: Layout
    _warned = False

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
        """Raise NotInitializedError where there are no centroids yet.

        Args:
            n_layers: of how many of the layers centroids are needed; None for all.
        """
        if not self._has_centroids(n_layers):
            raise check.NotInitializedError(self._without_centroids())

    def _has_centroids(self, n_layers: int | None) -> bool:
        return all(layer.has_centroids() for layer in self.codebook_layers()[:n_layers])

    def _without_centroids(self) -> str:
        return f"{type(self).__name__} has no centroids yet: train it, or load a state_dict"

    def reset_parameters(self) -> None:
        """Draw random codebooks, and forget what was learnt."""
        for module in self.modules():
            if isinstance(module, Quantizer) and module is not self:
                module.reset_parameters()

    def check_answers(self, n_layers: int | None = None) -> None:
        """Warn, once, where evaluation answers from random centroids.

        Args:
            n_layers: of how many of the layers centroids are needed; None for all.

        Raises:
            NotInitializedError: such an answer would be learnt from, or become a part of a
                program that is exported or traced.
        """
        if self._has_centroids(n_layers):
            return
        # Compiled code is read again once there are centroids; an exported program is not.
        recorded = exporting() or (under_mode() and not compiling())
        if self.training or recorded:
            raise check.NotInitializedError(self._without_centroids())
        if not self._warned:
            warn(f"{self._without_centroids()}; until then it answers from random ones")
        for module in self.modules():
            if isinstance(module, Quantizer):
                module._warned = True

    def __getattr__(self, name: str) -> Any:
        if name == "update":
            raise AttributeError(
                f"{type(self).__name__} has no update(): it is now apply_update(); "
                "update= is an argument of the constructor"
            )
        return nn.Module.__getattr__(self, name)
