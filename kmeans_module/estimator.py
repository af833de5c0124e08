"""KMeans: the scikit-learn face of the layer, for arrays and tensors."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kmeans_module.checks import NotInitializedError, check_choice
from kmeans_module.core.seeding import Init
from kmeans_module.core.statistics import accumulator_dtype
from kmeans_module.layer import KMeansLayer

Array = NDArray[Any]


class KMeans:
    """k-means with the interface of scikit-learn's; works in its pipelines and ``clone``.

    What comes in as a numpy array goes out as one, a tensor as a tensor on its device.

    Args:
        n_clusters: k.
        init: "k-means++", "k-means||", "random", an array (k, d), or a function
            ``init(x, n_clusters, generator)``.
        n_init: restarts, of which the best is kept; "auto" for 10 where init is "random" or a
            function, else 1.
        max_iter: iterations at most.
        tol: relative to the mean variance of the features.
        random_state: seed, or a numpy RandomState that gives one; None draws from torch's
            default generator.
        metric: "euclidean" or "cosine".
        empty_cluster: "relocate", "split", "keep" or "error".

    Attributes:
        cluster_centers_: (k, d), of float32 for x of float32 or bfloat16, else of float64.
        labels_: of the samples of fit, (n,).
        inertia_: weighted sum of squared distances.
        n_iter_: iterations.
        n_features_in_: d.
        layer_: the fitted :class:`~kmeans_module.KMeansLayer`.

    Example:
        >>> import numpy as np
        >>> model = KMeans(n_clusters=2, random_state=0).fit(np.array([[0.0], [1.0], [9.0]]))
        >>> model.predict(np.array([[2.0], [8.0]])) == model.labels_[[0, 2]]
        array([ True,  True])
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Init | Array = "k-means++",
        n_init: int | str = 1,
        max_iter: int = 300,
        tol: float = 1e-4,
        random_state: int | np.random.RandomState | None = None,
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
        rows = _tensor(x)
        if rows.ndim != 2:
            raise ValueError(
                f"x should have shape (n_samples, n_features); got {tuple(rows.shape)}"
            )
        layer = KMeansLayer(
            self.n_clusters, rows.shape[1], metric=self.metric,
            empty_cluster=self.empty_cluster, device=rows.device, dtype=_dtype_for(rows),
        )  # fmt: skip
        generator = None
        if isinstance(self.random_state, np.random.RandomState):
            generator = torch.Generator().manual_seed(int(self.random_state.randint(2**31)))
        elif self.random_state is not None:
            generator = torch.Generator().manual_seed(self.random_state)
        n_init = self.n_init
        if isinstance(n_init, str):
            check_choice("n_init", n_init, ("auto",))
            by_chance = isinstance(self.init, str) and self.init == "random"
            n_init = 10 if by_chance or callable(self.init) else 1
        result = layer.fit(
            rows, init=_tensor(self.init) if isinstance(self.init, np.ndarray) else self.init,
            max_iter=self.max_iter, tol=self.tol, n_init=n_init,
            sample_weight=None if sample_weight is None else _tensor(sample_weight),
            generator=generator,
        )  # fmt: skip
        self.layer_ = layer
        self.cluster_centers_ = _like(x, layer.centroids)
        assert result.labels is not None
        self.labels_ = _like(x, result.labels)
        self.inertia_ = float(result.inertia)
        self.n_iter_ = int(result.n_iter)
        self.n_features_in_ = rows.shape[1]
        return self

    def predict(self, x: Array | Tensor) -> Array | Tensor:
        """Labels (n,) of samples (n, d)."""
        return _like(x, self._fitted()(_tensor(x)))

    def fit_predict(
        self, x: Array | Tensor, y: object = None, sample_weight: Array | Tensor | None = None
    ) -> Array | Tensor:
        """Labels (n,) of the samples of the fit."""
        return self.fit(x, sample_weight=sample_weight).labels_

    def transform(self, x: Array | Tensor) -> Array | Tensor:
        """Distances to the centroids, (n, k): Euclidean, not squared, as in scikit-learn; 1 - cos
        for the metric "cosine"."""
        layer = self._fitted()
        with torch.no_grad():
            distances = layer.transform(_tensor(x))
        return _like(x, distances if self.metric == "cosine" else distances.sqrt())

    def fit_transform(
        self, x: Array | Tensor, y: object = None, sample_weight: Array | Tensor | None = None
    ) -> Array | Tensor:
        """:meth:`transform` of the samples of the fit."""
        return self.fit(x, sample_weight=sample_weight).transform(x)

    def score(
        self, x: Array | Tensor, y: object = None, sample_weight: Array | Tensor | None = None
    ) -> float:
        """Minus the inertia of samples (n, d)."""
        weight = None if sample_weight is None else _tensor(sample_weight)
        return -float(self._fitted().e_step(_tensor(x), weight).stats.inertia)

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

    def _fitted(self) -> KMeansLayer:
        layer = getattr(self, "layer_", None)
        if not isinstance(layer, KMeansLayer):
            raise NotInitializedError("KMeans has no centroids yet: call fit")
        return layer


def _dtype_for(rows: Tensor) -> torch.dtype:
    """Of the centroids: as in scikit-learn, which does not know bfloat16, float32 stays float32 and
    everything else is float64 (on MPS there is none)."""
    if rows.dtype in (torch.float32, torch.bfloat16):
        return torch.float32
    return accumulator_dtype(rows.device)


def _tensor(x: Any) -> Tensor:
    if isinstance(x, Tensor):
        return x
    array = np.asarray(x)
    if array.dtype == object:
        what = "sparse; use x.toarray()" if hasattr(x, "toarray") else f"{type(x).__name__}"
        raise TypeError(f"x should be an array of numbers or a tensor; it is {what}")
    return torch.as_tensor(array)


def _like(x: Array | Tensor, found: Tensor) -> Array | Tensor:
    return found if isinstance(x, Tensor) else found.numpy()
