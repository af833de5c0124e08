"""A fit that is run for its animation."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kmeans_module import checks as check
from kmeans_module.arrays import as_tensor
from kmeans_module.core.fit import machine, one_pass
from kmeans_module.core.seeding import Init
from kmeans_module.core.sparse import is_sparse
from kmeans_module.figures.animation import animation_html
from kmeans_module.figures.clusterings import clustering_figure
from kmeans_module.figures.layers import (
    drawn,
    images_of,
    is_array,
    palette_of,
    place,
    rows_of_problem,
    select,
)
from kmeans_module.figures.page import Animation
from kmeans_module.figures.trajectory import Trajectory
from kmeans_module.functional import assign
from kmeans_module.rows.entry import AnyRows

if TYPE_CHECKING:
    from kmeans_module.layer import KMeansLayer
    from kmeans_module.layer.steps import Steps

MAX_POINTS = 2_000


def animate_layer(
    layer: Steps,
    x: Any,
    *,
    init: Init,
    max_iter: int,
    tol: float,
    sample_weight: Tensor | None,
    generator: torch.Generator | None,
    seed: int | None,
    problem: int | tuple[int, ...] | None,
    title: str | None,
    feature_names: Iterable[str] | None,
    colors: Tensor | None,
    max_points: int,
    max_frames: int,
) -> Animation:
    """See :meth:`kmeans_module.KMeansLayer.animate`."""
    max_iter = check.check_integer("max_iter", max_iter, minimum=0)
    tol = check.check_number("tol", tol, minimum=0)
    max_points = check.check_integer("max_points", max_points, minimum=1)
    max_frames = check.check_integer("max_frames", max_frames, minimum=2)
    check.check_text("title", title)
    images = images_of(layer, x)
    samples = select(layer, x, None, max_points)
    at: tuple[int, ...] = ()
    if layer.batch_shape:
        if problem is None:
            raise ValueError(f"problem should say which of batch_shape={layer.batch_shape} plays")
        at = place(layer, problem)
    learner = like(layer, at)
    if isinstance(init, str) and init == "current":
        layer.check_initialized()
        init = layer.centroids.detach()
    if isinstance(init, Tensor) and check.check_tensor("init", init).ndim > 2 and at:
        init = init[at]
    rows, weight = _rows(layer, x, at), None
    if sample_weight is not None:
        weight = check.check_tensor("sample_weight", as_tensor(sample_weight, "sample_weight"))
    if weight is not None and weight.ndim > 1:
        weight = weight[at] if at else weight.flatten()
    learner.initialize(rows, init, sample_weight=weight, generator=generator, seed=seed)
    shown = rows_of_problem(samples.x, at) if layer.batch_shape else samples.x
    trajectory, labels = record(
        learner, learner.prepare(rows, weight), shown,
        max_iter=max_iter, tol=tol, max_frames=max_frames,
    )  # fmt: skip
    if images is not None and colors is None:
        colors = palette_of(trajectory.centroids[-1], images.white)
    n_iter = trajectory.iterations[-1]
    name = f"k-means, {layer.n_clusters:,} clusters, {n_iter:,} iteration{'s' * (n_iter != 1)}"
    heading = ", ".join(filter(None, [title or name, samples.note]))
    points, centroids = drawn(shown, layer.metric), trajectory.centroids
    names = samples.names
    if feature_names is not None:
        names = check.check_listed("feature_names", feature_names, layer.n_features)
    page = animation_html(
        points,
        torch.stack([labels[number] for number in trajectory.iterations]),
        centroids,
        trajectory.inertia,
        title=heading,
        iterations=trajectory.iterations,
        feature_names=names,
        colors=colors,
        max_points=max_points,
        max_frames=max_frames,
    )
    last = partial(
        clustering_figure, points, labels[n_iter], centroids[-1],
        path=centroids, title=heading, feature_names=names, colors=colors,
    )  # fmt: skip
    return Animation(page, heading, last)


def like(layer: Steps, at: tuple[int, ...]) -> KMeansLayer:
    """A layer without centroids for one problem of a layer."""
    centroids = layer.centroids[at]
    from kmeans_module.layer import KMeansLayer

    return KMeansLayer(
        layer.n_clusters, layer.n_features, metric=layer.metric,
        empty_cluster=layer.empty_cluster, device=centroids.device, dtype=centroids.dtype,
    )  # fmt: skip


@torch.no_grad()
def record(
    layer: KMeansLayer,
    rows: AnyRows,
    shown: Tensor,
    *,
    max_iter: int,
    tol: float,
    max_frames: int,
) -> tuple[Trajectory, dict[int, Tensor]]:
    """Lloyd's algorithm from the centroids of a layer, as :meth:`KMeansLayer.fit` goes.

    Args:
        layer: of one problem; stays as it is.
        rows: what the layer has prepared.
        shown: a selection of the samples, (m, d).
        max_iter, tol: see :meth:`KMeansLayer.fit`.
        max_frames: see :class:`Trajectory`.

    Returns:
        The centroids of all frames, and the labels (m,) of the selection by iteration.
    """
    problem = layer.problem()
    threshold = tol * rows.moments(problem.metric).variance.expand(1)
    lloyd = machine(rows, problem, layer.flat_centroids(), threshold=threshold)
    search = rows.search(problem)
    trajectory = Trajectory(max_frames=max_frames)
    labels: dict[int, Tensor] = {}

    def frame(number: int, centroids: Tensor, inertia: float) -> None:
        trajectory.record(number, centroids)
        trajectory.measured(number, inertia)
        labels[number] = assign(shown, centroids, metric=layer.metric)[0].cpu()
        for dropped in labels.keys() - set(trajectory.iterations):
            del labels[dropped]

    for number in range(max_iter + 1):
        (centroids,) = lloyd.centroids
        inertia = float(one_pass(rows, search, lloyd, move=number < max_iter).inertia)
        frame(number, centroids, inertia)
        if lloyd.finished:
            break
    if lloyd.n_iter.max() > number:  # the last iteration has moved nothing
        frame(number + 1, centroids, inertia)
    return trajectory, labels


def _rows(layer: Steps, x: Any, at: tuple[int, ...]) -> Any:
    """What the layer of one problem takes: its samples (n, d), or batches."""
    if not isinstance(x, Tensor):
        if not is_array(x):
            return x
        x = as_tensor(x, sparse=True)
    x = x.detach().to(layer.centroids.device)
    if is_sparse(x):
        return x
    return rows_of_problem(x, at) if at else x.reshape(-1, layer.n_features)
