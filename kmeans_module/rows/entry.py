"""Where data enter: Rows of whatever a user hands in, checked against what is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from kmeans_module import checks as check
from kmeans_module.core.metrics import METRICS
from kmeans_module.core.problem import Problem
from kmeans_module.core.seeding import Init, check_init
from kmeans_module.core.sparse import no_rows
from kmeans_module.rows.batch import Batch
from kmeans_module.rows.held import HeldRows
from kmeans_module.rows.ranks import ProcessGroup, agree, common_example, errors_shared
from kmeans_module.rows.source import CheckedLoader, stable_order
from kmeans_module.rows.stream import StreamRows
from kmeans_module.rows.survey import refuse, refuse_too_few

AnyRows = HeldRows | StreamRows
ROWS = (HeldRows, StreamRows)  # for isinstance: torch.compile of 2.8 reads no union of types
Data = Tensor | AnyRows | Iterable[Any]
BatchOf = Callable[[Any], Any]


def enter(
    x: Data,
    sample_weight: Tensor | None,
    problem: Problem,
    *,
    metric: str,
    batch_shape: tuple[int, ...],
    group: ProcessGroup | None,
    resident: bool = False,
    batch_of: BatchOf | None = None,
) -> AnyRows:
    """:func:`rows_of`, or the rows that x is already, in the space of the metric.

    Args:
        x, sample_weight, batch_shape, group, resident, batch_of: see :func:`rows_of`.
        problem: what is asked for.
        metric: one of :data:`kmeans_module.core.metrics.METRICS`.

    Raises:
        ValueError, TypeError: bad data; rows of other sizes, or with weights once more.
    """
    if isinstance(x, ROWS):
        if sample_weight is not None or group is not None or resident or batch_of is not None:
            raise ValueError(
                "rows have their sample_weight and process_group, and are in memory or not; "
                "got sample_weight, process_group, resident or batch_of again"
            )
        check_fits(x, problem)
        return x
    rows = rows_of(
        x,
        sample_weight,
        n_features=problem.n_features,
        device=problem.device,
        batch_shape=batch_shape,
        group=group,
        resident=resident,
        batch_of=batch_of,
    )
    to_space = METRICS[metric].map
    return rows if to_space is None else rows.map(to_space)


def check_fits(rows: AnyRows, problem: Problem) -> None:
    """Refuse rows of another number of features or problems, or on another device."""
    if rows.n_features != problem.n_features or rows.n_problems not in (1, problem.n_problems):
        raise ValueError(
            f"rows should be of {problem.n_features} features and {problem.n_problems} problems; "
            f"they are of {rows.n_features} features and {rows.n_problems} problems"
        )
    check.check_device("x", rows.example, problem.device)


def survey(rows: AnyRows, problem: Problem, init: Init) -> Tensor:
    """Refuse data that cannot be clustered, and inits of another shape.

    Returns:
        Mean variance of the features, (P,): what ``tol`` is relative to.
    """
    with errors_shared(rows.group):
        moments = rows.moments(problem.metric)
        refuse_too_few(moments, problem.n_clusters)
        refuse(moments, rows.example, problem)
        if not isinstance(init, str) and not callable(init):
            check_init(init, problem)
    return moments.variance.expand(problem.n_problems)


def rows_of(
    x: Any,
    sample_weight: Tensor | None = None,
    *,
    n_features: int,
    device: torch.device,
    batch_shape: tuple[int, ...] = (),
    group: ProcessGroup | None = None,
    resident: bool = False,
    batch_of: Callable[[Any], Any] | None = None,
) -> AnyRows:
    """The rows of a tensor, or of batches that can be gone through again and again.

    Args:
        x: samples (*batch_shape, n, d) or (n, d); or a list, a loader or any other re-iterable
            of batches, see :func:`kmeans_module.rows.as_batch`.
        sample_weight: (*batch_shape, n) or (n,), of a tensor; batches bring their own.
        n_features: features of a row, d.
        device: of the centroids; batches are moved there.
        batch_shape: of independent problems.
        group: the ranks that hold the rest.
        resident: whether all batches are kept in memory, on the device.
        batch_of: makes a batch of what the loader hands out.

    Returns:
        :class:`HeldRows` in memory, or :class:`StreamRows` that come again in every pass.

    Raises:
        ValueError, TypeError: wrong shapes, devices, weights; an iterator, which can be gone
            through only once.
    """
    with errors_shared(group):
        check.check_flag("resident", resident)
        if isinstance(x, Tensor):
            if resident or batch_of is not None:
                raise ValueError("resident and batch_of go with batches; x is a tensor")
            batch = _tensor_batch(x, sample_weight, n_features, device, batch_shape)
            batches: list[Batch] | None = [batch]
        else:
            if sample_weight is not None:
                raise ValueError("sample_weight goes with a tensor; batches bring their own")
            loader = CheckedLoader(x, n_features=n_features, device=device, batch_of=batch_of)
            batches = loader.staying(resident=resident)
            if batches is not None and not batches:
                if group is None:
                    raise ValueError("x holds no batch")
                batches = [Batch(torch.empty((0, n_features), device=device))]
    agree(
        group,
        x="a stream" if batches is None else "in memory",
        n_features=n_features,
        batch_shape=batch_shape,
        rows="of each problem" if _several(batches or []) else "shared by all problems",
    )
    if batches is None:
        return StreamRows(
            loader, n_features=n_features, device=device, stable=stable_order(x), group=group
        )
    if group is not None:
        n_samples = sum(batch.x.shape[-2] for batch in batches)
        example = no_rows(batches[0].x)
        dtype = common_example(example, n_samples, group).dtype
        if not n_samples:
            batches = [batch._replace(x=batch.x.to(dtype)) for batch in batches]
    several = _several(batches)
    return HeldRows(batches, n_problems=several[0] if several else 1, group=group)


def _several(batches: Sequence[Batch]) -> list[int]:
    """Number of problems, once for each tensor of rows or weights that differ between them."""
    weights = [batch.sample_weight for batch in batches if batch.sample_weight is not None]
    several = [len(batch.x) for batch in batches if batch.x.ndim == 3]
    return several + [len(weight) for weight in weights if weight.ndim == 2]


def _tensor_batch(
    x: Tensor,
    sample_weight: Tensor | None,
    n_features: int,
    device: torch.device,
    batch_shape: tuple[int, ...],
) -> Batch:
    x = check.check_samples(x, n_features, batch_shape, sparse=True)
    check.check_device("x", x, device)
    weight = check.check_sample_weight(sample_weight, x, batch_shape)
    if x.ndim > 2:
        x = x.flatten(0, -3)
    if weight is not None and weight.ndim > 1:
        weight = weight.flatten(0, -2)
    return Batch(x, weight)
