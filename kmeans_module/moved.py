"""Where modules went before the first release: an import by the old name is told the new one."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# What a module of that name in this package held, and where that is now.
MOVED = {
    "animation": "animation_html is in kmeans_module.figures",
    "batches": "Batch and BatchLoader are in kmeans_module",
    "callbacks": "Checkpoints, ClusterFigures, IterationBar and RunFolder are in "
    "kmeans_module.training.callbacks",
    "distributed": "collectives are in kmeans_module.rows.ranks",
    "empty_clusters": "EmptyClusterError is in kmeans_module, the policies are in "
    "kmeans_module.core.empty_clusters",
    "fitting": "fits are KMeansLayer.fit, over kmeans_module.core.fit",
    "initialization": "inits are in kmeans_module.core.seeding",
    "io": "readers and atomic writes are in kmeans_module.files",
    "kernels": "ClusterStats and EStep are in kmeans_module, the backends and their logger are "
    "kmeans_module.backends",
    "lloyd": "Lloyd's algorithm is in kmeans_module.core.lloyd",
    "plotting": "figures are in kmeans_module.figures",
    "quantization.additive": "fits of levels are in kmeans_module.quantization.offline",
    "quantization.codes": "codes are packed in kmeans_module.quantization.packing",
    "resident": "rows that stay in memory are HeldRows in kmeans_module.rows",
    "soft": "soft_assign is in kmeans_module.functional",
    "trajectory": "Trajectory is in kmeans_module.figures",
    "validation": "NotInitializedError is in kmeans_module, the checks are in kmeans_module.checks",
}


class MovedFinder(MetaPathFinder):
    """Asked last for a module: refuses those of MOVED in words, and knows no other."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, old = name.partition(".")
        if package == __package__ and old in MOVED:
            # Without a name: `from kmeans_module import io` would hide an error that has one.
            raise ModuleNotFoundError(where(old))
        return None


def where(old: str) -> str:
    """The sentence for a module of MOVED."""
    return f"{__package__}.{old} has moved: {MOVED[old]}"
