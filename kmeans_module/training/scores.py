"""How good a clustering is: its inertia, and how it agrees with true labels."""

from __future__ import annotations

from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.clustering import AdjustedRandScore, NormalizedMutualInfoScore

from kmeans_module.core.statistics import EStep
from kmeans_module.metrics import Inertia
from kmeans_module.rows.batch import Batch


class Scores(nn.ModuleDict):
    """Scores of the batches of an evaluation, over all ranks."""

    def __init__(self) -> None:
        super().__init__(
            {
                "inertia": Inertia(),
                "adjusted_rand": AdjustedRandScore(),
                "normalized_mutual_info": NormalizedMutualInfoScore(),
            }
        )

    def add(self, step: EStep, batch: Batch) -> None:
        """Take the E-step of a batch; agreement is of the rows that weigh something and whose
        true label is none of -1, which stands for an outlier."""
        self._metric("inertia").update(step.distances, batch.sample_weight)
        if batch.target is None:
            return
        clustered = batch.target >= 0
        if batch.sample_weight is not None:
            clustered &= batch.sample_weight > 0
        for name in ("adjusted_rand", "normalized_mutual_info"):
            self._metric(name).update(step.labels[clustered], batch.target[clustered])

    def compute(self) -> dict[str, Tensor]:
        """The scores that batches were taken for; then starts anew."""
        values = {}
        for name in self:
            metric = self._metric(name)
            if metric.update_called:
                values[name] = metric.compute()
                metric.reset()
        return values

    def _metric(self, name: str) -> Metric:
        metric = self[name]
        assert isinstance(metric, Metric)
        return metric
