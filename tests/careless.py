"""Doors of the library with what belongs into them, and the garbage that careless callers bring."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

import kmeans_module as km
from kmeans_module import functional as F
from kmeans_module.core.seeding import INITS
from kmeans_module.figures import (
    animation_html,
    cluster_colors,
    cluster_sizes_figure,
    clustering_figure,
    palette_figure,
    plot_history,
)
from kmeans_module.training.callbacks import Checkpoints, ClusterFigures, RunFolder
from tests.conftest import blobs

X = blobs(30, 3)
C = normalize(X[:4])
LABELS = torch.arange(30) % 4
WEIGHTS = torch.linspace(0.5, 2, 30)


def with_value(value: float, *rows: int) -> torch.Tensor:
    x = X.clone()
    x[list(rows), 1] = value
    return x


def same(value: Any) -> Any:
    return value


def one_shot() -> Iterator[torch.Tensor]:
    yield X


# Made anew for each call: a generator is spent by the call before.
MAKERS = (one_shot, object, lambda: print, lambda: torch.Generator(), lambda: iter([X]))
GARBAGE: tuple[Callable[[], Any], ...] = (*MAKERS, *(
    partial(same, value)
    for value in (
        None, True, -1, 0, 1, 3, 2**63, 10**400, 1e30, 0.5, -0.0, float("nan"),
        float("inf"), 1j, "", "random", "cosine", "x.npy", "a\nb", b"x", (), (0,), (2, -1), [],
        [1, 2], [[1.0], [2.0, 3.0]], {}, {"x": None}, {1, 2}, slice(3), ..., object, torch.float16,
        torch.int8, torch.device("meta"), np.float32(2), np.int64(3), np.zeros(3),
        np.zeros((30, 3)),
        np.array(["a"]), np.array([None]), torch.tensor(1.0), torch.tensor([]), torch.tensor(True),
        torch.zeros(3), torch.zeros(0, 3), torch.zeros(4, 3), torch.ones(30, 3), torch.zeros(30),
        -torch.ones(30), torch.full((30,), 1e308, dtype=torch.float64), torch.arange(30),
        torch.arange(30) - 1, torch.zeros(30, 2), torch.zeros(2, 30, 3), torch.zeros(1, 1, 1, 3),
        torch.full((30, 3), torch.nan), torch.full((30, 3), torch.inf), torch.full((30, 3), 3e38),
        X * 1e18, X * 1e-30, X.double() * 1e200, X.half(), X.bfloat16(), X.long(), X.bool(),
        X.to(torch.uint8), X.abs().to(torch.uint16), X.abs().to(torch.uint64),
        X.to(torch.complex64), X.to(torch.float8_e4m3fn), X.to_sparse(), X.to("meta"), X.t(),
        X[::2], X.expand(2, 30, 3), with_value(torch.nan, 3), with_value(torch.inf, 7),
        torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(3, 3)], layout=torch.jagged),
        torch.nn.Identity(), km.ClusterStats,
    )
))  # fmt: skip


@dataclass
class Door:
    """A public callable.

    Attributes:
        name: as a user calls it.
        make: the callable, and the fresh object whose state a refusal must leave as it was.
        good: by argument, what belongs there.
    """

    name: str
    make: Callable[[], tuple[Callable[..., Any], Any]]
    good: Mapping[str, Callable[[], Any]]


def of(*values: Any) -> Callable[[], Any]:
    """One of the values, by torch's generator."""
    return lambda: values[int(torch.randint(len(values), ()))]


def layer(**options: Any) -> km.KMeansLayer:
    made = km.KMeansLayer(4, 3, **options)
    made.set_centroids(C)
    return made


def method(name: str, make: Callable[[], Any]) -> Callable[[], tuple[Callable[..., Any], Any]]:
    def bound() -> tuple[Callable[..., Any], Any]:
        owner = make()
        return getattr(owner, name), owner

    return bound


