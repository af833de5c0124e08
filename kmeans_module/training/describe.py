"""What the rows of a run are, in words."""

from __future__ import annotations

from collections.abc import Sequence

from kmeans_module.data import ArrayDataModule, BlobDataModule, ImageDataModule, RowsDataModule
from kmeans_module.files import enumerated

_SAMPLE = 10_000  # rows that scales are told from
_RATIO = 100  # of the deviations of two features, from which one alone decides


def describe(data: RowsDataModule) -> list[str]:
    """Lines about the rows that a fit begins with."""
    held_out = data.validation_split
    n, d = data.training_split.x.shape
    lines = [f"{n:,} rows of {d:,} feature{'s' * (d != 1)}{_names(data)}{_source(data)}"]
    if held_out is not None and len(held_out.x) and held_out.x is not data.x:
        lines[0] += f"; {len(held_out.x):,} more are held out"
    if isinstance(data, ArrayDataModule) and data.feature_names is not None and n > 1:
        lines += _numbers_of_rows(data, data.feature_names)
        if not data.standardize:
            lines += _unlike_scales(data)
    return lines


def _names(data: RowsDataModule) -> str:
    names = data.feature_names
    if names is None or isinstance(data, ImageDataModule):
        return ""
    return f" ({enumerated(names)})"


def _source(data: RowsDataModule) -> str:
    if isinstance(data, ImageDataModule):
        n = len(data.image_files)
        return f", the pixels of {data.path if n == 1 else f'{n:,} pictures in {data.path}'}"
    if isinstance(data, BlobDataModule):
        return ", drawn as example data"
    return f" in {data.path}" if isinstance(data, ArrayDataModule) else ""


def _numbers_of_rows(data: ArrayDataModule, names: Sequence[str]) -> list[str]:
    """Say so where a column of the file counts its rows: an id is no feature."""
    if data.validation_split is not None:
        return []  # the rows that are left do not count
    first = data.x[:_SAMPLE] * data.scale + data.mean
    counts = ((first.diff(dim=0) - 1).abs() < 1e-6).all(dim=0).tolist()
    found = [name for name, counting in zip(names, counts, strict=True) if counting]
    if not found or len(found) == len(names):
        return []
    return [
        f"the column {enumerated(found)} counts the rows, and takes part: --data.columns says "
        "which columns do"
    ]


def _unlike_scales(data: ArrayDataModule) -> list[str]:
    """Say so where one feature varies so much more than another that it decides alone."""
    sample = data.x[:: -(-len(data.x) // _SAMPLE)].double()
    deviation = sample.std(dim=0)
    deviation = deviation[deviation.isfinite() & (deviation > 0)]
    if len(deviation) < 2 or float(deviation.max() / deviation.min()) < _RATIO:
        return []
    ratio = float(deviation.max() / deviation.min())
    return [
        f"the feature of largest spread varies {ratio:,.0f} times as much as that of the smallest, "
        "and decides: --data.standardize true gives all the same spread"
    ]
