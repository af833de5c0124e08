"""What callbacks read of the module that is trained."""

from __future__ import annotations

from lightning.pytorch import LightningModule

from kmeans_module.training.lit_kmeans import LitKMeans


def as_kmeans(pl_module: LightningModule) -> LitKMeans:
    """The module as a LitKMeans.

    Raises:
        TypeError: it is another LightningModule.
    """
    if not isinstance(pl_module, LitKMeans):
        raise TypeError(f"this callback is for LitKMeans; got {type(pl_module).__name__}")
    return pl_module


def n_iterations(lit: LitKMeans) -> int:
    """Number of M-steps so far: the x-axis of all that is logged."""
    return lit.iterations


def has_rows(lit: LitKMeans) -> bool:
    """Whether there are centroids, and training rows that they cluster."""
    return lit.initialized and lit.trainer.train_dataloader is not None