def free(function: Callable[..., Any]) -> Callable[[], tuple[Callable[..., Any], Any]]:
    return lambda: (function, None)


def vector(**options: Any) -> km.VectorQuantizer:
    made = km.VectorQuantizer(4, 3, **options)
    made(X)
    return made.eval()


def residual() -> km.ResidualQuantizer:
    made = km.ResidualQuantizer(4, 3, 2)
    made(X)
    return made.eval()


def product() -> km.ProductQuantizer:
    made = km.ProductQuantizer(4, 3, 3)
    made(X)
    return made.eval()


def estimator() -> km.KMeans:
    return km.KMeans(4, random_state=0).fit(X.numpy())


def fit_of(estimator: Any) -> Callable[..., Any]:
    def fit(X: Any, sample_weight: Any, **options: Any) -> Any:
        return estimator(**options).fit(X, sample_weight=sample_weight)

    return fit


x, weight, seed = of(X, X.double(), X.half()), of(None, WEIGHTS), of(None)
metric, policy = of("euclidean", "cosine"), of("relocate", "split", "keep", "error")
CREATE = {
    "n_clusters": of(4), "n_features": of(3), "metric": metric, "empty_cluster": policy,
    "batch_shape": of((), (2,)), "requires_grad": of(False), "device": of(None, "cpu"),
    "dtype": of(None, torch.float64),
}  # fmt: skip
CODEBOOK = {
    "n_clusters": of(4), "n_features": of(3), "update": of("ema", "gradient", "frozen"),
    "decay": of(0.9), "smoothing": of(1e-5), "estimator": of("rotation"), "temperature": of(1.0),
    "commitment": of(0.25), "init_batches": of(1), "revive_below": of(None, 0),
    "channel_first": of(False), "nonfinite": of("skip"), "process_group": of("default", None),
    "device": of(None), "dtype": of(None),
}  # fmt: skip
FIT = {
    "x": x, "init": of(*INITS, C, "current"), "max_iter": of(5), "tol": of(0, 1e-4),
    "n_init": of(2), "sample_weight": weight, "generator": of(None), "process_group": of(None),
    "callback": of(None), "resident": of(False, True), "batch_of": of(None),
    "verbose": of(False), "max_points_per_centroid": of(None, 3),
}  # fmt: skip
OFFLINE = {
    "x": x, "max_iter": of(5), "tol": of(1e-4), "n_init": of(1), "generator": of(None),
    "verbose": of(False), "callback": of(None),
}  # fmt: skip
DRAWN = {
    "problem": of(None), "title": of(None, "t"), "feature_names": of(None, ["a", "b", "c"]),
    "colors": of(None, C.abs()),
}  # fmt: skip
ESTIMATOR = {
    "X": of(X.numpy(), X), "sample_weight": of(None, WEIGHTS.numpy()), "n_clusters": of(4),
    "init": of(*INITS, C.numpy()), "n_init": of(1, "auto"), "max_iter": of(5), "tol": of(1e-4),
    "random_state": of(None, 3), "metric": metric, "empty_cluster": policy,
}  # fmt: skip
COMMON = (
    "no room for centroids of shape",
    "clusters have no samples",
    "no centroids yet",
    "n_samples",
    "no codebook yet",
)

