"""LitKMeans: Lightning drives the iterations of a KMeansLayer over any DataModule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from kmeans_module.checks import (
    check_callable,
    check_choice,
    check_flag,
    check_integer,
    check_number,
)
from kmeans_module.core.empty_clusters import POLICIES
from kmeans_module.core.lloyd import Iteration, NonFiniteInertiaError
from kmeans_module.core.metrics import METRICS
from kmeans_module.core.minibatch import MiniBatch
from kmeans_module.core.surplus import warn_of_surplus
from kmeans_module.layer import KMeansLayer
from kmeans_module.rows import HeldRows
from kmeans_module.rows.batch import Batch
from kmeans_module.rows.ranks import ProcessGroup, agree, errors_shared
from kmeans_module.rows.source import stable_order
from kmeans_module.training.checkpoint_files import VerifiedCheckpoints, check_fits, sign, verify
from kmeans_module.training.evaluation import EvaluationSteps
from kmeans_module.training.handshake import agree_on_arguments, check_strategy
from kmeans_module.training.loaders import TrainingBatches, check_loader, training_rows
from kmeans_module.training.numbering import BatchOf, deals_a_list
from kmeans_module.training.outcome import Outcome
from kmeans_module.training.pending import PendingLayer, check_same_kind, make_layer
from kmeans_module.training.report import (
    as_numbers,
    is_last_iteration,
    log_values,
    logged_numbers,
    of_restart,
    why_converged,
)
from kmeans_module.training.run import TrainingRun
from kmeans_module.training.start import machine_of, start

ALGORITHMS = ("lloyd", "minibatch")


class LitKMeans(Outcome, EvaluationSteps, VerifiedCheckpoints):
    """k-means trained by ``Trainer.fit``: one epoch is one iteration.

    "minibatch" is that of Sculley (Web-scale k-means clustering, WWW 2010), with a learning rate
    per cluster; its shift is that of a whole epoch.

    Fitting stops when it has converged; ``trainer.max_epochs`` caps it. Batches are
    :class:`~kmeans_module.rows.batch.Batch`, a tensor (n, d), (tensor, labels), or a dict with
    "x" (and "target", "sample_weight"). No epoch is kept in memory. What was learned about rows is
    kept for batches that stay the same tensors, such as those of
    :class:`~kmeans_module.rows.loader.BatchLoader`. For other loaders "k-means++" draws from a
    uniform sample of max(65,536, 256·k) rows.

    The layer is made from the data, or from a checkpoint: float64 data get float64 centroids.
    Until then ``kmeans`` raises NotInitializedError.

    Args:
        n_clusters: number of centroids, k.
        n_features: features of a sample, d, to check the data; None takes any number.
        init: where the centroids start: "k-means++" (rows far from one another), "k-means||" (the
            like, in few passes over the data), "random" (distinct rows), or the path of a file:
            one of KMeansLayer.save, or an array (k, d) as .npy, .csv or .safetensors.
        algorithm: "lloyd" (one M-step per epoch, from all batches on all ranks: exact, the same as
            KMeansLayer.fit) or "minibatch" (one M-step per batch: an approximation in less time).
        metric: "euclidean" (squared distances), or "cosine" (1 - cos: rows and centroids count as
            directions, of unit length).
        empty_cluster: what becomes of a cluster without samples: "relocate" moves it to the
            farthest sample, "split" gives it half of the heaviest cluster, "keep" leaves its
            centroid where it is, "error" ends the fit.
        tol: stop when the shift of the centroids, Σ‖c_new - c_old‖², is at most tol × the mean
            variance of the features.
        n_init: fits from different starts, in the same epochs, of which that of lowest inertia is
            kept. Each takes 8 bytes more per row in memory. An init that is a file, or a layer that
            has centroids, needs one.
        seed: of the initialization; None draws from torch's default generator.
        resident: whether the batches of the first pass stay in memory, on the device.
        batch_of: a function that makes a batch of what the loaders yield, if that is none.

    Attributes:
        kmeans: the :class:`~kmeans_module.KMeansLayer`.
        rows_stay: whether every epoch brings the rows in the same order.
        converged, stop_reason, variance, last: see
            :class:`~kmeans_module.training.outcome.Outcome`.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from kmeans_module import BlobDataModule, LitKMeans
        >>> quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False)
        >>> trainer = Trainer(accelerator="cpu", max_epochs=50, enable_checkpointing=False, **quiet)
        >>> lit = LitKMeans(n_clusters=3)
        >>> trainer.fit(lit, datamodule=BlobDataModule(n_clusters=3, batch_size=64))
        >>> lit.kmeans.centroids.shape, lit.converged
        (torch.Size([3, 2]), True)
    """

    def __init__(
        self,
        n_clusters: int = 6,
        n_features: int | None = None,
        *,
        init: str = "k-means++",
        algorithm: str = "lloyd",
        metric: str = "euclidean",
        empty_cluster: str = "relocate",
        tol: float = 1e-4,
        n_init: int = 1,
        seed: int | None = 0,
        resident: bool = False,
        batch_of: BatchOf | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.n_clusters = n_clusters = check_integer("n_clusters", n_clusters, minimum=1)
        if n_features is not None:
            n_features = check_integer("n_features", n_features, minimum=1)
        self.n_features = n_features
        check_choice("algorithm", algorithm, ALGORITHMS)
        check_choice("metric", metric, tuple(METRICS))
        check_choice("empty_cluster", empty_cluster, POLICIES)
        self.metric = metric
        self.empty_cluster = empty_cluster
        self.init = init
        self.algorithm = algorithm
        self.tol = tol = check_number("tol", tol, minimum=0)
        self.n_init = n_init = check_integer("n_init", n_init, minimum=1)
        check_flag("resident", resident)
        check_callable("batch_of", batch_of)
        self.seed = seed = None if seed is None else check_integer("seed", seed, minimum=0)
        # after the checks, which make plain numbers of NumPy's: checkpoints hold no others
        self.save_hyperparameters(ignore=["batch_of", *([] if isinstance(init, str) else ["init"])])
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)
        self.resident = resident
        self.batch_of = batch_of
        self.kmeans: Any = PendingLayer()
        self.rows_stay = False
        # DDP and the optimizer that counts the iterations ask for a parameter.
        self.anchor = nn.Parameter(torch.empty(0))
        self._resumed: dict[str, Any] | None = None
        self._run: TrainingRun | None = None
        self._stepped = False

    def forward(self, x: Tensor) -> Tensor:
        """Labels of the nearest centroids.

        Args:
            x: samples, (*, d).

        Returns:
            (*) int64.
        """
        labels: Tensor = self.kmeans(x)
        return labels

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One step of it per M-step makes ``trainer.global_step`` the number of M-steps."""
        return torch.optim.SGD([self.anchor], lr=1.0)

    @property
    def process_group(self) -> ProcessGroup | None:
        """All ranks of the trainer; None for a single one."""
        return torch.distributed.group.WORLD if self.trainer.world_size > 1 else None

    @property
    def initialized(self) -> bool:
        """Whether there are centroids."""
        return isinstance(self.kmeans, KMeansLayer) and bool(self.kmeans.initialized)

    def training_batches(self) -> Iterator[Batch]:
        """One pass over the training batches of this rank, without a collective.

        Returns:
            The batches, on this rank's device, in the order of the pass.
        """
        batches = self._training_batches()
        batches.end_first_pass(None)
        return iter(batches)

    def _training_batches(self) -> TrainingBatches:
        told = self.kmeans if isinstance(self.kmeans, KMeansLayer) else self
        return TrainingBatches(self.trainer, self.batch_of, told.n_features)

    def setup(self, stage: str) -> None:
        """Refuse what cannot work before anything is computed."""
        super().setup(stage)
        check_strategy(self.trainer)
        agree_on_arguments(self, self.process_group)

    # From the data to the layer.

    def on_train_start(self) -> None:
        resumed, self._resumed = self._resumed, None
        # A fit that was resumed may be at its end; a further one starts where the last ended.
        self.converged = self.converged and resumed is not None
        if self.converged:
            self.trainer.should_stop = True
        with errors_shared(self.process_group):
            check_same_kind(self.kmeans, self)
            check_loader(self.trainer.train_dataloader)
            if isinstance(self.optimizers(), list):
                raise ValueError("configure_optimizers should give one optimizer; got several")
        agree(
            self.process_group,
            training_batches=self.trainer.num_training_batches,
            resumed=resumed is not None,
        )
        self.rows_stay = stable_order(self.trainer.train_dataloader)
        with errors_shared(self.process_group):
            batches = self._training_batches()
            resident = self.resident or (
                self.batch_of is None and deals_a_list(self.trainer.train_dataloader)
            )
            rows = training_rows(
                batches,
                resident=resident,
                device=self.device,
                group=self.process_group,
                every_pass_is_the_same=self.algorithm == "lloyd",
            )
        if isinstance(rows, HeldRows):
            batches.end_first_pass(self.process_group)
        to_space = METRICS[self.metric].map
        rows = rows if to_space is None else rows.map(to_space)
        state = None if resumed is None else resumed.get("lloyd")
        if resumed is None or not self.initialized:
            starts = start(self, rows, batches)
        else:
            restarts = 1 if state is None else len(state["active"])
            starts = self.kmeans.flat_centroids().repeat(restarts, 1, 1)
        machine = machine_of(self, rows, starts)
        self._run = TrainingRun(batches, rows, machine, metric=self.metric, resident=resident)
        if state is not None:
            self._run.load_state_dict(state)

    # Passes over the data.

    def on_train_epoch_start(self) -> None:
        self._stepped = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        run, self._stepped = self._run, True
        assert run is not None
        try:
            run.step(batch, batch_idx)
            if isinstance(run.lloyd, MiniBatch):
                self._take(run, run.lloyd.counts)
            if self.trainer.is_last_batch:
                self._end_pass(run)
        except NonFiniteInertiaError as error:
            raise ValueError(
                "the inertia is not finite: the data hold NaN, infinity or overflow"
            ) from error

    def _end_pass(self, run: TrainingRun) -> None:
        """Close the iteration: M-step, log, and stop when it moved nothing."""
        run.batches.end_first_pass(self.process_group)
        iteration, sizes = run.end_pass()
        lloyd = run.lloyd
        ahead = not isinstance(lloyd, MiniBatch)
        ends = lloyd.finished or is_last_iteration(self.trainer, m_steps_ahead=int(ahead))
        # The pass measured the centroids before the M-step: a further one chooses among the last.
        best = run.choose(run.measure() if ends and run.restarts > 1 else iteration.inertia)
        if not isinstance(lloyd, MiniBatch):
            self._take(run, iteration.counts)
        elif run.restarts > 1:
            self._hold(run, lloyd.counts)
        self.last = as_numbers(of_restart(iteration, best))._replace(number=self.iterations)
        self._report(self.last, [float(size[best]) for size in sizes], run)
        if lloyd.finished:
            self.converged = True
            self.trainer.should_stop = True

    def on_train_epoch_end(self) -> None:
        if not self._stepped:
            raise ValueError("an epoch brought no batches, the first pass did")

    def on_fit_end(self) -> None:
        if self.trainer.num_training_batches == 0 and self.trainer.limit_train_batches != 0:
            raise ValueError("the training data hold no batch")

    def _take(self, run: TrainingRun, counts: Tensor) -> None:
        """Let the layer hold the centroids of the run; the optimizer counts the M-step."""
        run.count_m_step()
        self._hold(run, counts)
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        optimizer.step()

    def _hold(self, run: TrainingRun, counts: Tensor) -> None:
        centroids, counts = run.lloyd.centroids[run.best], counts[run.best]
        if run.restarts == 1:
            self.kmeans.take_step(centroids, counts)
            return
        self.kmeans.set_centroids(centroids, counts)
        self.kmeans.n_iter.fill_(int(run.m_steps[run.best]))

    def _report(self, iteration: Iteration, sizes: list[float], run: TrainingRun) -> None:
        """Log the iteration, and say why the fit ends if it does now."""
        shown = {"train/inertia": iteration.inertia, "train/shift": iteration.shift}
        values = {**logged_numbers(iteration, sizes, run.count_rows), **shown}
        if run.restarts > 1:
            values["train/restart"] = float(run.best)
        log_values(self, values, prog_bar=shown.keys())
        self.stop_reason = "ended before it converged"
        if run.lloyd.finished:
            self.stop_reason = why_converged(iteration, self.tol, self.variance)
        elif self.trainer.current_epoch + 1 == self.trainer.max_epochs:
            self.stop_reason = f"max_epochs={self.trainer.max_epochs} reached"

    def on_train_end(self) -> None:
        if self._run is not None:
            self._run.forget_rows()  # the state of the run stays, for a checkpoint
        last = self.last
        if last is not None and bool((last.counts == 0).any()) and self.trainer.is_global_zero:
            warn_of_surplus(
                self.kmeans.centroids[None],
                last.counts[None],
                last.counts.new_tensor([last.inertia]),
                empty_cluster=self.empty_cluster,
                given=None if self._run is None else self._run.batches.given,
                used=None if self._run is None else self._run.batches.used,
            )

    def check_intact(self) -> None:
        self._training_batches().check_intact()

    # Checkpoints.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["kmeans"] = self.outcome()
        if self._run is not None:
            checkpoint["kmeans"]["lloyd"] = self._run.state_dict()
        sign(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        verify(checkpoint)
        check_fits(checkpoint, self)
        self._resumed = state = checkpoint["kmeans"]
        self.take_outcome(state)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        centroids = state_dict.get(f"{prefix}kmeans.centroids")
        if isinstance(centroids, Tensor) and not isinstance(self.kmeans, KMeansLayer):
            self.kmeans = make_layer(self, centroids.shape[-1], centroids.dtype)
            if self.stop_reason == "not fitted":
                self.stop_reason = "loaded"
        state_dict = {prefix + "anchor": self.anchor, **state_dict}
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
