"""A layer shows itself: a figure of samples by cluster, an animation of its fit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kmeans_module.core.guard import require_values
from kmeans_module.core.seeding import Init
from kmeans_module.layer.steps import Steps

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

    from kmeans_module.figures import Animation


class Pictures(Steps):
    """Needs matplotlib, which is imported when it is first asked for."""

    def plot(
        self,
        x: Any,
        labels: Tensor | None = None,
        *,
        problem: int | tuple[int, ...] | None = None,
        path: Tensor | None = None,
        title: str | None = None,
        feature_names: Iterable[str] | None = None,
        colors: Tensor | None = None,
    ) -> Figure:
        """A figure of samples by cluster, which shows itself in a notebook; ``savefig`` writes it.

        One feature is drawn as a histogram, two are drawn as they are over the regions of the
        clusters, three or more in the plane of their two principal components, whose names say
        which share of the variance they show. Of more than 5,000 samples (a million of one
        feature) a selection is drawn, and the title says so. Pictures (H, W, 3) or (N, H, W, 3),
        and gray ones (.., 1), of values from 0 to 1 or to 255, are drawn beside themselves in the
        colors of their centroids.

        Args:
            x: samples (*batch_shape, n, d) or (n, d), a tensor, an array or a frame, whose columns
                name the features; pictures; or batches and rows as :meth:`fit` takes them.
            labels: of the samples, (*batch_shape, n); None for those of the layer.
            problem: index of the one that is drawn, of a layer with a batch_shape; None draws the
                first nine, side by side.
            path: centroids of every iteration so far, (t, k, d).
            title: heading.
            feature_names: d names; None for the columns of a frame, or numbers.
            colors: of the clusters, RGB (k, 3) from 0 to 1, such as ``layer.centroids`` for pixels;
                None for colors that are told apart.

        Returns:
            The figure, which belongs to no window and need not be closed.

        Raises:
            NotInitializedError: the layer has no centroids.
            ValueError: bad shapes, NaN or infinity.

        Examples:
            >>> import torch
            >>> from kmeans_module import KMeansLayer
            >>> x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [9.0, 0.0], [9.0, 1.0]])
            >>> layer = KMeansLayer(n_clusters=2, n_features=2)
            >>> _ = layer.fit(x, seed=0)
            >>> layer.plot(x).axes[0].get_title()
            '2 clusters'
        """
        from kmeans_module.figures.layers import plot_layer

        require_values(f"{type(self).__name__}.plot", self.centroids)
        return plot_layer(
            self, x, labels, problem=problem, path=path, title=title, feature_names=feature_names,
            colors=colors,
        )  # fmt: skip

    def animate(
        self,
        x: Any,
        *,
        init: Init = "k-means++",
        max_iter: int = 300,
        tol: float = 1e-4,
        sample_weight: Tensor | None = None,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        problem: int | tuple[int, ...] | None = None,
        title: str | None = None,
        feature_names: Iterable[str] | None = None,
        colors: Tensor | None = None,
        max_points: int = 2_000,
        max_frames: int = 100,
    ) -> Animation:
        """Fit a fresh layer like this one, and play its iterations; this one stays as it is.

        The fit is that of :meth:`fit` with the same arguments, looked at after every iteration.
        What is drawn is that of :meth:`plot`; pixels of pictures have the colors of their
        centroids.

        Args:
            x, problem, title, feature_names, colors: see :meth:`plot`; of a layer with a
                batch_shape one problem plays.
            init, max_iter, tol, sample_weight, generator, seed: see :meth:`fit`.
            max_points: samples drawn at most.
            max_frames: iterations shown at most, the first and the last among them.

        Returns:
            An animation that shows itself in a notebook, ``save(path)`` writes a page for a
            browser; at most about 4 MB.

        Raises:
            ValueError: as :meth:`fit` and :meth:`plot`.

        Examples:
            >>> import torch
            >>> from kmeans_module import KMeansLayer
            >>> x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [9.0, 0.0], [9.0, 1.0]])
            >>> KMeansLayer(n_clusters=2, n_features=2).animate(x, seed=0)
            <Animation: k-means, 2 clusters, 2 iterations; save(path) writes a page for a browser>
        """
        from kmeans_module.figures.recording import animate_layer

        require_values(f"{type(self).__name__}.animate", self.centroids)
        return animate_layer(
            self, x, init=init, max_iter=max_iter, tol=tol, sample_weight=sample_weight,
            generator=generator, seed=seed, problem=problem, title=title,
            feature_names=feature_names, colors=colors, max_points=max_points,
            max_frames=max_frames,
        )  # fmt: skip
