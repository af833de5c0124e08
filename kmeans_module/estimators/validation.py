"""What the estimators are given: by scikit-learn's validation, or a tensor that stays one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from sklearn.base import _fit_context
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import _check_sample_weight
from torch import Tensor

from kmeans_module.arrays import Array, as_tensor, check_unmasked
from kmeans_module.checks import check_rows, check_sample_weight
from kmeans_module.core.seeding import Init
from kmeans_module.core.sparse import csr_rows, is_sparse, numbers_of

try:
    from sklearn.utils.validation import validate_data
except ImportError:  # before scikit-learn 1.6 it was a method

    def validate_data(
        estimator: Any, X: Any, *, reset: bool, skip_check_array: bool = False, **params: Any
    ) -> Any:
        return estimator._validate_data(
            X, reset=reset, cast_to_ndarray=not skip_check_array, **params
        )


# What scikit-learn takes for samples: an array, a frame, nested lists, scipy's CSR; or a tensor,
# dense or of layout torch.sparse_csr.
Samples = Any
Method = TypeVar("Method", bound=Callable[..., Any])

# Parameters are checked before the method, unless scikit-learn's configuration says otherwise.
checked: Callable[[Method], Method] = _fit_context(prefer_skip_nested_validation=True)


def validated(estimator: Any, X: Samples, *, reset: bool) -> Samples:
    """X as scikit-learn would see it: an array or CSR of float32 or float64; or the tensor X.

    Nothing is copied that has one of these types.

    Args:
        estimator: whose features X has to have.
        X: samples (n, d).
        reset: whether the estimator takes number and names of the features from X.

    Raises:
        ValueError, TypeError: what scikit-learn raises; values that are masked.
    """
    if not isinstance(X, Tensor):
        check_unmasked(X, "X")
        return validate_data(
            estimator, X, reset=reset, accept_sparse="csr", dtype=[np.float64, np.float32]
        )
    check_rows(X, "X", sparse=True)
    if X.is_meta:
        raise ValueError("X should hold numbers; it is on meta, where there are none")
    if X.ndim != 2:
        way_out = ": use X.reshape(1, -1) for one sample" if X.ndim == 1 else ""
        raise ValueError(f"Expected 2D tensor, got {X.ndim}D tensor instead{way_out}")
    for size, what in zip(X.shape, ("sample", "feature"), strict=True):
        if not size:
            raise ValueError(
                f"Found tensor with 0 {what}(s) (shape={tuple(X.shape)}) while a minimum of 1 is "
                f"required by {type(estimator).__name__}."
            )
    if not bool(numbers_of(X).isfinite().all()):
        raise ValueError("Input X contains NaN or infinity.")
    validate_data(estimator, X, reset=reset, skip_check_array=True)
    return X.detach()


def rows_of(X: Samples) -> Tensor:
    """X, validated, as a tensor: dense, or of layout torch.sparse_csr."""
    return as_tensor(X, "X", sparse=True)


def weights(sample_weight: Any, X: Samples, rows: Tensor) -> Tensor | None:
    """Weights (n,) on the device of the rows.

    Args:
        sample_weight: an array, a number for all or None; or a tensor.
        X: validated.
        rows: of X, as a tensor.
    """
    if sample_weight is None:
        return None
    check_unmasked(sample_weight, "sample_weight")
    if not isinstance(X, Tensor):
        if isinstance(sample_weight, Tensor):
            sample_weight = sample_weight.detach().cpu().numpy()
        sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
    weight = as_tensor(sample_weight, "sample_weight").detach().to(rows.device)
    return check_sample_weight(weight, rows)


def drawing_from(state: Any, X: Samples) -> np.random.RandomState:
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
    return torch.Generator().manual_seed(int(random.randint(2**31 - 1)))


def start_of(init: Any, X: Samples, n_clusters: int, random: np.random.RandomState) -> Init:
    """An init of the estimators as one of the layer.

    Args:
        init: a name, an array (k, d), or a function ``init(X, n_clusters, random_state=...)``.
        X: what such a function is given, in whatever form it has.
        n_clusters: k.
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


def _centers(given: Any, X: Samples, n_clusters: int) -> Tensor:
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


def taken(X: Samples, rows: Tensor, indices: Array) -> tuple[Samples, Tensor]:
    """Some rows of X, in its form and as a tensor."""
    if isinstance(X, Tensor):
        index = torch.from_numpy(indices).to(rows.device)
        part = _sparse_rows_at(rows, index) if is_sparse(rows) else rows[index]
        return part, part
    part = X[indices]
    return part, rows_of(part)


def _sparse_rows_at(x: Tensor, index: Tensor) -> Tensor:
    starts, columns = x.crow_indices(), x.col_indices()
    first = starts[index]
    counts = starts[index + 1] - first
    ends = counts.cumsum(0)
    places = torch.arange(int(counts.sum()), device=x.device)
    places = places + (first - ends + counts).repeat_interleave(counts)
    bounds = torch.cat([ends.new_zeros(1), ends]).to(columns.dtype)
    return csr_rows(bounds, columns[places], x.values()[places], (len(index), x.shape[1]))


def like(X: Samples, result: Tensor) -> Array | Tensor:
    """A result in the form of X: an array, or for a tensor a tensor."""
    return result if isinstance(X, Tensor) else result.numpy()


def labels_like(X: Samples, labels: Tensor) -> Array | Tensor:
    """Labels in the form of X: int32 as in scikit-learn, or an int64 tensor."""
    return labels if isinstance(X, Tensor) else labels.to(torch.int32).numpy()
