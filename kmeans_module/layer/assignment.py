"""What centroids tell of samples: labels, distances, shares; and the centroids of labels."""

from __future__ import annotations

from torch import Tensor

from kmeans_module import checks as check
from kmeans_module import functional as F
from kmeans_module.core.distances import compute_dtype
from kmeans_module.core.guard import readable, without_gradients
from kmeans_module.core.neighbors import Neighbors
from kmeans_module.layer.portable import PortableCentroids
from kmeans_module.rows.survey import refuse_nonfinite


class Assignment(PortableCentroids):
    """Samples meet centroids that stay as they are; the base of KMeansLayer."""

    def forward(self, x: Tensor) -> Tensor:
        """Labels of the nearest centroids; never changes the layer.

        Args:
            x: samples, (*, d), or with a batch_shape (*batch_shape, n, d) or (n, d).

        Returns:
            (*), or (*batch_shape, n), int64. Ties go to the lowest index.

        Raises:
            NotInitializedError: the layer has no centroids.
            ValueError: x has another number of features, or holds NaN or infinity (checked on
                the CPU, not in compiled code).

        Example:
            >>> import torch
            >>> from kmeans_module import KMeansLayer
            >>> layer = KMeansLayer.from_centroids([[0.0, 0.0], [9.0, 9.0]])
            >>> layer(torch.tensor([[1.0, 2.0], [8.0, 7.0]]))
            tensor([0, 1])
        """
        self.check_initialized()
        return self.nearest(x)

    @without_gradients
    def nearest(self, x: Tensor) -> Tensor:
        """What :meth:`forward` does, with the centroids as they are, even if none were chosen.

        Args:
            x: see :meth:`forward`.

        Returns:
            Labels, as of :meth:`forward`.
        """
        x = self._check_shape(x)
        labels, finite = F.assign(self._flat(x), self.centroids, metric=self.metric)
        if readable(x) and not finite:
            refuse_nonfinite(x, compute_dtype(x, self.centroids))
        return labels.reshape(self._label_shape(x))

    @without_gradients
    def search(self, x: Tensor, m: int) -> Neighbors:
        """The m nearest centroids, the nearest first; never changes the layer.

        Args:
            x: samples, (*, d), or with a batch_shape (*batch_shape, n, d) or (n, d).
            m: how many, from 1 to n_clusters.

        Returns:
            distances and labels, (*, m), or (*batch_shape, n, m), by the sum that decides in
            :meth:`e_step`, whose labels and distances the first ones are; ties go to the lowest
            index. Neither has a gradient, which :meth:`transform` has.

        Raises:
            NotInitializedError, ValueError: as :meth:`forward`; m out of range.

        Example:
            >>> import torch
            >>> from kmeans_module import KMeansLayer
            >>> layer = KMeansLayer.from_centroids([[0.0], [9.0], [5.0]])
            >>> distances, labels = layer.search(torch.tensor([[1.0], [8.0]]), 2)
            >>> labels
            tensor([[0, 2],
                    [1, 2]])
        """
        x = self._check_input(x)
        found = F.search(self._flat(x), self.centroids, m, metric=self.metric)
        if readable(x) and not found.distances.isfinite().all():
            refuse_nonfinite(x, found.distances.dtype)
        return found.reshape(*self._label_shape(x))

    def transform(self, x: Tensor) -> Tensor:
        """Squared distances to all centroids, or 1 - cos, differentiable.

        Args:
            x: samples, (*, d), or with a batch_shape (*batch_shape, n, d) or (n, d).

        Returns:
            (*, k), or (*batch_shape, n, k).

        Raises:
            NotInitializedError, ValueError: as :meth:`forward`.

        Example:
            >>> import torch
            >>> from kmeans_module import KMeansLayer
            >>> layer = KMeansLayer.from_centroids([[0.0], [9.0]])
            >>> layer.transform(torch.tensor([[1.0], [8.0]]))
            tensor([[ 1., 64.],
                    [64.,  1.]])
        """
        x = self._check_input(x)
        distances = F.pairwise_distances(self._flat(x), self.centroids, metric=self.metric)
        if readable(x) and not distances.isfinite().all():
            refuse_nonfinite(x, distances.dtype)
        return distances.reshape(*self._label_shape(x), self.n_clusters)

    def soft_assign(
        self, x: Tensor, *, temperature: float = 1.0, kernel: str = "softmax"
    ) -> Tensor:
        """Shares of the clusters in each sample, differentiable.

        The function: :func:`kmeans_module.functional.soft_assign`.

        Args:
            x: samples, (*, d), or with a batch_shape (*batch_shape, n, d) or (n, d).
            temperature: T of "softmax", degrees of freedom of "student-t"; more than 0.
            kernel: "softmax" of -distance / T, or "student-t".

        Returns:
            (*, k), or (*batch_shape, n, k); each row sums to 1.

        Raises:
            NotInitializedError, ValueError: as :meth:`forward`.

        Example:
            >>> import torch
            >>> from kmeans_module import KMeansLayer
            >>> layer = KMeansLayer.from_centroids([[0.0], [2.0]])
            >>> layer.soft_assign(torch.tensor([[1.0], [0.0]]), temperature=2.0)
            tensor([[0.5000, 0.5000],
                    [0.8808, 0.1192]])
        """
        x = self._check_input(x)
        shares = F.soft_assign(
            self._flat(x),
            self.centroids,
            temperature=temperature,
            kernel=kernel,
            metric=self.metric,
        )
        if readable(x) and not shares.isfinite().all():
            refuse_nonfinite(x, shares.dtype)
        return shares.reshape(*self._label_shape(x), self.n_clusters)

    def decode(self, labels: Tensor) -> Tensor:
        """The centroids of labels.

        Args:
            labels: integers, (*), or with a batch_shape (*batch_shape, n).

        Returns:
            (*, d), or (*batch_shape, n, d).

        Raises:
            ValueError: labels outside 0 .. k-1 (checked on the CPU).

        Example:
            >>> import torch
            >>> from kmeans_module import KMeansLayer
            >>> layer = KMeansLayer.from_centroids([[0.0], [9.0]])
            >>> layer.decode(torch.tensor([1, 0, 1])).flatten()
            tensor([9., 0., 9.])
        """
        self.check_initialized()
        return F.decode(labels, self.centroids)

    def _flat(self, x: Tensor) -> Tensor:
        """Samples as the functions take them, (n, d), or with a batch_shape as they are."""
        return x if self.batch_shape or x.ndim == 2 else x.reshape(-1, self.n_features)

    def _label_shape(self, x: Tensor) -> tuple[int, ...]:
        return (*self.batch_shape, x.shape[-2]) if self.batch_shape else tuple(x.shape[:-1])

    def _check_input(self, x: Tensor) -> Tensor:
        self.check_initialized()
        return self._check_shape(x)

    def _check_shape(self, x: Tensor) -> Tensor:
        if self.batch_shape:
            x = check.check_samples(x, self.n_features, self.batch_shape, sparse=True)
        else:
            x = check.check_features(x, self.n_features, sparse=True)
        check.check_device("x", x, self.centroids.device)
        return x
