"""What the estimators are given: by scikit-learn's validation, or a tensor that stays one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from sklearn.base import _fit_context
from sklearn.utils.validation import _check_sample_weight
from torch import Tensor

from kmeans_module.arrays import Array, as_tensor, check_unmasked
from kmeans_module.checks import check_rows, check_sample_weight
from kmeans_module.core.sparse import is_sparse, numbers_of, sparse_rows_at

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
Matrix = Any
Method = TypeVar("Method", bound=Callable[..., Any])

# Parameters are checked before the method, unless scikit-learn's configuration says otherwise.
checked: Callable[[Method], Method] = _fit_context(prefer_skip_nested_validation=True)


class Samples(NamedTuple):
    """What an estimator was given, validated.

    Attributes:
        X: an array, CSR of float32 or float64, or a tensor.
        rows: of X, as a tensor on its device, dense or of layout torch.sparse_csr.
        weight: (n,) or None.
    """

    X: Matrix
    rows: Tensor
    weight: Tensor | None

    @classmethod
    def of(
        cls, estimator: Any, X: Matrix, sample_weight: Any = None, *, reset: bool = False
    ) -> Samples:
        """X and its weights as scikit-learn would see them.

        Args:
            estimator: whose features X has to have.
            X: samples (n, d).
            sample_weight: (n,), or a number for all, or None.
            reset: whether the estimator takes number and names of the features from X.

        Raises:
            ValueError, TypeError: what scikit-learn raises; masked values; negative weights.
        """
        X = _validated(estimator, X, reset=reset)
        rows = as_tensor(X, "X", sparse=True)
        return cls(X, rows, _weights(sample_weight, X, rows))

    @property
    def n_samples(self) -> int:
        return self.rows.shape[0]

    def at(self, indices: Array) -> Samples:
        """Some of the samples."""
        index = torch.from_numpy(indices).to(self.rows.device)
        weight = None if self.weight is None else self.weight[index]
        if isinstance(self.X, Tensor):
            sparse = is_sparse(self.rows)
            part = sparse_rows_at(self.rows, index) if sparse else self.rows[index]
            return Samples(part, part, weight)
        part = self.X[indices]
        return Samples(part, as_tensor(part, "X", sparse=True), weight)


def _validated(estimator: Any, X: Matrix, *, reset: bool) -> Matrix:
    """Nothing is copied that is an array of floats, or CSR, or a tensor."""
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


def _weights(sample_weight: Any, X: Matrix, rows: Tensor) -> Tensor | None:
    if sample_weight is None:
        return None
    check_unmasked(sample_weight, "sample_weight")
    if not isinstance(X, Tensor):
        if isinstance(sample_weight, Tensor):
            sample_weight = sample_weight.detach().cpu().numpy()
        sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
    weight = as_tensor(sample_weight, "sample_weight").detach().to(rows.device)
    weight = weight.expand(rows.shape[0]) if weight.ndim == 0 else weight
    checked_weight = check_sample_weight(weight, rows)
    if not bool(weight.any()):
        raise ValueError("Sample weights must contain at least one non-zero number.")
    return checked_weight


def like(X: Matrix, result: Tensor) -> Array | Tensor:
    """A result in the form of X: an array, or a tensor where X is."""
    return result.to(X.device) if isinstance(X, Tensor) else result.cpu().numpy()


def labels_like(X: Matrix, labels: Tensor) -> Array | Tensor:
    """Labels in the form of X: int32 as in scikit-learn, or an int64 tensor."""
    return labels if isinstance(X, Tensor) else labels.to(torch.int32).numpy()
