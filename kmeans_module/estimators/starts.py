"""What the estimators start from, and what they draw from."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.utils import check_array, check_random_state
from torch import Tensor

from kmeans_module.arrays import as_tensor
from kmeans_module.core.seeding import Init
from kmeans_module.estimators.validation import Matrix


def drawing_from(state: Any, X: Matrix) -> np.random.RandomState:
    """The RandomState of a random_state; what is given as a generator moves on.

    None is NumPy's global one as in scikit-learn, and for a tensor torch's default generator.
    """
    if isinstance(state, np.random.Generator):
        return np.random.RandomState(int(state.integers(2**32)))
    if isinstance(state, torch.Generator) or (state is None and isinstance(X, Tensor)):
        device = None if state is None else state.device
        seed = torch.randint(2**32, (), generator=state, device=device)
        return np.random.RandomState(int(seed))
    drawn: np.random.RandomState = check_random_state(state)
    return drawn


def generator_from(random: np.random.RandomState) -> torch.Generator:
    """A generator on the CPU, seeded by what a RandomState draws."""
    return torch.Generator().manual_seed(int(random.randint(2**31 - 1)))


def start_of(init: Any, X: Matrix, n_clusters: int, random: np.random.RandomState) -> Init:
    """An init of the estimators as one of the layer.

    Args:
        init: a name, an array (k, d), or a function ``init(X, n_clusters, random_state=...)``.
        X: what such a function is given, in whatever form it has.
        n_clusters: number of clusters, k.
        random: what such a function draws from.
    """
    if isinstance(init, str):
        return str(init)  # NumPy's texts are no plain ones
    if not callable(init):
        return _centers(init, X, n_clusters)

    def start(*_: object) -> Tensor:
        given = init(X, n_clusters, random_state=random)
        for dense in ("toarray", "to_dense"):  # of rows of sparse X
            given = getattr(given, dense)() if hasattr(given, dense) else given
        return _centers(given, X, n_clusters)

    return start


def _centers(given: Any, X: Matrix, n_clusters: int) -> Tensor:
    """Initial centers (k, d), a copy."""
    if isinstance(X, Tensor):
        centers: Any = as_tensor(given, "init").detach().to(X.device, copy=True)
        if centers.ndim != 2:
            raise ValueError(f"Expected 2D tensor of initial centers, got {centers.ndim}D")
    else:
        if isinstance(given, Tensor):
            given = given.detach().cpu().numpy()
        centers = check_array(given, dtype=X.dtype, copy=True, order="C", input_name="init")
    shape = tuple(centers.shape)
    for size, wanted, what in (
        (shape[0], n_clusters, "number of clusters"),
        (shape[1], X.shape[1], "number of features of the data"),
    ):
        if size != wanted:
            raise ValueError(
                f"The shape of the initial centers {shape} does not match the {what} {wanted}."
            )
    return as_tensor(centers)
