"""Checks of arguments: each error names the argument, what was expected, what came."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from kmeans_module.core.guard import (
    differentiated,
    is_distributed,
    is_masked,
    no_plain,
    readable,
    under_mode,
)
from kmeans_module.core.sparse import is_sparse
from kmeans_module.core.statistics import ClusterStats, accumulator_dtype
from kmeans_module.core.words import first_line, shown

_LARGEST_WEIGHT = 1e100
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SPARSE = (torch.sparse_coo, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
_INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class NotInitializedError(ValueError):
    """The layer has no centroids yet."""


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} should be one of {', '.join(choices)}; got {shown(value)}")


def check_integer(name: str, value: object, *, minimum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} should be an integer; got {shown(value)}")
    value = int(value)
    if value < minimum:
        raise ValueError(f"{name} should be >= {minimum}; got {shown(value)}")
    if value > 2**62:
        raise ValueError(f"{name}={shown(value)} overflows a 64-bit integer")
    return value


def check_number(name: str, value: object, *, minimum: float, maximum: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} should be a number; got {shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not minimum <= number <= maximum or math.isinf(number):
        raise ValueError(f"{name} should be from {minimum:g} to {maximum:g}; got {shown(value)}")
    return number


def check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} should be True or False; got {shown(value)}")


def check_verbose(verbose: object) -> bool:
    """Whether anything is shown; numbers as scikit-learn has them: all but 0 show the same."""
    if isinstance(verbose, bool | np.bool_):
        return bool(verbose)
    if not isinstance(verbose, Integral) or int(verbose) < 0:
        raise TypeError(f"verbose should be True or False; got {shown(verbose)}")
    return int(verbose) > 0


def check_callable(name: str, value: object) -> None:
    if value is not None and not callable(value):
        raise TypeError(f"{name} should be a function or None; got {type(value).__name__}")


def check_tensor(name: str, value: object, *, sparse: bool = False) -> Tensor:
    """A tensor of real numbers in memory: dense or, where that is said, of layout sparse_csr."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} should be a torch.Tensor; got {of_another_kind(value)}")
    if type(value) is not Tensor and is_distributed(value):
        raise TypeError(
            f"{name} should be a tensor of this rank; got a DTensor: hand in {name}.to_local() "
            f"or {name}.full_tensor()"
        )
    if type(value) is not Tensor and is_masked(value):
        raise TypeError(
            f"{name} should have no mask; got a MaskedTensor: fill it by {name}.to_tensor(value)"
        )
    if value.is_complex():
        raise TypeError(f"{name} should hold real numbers; got {value.dtype}")
    if sparse and value.layout == torch.sparse_csr:
        return _check_sparse(name, value)
    if value.is_nested or value.layout != torch.strided or value.is_quantized:
        kind = "a nested tensor" if value.is_nested else f"{value.layout}, {value.dtype}"
        if sparse and value.layout in _SPARSE:
            kind += f"; sparse rows are taken as {name}.to_sparse_csr()"
        raise TypeError(f"{name} should be a dense tensor; got {kind}")
    return value


def of_another_kind(value: object) -> str:
    """The kind of a value that is no tensor; of arrays and frames with the way out."""
    kind = type(value).__name__
    if hasattr(value, "__array__") and not isinstance(value, type):
        kind += ": torch.from_numpy makes one, and kmeans_module.kmeans and predict take arrays"
    return kind


def _check_sparse(name: str, value: Tensor) -> Tensor:
    """Sparse rows (n, d) whose indices a kernel may follow."""
    reason = under_mode() or no_plain(value)
    if reason is not None:
        raise RuntimeError(f"sparse {name} is taken as a plain tensor in eager code; {reason}")
    if value.ndim != 2 or value.dense_dim():
        raise ValueError(
            f"{name} should have shape (n, d) where it is sparse; got {tuple(value.shape)}"
        )
    try:
        torch.sparse_csr_tensor(
            value.crow_indices(), value.col_indices(), value.values(), value.shape,
            check_invariants=True,
        )  # fmt: skip
    except RuntimeError as error:
        raise ValueError(
            f"{name} should hold columns in ascending order and once each, in every row; "
            f"{first_line(error)}"
        ) from None
    return value


