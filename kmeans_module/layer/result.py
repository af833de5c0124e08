"""What a fit tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from kmeans_module.core.fit import Fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class FitResult(NamedTuple):
    """What a fit found; the centroids are in the layer.

    Attributes:
        labels: nearest centroid of each sample, (*batch_shape, n) int64; None for a stream, whose
            labels ``rows.labels(centroids)`` gives batch by batch.
        inertia: weighted sum of squared distances, (*batch_shape) float64.
        n_iter: iterations, (*batch_shape) int64.
        converged: whether the centroids stand still: no label changed in the last E-step, or the
            shift of the last M-step is within tol, (*batch_shape) bool. A fit may find that out
            in its last iteration, with n_iter equal to max_iter.
        history: inertia of the centroids before each iteration, and at last of those that
            the layer holds, (*batch_shape, n_iter.max() + 1) float64.

    Example:
        >>> import torch
        >>> from kmeans_module import KMeansLayer
        >>> layer = KMeansLayer(n_clusters=2, n_features=1)
        >>> result = layer.fit(torch.tensor([[0.0], [2.0], [9.0]]), seed=0)
        >>> result.inertia, result.converged, result.history[-1] == result.inertia
        (tensor(2., dtype=torch.float64), tensor(True), tensor(True))
        >>> labels, inertia, *_ = result
    """

    labels: Tensor | None
    inertia: Tensor
    n_iter: Tensor
    converged: Tensor
    history: Tensor

    def plot(self) -> Figure:
        """The history as a figure, which shows itself in a notebook; ``savefig`` writes it.

        Returns:
            See :func:`kmeans_module.figures.plot_history`.
        """
        from kmeans_module.figures import plot_history

        return plot_history(self.history)

    @classmethod
    def of(cls, outcome: Fit, batch_shape: tuple[int, ...]) -> FitResult:
        """With batch_shape in place of the axis of problems."""
        labels = outcome.labels
        return cls(
            None if labels is None else labels.reshape(*batch_shape, -1),
            outcome.inertia.reshape(batch_shape),
            outcome.n_iter.reshape(batch_shape),
            outcome.converged.reshape(batch_shape),
            outcome.history.reshape(*batch_shape, -1),
        )
