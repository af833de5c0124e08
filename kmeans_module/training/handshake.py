"""Before a run begins: what the Trainer and the ranks have to be alike in."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from kmeans_module.core.seeding import INITS
from kmeans_module.layer import KMeansLayer
from kmeans_module.rows.ranks import ProcessGroup, agree

_ARGUMENTS = (
    "n_clusters", "n_features", "algorithm", "metric", "empty_cluster", "tol", "n_init", "seed",
    "resident",
)  # fmt: skip


def check_strategy(trainer: Trainer) -> None:
    """Refuse strategies that split a model over ranks.

    Raises:
        ValueError: the strategy is neither of one device nor DDP.
    """
    strategy = trainer.strategy
    if not isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
        raise ValueError(
            f"strategy should be of one device, or ddp; got {type(strategy).__name__}, which "
            "splits a model: centroids are alike on all ranks, it is the rows that are split"
        )


def agree_on_arguments(lit: Any, group: ProcessGroup | None) -> None:
    """Refuse a LitKMeans whose arguments or layer differ between ranks, by name; a collective.

    The check comes before DistributedDataParallel copies the buffers of the first rank to the
    others, which would wait for each other where layers are of other sizes.
    """
    if group is None:
        return
    init = lit.init if lit.init in INITS or not isinstance(lit.init, str) else "a file"
    layer = lit.kmeans if isinstance(lit.kmeans, KMeansLayer) else None
    agree(
        group,
        **{name: getattr(lit, name) for name in _ARGUMENTS},
        init=init if isinstance(init, str) else type(init).__name__,
        batch_of="None" if lit.batch_of is None else "a function",
        kmeans=repr(layer),
        dtype=None if layer is None else layer.centroids.dtype,
        initialized=lit.initialized,
    )
