"""A run of k-means over the batches that a Trainer hands out."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kmeans_module.core.fit import measured
from kmeans_module.core.guard import version_of
from kmeans_module.core.lloyd import Iteration, Lloyd, alone
from kmeans_module.core.metrics import METRICS
from kmeans_module.core.minibatch import MiniBatch
from kmeans_module.core.statistics import from_host
from kmeans_module.rows import HeldRows, StreamRows
from kmeans_module.rows.batch import Batch, as_batch
from kmeans_module.rows.held import HeldSearch
from kmeans_module.rows.ranks import all_sum, errors_shared, rank
from kmeans_module.rows.stream import StreamSearch
from kmeans_module.training.loaders import TrainingBatches
from kmeans_module.training.numbering import Numbering
from kmeans_module.training.report import sizes


class TrainingRun:
    """Rows, what is learned about them, and the state machine that their batches drive.

    Args:
        batches: of the trainer.
        rows: of all these batches, in the space of the metric.
        lloyd: the machine.
        metric: of the layer.
        resident: whether batches in memory stand for those of the loader.

    Attributes:
        best: number of the restart whose centroids the layer holds.
        inertia: of each restart, as the latest pass has measured it.
        chosen_by: the inertia that the best was chosen by; at the end of a fit of several restarts
            that of their final centroids.
        m_steps: of each restart, (n,) int64.
    """

    def __init__(
        self,
        batches: TrainingBatches,
        rows: HeldRows | StreamRows,
        lloyd: Lloyd,
        *,
        metric: str,
        resident: bool,
    ) -> None:
        self.batches = batches
        self.rows: HeldRows | StreamRows | None = rows
        self.lloyd = lloyd
        self.metric = metric
        self.resident = resident
        self.group = rows.group
        self.search: HeldSearch | StreamSearch | None = rows.search(lloyd.problem)
        self.numbering: Numbering | None = None
        self._probes: dict[Hashable, Probe] = {}
        self._n_rows = self._n_batches = 0
        self.n_iter: int | None = None  # what the layer counts, once it has been read
        self.best = 0
        self.inertia = self.chosen_by = [math.nan] * len(lloyd.centroids)
        self.m_steps = np.zeros(len(lloyd.centroids), dtype=np.int64)
        # Of the batches of a device: whether they are the same as before; read at the end.
        self._unchanged: list[tuple[int, Tensor]] = []

    def step(self, data: Any, batch_idx: int) -> None:
        """Take what the loader hands out as batch ``batch_idx`` of an epoch."""
        rows, search = self.rows, self.search
        assert rows is not None
        assert search is not None
        if batch_idx == 0:
            self._begin_pass(rows, search)
        with errors_shared(self.group):
            if isinstance(rows, HeldRows):
                batch = self._held(data, rows, batch_idx)
            else:
                batch = self._passing(data, rows, batch_idx)
            stats, moved = search.step(batch, self.lloyd.centroids)
        self._n_rows += len(batch.x)
        self._n_batches = batch_idx + 1
        self.lloyd.add(stats, moved)

    @property
    def restarts(self) -> int:
        """Problems that run in the same passes."""
        return len(self.m_steps)

    def end_pass(self) -> tuple[Iteration, list[NDArray[Any]]]:
        """Close the iteration, and see at once whether it was the last.

        Returns:
            The iteration of all restarts, with numbers on the host, and what
            :func:`report.sizes` makes of its counts.
        """
        assert self.search is not None
        with errors_shared(self.group):
            self.batches.check_intact()
            self._check_probes()
        self.search.end_pass()
        if isinstance(self.rows, HeldRows) and self._n_batches < len(self.rows.batches):
            raise ValueError(
                f"an epoch has {self._n_batches} batches, the first pass had "
                f"{len(self.rows.batches)}: every pass has to bring the same"
            )
        if isinstance(self.rows, StreamRows) and self.rows.every_pass_is_the_same:
            self.rows.watch.end()
        iteration, found = self.lloyd.end_pass_and_look(sizes)
        self.inertia = from_host(iteration.inertia).tolist()
        return iteration, found

    def choose(self, inertia: Tensor | float) -> int:
        """The first restart of lowest inertia (n,) becomes the best."""
        found = from_host(inertia)
        self.chosen_by, self.best = found.tolist(), int(found.argmin())
        return self.best

    def measure(self) -> Tensor:
        """Inertia of the present centroids of all restarts, (n,): one more pass over the rows."""
        assert self.rows is not None
        assert self.search is not None
        found = measured(self.rows, self.search, self.lloyd.problem, self.lloyd.centroids)
        return from_host(found.inertia)

    def count_m_step(self) -> None:
        """Count an M-step of the restarts that had not converged before it."""
        if isinstance(self.lloyd, MiniBatch):
            self.m_steps += self.lloyd.active
        else:
            self.m_steps = self.lloyd.n_iter.copy()
        if self.n_iter is not None:
            self.n_iter += 1

    def count_rows(self) -> float:
        """Rows of the pass, over all ranks; a collective."""
        n_rows = torch.tensor([self._n_rows], dtype=torch.float64)
        return float(all_sum([n_rows], self.group)[0])

    def forget_rows(self) -> None:
        """Keep only the state."""
        self.rows = self.search = None
        self._probes.clear()
        self.lloyd.merge = alone

    def state_dict(self) -> dict[str, Any]:
        """The state of the machine but for the centroids, where the layer holds them."""
        state = self.lloyd.state_dict()
        if self.restarts == 1:
            del state["centroids"]
            return state
        m_steps = torch.from_numpy(self.m_steps.copy())
        return {**state, "best": self.best, "chosen_by": self.chosen_by, "m_steps": m_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a run where its checkpoint was written.

        Raises:
            ValueError: that was in the middle of an epoch, whose batches the loader cannot give.
        """
        if state.get("partial") is not None and isinstance(self.rows, StreamRows):
            raise ValueError(
                "the checkpoint is of the middle of an epoch, and the loader starts its epochs "
                "anew: go on from a checkpoint of the end of an epoch"
            )
        if state.get("partial") is not None and self.group is not None:
            raise ValueError(
                "the checkpoint is of the middle of an epoch, of which it holds the sums of the "
                f"first rank alone; this is rank {rank(self.group)} of several: go on from a "
                "checkpoint of the end of an epoch"
            )
        try:
            self.lloyd.load_state_dict({"centroids": self.lloyd.centroids, **state})
            if self.restarts > 1:
                self.best, self.chosen_by = state["best"], state["chosen_by"]
                self.m_steps = state["m_steps"].cpu().numpy().copy()
        except KeyError as error:
            raise ValueError(f"the checkpoint tells no {error} of its run") from error

    def _begin_pass(self, rows: HeldRows | StreamRows, search: HeldSearch | StreamSearch) -> None:
        self.lloyd.begin_pass()
        search.begin_pass()
        self.numbering = self.batches.numbering()
        self._n_rows = 0
        if isinstance(rows, StreamRows):
            rows.watch.begin()

    def _passing(self, data: Any, rows: StreamRows, batch_idx: int) -> Batch:
        """The rows of a batch that comes and goes."""
        assert self.numbering is not None
        batch = self.batches.checked(self.numbering.read(data, batch_idx))
        to_space = METRICS[self.metric].map
        if to_space is not None:
            batch = batch._replace(x=to_space(batch.x))
        if rows.every_pass_is_the_same:
            rows.watch.see(batch)
        return batch

    def _held(self, data: Any, rows: HeldRows, batch_idx: int) -> Batch:
        """The rows in memory that the batch stands for."""
        if batch_idx >= len(rows.batches):
            raise ValueError(
                f"an epoch has more batches than the first pass, {len(rows.batches)}: every pass "
                "has to bring the same"
            )
        if not self.resident:
            self._check_unchanged(as_batch(data, self.batches.batch_of), rows, batch_idx)
        return rows.batches[batch_idx]

    def _check_unchanged(self, batch: Batch, rows: HeldRows, batch_idx: int) -> None:
        """A handle promises that the rows stay: look at some of them."""
        now = Probe(batch)
        name = batch.x.data_ptr() if batch.handle is None else batch.handle
        known = self._probes.setdefault(name, now)
        foreign = batch.handle is not None and all(
            batch.handle != held.handle for held in rows.batches[batch_idx:] + rows.batches
        )
        if foreign or not known.alike(now):
            raise _changed(batch_idx)
        if known is not now:
            equal = known.equals(now)
            if equal.device.type == "cpu":
                if not bool(equal):
                    raise _changed(batch_idx)
            else:
                self._unchanged.append((batch_idx, equal))

    def _check_probes(self) -> None:
        """Refuse batches of a device that have changed, with one wait for all of them."""
        probes, self._unchanged = self._unchanged, []
        if probes:
            flags = torch.stack([equal for _, equal in probes]).tolist()
            for (batch_idx, _), equal in zip(probes, flags, strict=True):
                if not equal:
                    raise _changed(batch_idx)


def _changed(batch_idx: int) -> ValueError:
    return ValueError(
        f"batch {batch_idx} of the training data has changed since the pass before: every pass has "
        "to bring the same rows"
    )


class Probe:
    """How a batch looks: copies of some of its rows and weights, and how often torch has written
    into them.

    Args:
        batch: that may be the same again.
    """

    def __init__(self, batch: Batch) -> None:
        parts = (batch.x,) if batch.sample_weight is None else (batch.x, batch.sample_weight)
        self.shapes = [part.shape for part in parts]
        self.versions = [version_of(part) for part in parts]
        self.rows = [part[:: -(-len(part) // 16) or 1].clone() for part in parts]

    def alike(self, other: Probe) -> bool:
        """Whether both are of batches of one size, that nobody has written into."""
        return self.shapes == other.shapes and self.versions == other.versions

    def equals(self, other: Probe) -> Tensor:
        """Whether the rows of probes that are alike are the same, ()."""
        equal = [(a == b).all() for a, b in zip(self.rows, other.rows, strict=True)]
        return torch.stack(equal).all()
