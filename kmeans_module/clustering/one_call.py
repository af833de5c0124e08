"""k-means in one call: whatever holds the data comes in, labels and centroids come out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from kmeans_module import checks as check
from kmeans_module.clustering.given import Given, are_batches, given, moved
from kmeans_module.clustering.labeling import by_parts, in_order, labels_by
from kmeans_module.clustering.saved_run import SavedRun
from kmeans_module.core.lloyd import Iteration
from kmeans_module.core.metrics import METRICS
from kmeans_module.core.seeding import Init
from kmeans_module.core.words import shown
from kmeans_module.devices import usable_device
from kmeans_module.layer import KMeansLayer
from kmeans_module.rows.batch import Batch
from kmeans_module.rows.entry import AnyRows, rows_of
from kmeans_module.rows.held import labels_of
from kmeans_module.rows.ranks import ProcessGroup, errors_shared
from kmeans_module.rows.survey import dtype_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Clustering(NamedTuple):
    """What :func:`kmeans` found.

    Arrays for arrays, frames, lists and paths; for tensors tensors on their device. Leading
    dimensions of x are those of every field.

    Attributes:
        labels: nearest centroid of each sample, (..., n) int64; None for batches that a loader
            shuffles in a way that nothing puts right.
        centroids: (..., k, d).
        inertia: weighted sum of squared distances, (...); a float for a single array.
        n_iter: iterations, (...); an int for a single array.
        converged: whether the centroids stand still, (...); a bool for a single array.
        history: inertia before each iteration, and at last, (..., n_iter.max() + 1); of the sample
            where one was fitted.
        layer: the fitted :class:`~kmeans_module.KMeansLayer`, on the device that has computed.
    """

    labels: Any
    centroids: Any
    inertia: Any
    n_iter: Any
    converged: Any
    history: Any
    layer: KMeansLayer

    def predict(self, x: Any, *, device: torch.device | str | None = None) -> Any:
        """Labels of other data of any kind.

        Args:
            x, device: see :func:`kmeans_module.predict`.

        Returns:
            See :func:`kmeans_module.predict`.
        """
        return predict(self.layer, x, device=device)

    def plot(self) -> Figure:
        """The history as a figure, which shows itself in a notebook; ``savefig`` writes it.

        Returns:
            See :func:`kmeans_module.figures.plot_history`.
        """
        from kmeans_module.figures import plot_history

        return plot_history(torch.as_tensor(self.history))


@torch.no_grad()
def kmeans(
    x: Any,
    k: int,
    *,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    init: Any = "k-means++",
    max_iter: int = 300,
    tol: float = 1e-4,
    n_init: int = 1,
    sample_weight: Any = None,
    metric: str = "euclidean",
    empty_cluster: str = "relocate",
    max_points_per_centroid: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    verbose: bool = False,
    callback: Callable[[Iteration], object] | None = None,
    process_group: ProcessGroup | None = None,
) -> Clustering:
    """Cluster an array, a tensor, a frame, nested lists, a file, a folder or batches.

    .. math:: \\min_c \\sum_i w_i \\min_j \\|x_i - c_j\\|^2

    Args:
        x: samples, (n, d), or (..., n, d) for independent problems: a tensor, or anything that
            NumPy reads. Or the path of a .npy, .npz, .csv, .parquet, .safetensors or .pt file or
            of a folder of such files: those of .npy, .pt and .safetensors with more than 256 MiB
            of rows are read batch by batch in every pass. Or batches, as
            :meth:`KMeansLayer.fit <kmeans_module.KMeansLayer.fit>` takes them, of arrays too.
            With a process_group x is this rank's part.
        k: number of clusters.
        seed: an integer that the draws come from.
        generator: in place of a seed; without both torch's default generator is drawn from.
        init: "k-means++", "k-means||", "random", centroids (k, d) or (..., k, d) as an array or a
            tensor, or a function ``init(x, k, generator)`` that returns them.
        max_iter: iterations at most.
        tol: stop when the shift Σ‖c_new - c_old‖² is at most tol × the mean variance of the
            features, as in scikit-learn, or when no label changes.
        n_init: restarts, of which the one of lowest inertia is kept.
        sample_weight: weights, (n,) or (..., n); of a file too, batches bring their own.
        metric: "euclidean", or "cosine" (centroids of unit length, distance 1 - cos).
        empty_cluster: "relocate", "split", "keep" or "error"; see
            :class:`~kmeans_module.KMeansLayer`.
        max_points_per_centroid: of more than k times as many rows a uniform sample of that size,
            drawn by the seed, is fitted, as in faiss; labels and inertia are of all rows.
        device: where to compute; the results go where x is.
        dtype: of the centroids; by default float64 for data of it and for integers beyond 2^24,
            float32 for all others.
        verbose: show the progress.
        callback: called with an :class:`~kmeans_module.Iteration` after each iteration.
        process_group: the ranks that hold the rest of the rows: inertia and centroids are then
            those of the whole, labels those of this rank.

    Returns:
        labels, centroids, inertia, n_iter, converged, history, layer.

    Raises:
        ValueError: n_samples < k, NaN or infinity, bad arguments; a file that cannot be read, by
            its name.
        TypeError: x, or an argument, is of a kind that is no numbers.

    Example:
        >>> import numpy as np
        >>> from kmeans_module import kmeans
        >>> x = np.array([[0.0, 0.0], [0.0, 1.0], [9.0, 0.0], [9.0, 1.0]])
        >>> labels, centroids, inertia, *_ = kmeans(x, 2, seed=0)
        >>> inertia
        1.0
        >>> np.sort(centroids, axis=0)
        array([[0. , 0.5],
               [9. , 0.5]])
        >>> bool(labels[0] == labels[1] != labels[2])
        True
    """
    check.check_process_group(process_group)
    with errors_shared(process_group):
        k = check.check_integer("k", k, minimum=1)
        check.check_choice("metric", metric, tuple(METRICS))
        check.check_verbose(verbose)
        place = usable_device(device)
        data = given(x)
        place = place or data.home or torch.device("cpu")
        weight = None if sample_weight is None else moved(sample_weight, "sample_weight", place)
        entering, weight = _entering(data, weight, place)
    rows = rows_of(
        entering, weight, n_features=data.n_features, device=place, batch_shape=data.shape,
        group=process_group, batch_of=data.batch_of,
    )  # fmt: skip
    to_space = METRICS[metric].map
    rows = rows if to_space is None else rows.map(to_space)
    moments = rows.moments(METRICS[metric].kernel)
    with errors_shared(process_group):
        if dtype is None:
            dtype = dtype_for(rows.example, moments)
        layer = KMeansLayer(
            k, data.n_features, metric=metric, empty_cluster=empty_cluster,
            batch_shape=data.shape, device=place, dtype=dtype,
        )  # fmt: skip
        init = _init(init, place)
    result = layer.fit(
        rows, init=init, max_iter=max_iter, tol=tol, n_init=n_init, generator=generator, seed=seed,
        max_points_per_centroid=max_points_per_centroid, verbose=verbose, callback=callback,
    )  # fmt: skip
    labels = result.labels
    if labels is None and data.ordered:
        labels = _last_pass(rows, layer)
    single = data.home is None and not data.shape
    inertia, n_iter, converged = (
        field.item() if single else data.answer(field)
        for field in (result.inertia, result.n_iter, result.converged)
    )
    return Clustering(
        None if labels is None else data.answer(labels),
        data.answer(layer.centroids.clone()),
        inertia, n_iter, converged, data.answer(result.history), layer,
    )  # fmt: skip


@dataclass(frozen=True)
class _Weighted:
    """Rows of files with weights (n,)."""

    rows: Iterable[Batch]
    weight: Tensor
    stable = True

    def __iter__(self) -> Iterator[Batch]:
        first = 0
        for batch in self.rows:
            stop = first + len(batch.x)
            yield batch._replace(sample_weight=self.weight[first:stop])
            first = stop


def _entering(
    data: Given, weight: Tensor | None, device: torch.device
) -> tuple[Any, Tensor | None]:
    """The data on their way to the rows, and the weights that go beside them."""
    if isinstance(data.data, Tensor):
        return moved(data.data, "x", device), weight
    if weight is None or data.n_rows is None:
        return data.data, weight
    if weight.shape != (data.n_rows,):
        raise ValueError(
            f"sample_weight should have shape ({data.n_rows},), one weight per sample; "
            f"got {tuple(weight.shape)}"
        )
    return _Weighted(data.data, weight), None


def _init(init: Any, device: torch.device) -> Init:
    if isinstance(init, str):
        if init == "current":
            raise ValueError(
                'init="current" is of a layer that has centroids: hand in init=layer.centroids'
            )
        return init
    if not callable(init) or isinstance(init, Tensor):
        return moved(init, "init", device)
    return lambda x, k, generator: moved(init(x, k, generator), "init", device)


def _last_pass(rows: AnyRows, layer: KMeansLayer) -> Tensor:
    """Labels of the rows of a stream, in the order of the data."""
    centroids, kernel = layer.centroids.detach(), METRICS[layer.metric].kernel
    indices: list[Tensor | None] = []

    def noted() -> Iterator[Batch]:
        for batch in rows:
            indices.append(batch.index)
            yield batch

    return in_order(list(labels_of(noted(), centroids, kernel)), indices)


@torch.no_grad()
def predict(source: Any, x: Any, *, device: torch.device | str | None = None) -> Any:
    """Labels, or codes, of data by what has learned centroids.

    Args:
        source: a :class:`Clustering`, a :class:`~kmeans_module.KMeansLayer`, a quantizer (its
            ``encode``), a fitted estimator, or the path of a run folder, whose standardization the
            data then get.
        x: samples as ``source`` takes them, (..., n, d), in a tensor or anything that NumPy reads;
            the path of a file or a folder of rows; or batches. Of a file, a folder and batches
            only the labels have to fit memory.
        device: where to compute; by default where the source is. The source stays as it is.

    Returns:
        (..., n) int64, or what ``encode`` gives: arrays for arrays and paths, tensors on the device
        of x for tensors.

    Raises:
        NotInitializedError: the source has no centroids yet.
        ValueError: data of another number of features, NaN, infinity; a folder of no run.
        TypeError: the source is none of these.

    Example:
        >>> import numpy as np
        >>> from kmeans_module import kmeans, predict
        >>> found = kmeans(np.array([[0.0], [1.0], [9.0]]), 2, seed=0)
        >>> predict(found, np.array([[2.0], [8.0]])) == found.labels[[0, 2]]
        array([ True,  True])
    """
    place = usable_device(device)
    if isinstance(source, str | os.PathLike) and not os.path.exists(source):
        raise FileNotFoundError(f"source is the path of no run folder: {shown(str(source))}")
    if isinstance(source, str | os.PathLike):
        source = SavedRun.read(source)
    if isinstance(source, SavedRun):
        return source.predict(x, device=place)
    if isinstance(source, Clustering):
        source = source.layer
    if isinstance(source, nn.Module):
        data = given(x, least_dimensions=1)
        return data.answer(labels_by(source, data, place))
    if isinstance(source, type) or not callable(getattr(source, "predict", None)):
        raise TypeError(
            "source should be a Clustering, a KMeansLayer, a quantizer, a fitted estimator or the "
            f"path of a run folder; got {type(source).__name__}"
        )
    if place is not None:
        raise ValueError(
            f"device should be None: {type(source).__name__}.predict computes where it was fitted"
        )
    if not isinstance(x, str | os.PathLike) and not are_batches(x):
        given(x)  # refuses what is no rows of numbers; an estimator wants x as it is
        return source.predict(x)
    data = given(x)
    return data.answer(
        by_parts(data, lambda rows, _: torch.as_tensor(source.predict(rows.cpu().numpy())))
    )
