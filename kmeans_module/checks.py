"""Checks of arguments: each error names the argument, what was expected, what came."""

from __future__ import annotations

import math
from numbers import Integral

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from kmeans_module.core.guard import is_distributed, readable, under_mode
from kmeans_module.core.statistics import accumulator_dtype

_LARGEST_WEIGHT = 1e100
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class NotInitializedError(ValueError):
    """The layer has no centroids yet."""


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} should be one of {', '.join(choices)}; got {value!r}")


def check_integer(name: str, value: object, *, minimum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} should be an integer; got {value!r}")
    value = int(value)
    if value < minimum:
        raise ValueError(f"{name} should be >= {minimum}; got {value}")
    if value > 2**62:
        raise ValueError(f"{name}={value} overflows a 64-bit integer")
    return value


def check_number(name: str, value: object, *, minimum: float, maximum: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} should be a number; got {value!r}")
    if not minimum <= value <= maximum or math.isinf(value):
        raise ValueError(f"{name} should be from {minimum:g} to {maximum:g}; got {value}")
    return float(value)


def check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} should be True or False; got {value!r}")


def check_callable(name: str, value: object) -> None:
    if value is not None and not callable(value):
        raise TypeError(f"{name} should be a function or None; got {type(value).__name__}")


def check_tensor(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} should be a torch.Tensor; got {type(value).__name__}")
    if type(value) is not Tensor and is_distributed(value):
        raise TypeError(
            f"{name} should be a tensor of this rank; got a DTensor: hand in {name}.to_local() "
            f"or {name}.full_tensor()"
        )
    if value.is_nested:
        raise TypeError(f"{name} should be a dense tensor; got a nested one")
    if value.is_complex():
        raise TypeError(f"{name} should hold real numbers; got {value.dtype}")
    if value.layout != torch.strided or value.is_quantized:
        raise TypeError(f"{name} should be a dense tensor; got {value.layout}, {value.dtype}")
    return value


def check_rows(x: object) -> Tensor:
    x = check_tensor("x", x)
    if x.dtype not in _FLOATS + _INTEGERS:
        raise TypeError(f"x should hold floats, signed integers, uint8 or bool; got {x.dtype}")
    return x


def check_device(name: str, value: Tensor, device: torch.device) -> None:
    if value.device != device:
        raise ValueError(f"{name} is on {value.device}, the centroids are on {device}")


def check_features(x: object, n_features: int) -> Tensor:
    """x (..., d)."""
    x = check_rows(x)
    if x.ndim < 1 or x.shape[-1] != n_features:
        raise ValueError(f"x should have shape (..., {n_features}); got {tuple(x.shape)}")
    return x


def check_samples(x: object, n_features: int, batch_shape: tuple[int, ...] = ()) -> Tensor:
    """x (*batch_shape, n, d), or (n, d) shared by all problems."""
    x = check_rows(x)
    shapes = [(*batch_shape, "n_samples", n_features), ("n_samples", n_features)]
    fits = x.ndim >= 2 and x.shape[-1] == n_features and x.shape[:-2] in (batch_shape, ())
    if not fits:
        wanted = " or ".join(str(shape).replace("'", "") for shape in dict.fromkeys(shapes))
        raise ValueError(f"x should have shape {wanted}; got {tuple(x.shape)}")
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
        lowest, highest = (value.item() for value in weight.aminmax())
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
        raise TypeError(f"{name} should be a tuple of integers; got {value!r}")
    return tuple(check_integer(name, size, minimum=1) for size in value)


def check_labels(labels: object, n_clusters: int, batch_shape: tuple[int, ...]) -> Tensor:
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


def allocate(
    name: str,
    shape: tuple[int, ...],
    *,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> Tensor:
    """Zeros; a ValueError where the size overflows or there is no room."""
    if dtype is not None and dtype not in _FLOATS:
        raise TypeError(f"dtype should be one of {', '.join(map(str, _FLOATS))}; got {dtype!r}")
    if math.prod(shape) >= 2**60:
        raise ValueError(f"{name} of shape {shape} overflow a 64-bit size")
    try:
        return torch.zeros(shape, device=device, dtype=dtype)
    except RuntimeError as error:
        raise ValueError(f"no room for {name} of shape {shape}: {error}") from error


def check_process_group(group: object) -> None:
    if group is not None and not isinstance(group, ProcessGroup):
        raise TypeError(
            f"process_group should be a ProcessGroup of this process or None; "
            f"got {type(group).__name__}"
        )


def check_generator(generator: object) -> None:
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator should be a torch.Generator or None; got {type(generator).__name__}"
        )