def check_rows(x: object, name: str = "x", *, sparse: bool = False) -> Tensor:
    x = check_tensor(name, x, sparse=sparse)
    if x.dtype not in FLOATS + _INTEGERS:
        raise TypeError(f"{name} should hold floats, signed integers, uint8 or bool; got {x.dtype}")
    return x


def check_real(name: str, value: Tensor) -> Tensor:
    """A tensor that holds numbers."""
    if value.is_meta:
        raise ValueError(f"{name} should hold numbers; it is on meta, where there are none")
    return value


def check_sized(name: str, value: object, shape: tuple[int | str, ...]) -> Tensor:
    """Finite real numbers of a shape, whose sizes are numbers, or words for any size from 1 up."""
    value = check_tensor(name, value)
    fits = value.ndim == len(shape) and all(
        size > 0 if isinstance(wanted, str) else size == wanted
        for size, wanted in zip(value.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
        raise ValueError(f"{name} should have shape ({wanted}); got {tuple(value.shape)}")
    check_real(name, value)
    if readable(value) and not value.double().isfinite().all():
        raise ValueError(f"{name} should be finite; it contains NaN or infinity")
    return value


def check_listed(name: str, value: object, length: int) -> list[Any]:
    """The items of any iterable but text, of which there should be so many."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise TypeError(f"{name} should be a list of {length}; got {shown(value)}")
    try:
        items = list(value)
    except (TypeError, RuntimeError):  # tensors without dimensions or without numbers
        raise TypeError(f"{name} should be a list of {length}; got {shown(value)}") from None
    if len(items) != length:
        raise ValueError(f"{name} should be {length} {name.split('_')[-1]}; got {len(items)}")
    return items


def check_text(name: str, value: object) -> None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} should be text or None; got {shown(value)}")


def check_centroids(centroids: object) -> Tensor:
    """Centroids (*batch_shape, k, d) with k, d >= 1."""
    centroids = check_tensor("centroids", centroids)
    if centroids.dtype not in FLOATS:
        raise TypeError(f"centroids should hold floats; got {centroids.dtype}")
    if centroids.ndim < 2 or 0 in centroids.shape:
        raise ValueError(
            "centroids should have shape (*batch_shape, n_clusters, n_features), none of them 0; "
            f"got {tuple(centroids.shape)}"
        )
    return centroids


def check_statistics(stats: object, centroids: Tensor) -> ClusterStats:
    """ClusterStats with the batch_shape and the sizes of centroids (*batch_shape, k, d)."""
    if not isinstance(stats, ClusterStats):
        raise TypeError(f"stats should be ClusterStats; got {type(stats).__name__}")
    fields = [check_tensor("stats", field) for field in (stats.sums, stats.counts, stats.inertia)]
    shapes = [tuple(field.shape) for field in fields]
    shape = tuple(centroids.shape)
    if shapes != [shape, shape[:-1], shape[:-2]]:
        raise ValueError(
            f"stats should be of centroids {shape}; "
            f"got sums, counts and inertia of shapes {', '.join(map(str, shapes))}"
        )
    check_device("stats", stats.sums, centroids.device)
    return stats


def check_numel(name: str, value: object, like: Tensor) -> Tensor:
    """As many real numbers as a tensor has, in its shape."""
    value = check_tensor(name, value)
    if value.numel() != like.numel():
        raise ValueError(f"{name} should have shape {tuple(like.shape)}; got {tuple(value.shape)}")
    return value.reshape(like.shape)


def check_device(name: str, value: Tensor, device: torch.device) -> None:
    if value.device != device:
        raise ValueError(f"{name} is on {value.device}, the centroids are on {device}")


def check_features(x: object, n_features: int, *, sparse: bool = False) -> Tensor:
    """x (..., d)."""
    x = check_rows(x, sparse=sparse)
    if x.ndim < 1 or x.shape[-1] != n_features:
        raise ValueError(f"x should have shape (..., {n_features}); got {tuple(x.shape)}")
    return x


def check_samples(
    x: object,
    n_features: int,
    batch_shape: tuple[int, ...] = (),
    *,
    name: str = "x",
    sparse: bool = False,
) -> Tensor:
    """x (*batch_shape, n, d), or (n, d) shared by all problems; sparse where that is said."""
    x = check_rows(x, name, sparse=sparse)
    shape = x.shape
    fits = len(shape) == 2 or (len(shape) > 2 and shape[:-2] == batch_shape)
    if not fits or shape[-1] != n_features:
        shapes = [(*batch_shape, "n_samples", n_features), ("n_samples", n_features)]
        wanted = " or ".join(str(shape).replace("'", "") for shape in dict.fromkeys(shapes))
        raise ValueError(f"{name} should have shape {wanted}; got {tuple(shape)}")
    return x


def check_broadcast(x: object, centroids: Tensor) -> Tensor:
    """x (..., m, d), whose leading dimensions broadcast with those of centroids (..., k, d)."""
    x = check_rows(x, sparse=True)
    if is_sparse(x) and differentiated(x):
        raise TypeError("x has no gradient where it is sparse; use x.detach() or x.to_dense()")
    check_device("x", x, centroids.device)
    shape, d = x.shape, centroids.shape[-1]
    fits = len(shape) >= 2 and shape[-1] == d
    if len(shape) > 2 and centroids.ndim > 2:
        leading = zip(reversed(shape[:-2]), reversed(centroids.shape[:-2]), strict=False)
        fits = fits and all(a == b or 1 in (a, b) for a, b in leading)
    if not fits:
        raise ValueError(
            f"x should have shape (..., m, {d}) that broadcasts with centroids "
            f"{tuple(centroids.shape)}; got {tuple(shape)}"
        )
    return x


def check_sample_weight(
    sample_weight: object, x: Tensor, batch_shape: tuple[int, ...] = ()
) -> Tensor | None:
    """Weights (n,) or (*batch_shape, n): finite, none negative (not seen in compiled code)."""
    if sample_weight is None:
        return None
    weight = check_tensor("sample_weight", sample_weight)
    shape = (*batch_shape, x.shape[-2])
    if weight.shape not in (shape, shape[-1:]):
        raise ValueError(
            f"sample_weight should have shape {shape}, one weight per sample; "
            f"got {tuple(weight.shape)}"
        )
    check_device("sample_weight", weight, x.device)
    weight = weight.to(accumulator_dtype(x.device))
    if weight.numel() and not weight.is_meta and not under_mode():
        weight = weight.resolve_neg()  # kernels read the numbers in memory
        lowest, highest = torch.stack(weight.aminmax()).tolist()
        if not (math.isfinite(lowest) and math.isfinite(highest)):
            raise ValueError("sample_weight should be finite; it contains NaN or infinity")
        if lowest < 0:
            negative = int((weight < 0).sum())
            raise ValueError(
                f"sample_weight should be >= 0; {negative} weights are negative, "
                f"the smallest is {lowest:g}"
            )
        if highest > _LARGEST_WEIGHT:
            raise ValueError(
                f"sample_weight should be at most {_LARGEST_WEIGHT:g}, or sums overflow; "
                f"the largest is {highest:g}"
            )
    return weight


def check_shape(name: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple | list):
        raise TypeError(f"{name} should be a tuple of integers; got {shown(value)}")
    return tuple(check_integer(name, size, minimum=1) for size in value)


def check_labels(labels: object, n_clusters: int, batch_shape: tuple[int, ...] = ()) -> Tensor:
    """Integers from 0 to n_clusters - 1 (looked at on the CPU), (*) or (*batch_shape, n)."""
    labels = check_tensor("labels", labels)
    if labels.dtype.is_floating_point or labels.dtype == torch.bool:
        raise TypeError(f"labels should be integers; got {labels.dtype}")
    if batch_shape and labels.shape[:-1] != batch_shape:
        shape = str((*batch_shape, "n")).replace("'", "")
        raise ValueError(f"labels should have shape {shape}; got {tuple(labels.shape)}")
    labels = labels.long()
    if labels.numel() and readable(labels):
        lowest, highest = (int(bound) for bound in labels.aminmax())
        if lowest < 0 or highest >= n_clusters:
            raise ValueError(
                f"labels should be from 0 to {n_clusters - 1}; got {lowest} to {highest}"
            )
    return labels


def check_process_group(group: object) -> None:
    if group is not None and not isinstance(group, ProcessGroup):
        raise TypeError(
            f"process_group should be a ProcessGroup of this process or None; "
            f"got {type(group).__name__}"
        )
