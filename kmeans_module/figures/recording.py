"""A fit that is run for its animation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kmeans_module import checks as check
from kmeans_module.arrays import as_tensor
from kmeans_module.core.seeding import Init
from kmeans_module.figures.animation import animation_html
from kmeans_module.figures.layers import (
    drawn,
    images_of,
    is_array,
    palette_of,
    place,
    rows_at,
    select,
)
from kmeans_module.figures.page import Animation
from kmeans_module.figures.trajectory import Trajectory

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
    shown = rows_at(samples.x, at) if layer.batch_shape else samples.x
    trajectory, labels = record(
        learner, rows, weight, shown, max_iter=max_iter, tol=tol, max_frames=max_frames
    )
    if images is not None and colors is None:
        colors = palette_of(learner.centroids, images.white)
    n_iter = trajectory.iterations[-1]
    name = f"k-means, {layer.n_clusters:,} clusters, {n_iter:,} iteration{'s' * (n_iter != 1)}"
    heading = ", ".join(filter(None, [title or name, samples.note]))
    page = animation_html(
        drawn(shown, layer.metric),
        torch.stack([labels[number] for number in trajectory.iterations]),
        trajectory.centroids,
        trajectory.inertia,
        title=heading,
        iterations=trajectory.iterations,
        feature_names=samples.names if feature_names is None else feature_names,
        colors=colors,
        max_points=max_points,
        max_frames=max_frames,
    )
    return Animation(page, heading)


def like(layer: Steps, at: tuple[int, ...]) -> KMeansLayer:
    """A layer without centroids for one problem of a layer."""
    centroids = layer.centroids[at]
    from kmeans_module.layer import KMeansLayer

    return KMeansLayer(
        layer.n_clusters, layer.n_features, metric=layer.metric,
        empty_cluster=layer.empty_cluster, device=centroids.device, dtype=centroids.dtype,
    )  # fmt: skip


def record(
    learner: KMeansLayer,
    x: Any,
    sample_weight: Tensor | None,
    shown: Tensor,
    *,
    max_iter: int,
    tol: float,
    max_frames: int,
) -> tuple[Trajectory, dict[int, Tensor]]:
    """Lloyd's algorithm from the centroids of a layer, as :meth:`KMeansLayer.fit` goes.

    Args:
        learner: ends with the centroids of the fit.
        x, sample_weight: the data.
        shown: a selection of the samples, (m, d).
        max_iter, tol: see :meth:`KMeansLayer.fit`.
        max_frames: see :class:`Trajectory`.

    Returns:
        The centroids of all frames, and the labels (m,) of the selection by iteration.
    """
    rows = learner.prepare(x, sample_weight)
    threshold = tol * float(rows.moments(learner.problem().metric).variance[0])
    fills = learner.empty_cluster in ("relocate", "split")
    trajectory = Trajectory(max_frames=max_frames)
    labels: dict[int, Tensor] = {}
    before, shift, had_empty = None, torch.inf, True
    for number in range(max_iter + 1):
        step = learner.e_step(rows)
        trajectory.record(number, learner.centroids)
        trajectory.measured(number, float(step.stats.inertia))
        labels[number] = learner(shown).cpu()
        if len(labels) > 2 * max_frames:
            labels = {frame: labels[frame] for frame in trajectory.iterations}
        same = before is not None and step.labels is not None and torch.equal(before, step.labels)
        if number == max_iter or shift <= threshold:
            break
        if same and not had_empty:  # which a fit counts as an iteration
            trajectory.record(number + 1, learner.centroids)
            trajectory.measured(number + 1, float(step.stats.inertia))
            labels[number + 1] = labels[number]
            break
        before = step.labels
        had_empty = fills and bool((step.stats.counts == 0).any())
        shift = float(learner.m_step(step.stats))
    return trajectory, labels


def _rows(layer: Steps, x: Any, at: tuple[int, ...]) -> Any:
    """What the layer of one problem takes: its samples (n, d), or batches."""
    if not isinstance(x, Tensor):
        if not is_array(x):
            return x
        x = as_tensor(x)
    x = x.detach().to(layer.centroids.device)
    return rows_at(x, at) if at else x.reshape(-1, layer.n_features)
