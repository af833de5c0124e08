"""What KMeans and MiniBatchKMeans share: fitted centers, and all that is done with them."""

from __future__ import annotations

import inspect
import sys
from numbers import Integral, Real
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    ClusterMixin,
    TransformerMixin,
)
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.fixes import parse_version
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from kmeans_module.arrays import Array, as_tensor
from kmeans_module.core.distances import at_unit_length
from kmeans_module.core.empty_clusters import POLICIES
from kmeans_module.core.metrics import METRICS
from kmeans_module.core.seeding import INITS
from kmeans_module.core.statistics import accumulator_dtype
from kmeans_module.core.warn import warn
from kmeans_module.estimators.validation import Matrix, Samples, labels_like, like
from kmeans_module.layer import KMeansLayer

Estimator = TypeVar("Estimator", bound="Centers")


class Centers(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """An estimator that has centers, once it is fitted or they are assigned.

    Attributes:
        n_features_in_: features of a sample, d.
        feature_names_in_: the columns of the frame of fit, where they have names of text.
    """

    n_clusters: int
    init: Any
    n_init: int | str
    metric: str
    empty_cluster: str
    verbose: int | bool
    labels_: Array | Tensor
    inertia_: float
    n_iter_: int
    n_features_in_: int
    feature_names_in_: Array

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "n_clusters": [Interval(Integral, 1, None, closed="left")],
        "init": [StrOptions(set(INITS)), callable, "array-like", Tensor],
        "n_init": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "random_state": ["random_state", np.random.Generator, torch.Generator],
        "metric": [StrOptions(set(METRICS))],
        "empty_cluster": [StrOptions(set(POLICIES))],
    }

    # The fitted state: centers (k, d) and what they weigh (k,), by the metric of the fit.
    _centers: Array | Tensor
    _counts: Array | Tensor
    _fitted_metric: str

    @property
    def cluster_centers_(self) -> Array | Tensor:
        """The centers (k, d); assign an array or a tensor to restore a model from them."""
        centers: Array | Tensor | None = self.__dict__.get("_centers")
        if centers is None:
            name = type(self).__name__
            raise AttributeError(f"{name} has no cluster_centers_ yet: call fit, or assign them")
        return centers

    @cluster_centers_.setter
    def cluster_centers_(self, centers: Array | Tensor) -> None:
        given = as_tensor(centers, "cluster_centers_").detach()
        if given.ndim != 2 or 0 in given.shape:
            raise ValueError(
                "cluster_centers_ should have shape (n_clusters, n_features); "
                f"got {tuple(given.shape)}"
            )
        if not bool(given.isfinite().all()):
            raise ValueError("cluster_centers_ should be finite; they hold NaN or infinity")
        given = given.clone() if given.is_floating_point() else given.double()
        if self.metric == "cosine":
            given = at_unit_length(given)
            if not bool(given.any(dim=-1).all()):
                raise ValueError("cluster_centers_ should have no zero row with metric='cosine'")
        # as scikit-learn does, k and d are those of the centers, whatever n_clusters says
        counts = as_tensor(self.__dict__.get("_counts", np.zeros(0)))
        if len(counts) != len(given):
            counts = torch.zeros(len(given), dtype=accumulator_dtype(given.device))
        self._fitted_metric = self.metric
        self._hold(centers, given, counts.to(given.device))
        names = getattr(self, "feature_names_in_", None)
        if names is not None and len(names) != given.shape[1]:
            del self.feature_names_in_
        self.n_features_in_ = given.shape[1]

    @property
    def layer_(self) -> KMeansLayer:
        """A :class:`~kmeans_module.KMeansLayer` of its own with the centers and what they weigh."""
        return self._layer(empty_cluster=self.empty_cluster)

    @property
    def _n_features_out(self) -> int:
        return len(self.cluster_centers_)

    def fit_predict(self, X: Matrix, y: object = None, sample_weight: Any = None) -> Array | Tensor:
        """Fit, and give the labels of the samples.

        Args:
            X, y, sample_weight: see :meth:`fit`.

        Returns:
            ``labels_``, (n,) int32, or int64 for a tensor.
        """
        self.fit(X, sample_weight=sample_weight)
        return self.labels_

    def fit_transform(
        self, X: Matrix, y: object = None, sample_weight: Any = None
    ) -> Array | Tensor:
        """Fit, and give the distances of the samples to the centers.

        Args:
            X, y, sample_weight: see :meth:`fit`.

        Returns:
            (n, k), as of :meth:`transform`.
        """
        return self.fit(X, sample_weight=sample_weight)._distances(X)

    def predict(self, X: Matrix) -> Array | Tensor:
        """Labels of the nearest centers.

        Args:
            X: samples (n, d): an array, a frame, nested lists, scipy's CSR, or a tensor.

        Returns:
            (n,) int32, or int64 for a tensor.

        Raises:
            sklearn.exceptions.NotFittedError: there are no centers yet.
            ValueError: another number of features; NaN or infinity.
        """
        X, rows, _ = self._samples(X)
        return labels_like(X, self._layer(device=rows.device)(rows))

    def transform(self, X: Matrix) -> Array | Tensor:
        """Distances to the centers, as in scikit-learn: Euclidean, not squared; or 1 - cos.

        Args:
            X: samples (n, d): an array, a frame, nested lists, scipy's CSR, or a tensor.

        Returns:
            (n, k).

        Raises:
            sklearn.exceptions.NotFittedError, ValueError: as :meth:`predict`.
        """
        return self._distances(X)

    def score(self, X: Matrix, y: object = None, sample_weight: Any = None) -> float:
        """Minus the inertia of samples: the higher, the better.

        Args:
            X: samples (n, d): an array, a frame, nested lists, scipy's CSR, or a tensor.
            y: of no use.
            sample_weight: (n,).

        Returns:
            Minus the weighted sum of squared distances.

        Raises:
            sklearn.exceptions.NotFittedError, ValueError: as :meth:`predict`.
        """
        _, rows, weight = self._samples(X, sample_weight)
        return -float(self._layer(device=rows.device).e_step(rows, weight).stats.inertia)

    def fit(self: Estimator, X: Matrix, y: object = None, sample_weight: Any = None) -> Estimator:
        raise NotImplementedError

    def __sklearn_is_fitted__(self) -> bool:
        return "_centers" in self.__dict__

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _more_tags(self) -> dict[str, Any]:
        """What scikit-learn 1.5 asks for in place of ``__sklearn_tags__``."""
        reason = "zero sample_weight is not equivalent to removing samples"
        return {"_xfail_checks": {"check_sample_weights_invariance": reason}}

    def __getstate__(self) -> dict[str, Any]:
        from kmeans_module import __version__

        return {**super().__getstate__(), "_kmeans_module_version": __version__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state of a pickle.

        One from before the first release had a layer, fewer parameters and no version.
        """
        from kmeans_module import __version__

        state = dict(state)
        written = state.pop("_kmeans_module_version", __version__)
        if parse_version(written) > parse_version(__version__):
            name = type(self).__name__
            warn(
                f"this {name} was pickled by kmeans_module {written}; {__version__}, which reads "
                "it, is older and may not know all of it",
            )  # fmt: skip
        layer = state.pop("layer_", None)
        tensors = state.pop("_tensors", False)
        defaults = {
            name: parameter.default
            for name, parameter in inspect.signature(type(self)).parameters.items()
            if parameter.default is not parameter.empty
        }
        super().__setstate__(defaults | state)
        if isinstance(layer, KMeansLayer):
            self._take(layer.centroids if tensors else np.zeros(0), layer)
            self.n_features_in_ = layer.n_features
            if not tensors and "labels_" in state:  # centers may have been assigned
                self.labels_ = np.asarray(self.labels_, dtype=np.int32)

    def _distances(self, X: Matrix) -> Array | Tensor:
        X, rows, _ = self._samples(X)
        layer = self._layer(device=rows.device)
        with torch.no_grad():
            distances = layer.transform(rows)
        return like(X, distances if layer.metric == "cosine" else distances.sqrt())

    def _samples(self, X: Matrix, sample_weight: Any = None) -> Samples:
        check_is_fitted(self)
        return Samples.of(self, X, sample_weight)

    def _layer(
        self, *, empty_cluster: str = "keep", device: torch.device | None = None
    ) -> KMeansLayer:
        centers = as_tensor(self.cluster_centers_)
        layer = KMeansLayer(
            *centers.shape, metric=self._fitted_metric, empty_cluster=empty_cluster,
            device=device or centers.device, dtype=centers.dtype,
        )  # fmt: skip
        layer.set_centroids(centers, as_tensor(self._counts))
        return layer

    def _new_layer(self, rows: Tensor) -> KMeansLayer:
        """For rows: as in scikit-learn, which does not know bfloat16, float32 stays float32 and
        everything else becomes float64 (on MPS there is none)."""
        single = rows.dtype in (torch.float32, torch.bfloat16)
        return QuietLayer(
            self.n_clusters, rows.shape[1], metric=self.metric, empty_cluster=self.empty_cluster,
            device=rows.device, dtype=torch.float32 if single else accumulator_dtype(rows.device),
        )  # fmt: skip

    def _take(self, X: Matrix, layer: KMeansLayer) -> None:
        """Hold what a layer has learned from X."""
        self._fitted_metric = layer.metric
        self._hold(X, layer.centroids, layer.counts)

    def _hold(self, like_this: Any, centroids: Tensor, counts: Tensor) -> None:
        self._centers = like(like_this, centroids)
        self._counts = like(like_this, counts)

    def _check_sizes(self, n_samples: int, *, restarts: int) -> None:
        """n_samples against n_clusters; how many starts there are.

        Args:
            n_samples: of the data.
            restarts: of n_init="auto", where starts are by chance.
        """
        if n_samples < self.n_clusters:
            raise ValueError(f"n_samples={n_samples} should be >= n_clusters={self.n_clusters}.")
        named = isinstance(self.init, str)
        by_chance = self.init == "random" if named else callable(self.init)
        auto = restarts if by_chance else 1
        self._n_init = auto if isinstance(self.n_init, str) else int(self.n_init)
        if not named and not callable(self.init) and self._n_init != 1:
            warn(
                "Explicit initial center position passed: performing only one init in "
                f"{type(self).__name__} instead of n_init={self._n_init}.",
                RuntimeWarning,
            )  # fmt: skip
            self._n_init = 1

    def _say(self, text: str) -> None:
        """A line of verbose=1, where scikit-learn has it: on the standard output."""
        if self.verbose:
            sys.stdout.write(text + "\n")


class QuietLayer(KMeansLayer):
    """A layer that leaves it to the estimator to warn of clusters without samples."""

    def _warn_of_surplus(self, *_: object) -> None:
        pass
