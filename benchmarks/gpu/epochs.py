"""An epoch of LitKMeans beside that of an empty LightningModule plus the layer's iteration."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from typing import Any

from torch import Tensor

from benchmarks.gpu.cases import Case
from benchmarks.gpu.clock import Absent, Trial
from benchmarks.gpu.labels import check
from kmeans_module import BatchLoader, KMeansLayer

SHORT, LONG = 3, 13  # epochs, of which the difference is taken
BATCHES = 8


def epoch(case: Case, contestant: str, data: Any) -> Trial:
    """Three loops over the same loader of batches on the device, from the same centroids."""
    if importlib.util.find_spec("lightning") is None:
        raise Absent("lightning is not installed")
    from lightning.pytorch import LightningModule, Trainer

    from kmeans_module import LitKMeans

    x, start = data.x, data.start
    loader = BatchLoader(x, batch_size=-(-len(x) // BATCHES))
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Empty(LightningModule):
        """Looks at nothing."""

        automatic_optimization = False

        def training_step(self, batch: Any) -> None:
            return None

        def configure_optimizers(self) -> None:
            return None

    def train(module: LightningModule, epochs: int) -> None:
        trainer = Trainer(
            accelerator="gpu" if x.is_cuda else "cpu", devices=[x.device.index or 0]
            if x.is_cuda else 1, max_epochs=epochs, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, loader)

    def started() -> KMeansLayer:
        layer = KMeansLayer(*start.shape, device=x.device)
        layer.initialize(x, start)
        return layer

    def lightning(epochs: int) -> tuple[Tensor, int]:
        lit = LitKMeans(case.k, tol=0)
        lit.kmeans = started()
        train(lit, epochs)
        return lit.kmeans.centroids.clone(), int(lit.kmeans.n_iter)

    def alone(iterations: int) -> tuple[Tensor, int]:
        layer = started()
        result = layer.fit(loader, init=start, max_iter=iterations, tol=0)
        return layer.centroids.clone(), int(result.n_iter)

    def empty(epochs: int) -> tuple[None, int]:
        train(Empty(), epochs)
        return None, epochs

    loops: dict[str, Callable[[int], tuple[Any, int]]] = {
        "lightning": lightning, "empty": empty, "alone": alone
    }  # fmt: skip
    calls = [
        (f"{name}, {epochs}", loop, epochs)
        for name, loop in loops.items()
        for epochs in (SHORT, LONG)
    ]

    def figures(ms: dict[str, float], results: dict[str, Any]) -> dict[str, Any]:
        if not ms:
            return {}
        each = {}
        for name in loops:
            (_, more), (_, few) = results[f"{name}, {LONG}"], results[f"{name}, {SHORT}"]
            took = ms[f"{name}, {LONG}"] - ms[f"{name}, {SHORT}"]
            # Fits that converge early have no later epochs.
            each[name] = took / (more - few) if more > few else ms[f"{name}, {LONG}"] / more
        both = each["empty"] + each["alone"]
        return {
            "ms": each["lightning"], "empty_ms": each["empty"], "iteration_ms": each["alone"],
            "over_both": each["lightning"] / both,
        }  # fmt: skip

    def checked(results: dict[str, Any]) -> tuple[float, float]:
        """Of the centroids that Lightning's loop ended with."""
        centroids = results[f"lightning, {LONG}"][0].to(x.device)
        layer = started()
        layer.initialize(x, centroids)
        return check(x, centroids, layer(x))

    return Trial(
        {name: lambda loop=loop, epochs=epochs: loop(epochs) for name, loop, epochs in calls},
        figures,
        checked,
    )
