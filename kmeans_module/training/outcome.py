"""How a fit ended, and draws that reach other processes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from kmeans_module.core.lloyd import Iteration
from kmeans_module.training.run import TrainingRun


class Restarts(NamedTuple):
    """The restarts of a fit.

    Attributes:
        centroids: (n, k, d).
        inertia: of the centroids before the latest M-step of each.
        chosen_by: inertia of each by which the best was chosen: at the end that of the final
            centroids.
        m_steps: of each.
        best: number of the one whose centroids the layer holds.
    """

    centroids: Tensor
    inertia: list[float]
    chosen_by: list[float]
    m_steps: list[int]
    best: int


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
        """M-steps since the centroids were initialized, of restarts those of the longest; a device
        is waited for once in a fit."""
        run = self._run
        if run is None:
            return int(self.kmeans.n_iter)
        if run.restarts > 1:
            return int(run.m_steps.max())
        if run.n_iter is None:
            run.n_iter = int(self.kmeans.n_iter)
        return run.n_iter

    @property
    def restarts(self) -> Restarts:
        """All restarts of the fit under way, or of the latest."""
        run = self._run
        if run is None or run.restarts == 1:
            inertia = [math.nan if self.last is None else float(self.last.inertia)]
            centroids = self.kmeans.centroids.detach()[None]
            return Restarts(centroids, inertia, inertia, [self.iterations], 0)
        m_steps: list[int] = run.m_steps.tolist()
        return Restarts(run.lloyd.centroids, run.inertia, run.chosen_by, m_steps, run.best)

    def outcome(self) -> dict[str, Any]:
        """The part of the outcome that a checkpoint keeps.

        Returns:
            converged, stop_reason, variance and the state of the generator.
        """
        return {
            "converged": self.converged,
            "stop_reason": self.stop_reason,
            "variance": self.variance,
            "generator": None if self.generator is None else self.generator.get_state(),
        }

    def take_outcome(self, state: Mapping[str, Any]) -> None:
        """Go on from the outcome of a checkpoint.

        Args:
            state: as :meth:`outcome` gave it.
        """
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