DOORS = (
    Door("KMeansLayer", free(km.KMeansLayer), CREATE),
    Door("layer.forward", method("forward", layer), {"x": x}),
    Door("layer.transform", method("transform", layer), {"x": x}),
    Door("layer.decode", method("decode", layer), {"labels": of(LABELS)}),
    Door(
        "layer.soft_assign", method("soft_assign", layer),
        {"x": x, "temperature": of(1.0), "kernel": of("softmax", "student-t")},
    ),
    Door(
        "layer.initialize", method("initialize", layer),
        {name: FIT[name] for name in ("x", "init", "sample_weight", "generator", "process_group")},
    ),
    Door(
        "layer.prepare", method("prepare", layer),
        {name: FIT[name] for name in ("x", "sample_weight", "process_group", "resident")},
    ),
    Door(
        "layer.e_step", method("e_step", layer),
        {"x": x, "sample_weight": weight, "start": of(0, 3)},
    ),
    Door(
        "layer.m_step", method("m_step", layer),
        {"stats": lambda: layer().e_step(X).stats, "decay": of(0, 0.5)},
    ),
    Door("layer.fit", method("fit", layer), FIT),
    Door("layer.plot", method("plot", layer), {"x": x, "labels": of(None, LABELS), **DRAWN}),
    Door(
        "layer.animate", method("animate", layer),
        {
            **{name: FIT[name] for name in ("x", "max_iter", "tol", "sample_weight", "generator")},
            "init": of(*INITS, C, "current"), "max_points": of(9), "max_frames": of(3), **DRAWN,
        },
    ),
    Door("plot_history", free(plot_history),
         {"history": of(torch.ones(3), [3.0, 2.0]), "title": of(None, "t")}),
    Door(
        "kmeans", free(km.kmeans),
        {
            "x": of(X.numpy(), X, [X, X], X.tolist()), "k": of(4), "seed": of(None, 3),
            "generator": of(None), "init": of(*INITS, C.numpy()), "max_iter": of(5),
            "tol": of(0, 1e-4), "n_init": of(2), "sample_weight": of(None), "metric": metric,
            "empty_cluster": policy, "max_points_per_centroid": of(None, 3),
            "device": of(None, "cpu"), "dtype": of(None, torch.float64), "verbose": of(False),
            "callback": of(None), "process_group": of(None),
        },
    ),
    Door(
        "predict", free(km.predict),
        {
            "source": lambda: of(layer(), vector(), estimator(), km.kmeans(X, 4, seed=0))(),
            "x": of(X.numpy(), X, [X, X]), "device": of(None),
        },
    ),
    Door(
        "layer.set_centroids", method("set_centroids", layer),
        {"centroids": of(C), "counts": of(None, torch.ones(4))},
    ),
    Door("functional.assign", free(F.assign), {"x": x, "centroids": of(C), "metric": metric}),
    Door(
        "functional.e_step", free(F.e_step),
        {"x": x, "centroids": of(C), "sample_weight": weight, "metric": metric, "start": of(0)},
    ),
    Door(
        "functional.inertia", free(F.inertia),
        {"x": x, "centroids": of(C), "sample_weight": weight, "metric": metric},
    ),
    Door(
        "functional.pairwise_distances", free(F.pairwise_distances),
        {"x": x, "centroids": of(C), "metric": metric},
    ),
    Door(
        "functional.soft_assign", free(F.soft_assign),
        {
            "x": x, "centroids": of(C), "temperature": of(0.5),
            "kernel": of("softmax", "student-t"), "metric": metric,
        },
    ),
    Door("functional.decode", free(F.decode), {"labels": of(LABELS), "centroids": of(C)}),
    Door(
        "functional.update_centroids", free(F.update_centroids),
        {
            "centroids": of(C), "counts": of(torch.ones(4)),
            "stats": lambda: F.e_step(X, C).stats, "decay": of(0, 0.5),
            "empty_cluster": policy, "metric": metric,
        },
    ),
    Door("Inertia.update", method("update", km.Inertia),
         {"distances": of(WEIGHTS), "sample_weight": weight}),
    Door("ClusterUsage", free(km.ClusterUsage), {"n_clusters": of(4)}),
    Door("ClusterUsage.update", method("update", lambda: km.ClusterUsage(4)),
         {"labels": of(LABELS)}),
    Door("VectorQuantizer", free(km.VectorQuantizer),
         {**CODEBOOK, "metric": metric, "heads": of(1, 3), "separate_codebooks": of(True)}),
    Door("VectorQuantizer.forward", method("forward", vector),
         {"x": x, "mask": of(None, torch.ones(30, dtype=torch.bool))}),
    Door("VectorQuantizer.training", lambda: (lambda v: (v.forward, v))(vector().train()),
         {"x": x, "mask": of(None, torch.ones(30, dtype=torch.bool))}),
    Door("VectorQuantizer.encode", method("encode", vector), {"x": x}),
    Door("VectorQuantizer.decode", method("decode", vector), {"codes": of(LABELS)}),
    Door("ResidualQuantizer", free(km.ResidualQuantizer), {**CODEBOOK, "n_levels": of(2)}),
    Door("ResidualQuantizer.forward", method("forward", residual), {"x": x}),
    Door("ResidualQuantizer.encode", method("encode", residual), {"x": x, "beam_size": of(1, 5)}),
    Door("ResidualQuantizer.decode", method("decode", residual),
         {"codes": of(LABELS.unsqueeze(1).expand(-1, 2))}),
    Door("ResidualQuantizer.fit", method("fit", residual), {**OFFLINE, "beam_size": of(1, 2)}),
    Door("ResidualQuantizer.tables", method("tables", residual), {"queries": x}),
    Door("ResidualQuantizer.distances", method("distances", residual),
         {"queries": x, "codes": of(LABELS.unsqueeze(1).expand(-1, 2))}),
    Door("ResidualQuantizer.pack", method("pack", residual),
         {"codes": of(LABELS.unsqueeze(1).expand(-1, 2))}),
    Door("ResidualQuantizer.unpack", method("unpack", residual),
         {"packed": of(torch.zeros(5, 1, dtype=torch.uint8))}),
    Door("ProductQuantizer", free(km.ProductQuantizer),
         {**CODEBOOK, "n_subspaces": of(3), "rotation": of(False)}),
    Door("ProductQuantizer.forward", method("forward", product), {"x": x}),
    Door("ProductQuantizer.encode", method("encode", product), {"x": x}),
    Door("ProductQuantizer.decode", method("decode", product),
         {"codes": of(LABELS.unsqueeze(1).expand(-1, 3))}),
    Door("ProductQuantizer.fit", method("fit", product), OFFLINE),
    Door("ProductQuantizer.tables", method("tables", product), {"queries": x}),
    Door("ProductQuantizer.distances", method("distances", product),
         {"queries": x, "codes": of(LABELS.unsqueeze(1).expand(-1, 3))}),
    Door("ProductQuantizer.pack", method("pack", product),
         {"codes": of(LABELS.unsqueeze(1).expand(-1, 3))}),
    Door("ProductQuantizer.unpack", method("unpack", product),
         {"packed": of(torch.zeros(5, 1, dtype=torch.uint8))}),
    Door("KMeans.fit", lambda: (fit_of(km.KMeans), None),
         {**ESTIMATOR, "algorithm": of("lloyd", "elkan"), "copy_x": of(True, False)}),
    Door("KMeans.predict", method("predict", estimator), {"X": of(X.numpy(), X)}),
    Door("KMeans.transform", method("transform", estimator), {"X": of(X.numpy(), X)}),
    Door("KMeans.score", method("score", estimator), {"X": of(X.numpy(), X)}),
    Door(
        "MiniBatchKMeans.fit", lambda: (fit_of(km.MiniBatchKMeans), None),
        {
            **ESTIMATOR, "batch_size": of(10), "compute_labels": of(True, False),
            "max_no_improvement": of(10, None), "init_size": of(None, 20),
            "reassignment_ratio": of(0.01),
        },
    ),
    Door("MiniBatchKMeans.partial_fit", method("partial_fit", lambda: km.MiniBatchKMeans(4)),
         {"X": of(X.numpy(), X), "sample_weight": of(None, WEIGHTS.numpy())}),
    Door(
        "LitKMeans", free(km.LitKMeans),
        {
            "n_clusters": of(4), "n_features": of(None, 3), "init": of(*INITS),
            "algorithm": of("lloyd", "minibatch"), "metric": metric, "empty_cluster": policy,
            "tol": of(1e-4), "n_init": of(1, 3), "seed": of(None, 3), "resident": of(False),
            "batch_of": of(None),
        },
    ),
    Door(
        "BatchLoader", free(km.BatchLoader),
        {
            "x": x, "batch_size": of(None, 7), "target": of(None, LABELS),
            "sample_weight": weight, "shuffle": of(True), "seed": of(3), "rank": of(0),
            "world_size": of(1, 2),
        },
    ),
    Door(
        "BlobDataModule", free(km.BlobDataModule),
        {
            "n_clusters": of(4), "n_features": of(2), "samples_per_cluster": of(9, [3, 4, 5, 6]),
            "variance": of(3.0), "outliers": of(0.1), "batch_size": of(None, 7),
            "shuffle": of(False), "seed": of(0),
        },
    ),
    Door(
        "ArrayDataModule", free(km.ArrayDataModule),
        {
            "path": of("x.npy"), "columns": of(None, [1, "a"]), "key": of(None, "x"),
            "standardize": of(False), "val_share": of(0.1), "batch_size": of(None),
            "shuffle": of(False), "seed": of(0),
        },
    ),
    Door("ImageDataModule", free(km.ImageDataModule),
         {"path": of("x.png"), "batch_size": of(None), "shuffle": of(False), "seed": of(0)}),
    Door("ClusterFigures", free(ClusterFigures),
         {"every_n_iterations": of(None, 3), "projector": of(True)}),
    Door("Checkpoints", free(Checkpoints),
         {"every_n_iterations": of(2), "save_top_k": of(1, -1)}),
    Door("RunFolder", free(RunFolder), {"summary": of(True)}),
    Door("clustering_figure", free(clustering_figure),
         {"x": of(X), "labels": of(LABELS), "centroids": of(C), "title": of(None, "t"),
          "feature_names": of(None, ["a", "b", "c"])}),
    Door("cluster_sizes_figure", free(cluster_sizes_figure),
         {"counts": of(torch.ones(4)), "colors": of(None, C.abs())}),
    Door("cluster_colors", free(cluster_colors), {"n_clusters": of(4)}),
    Door("palette_figure", free(palette_figure),
         {"centroids": of(C.abs()), "counts": of(torch.ones(4))}),
    Door("animation_html", free(animation_html),
         {"x": of(X), "labels": of(LABELS.expand(2, -1)), "centroids": of(C.expand(2, -1, -1)),
          "inertia": of(torch.ones(2)), "title": of("t"), "iterations": of(None, [0, 1]),
          "max_points": of(9), "max_frames": of(3)}),
)  # fmt: skip


def complaint(door: Door, error: Exception) -> str | None:
    """What is wrong with a refusal; None where a user understands it."""
    message = str(error)
    if not isinstance(error, ValueError | TypeError | FileNotFoundError):
        return f"{type(error).__name__} is no refusal of an argument"
    if door.name.startswith(("KMeans.", "MiniBatchKMeans.")):
        return None  # the words are scikit-learn's
    if not message or "\n" in message:
        return "not one line"
    if len(message) > 400:
        return "a line too long to read"
    told = re.findall(r"[\w.|+-]+", message)
    if any(name in told for name in door.good) or any(words in message for words in COMMON):
        return None
    return "names no argument"


def state_of(owner: object) -> list[tuple[str, list[float]]]:
    """The numbers that a module holds, as one can compare them."""
    if not isinstance(owner, torch.nn.Module):
        return []
    return [
        (name, tensor.double().nan_to_num(0.123).flatten().tolist())
        for name, tensor in owner.state_dict().items()
        if isinstance(tensor, torch.Tensor)
    ]
