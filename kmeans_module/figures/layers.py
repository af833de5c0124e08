"""A layer as a figure and as an animation: of points, of pictures, of several problems."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from kmeans_module import checks as check
from kmeans_module.arrays import as_tensor, column_names
from kmeans_module.core.distances import unit_rows
from kmeans_module.core.metrics import METRICS, in_space
from kmeans_module.figures.arrays import evenly
from kmeans_module.figures.clusterings import Panel, clustering_figure, small_multiples_figure
from kmeans_module.figures.pictures import MAX_IMAGES, quantized_figure
from kmeans_module.figures.view import MAX_POINTS

if TYPE_CHECKING:
    from kmeans_module.layer.steps import Steps

MAX_PANELS = 9
_HISTOGRAM_POINTS = 1_000_000


class Samples(NamedTuple):
    """What is drawn of some data.

    Attributes:
        x: a selection of the samples, (*batch_shape, m, d) or (m, d), on the layer's device.
        labels: that were given, (*batch_shape, m); None for those of the layer.
        note: what share of the data this is, in words; "" for all.
        names: of the features; None where there are none.
    """

    x: Tensor
    labels: Tensor | None
    note: str
    names: list[str] | None


def plot_layer(
    layer: Steps,
    x: Any,
    labels: Tensor | None = None,
    *,
    problem: int | tuple[int, ...] | None = None,
    path: Tensor | None = None,
    title: str | None = None,
    feature_names: Iterable[str] | None = None,
    colors: Tensor | None = None,
) -> Figure:
    """See :meth:`kmeans_module.KMeansLayer.plot`."""
    layer.check_initialized()
    check.check_text("title", title)
    images = images_of(layer, x)
    if images is not None:
        if path is not None or labels is not None:
            raise ValueError("pictures are drawn with the labels of the layer, without a path")
        return _pictures(layer, images, title)
    samples = select(layer, x, labels, MAX_POINTS if layer.n_features > 1 else _HISTOGRAM_POINTS)
    if feature_names is None:
        feature_names = samples.names
    given = samples.labels
    found = layer(samples.x) if given is None else given
    heading = f"{layer.n_clusters:,} cluster{'s' * (layer.n_clusters != 1)}"
    if title is None or samples.note:
        title = ", ".join(filter(None, [title or heading, samples.note]))
    if not layer.batch_shape:
        return clustering_figure(
            drawn(samples.x, layer.metric), found, layer.centroids, path=path, title=title,
            feature_names=feature_names, colors=colors,
        )  # fmt: skip
    if problem is not None:
        at = place(layer, problem)
        return clustering_figure(
            drawn(rows_at(samples.x, at), layer.metric), found[at], layer.centroids[at],
            path=path, title=f"{title}, problem {_shown(at)}", feature_names=feature_names,
            colors=colors,
        )  # fmt: skip
    if path is not None:
        raise ValueError("path is drawn for one problem: say which, problem=...")
    every = list(itertools.product(*map(range, layer.batch_shape)))
    if len(every) > MAX_PANELS:
        title = f"{title}, the first {MAX_PANELS} of {len(every):,} problems"
    panels = [
        Panel(
            f"problem {_shown(at)}",
            drawn(rows_at(samples.x, at), layer.metric),
            found[at],
            layer.centroids[at],
        )
        for at in every[:MAX_PANELS]
    ]
    return small_multiples_figure(panels, title=title, feature_names=feature_names, colors=colors)


def select(layer: Steps, x: Any, labels: Tensor | None, limit: int) -> Samples:
    """An even selection of the samples: of a tensor, an array, a frame; of batches or prepared
    rows, which may not stay in memory, a uniform one.

    Raises:
        ValueError, TypeError: as :meth:`KMeansLayer.prepare`.
    """
    names = None
    if not isinstance(x, Tensor):
        if is_array(x):
            names = column_names(x)
            x = as_tensor(x)
        else:
            return _from_batches(layer, x, labels, limit)
    x = check.check_real("x", check.check_rows(x))
    batch_shape = layer.batch_shape
    if not batch_shape and x.ndim != 2:
        x = check.check_features(x, layer.n_features).reshape(-1, layer.n_features)
        labels = None if labels is None else check.check_tensor("labels", labels).reshape(-1)
    x = check.check_samples(x, layer.n_features, batch_shape)
    n = x.shape[-2]
    if n == 0:
        raise ValueError("x should hold samples; got none")
    kept = torch.from_numpy(evenly(n, limit))
    if labels is not None:
        labels = check.check_labels(
            check.check_sized("labels", labels, (*batch_shape, n)), layer.n_clusters, batch_shape
        )
        labels = labels[..., kept.to(labels.device)]
    rows = x[..., kept.to(x.device), :].detach().to(layer.centroids.device)
    note = "" if len(kept) == n else f"{len(kept):,} of {n:,} samples"
    return Samples(rows, labels, note, names)


def _from_batches(layer: Steps, x: Any, labels: Tensor | None, limit: int) -> Samples:
    if labels is not None:
        raise ValueError("labels go with a tensor or an array x; got batches")
    rows = layer.prepare(x)
    n = rows.moments(layer.problem().metric).n_samples
    drawn_rows = rows.sample(min(n, limit), torch.Generator().manual_seed(0))
    m = drawn_rows.shape[-2]
    shape = () if rows.n_problems == 1 else layer.batch_shape
    note = "" if m == n else f"{m:,} of {n:,} samples"
    return Samples(drawn_rows.reshape(*shape, m, layer.n_features), None, note, None)


def is_array(x: Any) -> bool:
    """Whether x is an array or a frame, or nested lists of numbers; not batches."""
    if isinstance(x, list | tuple):
        return bool(x) and not any(isinstance(row, Tensor | dict | tuple) for row in x)
    return hasattr(x, "__array__") or hasattr(x, "__dataframe__")


def drawn(x: Tensor, metric: str) -> Tensor:
    """Rows (n, d) in the space in which the centroids are nearest by Euclidean distance."""
    x = in_space(x.float() if x.dtype != torch.float64 else x, metric)
    return unit_rows(x) if METRICS[metric].kernel == "cosine" else x


def place(layer: Steps, problem: object) -> tuple[int, ...]:
    """The index of a problem, one number for each dimension of the batch_shape.

    Raises:
        ValueError: there is no such problem.
    """
    shape = layer.batch_shape
    given = list(problem) if isinstance(problem, tuple | list) else [problem]
    numbers = [check.check_integer("problem", number, minimum=0) for number in given]
    if len(numbers) != len(shape) or any(i >= n for i, n in zip(numbers, shape, strict=True)):
        raise ValueError(f"problem should be an index of batch_shape={shape}; got {problem}")
    return tuple(numbers)


def rows_at(x: Tensor, at: tuple[int, ...]) -> Tensor:
    """The samples (n, d) of a problem; all have the same where x has no leading dimensions."""
    return x if x.ndim == 2 else x[at]


def _shown(at: tuple[int, ...]) -> str:
    return ", ".join(map(str, at))


# Pictures


class Images(NamedTuple):
    """Pictures whose pixels are samples.

    Attributes:
        pixels: (N, H, W, d), as they were given.
        white: the value of the brightest pixels there could be, 1 or 255.
    """

    pixels: Tensor
    white: float


def images_of(layer: Steps, x: Any) -> Images | None:
    """x as pictures (H, W, d) or (N, H, W, d) of d = 3 colors or 1 gray; None if it is none."""
    if layer.batch_shape or layer.n_features not in (1, 3):
        return None
    if not isinstance(x, Tensor):
        if getattr(x, "ndim", 0) not in (3, 4) or not is_array(x):
            return None
        x = as_tensor(x)
    if x.ndim not in (3, 4) or x.shape[-1] != layer.n_features or 0 in x.shape:
        return None
    check.check_real("x", check.check_rows(x))
    low, high = (float(bound) for bound in x.aminmax())
    if not 0 <= low <= high <= 255:
        return None
    white = 255.0 if high > 1 or x.dtype == torch.uint8 else 1.0
    return Images(x if x.ndim == 4 else x.unsqueeze(0), white)


def _pictures(layer: Steps, images: Images, title: str | None) -> Figure:
    n = len(images.pixels)
    originals, quantized = [], []
    counts = torch.zeros(layer.n_clusters, dtype=torch.int64)
    for image in images.pixels[:MAX_IMAGES]:
        labels = layer(image.to(layer.centroids.device))
        counts += torch.bincount(labels.flatten().cpu(), minlength=layer.n_clusters)
        originals.append(_in_color(image, images.white))
        quantized.append(_in_color(layer.centroids.detach()[labels], images.white))
    palette = palette_of(layer.centroids, images.white)
    figure = quantized_figure(originals, quantized, palette, counts)
    if n > MAX_IMAGES:
        title = ", ".join(filter(None, [title, f"{MAX_IMAGES} of {n:,} pictures"]))
    if title:
        figure.suptitle(title, parse_math=False)
    return figure


def palette_of(centroids: Tensor, white: float) -> Tensor:
    """Centroids (k, 3) or (k, 1) as RGB (k, 3) in [0, 1]."""
    return _in_color(centroids.detach(), white)


def _in_color(pixels: Tensor, white: float) -> Tensor:
    """(..., d) as RGB (..., 3) in [0, 1], on the CPU."""
    return (pixels.cpu().float() / white).clamp(0, 1).expand(*pixels.shape[:-1], 3)
