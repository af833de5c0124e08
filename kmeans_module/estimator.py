"""KMeans: the scikit-learn face of the layer, for arrays and tensors."""

from __future__ import annotations

import inspect
import warnings
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kmeans_module.arrays import Array, as_tensor, column_names
from kmeans_module.checks import NotInitializedError, check_choice, check_integer, check_rows
from kmeans_module.core.distances import unit_rows
from kmeans_module.core.seeding import Init
from kmeans_module.core.statistics import accumulator_dtype
from kmeans_module.files.refusals import enumerated
from kmeans_module.layer import KMeansLayer


class KMeans:
    """k-means with the interface of scikit-learn's; works in its pipelines and ``clone``.

    What comes in as a numpy array goes out as one, a tensor as a tensor on its device. Frames,
    nested lists and whatever else NumPy reads come in too, and arrays go out. The columns of a
    frame have to be those of the fit, in their order.

    Args:
        n_clusters: k.
        init: "k-means++", "k-means||", "random", an array (k, d), or a function
            ``init(x, n_clusters, generator)``.
        n_init: restarts, of which the best is kept; "auto" for 10 where init is "random" or a
            function, else 1.
        max_iter: iterations at most.
        tol: relative to the mean variance of the features.
        random_state: seed, or a numpy RandomState or Generator that gives one; a torch.Generator
            is drawn from; None draws from torch's default generator.
        metric: "euclidean" or "cosine".
        empty_cluster: "relocate", "split", "keep" or "error".

    Attributes:
        cluster_centers_: (k, d), of float32 for x of float32 or bfloat16, else of float64. Assigned
            to a model, fitted or not, they are what it predicts by.
        labels_: of the samples of fit, (n,).
        inertia_: weighted sum of squared distances.
        n_iter_: iterations.
        n_features_in_: d.
        feature_names_in_: the columns of the frame of fit, where they have names of text.
        layer_: the fitted :class:`~kmeans_module.KMeansLayer`.

    Example:
        >>> import numpy as np
        >>> model = KMeans(n_clusters=2, random_state=0).fit(np.array([[0.0], [1.0], [9.0]]))
        >>> model.predict(np.array([[2.0], [8.0]])) == model.labels_[[0, 2]]
        array([ True,  True])
    """

    _tensors = False  # whether cluster_centers_ is a tensor

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Init | Array = "k-means++",
        n_init: int | str = 1,
        max_iter: int = 300,
        tol: float = 1e-4,
        random_state: int
        | np.random.RandomState
        | np.random.Generator
        | torch.Generator
        | None = None,
        metric: str = "euclidean",
        empty_cluster: str = "relocate",
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.metric = metric
        self.empty_cluster = empty_cluster

    def fit(
        self, x: Array | Tensor, y: object = None, sample_weight: Array | Tensor | None = None
    ) -> KMeans:
        """Find the centroids of samples (n, d).

        Raises:
            ValueError: see :meth:`kmeans_module.KMeansLayer.fit`.
        """
        rows = _samples(x)
        names = column_names(x)
        layer = KMeansLayer(
            self.n_clusters, rows.shape[1], metric=self.metric,
            empty_cluster=self.empty_cluster, device=rows.device, dtype=_dtype_for(rows),
        )  # fmt: skip
        n_init = self.n_init
        if isinstance(n_init, str):
            check_choice("n_init", n_init, ("auto",))
            by_chance = isinstance(self.init, str) and self.init == "random"
            n_init = 10 if by_chance or callable(self.init) else 1
        result = layer.fit(
            rows, init=_init(self.init), max_iter=self.max_iter, tol=self.tol, n_init=n_init,
            sample_weight=_weight(sample_weight), generator=_generator(self.random_state),
        )  # fmt: skip
        self.layer_ = layer
        self._tensors = isinstance(x, Tensor)
        assert result.labels is not None
        self.labels_ = _like(x, result.labels)
        self.inertia_ = float(result.inertia)
        self.n_iter_ = int(result.n_iter)
        self._note_features(layer.n_features, names)
        return self

    @property
    def cluster_centers_(self) -> Array | Tensor:
        """The centroids (k, d); assign an array or a tensor to restore a model from them."""
        layer = getattr(self, "layer_", None)
        if layer is None:
            raise AttributeError("KMeans has no cluster_centers_ yet: call fit, or assign them")
        centroids: Tensor = layer.centroids
        return centroids if self._tensors else centroids.numpy()

    @cluster_centers_.setter
    def cluster_centers_(self, centers: Array | Tensor) -> None:
        centroids = as_tensor(centers, "cluster_centers_").detach()
        if centroids.ndim != 2 or 0 in centroids.shape:
            raise ValueError(
                "cluster_centers_ should have shape (n_clusters, n_features); "
                f"got {tuple(centroids.shape)}"
            )
        if not bool(centroids.isfinite().all()):
            raise ValueError("cluster_centers_ should be finite; they hold NaN or infinity")
        if not centroids.is_floating_point():
            centroids = centroids.double()
        # as scikit-learn does, k and d are those of the centers, whatever n_clusters says
        layer = KMeansLayer(
            *centroids.shape, metric=self.metric, empty_cluster=self.empty_cluster,
            device=centroids.device, dtype=centroids.dtype,
        )  # fmt: skip
        if self.metric == "cosine":
            centroids = unit_rows(centroids)
            if not bool(centroids.any(dim=-1).all()):
                raise ValueError("cluster_centers_ should have no zero row with metric='cosine'")
        layer.set_centroids(centroids)
        self.layer_ = layer
        self._tensors = isinstance(centers, Tensor)
        names = getattr(self, "feature_names_in_", None)
        fits = names is not None and len(names) == layer.n_features
        self._note_features(layer.n_features, list(names) if fits and names is not None else None)

    def predict(self, x: Array | Tensor) -> Array | Tensor:
        """Labels (n,) of samples (n, d)."""
        layer, rows = self._fitted(x)
        return _like(x, layer(rows))

    def fit_predict(
        self, x: Array | Tensor, y: object = None, sample_weight: Array | Tensor | None = None
    ) -> Array | Tensor:
        """Labels (n,) of the samples of the fit."""
        return self.fit(x, sample_weight=sample_weight).labels_

    def transform(self, x: Array | Tensor) -> Array | Tensor:
        """Distances to the centroids, (n, k): Euclidean, not squared, as in scikit-learn; 1 - cos
        for the metric "cosine"."""
        layer, rows = self._fitted(x)
        with torch.no_grad():
            distances = layer.transform(rows)
        return _like(x, distances if layer.metric == "cosine" else distances.sqrt())

    def fit_transform(
        self, x: Array | Tensor, y: object = None, sample_weight: Array | Tensor | None = None
    ) -> Array | Tensor:
        """:meth:`transform` of the samples of the fit."""
        return self.fit(x, sample_weight=sample_weight).transform(x)

    def score(
        self, x: Array | Tensor, y: object = None, sample_weight: Array | Tensor | None = None
    ) -> float:
        """Minus the inertia of samples (n, d)."""
        layer, rows = self._fitted(x)
        return -float(layer.e_step(rows, _weight(sample_weight)).stats.inertia)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> KMeans:
        """Change some of the constructor's arguments."""
        names = tuple(inspect.signature(type(self)).parameters)
        for name, value in params.items():
            check_choice("parameter", name, names)
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn's pipelines and searches ask for."""
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags  # type: ignore[import-untyped]

        return Tags(
            estimator_type="clusterer", target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(), input_tags=InputTags(),
        )  # fmt: skip

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "layer_")

    def __repr__(self) -> str:
        parameters = inspect.signature(type(self)).parameters
        changed = (
            f"{name}={value!r}"
            for name, value in self.get_params().items()
            if value is not parameters[name].default
        )
        return f"{type(self).__name__}({', '.join(changed)})"

    def _fitted(self, x: Array | Tensor) -> tuple[KMeansLayer, Tensor]:
        """The layer, and the samples x, which have to have the columns of the fit."""
        layer = getattr(self, "layer_", None)
        if not isinstance(layer, KMeansLayer):
            raise NotInitializedError("KMeans has no centroids yet: call fit")
        names, fitted = column_names(x), getattr(self, "feature_names_in_", None)
        if names is not None and fitted is not None:
            _check_names(names, list(fitted))
        elif names is not None:
            warnings.warn(
                "X has feature names, but KMeans was fitted without feature names", stacklevel=3
            )
        elif fitted is not None:
            warnings.warn(
                "X does not have valid feature names, but KMeans was fitted with feature names",
                stacklevel=3,
            )
        return layer, _samples(x)

    def _note_features(self, n_features: int, names: list[str] | None) -> None:
        self.n_features_in_ = n_features
        if names is not None:
            self.feature_names_in_ = np.array(names, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_


def _dtype_for(rows: Tensor) -> torch.dtype:
    """Of the centroids: as in scikit-learn, which does not know bfloat16, float32 stays float32 and
    everything else is float64 (on MPS there is none)."""
    if rows.dtype in (torch.float32, torch.bfloat16):
        return torch.float32
    return accumulator_dtype(rows.device)


def _samples(x: Any) -> Tensor:
    rows = check_rows(as_tensor(x))
    if rows.is_meta:
        raise ValueError("x should hold numbers; it is on meta, where there are none")
    if rows.ndim != 2:
        way_out = "; use x.reshape(1, -1) for one sample" if rows.ndim == 1 else ""
        raise ValueError(
            f"x should have shape (n_samples, n_features); got {tuple(rows.shape)}{way_out}"
        )
    return rows


def _weight(sample_weight: Any) -> Tensor | None:
    return None if sample_weight is None else as_tensor(sample_weight, "sample_weight")


def _init(init: Any) -> Init:
    if isinstance(init, str):
        return init
    if not callable(init):
        return as_tensor(init, "init")
    return lambda x, n_clusters, generator: as_tensor(init(x, n_clusters, generator), "init")


def _generator(state: Any) -> torch.Generator | None:
    """The generator of a random_state, which moves on where it can."""
    if state is None or isinstance(state, torch.Generator):
        return state
    if state is np.random or isinstance(state, np.random.RandomState):
        seed = int(state.randint(2**31))
    elif isinstance(state, np.random.Generator):
        seed = int(state.integers(2**31))
    elif isinstance(state, Integral):
        seed = check_integer("random_state", state, minimum=0)
    else:
        raise TypeError(
            "random_state should be an integer, a numpy RandomState or Generator, a "
            f"torch.Generator or None; got {type(state).__name__}"
        )
    return torch.Generator().manual_seed(seed)


def _check_names(names: list[str], fitted: list[str]) -> None:
    """Refuse columns of a frame that are not those of the fit, in the words of scikit-learn."""
    if names == fitted:
        return
    parts = ["The feature names should match those that were passed during fit"]
    unseen = [name for name in names if name not in fitted]
    missing = [name for name in fitted if name not in names]
    if unseen:
        parts.append(f"unseen at fit time: {enumerated(unseen)}")
    if missing:
        parts.append(f"seen at fit time, yet now missing: {enumerated(missing)}")
    if not unseen and not missing:
        parts.append("Feature names must be in the same order as they were in fit")
        parts.append(f"expected {enumerated(fitted)}; got {enumerated(names)}")
    raise ValueError("; ".join(parts))


def _like(x: Array | Tensor, result: Tensor) -> Array | Tensor:
    return result if isinstance(x, Tensor) else result.numpy()
