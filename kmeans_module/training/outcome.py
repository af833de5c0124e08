"""How a fit ended, and draws that reach other processes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule

from kmeans_module.core.lloyd import Iteration
from kmeans_module.training.run import TrainingRun


class Outcome(LightningModule):
    """The outcome of the latest fit.

    The outcome is that of this process: of a fit in processes that it has spawned (ddp_spawn,
    ddp_fork, ddp_notebook) Lightning brings back the centroids and ``trainer.callback_metrics``
    alone.

    Attributes:
        converged: whether the fit stopped by itself.
        stop_reason: why it ended.
        variance: mean variance of the features, what ``tol`` is relative to.
        last: the latest :class:`~kmeans_module.core.lloyd.Iteration`, or None.
        generator: of the initialization; None for torch's default generator.
    """

    generator: torch.Generator | None
    kmeans: Any
    _run: TrainingRun | None

    def __init__(self) -> None:
        super().__init__()
        self.converged = False
        self.stop_reason = "not fitted"
        self.variance = math.nan
        self.last: Iteration | None = None

    @property
    def iterations(self) -> int:
        """M-steps since the centroids were initialized; a device is waited for once in a fit."""
        run = self._run
        if run is None:
            return int(self.kmeans.n_iter)
        if run.n_iter is None:
            run.n_iter = int(self.kmeans.n_iter)
        return run.n_iter

    def outcome(self) -> dict[str, Any]:
        """The part of the outcome that a checkpoint keeps."""
        return {
            "converged": self.converged,
            "stop_reason": self.stop_reason,
            "variance": self.variance,
            "generator": None if self.generator is None else self.generator.get_state(),
        }

    def take_outcome(self, state: Mapping[str, Any]) -> None:
        """Go on from the outcome of a checkpoint, as :meth:`outcome` gave it."""
        self.converged = state["converged"]
        self.stop_reason = state["stop_reason"]
        self.variance = state["variance"]
        if self.generator is not None and state["generator"] is not None:
            self.generator.set_state(state["generator"].cpu())

    def __getstate__(self) -> dict[str, Any]:
        # A torch.Generator does not reach a spawned process: what it draws from does.
        state = super().__getstate__()
        generator = state.pop("generator")
        state["draws"] = None if generator is None else generator.get_state().numpy()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        draws = state.pop("draws")
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.generator = None
        if draws is not None:
            self.generator = torch.Generator().set_state(torch.from_numpy(draws))
