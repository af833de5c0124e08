"""MiniBatchKMeans: steps on batches drawn at random, with the interface of scikit-learn's."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils._param_validation import Interval
from torch import Tensor

from kmeans_module.core.minibatch import EarlyStop, light_clusters, reassigned
from kmeans_module.core.warn import warn
from kmeans_module.estimators.base import Centers
from kmeans_module.estimators.starts import drawing_from, generator_from, start_of
from kmeans_module.estimators.validation import Matrix, Samples, checked, labels_like
from kmeans_module.layer import KMeansLayer


class MiniBatchKMeans(Centers):
    """Mini-batch k-means as in scikit-learn: its parameters, attributes and methods.

    Batches are drawn with replacement, in proportion to the sample weights; a center moves to the
    weighted mean of all samples that it was ever nearest to (Sculley, WWW 2010).

    Args:
        n_clusters: number of clusters, k.
        init: "k-means++", "k-means||", "random", an array (k, d), or a function
            ``init(X, n_clusters, random_state=...)``.
        max_iter: as many batches at most as have max_iter × n_samples rows.
        batch_size: rows of a batch.
        verbose: whether a line for each batch goes to the standard output.
        compute_labels: whether fit ends with labels and inertia of all samples.
        random_state: see :class:`~kmeans_module.KMeans`.
        tol: a batch that moves the centers by at most tol × the mean variance of the features,
            Σ‖c_new - c_old‖², is the last one; 0 for never.
        max_no_improvement: batches without a lower smoothed inertia, after which fit ends; None
            for any number.
        init_size: rows drawn to start from; None for 3 × batch_size, or 3 × n_clusters.
        n_init: starts, of which the one of lowest inertia is kept; "auto" for 3 where init is
            "random" or a function, else 1.
        reassignment_ratio: clusters that weigh less than this part of the heaviest move to rows of
            the batch, now and then.
        metric: "euclidean" or "cosine".
        empty_cluster: what becomes of a cluster that no sample was nearest to so far: "keep" it
            for ``reassignment_ratio`` as in scikit-learn, "relocate", "split" or "error".

    Attributes:
        cluster_centers_: see :class:`~kmeans_module.KMeans`.
        labels_: of the samples of fit, or of the last partial_fit, (n,), with compute_labels.
        inertia_: weighted sum of squared distances; estimated without compute_labels.
        n_iter_: passes over as many rows as the data have.
        n_steps_: batches.
        n_features_in_, feature_names_in_, layer_: see :class:`~kmeans_module.KMeans`.

    Example:
        >>> import numpy as np
        >>> model = MiniBatchKMeans(n_clusters=2, random_state=0)
        >>> for batch in np.array([[[0.0], [9.0]], [[1.0], [8.0]]]):
        ...     model = model.partial_fit(batch)
        >>> np.sort(model.cluster_centers_, axis=0)
        array([[0.5],
               [8.5]])
    """

    n_steps_: int
    _batch_size: int
    _init_size: int

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Centers._parameter_constraints,
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "compute_labels": ["boolean"],
        "max_no_improvement": [Interval(Integral, 0, None, closed="left"), None],
        "init_size": [Interval(Integral, 1, None, closed="left"), None],
        "reassignment_ratio": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Any = "k-means++",
        max_iter: int = 100,
        batch_size: int = 1024,
        verbose: int | bool = 0,
        compute_labels: bool = True,
        random_state: int
        | np.random.RandomState
        | np.random.Generator
        | torch.Generator
        | None = None,
        tol: float = 0.0,
        max_no_improvement: int | None = 10,
        init_size: int | None = None,
        n_init: int | str = "auto",
        reassignment_ratio: float = 0.01,
        metric: str = "euclidean",
        empty_cluster: str = "keep",
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.verbose = verbose
        self.compute_labels = compute_labels
        self.random_state = random_state
        self.tol = tol
        self.max_no_improvement = max_no_improvement
        self.init_size = init_size
        self.n_init = n_init
        self.reassignment_ratio = reassignment_ratio
        self.metric = metric
        self.empty_cluster = empty_cluster

    @checked
    def fit(self, X: Matrix, y: object = None, sample_weight: Any = None) -> MiniBatchKMeans:
        """Find the centers of samples (n, d), from the start.

        Args:
            X: an array, a frame, nested lists, scipy's CSR, or a tensor.
            y: of no use.
            sample_weight: (n,).

        Returns:
            The estimator itself.

        Raises:
            ValueError, TypeError: what scikit-learn raises; negative weights.
        """
        samples = Samples.of(self, X, sample_weight, reset=True)
        n_samples, weight = samples.n_samples, samples.weight
        self._check_sizes(n_samples, restarts=3)
        self._check_batches(n_samples)
        random = drawing_from(self.random_state, samples.X)
        layer = self._started(samples, random)
        stop = EarlyStop(
            n_samples=n_samples, batch_size=self._batch_size,
            tol=self._tolerance(layer, samples.rows), patience=self.max_no_improvement,
        )  # fmt: skip
        self._since_reassigned = 0
        mass = np.ones(n_samples) if weight is None else weight.cpu().numpy()
        cumulative = (mass / mass.sum()).cumsum()
        cumulative /= cumulative[-1]
        n_steps = (self.max_iter * n_samples) // self._batch_size
        step, inertia = 0, math.nan
        for step in range(1, n_steps + 1):
            # as RandomState.choice(n_samples, batch_size, p=...) draws, without its sums
            indices = cumulative.searchsorted(random.random_sample(self._batch_size), "right")
            before = layer.centroids.clone() if self.tol else layer.centroids
            batch = samples.at(indices)._replace(weight=None)  # the draw has weighed them
            inertia = self._step(layer, batch, random)
            shift = float((layer.centroids.double() - before).square().sum()) if self.tol else 0.0
            why = stop.add(inertia, shift, first=step == 1)
            line = f"Minibatch step {step}/{n_steps}: mean batch inertia: "
            line += f"{inertia / self._batch_size}"
            self._say(line if step == 1 else f"{line}, ewa inertia: {stop.smoothed}")
            if why is not None:
                self._say(f"Converged ({why}) at step {step}/{n_steps}")
                break
        self._take(samples.X, layer)
        self.n_steps_ = step
        self.n_iter_ = math.ceil(step * self._batch_size / n_samples)
        if self.compute_labels or not step:
            self._label(samples, layer)
        else:
            self.__dict__.pop("labels_", None)
            mean = inertia / self._batch_size if stop.smoothed is None else stop.smoothed
            self.inertia_ = mean * float(mass.sum())
        return self

    @checked
    def partial_fit(
        self, X: Matrix, y: object = None, sample_weight: Any = None
    ) -> MiniBatchKMeans:
        """One step on a batch (n, d); the first one also chooses the start.

        Args:
            X, y, sample_weight: see :meth:`fit`.

        Returns:
            The estimator itself.
        """
        fitted = self.__sklearn_is_fitted__()
        samples = Samples.of(self, X, sample_weight, reset=not fitted)
        if not hasattr(self, "_random"):
            self._random = drawing_from(self.random_state, samples.X)
        if fitted:
            layer = self._layer(empty_cluster=self.empty_cluster, device=samples.rows.device)
        else:
            self._check_sizes(samples.n_samples, restarts=1)
            self._check_batches(samples.n_samples)
            layer = self._started(samples, self._random, once=True)
        if not hasattr(self, "_since_reassigned"):
            self._since_reassigned = 0
            self._batch_size = min(self.batch_size, samples.n_samples)
        self._step(layer, samples, self._random)
        self._take(self._centers if fitted else samples.X, layer)
        self.n_steps_ = getattr(self, "n_steps_", 0) + 1
        if self.compute_labels:
            self._label(samples, layer)
        return self

    def _check_batches(self, n_samples: int) -> None:
        """How many rows a batch has, and a start is drawn from."""
        self._batch_size = min(self.batch_size, n_samples)
        size = self.init_size
        if size is None:
            size = 3 * self._batch_size
        elif size < self.n_clusters:
            warn(
                f"init_size={size} should be larger than n_clusters={self.n_clusters}. "
                "Setting it to min(3*n_clusters, n_samples)",
                RuntimeWarning,
            )  # fmt: skip
        if size < self.n_clusters:
            size = 3 * self.n_clusters
        self._init_size = min(size, n_samples)

    def _started(
        self, samples: Samples, random: np.random.RandomState, *, once: bool = False
    ) -> KMeansLayer:
        """A layer at the best of the starts, each from some samples, by the inertia of others.

        Args:
            samples: all of them.
            random: what draws come from, in the order of scikit-learn.
            once: whether to take the first start as it is.
        """
        size, n_samples, layer = self._init_size, samples.n_samples, self._new_layer(samples.rows)
        valid = samples if once else samples.at(random.randint(0, n_samples, size))
        best: tuple[float, Tensor] | None = None
        for number in range(1, 2 if once else self._n_init + 1):
            if not once:
                self._say(f"Init {number}/{self._n_init} with method {self.init}")
            part = samples
            if size < n_samples:
                part = samples.at(random.randint(0, n_samples, size))
            start = start_of(self.init, part.X, self.n_clusters, random)
            generator = generator_from(random) if isinstance(start, str) else None
            layer.initialize(part.rows, start, sample_weight=part.weight, generator=generator)
            if once:
                return layer
            inertia = float(layer.e_step(valid.rows, valid.weight).stats.inertia)
            self._say(f"Inertia for init {number}/{self._n_init}: {inertia}")
            if best is None or inertia < best[0]:
                best = inertia, layer.centroids.clone()
        assert best is not None
        layer.set_centroids(best[1])
        return layer

    def _step(self, layer: KMeansLayer, samples: Samples, random: np.random.RandomState) -> float:
        """E-step, M-step, and now and then light clusters move; the inertia before."""
        self._since_reassigned += self._batch_size
        due = self._since_reassigned >= 10 * self.n_clusters or bool((layer.counts == 0).any())
        if due:
            self._since_reassigned = 0
        stats = layer.e_step(samples.rows, samples.weight).stats
        layer.m_step(stats, decay=1)
        if due and self.reassignment_ratio > 0:
            light = light_clusters(
                layer.counts, ratio=self.reassignment_ratio, most=samples.n_samples // 2
            )
            n_light = int(light.sum())
            if n_light:
                self._say(f"[MiniBatchKMeans] Reassigning {n_light} cluster centers.")
                chosen = random.choice(samples.n_samples, n_light, replace=False)
                places = samples.at(chosen).rows
                centroids, counts = reassigned(
                    layer.centroids, layer.counts, light, places.to_dense(), metric=layer.metric
                )
                layer.centroids.copy_(centroids)
                layer.counts.copy_(counts)
        return float(stats.inertia)

    def _tolerance(self, layer: KMeansLayer, rows: Tensor) -> float:
        if not self.tol:
            return 0.0
        variance = layer.prepare(rows).moments(layer.problem().metric).variance
        return self.tol * float(variance)

    def _label(self, samples: Samples, layer: KMeansLayer) -> None:
        step = layer.e_step(samples.rows, samples.weight)
        assert step.labels is not None
        self.labels_ = labels_like(samples.X, step.labels)
        self.inertia_ = float(step.stats.inertia)
