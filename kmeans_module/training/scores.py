"""How good a clustering is: its inertia, and how it agrees with true labels."""

from __future__ import annotations

from torch import Tensor, nn

from kmeans_module.core.statistics import EStep
from kmeans_module.metrics import Inertia
from kmeans_module.rows.batch import Batch
from kmeans_module.training.agreement import Agreement


class Scores(nn.Module):
    """Scores of the batches of an evaluation, over all ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.inertia = Inertia()
        self.agreement = Agreement()

    def add(self, step: EStep, batch: Batch) -> None:
        """Take the E-step of a batch; agreement is of the rows that weigh something and whose
        true label is none of -1, which stands for an outlier."""
        assert step.distances is not None
        assert step.labels is not None
        self.inertia.update(step.distances, batch.sample_weight)
        if batch.target is None:
            return
        clustered = batch.target >= 0
        if batch.sample_weight is not None:
            clustered &= batch.sample_weight > 0
        self.agreement.update(step.labels[clustered], batch.target[clustered])

    def compute(self) -> dict[str, Tensor]:
        """The scores that batches were taken for; then starts anew."""
        values: dict[str, Tensor] = {}
        if self.inertia.update_called:
            values["inertia"] = self.inertia.compute()
        if self.agreement.update_called:
            values |= self.agreement.compute()
        self.inertia.reset()
        self.agreement.reset()
        return values
