"""Whatever a user has in hand, as the layer takes it: arrays, frames, tensors, files, batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kmeans_module.arrays import as_tensor, is_sparse_matrix
from kmeans_module.checks import check_rows
from kmeans_module.core.words import shown
from kmeans_module.data.file_rows import FileRows
from kmeans_module.files import ColumnsError
from kmeans_module.rows.batch import Batch, as_batch
from kmeans_module.rows.entry import ROWS
from kmeans_module.rows.source import (
    check_reiterable,
    in_data_order,
    listed_batches,
    sampler_of,
    stable_order,
)

Path = str | os.PathLike[str]


@dataclass(frozen=True)
class Given:
    """Data, and where answers about them go.

    Attributes:
        data: a tensor, or batches that can be gone through again and again.
        home: the device of the data, for answers in tensors; None for answers in arrays.
        n_features: d.
        shape: of a tensor before (n, d), (); of batches ().
        batch_of: makes a batch of what a loader hands out; None where it is one already.
        ordered: whether the rows come in an order that lasts, so that labels line up with them.
        n_rows: of files.
    """

    data: Tensor | Iterable[Any]
    home: torch.device | None
    n_features: int
    shape: tuple[int, ...] = ()
    batch_of: Callable[[Any], Any] | None = None
    ordered: bool = True
    n_rows: int | None = None

    def answer(self, result: Tensor) -> Any:
        """A result as the data came: an array for arrays, a tensor on the device of the data."""
        if self.home is not None:
            return result.to(self.home)
        result = result.cpu()
        return (result.float() if result.dtype == torch.bfloat16 else result).numpy()

    def batches(self) -> Iterator[Batch]:
        """One pass over batches, in the order of the data where a loader only shuffles them."""
        assert not isinstance(self.data, Tensor)
        for batch in in_data_order(self.data):
            yield as_batch(batch, self.batch_of)


def given(x: Any, *, least_dimensions: int = 2) -> Given:
    """What x is: a tensor (..., n, d); what NumPy reads; the path of a file or folder of rows; or
    batches, as :meth:`kmeans_module.KMeansLayer.fit` takes them, of arrays too.

    Args:
        x: the data.
        least_dimensions: of a tensor or an array; 1 where a single sample will do.

    Raises:
        TypeError, ValueError, OSError: it is none of these, or its files cannot be read.
    """
    if isinstance(x, str | os.PathLike):
        if not os.path.exists(x):
            raise FileNotFoundError(f"x is the path of no file or folder: {shown(str(x))}")
        try:
            rows = FileRows(x)
        except ColumnsError as error:
            remedy = f"read the file yourself, or use ArrayDataModule(columns={error.columns})"
            raise error.advising(remedy) from None
        held = rows.held()
        return Given(rows if held is None else held, None, rows.n_features, n_rows=len(rows))
    if isinstance(x, ROWS):
        raise TypeError("x is rows that a layer has prepared: hand them to that layer's fit")
    if isinstance(x, Dataset) and not isinstance(x, Sequence):
        raise TypeError(
            f"x is a data set ({type(x).__name__}): hand in DataLoader(x, batch_size=...)"
        )
    if are_batches(x):
        return _given_batches(x)
    home = x.device if isinstance(x, Tensor) else None
    tensor = x if isinstance(x, Tensor) else as_tensor(x, sparse=True)
    check_rows(tensor, sparse=True)
    if tensor.ndim < least_dimensions:
        way_out = "; use x.reshape(-1, 1) for one feature" if tensor.ndim == 1 else ""
        raise ValueError(
            f"x should have shape (..., n_samples, n_features); got {tuple(tensor.shape)}{way_out}"
        )
    return Given(tensor, home, tensor.shape[-1], tuple(tensor.shape[:-2]))


def are_batches(x: Any) -> bool:
    """Whether x is batches of rows, and not rows."""
    if isinstance(x, Tensor | str | os.PathLike) or is_sparse_matrix(x):
        return False
    if isinstance(x, list | tuple):
        return bool(x) and _is_batch(x[0])
    if hasattr(x, "__array__") or hasattr(x, "__array_interface__") or isinstance(x, Mapping):
        return False
    return isinstance(x, Iterable) and not isinstance(x, bytes | bytearray | memoryview)


def _is_batch(item: Any) -> bool:
    return isinstance(item, Mapping) or getattr(_rows_of(item), "ndim", None) == 2


def _rows_of(batch: Any) -> Any:
    """The rows of a batch, in whatever holds them."""
    if isinstance(batch, Mapping):
        return batch.get("x")
    return batch[0] if isinstance(batch, tuple | list) and batch else batch


def _given_batches(x: Any) -> Given:
    if isinstance(x, list | tuple):
        first = x[0]
    else:
        check_reiterable("x", x)
        first = next(iter(in_data_order(x)), None)
        if first is None:
            raise ValueError("x holds no batch")
    example = as_batch(first, tensors_of).x
    if example.ndim != 2:
        raise ValueError(f"a batch should have shape (n, n_features); got {tuple(example.shape)}")
    of_arrays = not isinstance(_rows_of(first), Tensor)
    batch_of = None
    if of_arrays and listed_batches(x) is not None:
        x = [tensors_of(batch) for batch in listed_batches(x) or ()]
    elif of_arrays:
        batch_of = tensors_of
    return Given(
        x, None if of_arrays else example.device, example.shape[1],
        batch_of=batch_of, ordered=not _shuffles(x),
    )  # fmt: skip


def tensors_of(batch: Any) -> Any:
    """A batch of arrays as one of tensors."""
    if isinstance(batch, Batch):
        return batch
    if isinstance(batch, Mapping):
        names = ("x", "target", "sample_weight")
        return {
            name: as_tensor(value, name) if name in names and value is not None else value
            for name, value in batch.items()
        }
    if isinstance(batch, tuple | list) and batch and getattr(batch[0], "ndim", None) == 2:
        return tuple(None if part is None else as_tensor(part, "a batch") for part in batch)
    return as_tensor(batch, "a batch")


def _shuffles(loader: Any) -> bool:
    """Whether passes are known to come in orders of their own, which nothing puts right."""
    ordered = in_data_order(loader)
    return (
        isinstance(loader, DataLoader)
        and sampler_of(ordered) is not None
        and not stable_order(ordered)
    )


def moved(values: Any, name: str, device: torch.device) -> Tensor:
    """The numbers of a tensor, an array or a list on a device.

    Raises:
        ValueError: there are none; names the argument.
    """
    tensor = as_tensor(values, name)
    if tensor.is_meta:
        raise ValueError(f"{name} should hold numbers; it is on meta, where there are none")
    return tensor.to(device)
