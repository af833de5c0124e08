"""Checks of what users hand in: each error names the argument, what was expected, what came."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from numbers import Integral

import torch
from torch import Tensor

from kmeans_module.backends import accumulator_dtype, compute_dtype, unit_rows
from kmeans_module.backends.native.workspace import serves, spread
from kmeans_module.rows.batch import Batch
from kmeans_module.rows.ranks import ErrorElsewhere, ProcessGroup, all_gather, all_sum

_SCAN_ELEMENTS = 1 << 21
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


def check_tensor(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} should be a torch.Tensor; got {type(value).__name__}")
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
    if not torch.compiler.is_compiling() and weight.numel():
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
    if labels.device.type == "cpu" and labels.numel() and not torch.compiler.is_compiling():
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


def locate_nonfinite(x: Tensor, *, first_row: int = 0) -> str:
    """Says how many rows of x hold NaN or infinity, and the first; "" if none does."""
    count, first = 0, -1
    for start, rows in _chunks(x):
        bad = ~rows.isfinite().all(dim=-1)
        bad = bad.flatten(0, -2).any(dim=0) if bad.ndim > 1 else bad
        n_bad = int(bad.sum())
        if n_bad and not count:
            first = first_row + start + int(bad.to(torch.uint8).argmax())
        count += n_bad
    if not count:
        return ""
    rows_hold = "1 row holds" if count == 1 else f"{count} rows hold"
    return f"x should be finite; {rows_hold} NaN or infinity, the first is row {first}"


def raise_nonfinite(x: Tensor, dtype: torch.dtype) -> None:
    """Raise for distances that came out NaN or infinite, with the cause."""
    raise ValueError(
        locate_nonfinite(x) or f"squared distances overflow {dtype}: scale x down or use float64"
    )


def scan(
    batches: Sequence[Batch],
    *,
    n_problems: int,
    metric: str,
    like: Tensor,
    group: ProcessGroup | None = None,
) -> Tensor:
    """Refuse data that are not finite or that overflow; measure their spread.

    Args:
        batches: of this rank, x is (n, d) or (P, n, d); rows of weight 0 do not count.
        n_problems: P.
        metric: of the layer.
        like: a tensor of the layer's dtype and device.
        group: the ranks that hold the rest.

    Returns:
        The mean over the features of their variance, (P,): what ``tol`` is relative to.

    Raises:
        ValueError: NaN or infinity (how many rows, and the first), or distances overflow.
    """
    device = like.device
    accumulator = accumulator_dtype(device)
    d = batches[0].x.shape[-1]
    span = torch.full((2, d), -math.inf, device=device, dtype=accumulator)
    total = torch.zeros((n_problems, d), dtype=accumulator, device=device)
    count = torch.zeros((n_problems, 1), dtype=accumulator, device=device)
    for batch in batches:
        low, high, sums = _spread(batch, metric, None)
        span = torch.maximum(span, torch.stack([-low, high]))
        total += sums
        if batch.sample_weight is None:
            count += batch.x.shape[-2]
        else:
            count += (batch.sample_weight > 0).sum(dim=-1, keepdim=True)
    _check_span(all_gather(span, group), batches, like, metric)
    total, count = all_sum([total, count], group)
    count = count.clamp(min=1)
    squares = torch.zeros_like(total)
    for batch in batches:
        squares += _spread(batch, metric, total / count)[2]
    (squares,) = all_sum([squares], group)
    return (squares / count).mean(dim=-1)


def _spread(batch: Batch, metric: str, mean: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Smallest and largest values (d,) and, of unit rows where the metric is cosine, sums or sums
    of squares about a mean (P, d); rows of weight 0 do not count in sums."""
    x, weight = batch.x, batch.sample_weight
    plain = x.ndim == 2 and (weight is None or weight.ndim == 1)
    if plain and metric == "euclidean" and (mean is None or len(mean) == 1) and serves(x):
        low, high, sums = spread(x, weight, None if mean is None else mean[0])
        if bool(sums.isfinite().all()):
            return low, high, sums.unsqueeze(0)
    accumulator = accumulator_dtype(x.device)
    d = x.shape[-1]
    low = torch.full((d,), math.inf, dtype=accumulator, device=x.device)
    high = -low
    sums = torch.zeros((1, d), dtype=accumulator, device=x.device)
    for start, rows in _chunks(x):
        if mean is None:
            least, most = (bound.to(accumulator) for bound in rows.flatten(0, -2).aminmax(dim=0))
            low, high = torch.minimum(low, least), torch.maximum(high, most)
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        rows = (unit_rows(rows) if metric == "cosine" else rows).to(accumulator)
        rows = rows if mean is None else (rows - mean.unsqueeze(-2)).square_()
        if weight is not None:
            part = weight[..., start : start + rows.shape[-2]]
            rows = rows * (part > 0).to(accumulator).unsqueeze(-1)
        sums = sums + rows.sum(dim=-2)
    return low, high, sums


def _check_span(spans: Tensor, batches: Sequence[Batch], like: Tensor, metric: str) -> None:
    """spans (ranks, 2, d): largest of -x and of x; -inf where a rank has no rows."""
    low, high = (-spans[:, 0]).amin(dim=0), spans[:, 1].amax(dim=0)
    if spans.isnan().any() or not bool((low > -math.inf).all() and (high < math.inf).all()):
        found = [text for batch in batches if (text := _locate(batch))]
        raise ValueError(found[0]) if found else ErrorElsewhere("x")
    dtype = compute_dtype(batches[0].x, like)
    widest = float((high - low).abs().amax()) if low.numel() else 0.0
    largest = float(torch.maximum(-low, high).amax()) if low.numel() else 0.0
    exact = 2 / torch.finfo(dtype).eps
    if not batches[0].x.is_floating_point() and largest > exact:
        raise ValueError(
            f"x holds integers up to {largest:.6g}, which overflow the {exact:.6g} that {dtype} "
            "tells apart: subtract an offset, or use a layer of float64"
        )
    limit = math.sqrt(torch.finfo(dtype).max / max(1, low.numel())) / 2
    if metric != "euclidean":
        return
    if 0 < widest < math.sqrt(torch.finfo(dtype).tiny) / 16:
        raise ValueError(
            f"x spans {widest:.3g}: squared distances underflow {dtype}; scale x up or use float64"
        )
    if widest > limit:
        raise ValueError(
            f"x spans {widest:.3g}: squared distances overflow {dtype}; scale x down or use float64"
        )
    if largest > torch.finfo(like.dtype).max:
        raise ValueError(
            f"x reaches {largest:.3g}: centroids overflow {like.dtype}; "
            "scale x down or use a layer of a wider dtype"
        )


def _locate(batch: Batch) -> str:
    return locate_nonfinite(batch.x, first_row=batch.start)


def _chunks(x: Tensor) -> Iterator[tuple[int, Tensor]]:
    size = max(1, _SCAN_ELEMENTS // max(1, x.numel() // max(1, x.shape[-2])))
    for start in range(0, x.shape[-2], size):
        rows = x[..., start : start + size, :]
        yield start, rows.to(torch.uint8) if rows.dtype == torch.bool else rows
