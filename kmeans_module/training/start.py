"""From the data to a layer, centroids to start from, and the machine that moves them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kmeans_module.core.fit import machine
from kmeans_module.core.generators import of_restarts
from kmeans_module.core.lloyd import Lloyd
from kmeans_module.core.metrics import METRICS
from kmeans_module.core.minibatch import MiniBatch
from kmeans_module.core.seeding import INITS, initialize
from kmeans_module.core.surplus import warn_of_weights
from kmeans_module.layer import KMeansLayer
from kmeans_module.rows import HeldRows, StreamRows
from kmeans_module.rows.entry import survey
from kmeans_module.rows.ranks import errors_shared
from kmeans_module.rows.survey import dtype_for
from kmeans_module.training.loaders import TrainingBatches
from kmeans_module.training.pending import make_layer, read_centroids


def start(lit: Any, rows: HeldRows | StreamRows, batches: TrainingBatches) -> Tensor:
    """Survey the rows, make the layer of a LitKMeans, choose its centroids unless it has some.

    Returns:
        The centroids of all restarts, (n, k, d); the layer holds the first ones.
    """
    group = lit.process_group
    with errors_shared(group):
        init = _init_of(lit)
    moments = rows.moments(METRICS[lit.metric].kernel)
    batches.end_first_pass(group)
    with errors_shared(group):
        if not moments.n_samples:
            raise ValueError(
                "the training data hold no batch, or the loader can be gone through only once"
            )
        if not isinstance(lit.kmeans, KMeansLayer):
            dtype = dtype_for(rows.example, moments)
            if lit.trainer.precision == "64-true":
                dtype = torch.float64
            lit.kmeans = make_layer(lit, rows.n_features, dtype)
    layer, lit.variance = lit.kmeans, float(moments.variance[0])
    if lit.initialized:
        layer.prepare(rows)
        return layer.flat_centroids().clone()
    restarts = lit.n_init if isinstance(init, str) or callable(init) else 1
    survey(rows, layer.problem(), init)
    if isinstance(init, str):
        warn_of_weights(moments.n_weighty, layer.n_clusters)
    starts = initialize(
        rows, layer.problem().repeated(restarts), init,
        generator=of_restarts(lit.generator, restarts), told=partial(_tell, lit),
    )  # fmt: skip
    layer.set_centroids(starts[0])
    return starts


def _tell(lit: Any, done: int, total: int) -> None:
    """Let callbacks that have a hook ``on_seeding(trainer, pl_module, done, total)`` know."""
    for callback in lit.trainer.callbacks:
        hook = getattr(callback, "on_seeding", None)
        if hook is not None:
            hook(lit.trainer, lit, done, total)


def _init_of(lit: Any) -> str | Tensor | Callable[..., Tensor]:
    if not isinstance(lit.init, str) or lit.init in INITS:
        init: str | Tensor | Callable[..., Tensor] = lit.init
        return init
    return read_centroids(lit.init).to(lit.device)


def machine_of(lit: Any, rows: HeldRows | StreamRows, centroids: Tensor) -> Lloyd:
    """The run of a LitKMeans from centroids (n, k, d), a problem for each restart."""
    restarts = len(centroids)
    problem = lit.kmeans.problem().repeated(restarts)
    threshold = torch.full((restarts,), lit.tol * lit.variance, dtype=torch.float64)
    if lit.algorithm == "minibatch":
        counts = lit.kmeans.counts.expand(restarts, -1).clone()
        return MiniBatch(problem, centroids, counts, threshold=threshold, merge=rows.merge)
    return machine(rows, problem, centroids, threshold=threshold)
