"""LitKMeans: Lightning drives the iterations of a KMeansLayer over any DataModule."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, SequentialSampler
from torchmetrics import Metric
from torchmetrics.clustering import AdjustedRandScore, NormalizedMutualInfoScore

from kmeans_module.backends import ClusterStats, EStep, Workspace
from kmeans_module.checks import (
    check_choice,
    check_integer,
    check_number,
    check_sample_weight,
    check_samples,
)
from kmeans_module.core.fit import survey, warn_of_surplus
from kmeans_module.core.seeding import INITS
from kmeans_module.files import readers as io
from kmeans_module.layer import KMeansLayer
from kmeans_module.metrics import Inertia
from kmeans_module.rows.batch import Batch, BatchLoader
from kmeans_module.rows.ranks import ProcessGroup, all_sum_stats, errors_shared
from kmeans_module.rows.resident import ResidentBatches

ALGORITHMS = ("lloyd", "minibatch")

# What is logged is the same on all ranks already: the maximum over them changes nothing.
_LOG_OPTIONS: dict[str, Any] = {
    "on_step": False, "on_epoch": True, "batch_size": 1, "sync_dist": True, "reduce_fx": "max",
}  # fmt: skip


class Iteration(NamedTuple):
    """Numbers of one iteration, over all ranks.

    Attributes:
        n_iter: iterations so far, this one included.
        inertia: of the centroids before the update, as the E-step finds it.
        shift: Σ‖c_new - c_old‖² of the update.
        empty_clusters: clusters without samples in the E-step.
        reassigned: share of the samples that changed cluster; NaN where that is not known.
        sizes: weight of each cluster in the E-step, (k,).
    """

    n_iter: int
    inertia: float
    shift: float
    empty_clusters: int
    reassigned: float
    sizes: Tensor


class LitKMeans(LightningModule):
    """k-means trained by ``Trainer.fit``: one epoch is one iteration.

    Lloyd's algorithm makes one M-step at the end of an epoch, from the statistics of all its
    batches on all ranks: what it finds does not depend on how the rows are split. "minibatch"
    makes one per batch, with a learning rate per cluster (Sculley, Web-scale k-means
    clustering, WWW 2010); there the shift is that of a whole epoch.

    Fitting stops by itself when it has converged; ``trainer.max_epochs`` caps it. Batches are
    :class:`~kmeans_module.rows.batch.Batch`, a tensor (n, d), a tuple that starts with one and may
    go on with true labels, or a dict with "x" (and "target", "sample_weight").

    Args:
        n_clusters: number of centroids, k.
        n_features: features of a sample, d.
        init: "k-means++", "k-means||", "random", or the path of a file of centroids: what
            KMeansLayer.save wrote, or an array (k, d) as .npy, .csv or .safetensors.
        algorithm: "lloyd" (exact, the same as KMeansLayer.fit) or "minibatch".
        metric: "euclidean" or "cosine".
        empty_cluster: "relocate", "split", "keep" or "error".
        tol: stop when the shift is at most tol × the mean variance of the features.
        seed: of the initialisation; None draws from torch's default generator.
    """

    def __init__(
        self,
        n_clusters: int = 6,
        n_features: int = 2,
        *,
        init: str = "k-means++",
        algorithm: str = "lloyd",
        metric: str = "euclidean",
        empty_cluster: str = "relocate",
        tol: float = 1e-4,
        seed: int | None = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=[] if isinstance(init, str) else ["init"])
        self.automatic_optimization = False
        check_choice("algorithm", algorithm, ALGORITHMS)
        self.kmeans = KMeansLayer(
            n_clusters, n_features, metric=metric, empty_cluster=empty_cluster
        )
        self.init = init
        self.algorithm = algorithm
        self.tol = check_number("tol", tol, minimum=0)
        if seed is not None:
            check_integer("seed", seed, minimum=0)
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)
        self.converged = False
        self._resumed = False
        self.stop_reason = "not fitted"
        self.variance = math.nan
        self.last: Iteration | None = None
        # DDP and the optimizer that counts the iterations ask for a parameter.
        self.anchor = nn.Parameter(torch.empty(0))
        self.scores = nn.ModuleDict(
            {
                stage: nn.ModuleDict(
                    {
                        "inertia": Inertia(),
                        "adjusted_rand": AdjustedRandScore(),
                        "normalized_mutual_info": NormalizedMutualInfoScore(),
                    }
                )
                for stage in ("val", "test")
            }
        )
        self._positions: dict[str, int] = {}
        self._resident = ResidentBatches()
        self._tally: list[Tensor] = []
        self._begin_epoch()

    def forward(self, x: Tensor) -> Tensor:
        """Labels of samples (*, d): (*) int64."""
        labels: Tensor = self.kmeans(x)
        return labels

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One step of it per M-step makes ``trainer.global_step`` the number of M-steps."""
        return torch.optim.SGD([self.anchor], lr=1.0)

    @property
    def process_group(self) -> ProcessGroup | None:
        """All ranks of the trainer; None for a single one."""
        return torch.distributed.group.WORLD if self.trainer.world_size > 1 else None

    def on_train_start(self) -> None:
        self._labels: dict[int, Tensor] = {}
        self._refilled = True
        self._resident = ResidentBatches()
        self.rows_stay = _rows_stay(self.trainer.train_dataloader)
        # A fit that was resumed may be at its end; a further one starts where the last ended.
        resumed, self._resumed = self._resumed, False
        self.converged = self.converged and resumed
        if self.converged:
            self.trainer.should_stop = True
        if resumed and bool(self.kmeans.initialized):
            return
        with errors_shared(self.process_group):
            arrived = list(self.training_batches())
            batches = [self._checked(batch) for batch in arrived]
            if not batches:
                raise ValueError("the training data hold no batch")
            init = self._initial_centroids()
        if self.rows_stay:
            for batch in arrived:
                self._resident.note(batch)
        if bool(self.kmeans.initialized):
            _, variance = survey(
                batches, n_clusters=self.kmeans.n_clusters, n_problems=1,
                metric=self.kmeans.metric, like=self.kmeans.centroids,
                process_group=self.process_group,
            )  # fmt: skip
        else:
            variance = self.kmeans.initialize_from_batches(
                batches, init, generator=self.generator, process_group=self.process_group
            )
        self.variance = float(variance)

    def on_train_end(self) -> None:
        self._resident = ResidentBatches()
        if self.last is not None and self.last.empty_clusters and self.trainer.is_global_zero:
            warn_of_surplus(
                self.kmeans.centroids[None], self.last.sizes[None],
                self.last.sizes.new_tensor([self.last.inertia]),
                empty_cluster=self.kmeans.empty_cluster, stacklevel=2,
            )  # fmt: skip

    def on_train_epoch_start(self) -> None:
        self._begin_epoch()
        self._epoch_centroids = self.kmeans.centroids.clone()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        with errors_shared(self.process_group):
            rows = self._read("train", batch, batch_idx, self.trainer.train_dataloader)
            resident = self._resident.workspace(rows, self.kmeans) if self.rows_stay else None
            step = self.kmeans.e_step(
                rows.x, rows.sample_weight, start=rows.start, workspace=resident, distances=False
            )
        self._count_changes(rows, step, resident)
        last = self.trainer.is_last_batch
        if self.algorithm == "minibatch":
            stats, _ = all_sum_stats(step.stats, self.process_group)
            self._m_step(stats, decay=1.0)
            seen = self._add(replace(stats, farthest=None))
            if last:
                moved = self.kmeans.centroids.to(stats.sums) - self._epoch_centroids
                self._finish(seen, moved.square().sum())
        else:
            seen = self._add(step.stats)
            if last:
                stats, self._tally = all_sum_stats(seen, self.process_group, also=self._tally)
                self._finish(stats, self._m_step(stats, decay=0.0))

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        loader = _nth(self.trainer.val_dataloaders, dataloader_idx)
        self._score("val", batch, batch_idx, loader)

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        loader = _nth(self.trainer.test_dataloaders, dataloader_idx)
        self._score("test", batch, batch_idx, loader)

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Labels of a batch, (n,) int64."""
        labels: Tensor = self(as_batch(batch).x)
        return labels

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["kmeans"] = {
            "converged": self.converged,
            "stop_reason": self.stop_reason,
            "variance": self.variance,
            "generator": None if self.generator is None else self.generator.get_state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["kmeans"]
        self.converged = state["converged"]
        self._resumed = True
        self.stop_reason = state["stop_reason"]
        self.variance = state["variance"]
        if self.generator is not None and state["generator"] is not None:
            self.generator.set_state(state["generator"].cpu())

    def _checked(self, batch: Batch) -> Batch:
        x = check_samples(batch.x, self.kmeans.n_features)
        return batch._replace(x=x, sample_weight=check_sample_weight(batch.sample_weight, x))

    def _initial_centroids(self) -> str | Tensor:
        if not isinstance(self.init, str) or self.init in INITS:
            return self.init
        return read_centroids(self.init).to(self.device)

    def _begin_epoch(self) -> None:
        self._stats: ClusterStats | None = None
        # Samples that changed cluster, for which that is known, and all.
        self._tally = [torch.zeros((), dtype=torch.int64, device=self.device) for _ in range(3)]

    def _add(self, stats: ClusterStats) -> ClusterStats:
        self._stats = stats if self._stats is None else self._stats + stats
        return self._stats

    def _count_changes(self, rows: Batch, step: EStep, resident: Workspace | None) -> None:
        n = step.labels.numel()
        known = self.rows_stay and self.algorithm == "lloyd"
        before = self._labels.get(rows.start) if known else None
        if known:
            self._labels[rows.start] = step.labels
        if before is not None:
            # A workspace that overwrites its labels has compared them itself.
            if resident is not None and before.data_ptr() == step.labels.data_ptr():
                self._tally[0] += resident.changed.sum()
            else:
                self._tally[0] += (before != step.labels).sum()
            self._tally[1] += n
        self._tally[2] += n

    def _m_step(self, stats: ClusterStats, *, decay: float) -> Tensor:
        if not bool(stats.inertia.isfinite()):
            raise ValueError("the inertia is not finite: the data hold NaN, infinity or overflow")
        shift = self.kmeans.m_step(stats, decay=decay)
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        optimizer.step()
        return shift

    def _finish(self, stats: ClusterStats, shift: Tensor) -> None:
        """Log the iteration, and stop when it moved nothing."""
        sizes = stats.counts
        # One transfer for all numbers.
        numbers = [
            stats.inertia, shift, (sizes == 0).sum(), *self._tally,
            sizes.min(), sizes.median(), sizes.max(), self.kmeans.n_iter,
        ]  # fmt: skip
        inertia, moved, empty, changed, known, seen, smallest, median, largest, n_iter = (
            torch.stack([number.to(stats.inertia) for number in numbers]).tolist()
        )
        reassigned = changed / seen if known == seen and seen else math.nan
        self.last = Iteration(int(n_iter), inertia, moved, int(empty), reassigned, sizes)
        values = {
            "train/empty_clusters": empty,
            "train/size_min": smallest,
            "train/size_median": median,
            "train/size_max": largest,
        }
        if not math.isnan(reassigned):
            values["train/reassigned"] = reassigned
        # "step" is Lightning's name for the x-axis.
        self.log_dict({**values, "step": n_iter}, **_LOG_OPTIONS)
        bar = {"train/inertia": inertia, "train/shift": moved}
        self.log_dict(bar, prog_bar=True, **_LOG_OPTIONS)

        # Equal labels make equal centroids, but for the order in which a GPU adds; and a
        # resumed fit knows the shift of its first iteration, not who changed cluster.
        if moved == 0 or (reassigned == 0 and not self._refilled):
            self._stop("the centroids stand still")
        elif moved <= self.tol * self.variance:
            self._stop(f"shift {moved:.3g} is within tol={self.tol:g} × variance")
        elif self.trainer.current_epoch + 1 == self.trainer.max_epochs:
            self.stop_reason = f"max_epochs={self.trainer.max_epochs} reached"
        else:
            self.stop_reason = "ended before it converged"
        self._refilled = empty > 0 and self.kmeans.empty_cluster in ("relocate", "split")

    def _stop(self, reason: str) -> None:
        self.converged = True
        self.stop_reason = reason
        self.trainer.should_stop = True

    def _score(self, stage: str, batch: Any, batch_idx: int, loader: Any) -> None:
        if not bool(self.kmeans.initialized) and self.trainer.sanity_checking:
            return
        rows = self._read(stage, batch, batch_idx, loader)
        step = self.kmeans.e_step(rows.x, rows.sample_weight, start=rows.start)
        scores = self._stage_scores(stage)
        scores["inertia"].update(step.distances, rows.sample_weight)
        if rows.target is None:
            return
        clustered = rows.target >= 0
        if rows.sample_weight is not None:
            clustered &= rows.sample_weight > 0
        for name in ("adjusted_rand", "normalized_mutual_info"):
            scores[name].update(step.labels[clustered], rows.target[clustered])

    def _log_scores(self, stage: str) -> None:
        if not bool(self.kmeans.initialized):
            return
        for name, score in self._stage_scores(stage).items():
            if score.update_called:
                self.log(f"{stage}/{name}", score.compute(), **_LOG_OPTIONS)
                score.reset()
        self.log("step", float(self.kmeans.n_iter), **_LOG_OPTIONS)

    def _stage_scores(self, stage: str) -> dict[str, Metric]:
        scores = self.scores[stage]
        assert isinstance(scores, nn.ModuleDict)
        return {name: score for name, score in scores.items() if isinstance(score, Metric)}

    def training_batches(self) -> Iterator[Batch]:
        """One pass over the training batches of this rank, on its device."""
        loader = self.trainer.train_dataloader
        assert loader is not None
        for i, batch in enumerate(loader):
            if i >= self.trainer.num_training_batches:
                break
            yield self._read("train", self.trainer.strategy.batch_to_device(batch), i, loader)

    def _read(self, stage: str, batch: Any, batch_idx: int, loader: Any) -> Batch:
        """What any DataModule hands out, as a Batch."""
        if isinstance(batch, Batch):
            return batch
        rows = as_batch(batch)
        n, first = len(rows.x), self._positions[stage] if batch_idx else 0
        self._positions[stage] = first + n
        world, rank = self.trainer.world_size, self.trainer.global_rank
        rows = rows._replace(start=first * world + rank * n)
        sampler = _sampler(loader)
        if not isinstance(sampler, DistributedSampler):
            return rows
        # It deals rows out in turn, and repeats some to make the ranks even: those weigh 0.
        index = torch.arange(first, first + n, device=rows.x.device) * world + rank
        n_rows = len(sampler.dataset)  # type: ignore[arg-type]
        if n and int(index[-1]) >= n_rows:
            weight = rows.sample_weight
            weight = torch.ones_like(index, dtype=rows.x.dtype) if weight is None else weight
            rows = rows._replace(sample_weight=weight * (index < n_rows))
        return rows if sampler.shuffle else rows._replace(index=index % n_rows)


def as_batch(batch: Any) -> Batch:
    """The rows, weights and true labels of what a DataModule hands out."""
    target = weight = None
    if isinstance(batch, Batch):
        return batch
    if isinstance(batch, Mapping):
        x, target, weight = (batch.get(name) for name in ("x", "target", "sample_weight"))
    elif isinstance(batch, tuple | list) and batch:
        x = batch[0]
        second = batch[1] if len(batch) > 1 else None
        if isinstance(second, Tensor) and not second.is_floating_point() and second.ndim == 1:
            target = second
    else:
        x = batch
    if not isinstance(x, Tensor) or x.ndim != 2:
        shape = f" of shape {tuple(x.shape)}" if isinstance(x, Tensor) else ""
        raise ValueError(
            "a batch should be a tensor (n, n_features), a tuple that starts with one, or a "
            f"dict with it as 'x'; got a {type(x).__name__}{shape}"
        )
    return Batch(x, weight, target)


def read_centroids(path: str) -> Tensor:
    """Centroids (k, d) from what KMeansLayer.save wrote, or from any file of an array."""
    if path.endswith(".safetensors"):
        tensors, _ = io.load_tensors(path)
        if "centroids" in tensors:
            return tensors["centroids"]
    try:
        return io.read_array(path)
    except FileNotFoundError as error:
        raise ValueError(
            f"init should be one of {', '.join(INITS)}, or the path of a file of centroids; "
            f"got {path!r}, which is no file"
        ) from error


def _nth(loaders: Any, dataloader_idx: int) -> Any:
    return loaders[dataloader_idx] if isinstance(loaders, list | tuple) else loaders


def _sampler(loader: Any) -> Any:
    if not isinstance(loader, DataLoader):
        return None
    return getattr(loader.batch_sampler, "sampler", None) or loader.sampler


def _rows_stay(loader: Any) -> bool:
    """Whether every epoch brings the same rows in the same order."""
    if isinstance(loader, BatchLoader):
        return not loader.shuffle
    sampler = _sampler(loader)
    if isinstance(sampler, DistributedSampler):
        return not sampler.shuffle
    return isinstance(sampler, SequentialSampler)
