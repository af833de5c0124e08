"""Labels and codes of data of any kind, part by part, on any device."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from kmeans_module.checks import check_rows
from kmeans_module.clustering.given import Given, moved
from kmeans_module.layer import KMeansLayer
from kmeans_module.rows.survey import Nonfinite

Encode = Callable[[Tensor], Tensor]

# Numbers that are labeled, or moved to another device, at a time.
_PART_ELEMENTS = 1 << 24


def encoder(module: nn.Module, device: torch.device | None) -> tuple[Encode, torch.device]:
    """What gives labels, or codes, of rows on a device, and that device; a copy of the module
    where it is elsewhere.

    Raises:
        TypeError: it is a module of another kind.
    """
    encode = "__call__" if isinstance(module, KMeansLayer) else "encode"
    if not callable(getattr(module, encode, None)):
        raise TypeError(
            "source should be a KMeansLayer or a module with a method encode; "
            f"got {type(module).__name__}"
        )
    here = next((t.device for t in chain(module.parameters(), module.buffers())), None)
    here = here or torch.device("cpu")
    if device is not None and device != here:
        module, here = copy.deepcopy(module).to(device), device
    return getattr(module, encode), here


def labels_by(
    module: nn.Module,
    data: Given,
    device: torch.device | None = None,
    *,
    before: Encode | None = None,
) -> Tensor:
    """Labels by a layer, codes by a quantizer, in the order of the data.

    Args:
        module: a KMeansLayer, or a quantizer.
        data: as ``module`` takes them.
        device: where to compute; None for where the module is.
        before: what happens to rows first, where they are.

    Returns:
        On the device of the data.

    Raises:
        ValueError: NaN or infinity; or batches whose labels would not line up with the data.
    """
    encode, device = encoder(module, device)
    is_layer = isinstance(module, KMeansLayer)
    # Problems of their own take all of their rows at once.
    problems = is_layer and bool(module.batch_shape)

    def label(rows: Tensor, start: int) -> Tensor:
        if device.type != "cpu":  # where a layer does not look
            _refuse_nonfinite(rows, start)
        try:
            labels = encode(moved(rows if before is None else before(rows), "x", device))
        except ValueError:
            _refuse_nonfinite(rows, start)  # by its number in the data
            raise
        return labels.cpu() if data.home is None else labels.to(data.home)

    return by_parts(data, label, whole=problems, dim=-1 if problems else 0)


def by_parts(
    data: Given, label: Callable[[Tensor, int], Tensor], *, whole: bool = False, dim: int = 0
) -> Tensor:
    """Labels of data, part by part, in the order of the data.

    Args:
        data: a tensor, or batches.
        label: labels of rows, given the number of the first of them.
        whole: whether a tensor is labeled at once.
        dim: of the rows of labels.

    Raises:
        ValueError: batches whose labels would not line up with the data.
    """
    parts: list[Tensor] = []
    indices: list[Tensor | None] = []
    start = 0
    if isinstance(data.data, Tensor):
        x = data.data
        dense = x.layout == torch.strided
        if dense:
            check_rows(x)
        size = max(1, _PART_ELEMENTS // max(1, x.numel() // max(1, len(x)))) if x.ndim else 1
        if whole or not dense or x.ndim < 2 or len(x) <= size:
            return label(x, 0)
        for rows in torch.split(x, size):
            parts.append(label(rows, start))
            start += len(rows)
        return torch.cat(parts)
    if not data.ordered:
        raise ValueError(
            "x is a loader that shuffles: its labels would line up with nothing; hand in one that "
            "keeps the order of the data"
        )
    for batch in data.batches():
        parts.append(label(batch.x, start))
        indices.append(batch.index)
        start += len(batch.x)
    return in_order(parts, indices, dim=dim)


def in_order(parts: Sequence[Tensor], indices: Sequence[Tensor | None], *, dim: int = 0) -> Tensor:
    """Labels of batches in the order of their rows in the data.

    Args:
        parts: labels of each batch.
        indices: row numbers of each batch, (n,); None where its rows follow those before.
        dim: of the rows.
    """
    labels = torch.cat(list(parts), dim=dim)
    known = [index for index in indices if index is not None]
    if not known or len(known) < len(parts):
        return labels
    return labels.index_select(dim, torch.cat(known).to(labels.device).argsort())


def _refuse_nonfinite(rows: Tensor, start: int) -> None:
    """Raise for NaN and infinity on any device, with the number of the row in the data."""
    if rows.ndim < 1 or rows.layout != torch.strided or rows.is_meta:
        return
    if not rows.is_floating_point() or not rows.numel():
        return
    if not all(bool(extreme.isfinite()) for extreme in rows.aminmax()):
        raise ValueError(str(Nonfinite().look(rows if rows.ndim > 1 else rows[None], start)))
