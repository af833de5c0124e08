"""TensorBoard's HParams tab: what a fit was asked for beside what it found."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from kmeans_module.training.callbacks.labels import Evaluation
from kmeans_module.training.callbacks.reading import n_iterations
from kmeans_module.training.lit_kmeans import LitKMeans

# The tab has the columns of one run, whichever comes first: all runs name all of them.
METRICS = (
    "inertia", "n_iter", "converged", "cluster_usage", "adjusted_rand", "normalized_mutual_info",
)  # fmt: skip


def hide_default_metric(logger: TensorBoardLogger) -> None:
    """Before the logger has written: its "hp_metric", which nobody fills, would be all that the tab
    shows."""
    logger._default_hp_metric = False


def log_outcome(logger: TensorBoardLogger, lit: LitKMeans, evaluation: Evaluation) -> None:
    """Log the hyperparameters with the metrics of the final centroids, by which runs compare."""
    data = getattr(lit.trainer, "datamodule", None)
    source = lit.trainer.train_dataloader if data is None else data
    asked: dict[str, Any] = {
        **{name: value for name, value in lit.hparams.items() if not name.startswith("_")},
        "n_features": lit.kmeans.n_features,
        "data": getattr(source, "path", type(source).__name__),
    }
    found = {
        "inertia": evaluation.inertia,
        "n_iter": float(lit.kmeans.n_iter),
        "converged": float(lit.converged),
        "cluster_usage": float((evaluation.sizes > 0).double().mean()),
        **evaluation.agreement,
    }
    step = n_iterations(lit)
    logger.log_metrics({f"fit/{name}": value for name, value in found.items()}, step)
    writer = logger.experiment._get_file_writer()
    plain = {
        name: value if isinstance(value, bool | int | float) else str(value)
        for name, value in asked.items()
    }
    columns = {f"fit/{name}": 0.0 for name in METRICS}
    for summary in hparams(plain, columns):  # type: ignore[no-untyped-call]
        writer.add_summary(summary, step)
