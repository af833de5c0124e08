"""KMeansLayer: centroids that learn, step by step or by a whole fit."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kmeans_module import checks as check
from kmeans_module.core.distances import compute_dtype
from kmeans_module.core.empty_clusters import EmptyClusterError
from kmeans_module.core.fit import Fit, fit, remeasured
from kmeans_module.core.lloyd import Iteration, NonFiniteInertiaError
from kmeans_module.core.seeding import Init, Told, check_name, flat_init, initialize
from kmeans_module.core.surplus import warn_of_surplus, warn_of_weights
from kmeans_module.layer.pictures import Pictures
from kmeans_module.layer.result import FitResult
from kmeans_module.progress.observer import observing
from kmeans_module.rows.entry import ROWS, AnyRows, BatchOf, Data, survey
from kmeans_module.rows.ranks import ProcessGroup, anywhere, errors_shared
from kmeans_module.rows.subsample import subsample
from kmeans_module.seeds import generator_of


class KMeansLayer(Pictures):
    r"""k-means as a layer: ``forward`` assigns samples, ``fit`` learns the centroids.

    .. math:: \text{label}(x) = \arg\min_j \|x - c_j\|^2

    Args:
        n_clusters: number of centroids, k.
        n_features: features of a sample, d.
        metric: "euclidean", or "cosine" (spherical k-means: centroids of unit length,
            distance ½‖x/‖x‖ - c‖² = 1 - cos; a zero row gets label 0 and distance 1 and
            contributes nothing).
        empty_cluster: what becomes of a cluster without samples: "relocate" moves it to the
            farthest sample, as in scikit-learn; "split" gives it half of the heaviest cluster, as
            in faiss; "keep" leaves its centroid where it is; "error" raises an EmptyClusterError.
        batch_shape: leading shape of independent problems, each with its own centroids.
        requires_grad: whether the centroids are a Parameter, under the same key of the
            state_dict, for losses of :meth:`transform`, :meth:`decode` or :meth:`soft_assign`.
        device, dtype: of the centroids.

    Shape:
        - Input: (\*, d); with a batch_shape (\*batch_shape, n, d), or (n, d) for all problems.
          Samples (n, d) may be sparse, of layout torch.sparse_csr; they are never dense as a whole.
        - Output: (\*) int64; with a batch_shape (\*batch_shape, n).

    Attributes:
        centroids: (\*batch_shape, k, d).
        counts: weight of the samples of each cluster, (\*batch_shape, k) float64 whatever the
            layer's dtype (float32 on MPS).
        n_iter: iterations (M-steps) since initialization, (\*batch_shape) int64.
        initialized: whether there are centroids, () bool.

    Examples:
        >>> import torch
        >>> from kmeans_module import KMeansLayer
        >>> x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [9.0, 0.0], [9.0, 1.0]])
        >>> layer = KMeansLayer(n_clusters=2, n_features=2)
        >>> result = layer.fit(x, generator=torch.Generator().manual_seed(0))
        >>> result.inertia
        tensor(1., dtype=torch.float64)
        >>> bool((layer(x) == result.labels).all())
        True
    """

    @torch.no_grad()
    def initialize(
        self,
        x: Data,
        init: Init = "k-means++",
        *,
        sample_weight: Tensor | None = None,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        process_group: ProcessGroup | None = None,
        batch_of: BatchOf | None = None,
        verbose: bool = False,
        told: Told | None = None,
    ) -> None:
        """Choose the initial centroids; counts and n_iter start at 0.

        Args:
            x: samples, (*batch_shape, n, d) or (n, d), batches or Rows, as in :meth:`fit`.
            init: "k-means++" (rows drawn by squared distance to the centroids so far),
                "k-means||" (the like in few passes, for data in batches), "random" (distinct
                rows), a tensor (*batch_shape, k, d) or (k, d), or a function
                ``init(x, n_clusters, generator)`` that returns one; x is sparse if the samples are.
            sample_weight: (*batch_shape, n) or (n,), of a tensor.
            generator: None draws from torch's default generator.
            seed: an integer in place of a generator.
            process_group: the ranks that hold the rest of the rows.
            batch_of: a function that makes a batch of what a loader yields.
            verbose: whether a bar shows the progress; see :meth:`fit`.
            told: called with (done, total), centers or passes, while an init by name draws.

        Raises:
            ValueError: n_samples < n_clusters, NaN or infinity in x, bad weights or init.

        Example:
            >>> import torch
            >>> from kmeans_module import KMeansLayer
            >>> layer = KMeansLayer(n_clusters=2, n_features=1)
            >>> layer.initialize(torch.tensor([[0.0], [9.0]]), "random", seed=0)
            >>> sorted(layer.centroids.flatten().tolist()), layer.counts.tolist()
            ([0.0, 9.0], [0.0, 0.0])
        """
        self._require_values("initialize", x)
        check.check_process_group(process_group)
        ranks = x.group if isinstance(x, ROWS) else process_group
        with errors_shared(ranks):
            generator = generator_of(generator, seed)
            init = self._flat_init(init)
            check.check_callable("told", told)
            check.check_verbose(verbose)
        self._agree(ranks, init)
        rows = self._rows(x, sample_weight, process_group, batch_of=batch_of)
        with observing(verbose, told=told, init=init, group=ranks) as observer:
            survey(rows, self.problem(), init)
            centroids = initialize(
                rows, self.problem(), init, generator=generator, told=observer.seeding
            )
        if isinstance(init, str):
            n_weighty = rows.moments(self.problem().metric).n_weighty
            warn_of_weights(
                n_weighty.expand(self.problem().n_problems), self.n_clusters,
                batch_shape=self.batch_shape,
            )  # fmt: skip
        self.set_centroids(centroids)

    @torch.no_grad()
    def fit(
        self,
        x: Data,
        *,
        init: Init = "k-means++",
        max_iter: int = 300,
        tol: float = 1e-4,
        n_init: int = 1,
        sample_weight: Tensor | None = None,
        max_points_per_centroid: int | None = None,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        process_group: ProcessGroup | None = None,
        callback: Callable[[Iteration], object] | None = None,
        callback_every: int | None = None,
        verbose: bool = False,
        resident: bool = False,
        batch_of: BatchOf | None = None,
    ) -> FitResult:
        """Lloyd's algorithm from fresh centroids until it converges.

        A debug line of the logger ``kmeans_module.backends`` says which backend serves; see
        :func:`kmeans_module.show_backends`. KMEANS_KERNEL=native|triton|reference asks for one.

        Args:
            x: samples, (*batch_shape, n, d) or (n, d), dense or of layout torch.sparse_csr, whose
                results are those of the dense ones; what :meth:`prepare` made of them; or
                batches that can be read again and again: a list, a DataLoader, any
                class whose ``__iter__`` starts again. A batch is a tensor (n, d), (tensor,
                labels), a :class:`~kmeans_module.rows.batch.Batch`, or a dictionary with "x" and
                perhaps "target" and "sample_weight"; it is moved to the layer's device. Batches
                of a loader are not kept. With a process_group x is this rank's part.
            init: see :meth:`initialize`; "current" continues from the layer's centroids. For
                loaders whose batches do not stay in memory, "k-means++" draws from a uniform
                sample.
            max_iter: iterations at most; 0 chooses the centroids and assigns the samples to them.
            tol: stop when the shift Σ‖c_new - c_old‖² is at most tol × the mean variance of
                the features, as in scikit-learn, or when no label changes.
            n_init: fits from different starts, of which that of lowest inertia is kept (one is
                enough for an init that is a tensor or "current").
            sample_weight: (*batch_shape, n) or (n,), of a tensor; batches bring their own.
            max_points_per_centroid: if there are more than k times as many rows, a uniform sample
                of that size is fitted, as in faiss; labels, inertia and the layer's counts are
                those of all rows, n_iter, converged and history of the sample. None fits all rows.
            generator: None draws from torch's default generator.
            seed: an integer in place of a generator.
            process_group: the ranks that hold the rest of the rows: inertia and centroids are
                then those of the whole, labels those of this rank.
            callback: called with an :class:`~kmeans_module.core.lloyd.Iteration` after each
                iteration, in their order; for a CUDA device late, when the host looks at it.
            callback_every: iterations after which the host looks at the device at the latest; with
                1 the host waits for each iteration, with None it looks when it would without a
                callback. Without a callback this argument changes nothing.
            verbose: whether a bar shows the progress, seeding included: in a terminal, in a
                notebook, on the first rank of several; elsewhere lines on stderr, or of the
                logger ``kmeans_module.progress`` where logging shows level INFO.
            resident: whether the batches of a loader stay in memory, on the layer's device.
            batch_of: a function that makes a batch of what a loader yields, if that is none.

        Returns:
            labels (None for a stream), inertia, n_iter, converged, history; ``labels ==
            layer(x)`` and the inertia is that of the layer's centroids. From the same initial
            centroids a CUDA device finds the bits of a CPU; with sample weights, or features that
            hold very large and very small values, a centroid may differ by its last bit, and with
            it labels and n_iter.

        Raises:
            ValueError: n_samples < n_clusters, NaN or infinity, bad arguments, an iterator,
                which can be read only once, a pass that brings other rows than the one before.
                The layer is then as it was.
            EmptyClusterError: a cluster is empty and the policy is "error".

        Example:
            >>> import torch
            >>> from kmeans_module import KMeansLayer
            >>> layer = KMeansLayer(n_clusters=2, n_features=1)
            >>> batches = [torch.tensor([[0.0], [9.0]]), torch.tensor([[2.0], [7.0]])]
            >>> result = layer.fit(batches, init=torch.tensor([[0.0], [9.0]]))
            >>> layer.centroids.flatten(), result.inertia
            (tensor([1., 8.]), tensor(4., dtype=torch.float64))
            >>> result.converged, result.history
            (tensor(True), tensor([8., 4., 4.], dtype=torch.float64))
        """
        self._require_values("fit", x)
        check.check_process_group(process_group)
        ranks = x.group if isinstance(x, ROWS) else process_group
        with errors_shared(ranks):
            check.check_integer("max_iter", max_iter, minimum=0)
            check.check_integer("n_init", n_init, minimum=1)
            tol = check.check_number("tol", tol, minimum=0)
            generator = generator_of(generator, seed)
            most = max_points_per_centroid
            if most is not None:
                most = check.check_integer("max_points_per_centroid", most, minimum=1)
                most *= self.n_clusters
            check.check_callable("callback", callback)
            check.check_verbose(verbose)
            if callback_every is not None:
                check.check_integer("callback_every", callback_every, minimum=1)
            init = self._flat_init(init)
        self._agree(ranks, init, max_iter=max_iter, tol=tol, n_init=n_init, max_points=most)
        with observing(
            verbose, callback, max_iter=max_iter, init=init, batch_shape=self.batch_shape,
            group=ranks,
        ) as observer:  # fmt: skip
            observer.says("reading the rows")
            rows = self._rows(x, sample_weight, process_group, resident=resident, batch_of=batch_of)
            problem = self.problem()
            variance = survey(rows, problem, init)
            fitted = subsample(rows, problem, most, generator)

            def report(iteration: Iteration) -> None:
                with errors_shared(ranks):
                    observer.iteration(iteration)

            try:
                best = fit(
                    fitted,
                    problem,
                    init=init,
                    max_iter=max_iter,
                    threshold=tol * variance,
                    n_init=n_init,
                    generator=generator,
                    callback=report if anywhere(observer.listens, ranks) else None,
                    callback_every=callback_every or observer.looks_every,
                    seeding=observer.seeding,
                    stages=observer.enters,
                )
                if fitted is not rows:
                    observer.says("measuring all rows")
                    best = remeasured(rows, rows.search(problem), best)
            except EmptyClusterError as error:
                raise error.named(self.batch_shape) from None
            except NonFiniteInertiaError as error:
                dtype = compute_dtype(rows.example, problem.dtype)
                raise ValueError(
                    f"squared distances overflow {dtype}: scale x down or use float64"
                ) from error
            observer.ends(best)
        self.set_centroids(best.centroids, best.counts)
        self.n_iter.copy_(best.n_iter.view_as(self.n_iter))
        # Given centroids that did not move need not be the nearest of any sample.
        if best.some_empty and (max_iter or not isinstance(init, Tensor)):
            self._warn_of_surplus(best, fitted)
        return FitResult.of(best, self.batch_shape)

    def _warn_of_surplus(self, found: Fit, rows: AnyRows) -> None:
        warn_of_surplus(
            found.centroids,
            found.counts,
            found.inertia,
            empty_cluster=self.empty_cluster,
            n_weighty=rows.moments(self.problem().metric).n_weighty,
            batch_shape=self.batch_shape,
            given=rows.example.dtype if rows.example.is_floating_point() else None,
            used=self.centroids.dtype,
        )  # fmt: skip

    def _flat_init(self, init: Init) -> Init:
        """Checks what the batch_shape and the buffers have to say of an init."""
        if isinstance(init, str) and init == "current":
            self.check_initialized()
            return self.flat_centroids()
        check_name(init)
        return flat_init(init, tuple(self.centroids.shape))
