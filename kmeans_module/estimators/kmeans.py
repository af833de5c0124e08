"""KMeans: Lloyd's algorithm with the interface of scikit-learn's."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import StrOptions

from kmeans_module.core.lloyd import Iteration
from kmeans_module.core.warn import warn
from kmeans_module.estimators.base import Centers
from kmeans_module.estimators.starts import drawing_from, generator_from, start_of
from kmeans_module.estimators.validation import Matrix, Samples, checked, labels_like


class KMeans(Centers):
    """k-means as in scikit-learn: its parameters, attributes and methods, its base classes.

    What comes in as an array, a frame, nested lists or scipy's CSR gives arrays; a tensor gives
    tensors on its device.

    Args:
        n_clusters: number of clusters, k.
        init: "k-means++", "k-means||", "random", an array (k, d), or a function
            ``init(X, n_clusters, random_state=...)``, which is given X as it is.
        n_init: restarts, of which the best is kept; "auto" for 10 where init is "random" or a
            function, else 1.
        max_iter: iterations at most.
        tol: relative to the mean variance of the features.
        verbose: whether a line for each iteration goes to the standard output.
        random_state: seed, RandomState, NumPy's Generator or torch's; None is NumPy's global
            state, for tensors torch's default generator.
        copy_x: X is never changed, nor copied where it holds float32 or float64.
        algorithm: "lloyd" or "elkan", which give the same: one exact algorithm chooses its bounds.
        metric: "euclidean" or "cosine".
        empty_cluster: "relocate" as in scikit-learn, "split", "keep" or "error".

    Attributes:
        cluster_centers_: (k, d), of float32 for X of float32 or bfloat16, else of float64. Assigned
            to a model, fitted or not, they are what it predicts by.
        labels_: of the samples of fit, (n,): int32, or int64 for a tensor.
        inertia_: weighted sum of squared distances.
        n_iter_: iterations.
        n_features_in_: features of a sample, d.
        feature_names_in_: the columns of the frame of fit, where they have names of text.
        layer_: a :class:`~kmeans_module.KMeansLayer` with the centers.

    Example:
        >>> import numpy as np
        >>> model = KMeans(n_clusters=2, random_state=0).fit(np.array([[0.0], [1.0], [9.0]]))
        >>> model.predict(np.array([[2.0], [8.0]])) == model.labels_[[0, 2]]
        array([ True,  True])
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Centers._parameter_constraints,
        "copy_x": ["boolean"],
        "algorithm": [StrOptions({"lloyd", "elkan"})],
    }

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Any = "k-means++",
        n_init: int | str = "auto",
        max_iter: int = 300,
        tol: float = 1e-4,
        verbose: int | bool = 0,
        random_state: int
        | np.random.RandomState
        | np.random.Generator
        | torch.Generator
        | None = None,
        copy_x: bool = True,
        algorithm: str = "lloyd",
        metric: str = "euclidean",
        empty_cluster: str = "relocate",
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.verbose = verbose
        self.random_state = random_state
        self.copy_x = copy_x
        self.algorithm = algorithm
        self.metric = metric
        self.empty_cluster = empty_cluster

    @checked
    def fit(self, X: Matrix, y: object = None, sample_weight: Any = None) -> KMeans:
        """Find the centers of samples (n, d).

        Args:
            X: an array, a frame, nested lists, scipy's CSR, or a tensor.
            y: of no use.
            sample_weight: (n,).

        Returns:
            The estimator itself.

        Raises:
            ValueError, TypeError: what scikit-learn raises; negative weights; see
                :meth:`kmeans_module.KMeansLayer.fit`.
        """
        X, rows, weight = Samples.of(self, X, sample_weight, reset=True)
        self._check_sizes(rows.shape[0], restarts=10)
        if self.algorithm == "elkan" and self.n_clusters == 1:
            warn(
                "algorithm='elkan' doesn't make sense for a single cluster. Using 'lloyd' instead.",
                RuntimeWarning,
            )  # fmt: skip
        random = drawing_from(self.random_state, X)
        layer = self._new_layer(rows)
        report = Report(self) if self.verbose else None
        result = layer.fit(
            rows, init=start_of(self.init, X, self.n_clusters, random), max_iter=self.max_iter,
            tol=self.tol, n_init=self._n_init, sample_weight=weight,
            generator=generator_from(random), callback=report,
            callback_every=1 if report else None,
        )  # fmt: skip
        if report is not None and bool(result.converged):
            report.end()
        assert result.labels is not None
        used = int(torch.bincount(result.labels, minlength=self.n_clusters).count_nonzero())
        if used < self.n_clusters:
            warn(
                f"Number of distinct clusters ({used}) found smaller than n_clusters "
                f"({self.n_clusters}). Possibly due to duplicate points in X.",
                ConvergenceWarning,
            )  # fmt: skip
        self._take(X, layer)
        self.labels_ = labels_like(X, result.labels)
        self.inertia_ = float(result.inertia)
        self.n_iter_ = int(result.n_iter)
        return self


class Report:
    """The lines of verbose=1."""

    def __init__(self, estimator: KMeans) -> None:
        self._say = estimator._say
        self._last: Iteration | None = None

    def __call__(self, iteration: Iteration) -> None:
        if iteration.number == 1:
            self._say("Initialization complete")
        self._say(f"Iteration {iteration.number - 1}, inertia {float(iteration.inertia)}.")
        self._last = iteration

    def end(self) -> None:
        """Say why a fit has converged."""
        if self._last is None:
            return
        number, shift = self._last.number - 1, float(self._last.shift)
        why = f"center shift {shift} within tolerance"
        if shift == 0 or float(self._last.moved) == 0:
            why = "strict convergence"
        self._say(f"Converged at iteration {number}: {why}.")
