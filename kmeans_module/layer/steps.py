"""The steps of k-means on a layer: prepare rows, E-step, M-step."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from torch import Tensor

from kmeans_module import checks as check
from kmeans_module import functional as F
from kmeans_module.core.distances import compute_dtype
from kmeans_module.core.guard import changed_in_place, readable, require_values, without_gradients
from kmeans_module.core.label_stats import LabelStats
from kmeans_module.core.seeding import Init
from kmeans_module.core.statistics import ClusterStats, EStep
from kmeans_module.given_labels import label_stats
from kmeans_module.layer.assignment import Assignment
from kmeans_module.rows.entry import ROWS, AnyRows, BatchOf, Data, check_fits, enter
from kmeans_module.rows.last import LastSearch
from kmeans_module.rows.ranks import ProcessGroup, agree, errors_shared
from kmeans_module.rows.survey import refuse, refuse_nonfinite


class Steps(Assignment):
    """Loops of one's own take these; the base of KMeansLayer."""

    def prepare(
        self,
        x: Data,
        sample_weight: Tensor | None = None,
        *,
        process_group: ProcessGroup | None = None,
        resident: bool = False,
        batch_of: BatchOf | None = None,
    ) -> AnyRows:
        """The rows of x, checked once, for :meth:`fit` and repeated :meth:`e_step`.

        Needs no centroids yet. The rows and weights must not change meanwhile.

        Args:
            x, sample_weight, process_group, resident, batch_of: see :meth:`fit`.

        Returns:
            Rows, see :mod:`kmeans_module.rows`; they hold for this number of features, metric and
            device.

        Raises:
            ValueError: what :meth:`e_step` and :meth:`fit` refuse: bad shapes, NaN, infinity.

        Example:
            >>> import torch
            >>> from kmeans_module import KMeansLayer
            >>> layer = KMeansLayer.from_centroids([[0.0], [9.0]])
            >>> rows = layer.prepare(torch.tensor([[0.0], [2.0], [7.0]]))
            >>> for _ in range(2):
            ...     shift = layer.m_step(layer.e_step(rows).stats)
            >>> layer.centroids.flatten()
            tensor([1., 7.])
        """
        self._require_values("prepare", x)
        check.check_process_group(process_group)
        agree(process_group, metric=self.metric)
        rows = self._rows(x, sample_weight, process_group, resident=resident, batch_of=batch_of)
        with errors_shared(process_group):
            problem = self.problem()
            refuse(rows.moments(problem.metric), rows.example, problem)
        return rows

    @without_gradients
    def e_step(
        self,
        x: Tensor | AnyRows,
        sample_weight: Tensor | None = None,
        *,
        start: int = 0,
    ) -> EStep:
        """Assign samples and sum up the clusters; never changes the layer.

        Args:
            x: samples, (*batch_shape, n, d) or (n, d); or what :meth:`prepare` made of them: each
                E-step of the same rows is then faster than the first.
            sample_weight: (*batch_shape, n) or (n,), of a tensor; rows have theirs already.
            start: number of the first row where a tensor is a part of the data.

        Returns:
            labels (*batch_shape, n), squared distances (*batch_shape, n), both None for a stream,
            and stats for :meth:`m_step`; those of several batches add up. For rows over ranks
            the stats are those of all ranks.

        Raises:
            NotInitializedError: the layer has no centroids.
            ValueError: bad shapes; NaN or infinity in x, bad weights (on the CPU, not in
                compiled code).

        Example:
            >>> import torch
            >>> from kmeans_module import KMeansLayer
            >>> layer = KMeansLayer.from_centroids([[0.0], [9.0]])
            >>> step = layer.e_step(torch.tensor([[0.0], [2.0], [7.0]]))
            >>> step.labels, step.distances
            (tensor([0, 0, 1]), tensor([0., 4., 4.]))
            >>> step.stats.counts, step.stats.inertia
            (tensor([2., 1.], dtype=torch.float64), tensor(8., dtype=torch.float64))
        """
        self.check_initialized()
        if isinstance(x, ROWS):
            start = check.check_integer("start", start, minimum=0)
            if sample_weight is not None or start:
                raise ValueError("rows have their sample_weight and start already; got them again")
            problem = self.problem()
            check_fits(x, problem)
            step = self._last_search.e_step(x, problem, self.flat_centroids())
            return step.reshape(self.batch_shape)
        step = F.e_step(x, self.centroids, sample_weight, metric=self.metric, start=start)
        if readable(x) and not step.stats.inertia.isfinite().all():
            refuse_nonfinite(x, step.distances.dtype)
        return step

    @without_gradients
    def stats(self, x: Tensor, labels: Tensor, sample_weight: Tensor | None = None) -> LabelStats:
        """What :meth:`m_step` needs of given labels; never changes the layer.

        ``layer.stats(x, layer(x))`` are the statistics of ``layer.e_step(x)``. For samples with
        other features than the layer's see :func:`kmeans_module.functional.label_stats`.

        Args:
            x: samples, (*batch_shape, n, d) or (n, d).
            labels: integers from 0 to k - 1, (*batch_shape, n); a sample of label -1 belongs to
                no cluster and counts nowhere.
            sample_weight: (*batch_shape, n) or (n,).

        Returns:
            sums, counts and means of the labels; inertia and mean_distances, squared, to the
            layer's centroids, or to the means where it has none yet. Those of several batches
            add up.

        Raises:
            ValueError: bad shapes; labels out of range; NaN or infinity in x, bad weights (on the
                CPU, not in compiled code).

        Example:
            >>> import torch
            >>> from kmeans_module import KMeansLayer
            >>> layer = KMeansLayer(n_clusters=2, n_features=1)
            >>> stats = layer.stats(torch.tensor([[0.0], [2.0], [7.0]]), torch.tensor([0, 0, 1]))
            >>> stats.means.flatten()
            tensor([1., 7.], dtype=torch.float64)
        """
        x = self._check_shape(x)
        centroids = self.centroids.detach() if self.has_centroids() else None
        labels = check.check_tensor("labels", labels)
        if x.ndim < 2:
            raise ValueError(f"x should have shape (n, {self.n_features}); got {tuple(x.shape)}")
        shape = (*self.batch_shape, x.shape[-2])
        if labels.shape != shape:
            raise ValueError(f"labels should have shape {shape}; got {tuple(labels.shape)}")
        stats = label_stats(
            x, labels, self.n_clusters, sample_weight, centroids=centroids, metric=self.metric
        )
        if readable(x) and not stats.inertia.isfinite().all():
            refuse_nonfinite(x, compute_dtype(x, self.centroids))
        return stats

    @without_gradients
    def m_step(self, stats: ClusterStats, *, decay: float = 0.0) -> Tensor:
        """Move the centroids, in place; see :func:`kmeans_module.functional.update_centroids`.

        Args:
            stats: of one E-step, or the sum over several.
            decay: weight of what the centroids were: 0 is Lloyd, 1 Sculley's mini-batch,
                between them the moving average of codebooks.

        Returns:
            The shift Σ‖c_new - c_old‖², (*batch_shape) float64.

        Raises:
            EmptyClusterError: a cluster is empty and the policy is "error".

        Example:
            >>> import torch
            >>> from kmeans_module import KMeansLayer
            >>> layer = KMeansLayer.from_centroids([[0.0], [9.0]])
            >>> parts = torch.tensor([[0.0], [2.0]]), torch.tensor([[7.0]])
            >>> layer.m_step(layer.e_step(parts[0]).stats + layer.e_step(parts[1]).stats)
            tensor(5., dtype=torch.float64)
            >>> layer.centroids.flatten()
            tensor([1., 7.])
        """
        changed_in_place("KMeansLayer.m_step", "functional.update_centroids changes nothing")
        self.check_initialized()
        centroids, counts, shift = F.update_centroids(
            self.centroids, self.counts, stats,
            decay=decay, empty_cluster=self.empty_cluster, metric=self.metric,
        )  # fmt: skip
        if readable(shift) and not (shift.isfinite().all() and counts.isfinite().all()):
            raise ValueError("stats should be finite; they move centroids to NaN or infinity")
        self.centroids.copy_(centroids)
        self.counts.copy_(counts)
        self.n_iter += 1
        return shift

    def _require_values(self, method: str, x: Data) -> None:
        tensors = [check.check_rows(x, sparse=True)] if isinstance(x, Tensor) else []
        for tensor in tensors:
            check.check_device("x", tensor, self.centroids.device)
        require_values(f"{type(self).__name__}.{method}", self.centroids, *tensors)

    @cached_property
    def _last_search(self) -> LastSearch:
        return LastSearch()

    def _rows(
        self, x: Data, sample_weight: Tensor | None, group: ProcessGroup | None, **options: Any
    ) -> AnyRows:
        return enter(
            x,
            sample_weight,
            self.problem(),
            metric=self.metric,
            batch_shape=self.batch_shape,
            group=group,
            **options,
        )

    def _agree(self, group: ProcessGroup | None, init: Init, **arguments: object) -> None:
        """Refuse arguments that differ between ranks: they would wait for each other."""
        if group is not None:
            kind = init if isinstance(init, str) else type(init).__name__
            agree(group, init=kind, layer=repr(self), dtype=self.centroids.dtype, **arguments)
