"""KMeansLayer: the state of k-means (buffers) and its steps."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kmeans_module import checks as check
from kmeans_module import functional as F
from kmeans_module.core.distances import compute_dtype
from kmeans_module.core.empty_clusters import POLICIES
from kmeans_module.core.fit import fit, warn_of_surplus
from kmeans_module.core.guard import readable, under_mode
from kmeans_module.core.lloyd import Iteration, NonFiniteInertiaError
from kmeans_module.core.metrics import METRICS
from kmeans_module.core.problem import Problem
from kmeans_module.core.seeding import Init, check_init, check_name, initialize
from kmeans_module.core.statistics import ClusterStats, EStep, accumulator_dtype
from kmeans_module.rows import HeldRows, StreamRows, rows_of
from kmeans_module.rows.last import LastSearch
from kmeans_module.rows.ranks import ProcessGroup, errors_shared
from kmeans_module.rows.survey import refuse, refuse_nonfinite, refuse_too_few
from kmeans_module.state import ExactBuffers, size_mismatches

Data = Tensor | HeldRows | StreamRows | Iterable[Any]


class FitResult(NamedTuple):
    """What a fit found; the centroids are in the layer.

    Attributes:
        labels: nearest centroid of each sample, (*batch_shape, n) int64; None for a stream, whose
            labels ``rows.labels(centroids)`` gives batch by batch.
        inertia: weighted sum of squared distances, (*batch_shape) float64.
        n_iter: iterations, (*batch_shape) int64.
        converged: whether the centroids stand still: no label changed in the last E-step, or the
            shift of the last M-step is within tol, (*batch_shape) bool. A fit may find that out
            in its last iteration, with n_iter equal to max_iter.
        history: inertia of the centroids before each iteration, and at last of those that
            the layer holds, (*batch_shape, n_iter.max() + 1) float64.
    """

    labels: Tensor | None
    inertia: Tensor
    n_iter: Tensor
    converged: Tensor
    history: Tensor


class KMeansLayer(ExactBuffers):
    r"""k-means as a layer: forward assigns, :meth:`fit` learns the centroids.

    .. math:: \text{label}(x) = \arg\min_j \|x - c_j\|^2

    Args:
        n_clusters: number of centroids, k.
        n_features: features of a sample, d.
        metric: "euclidean", or "cosine" (spherical k-means: centroids of unit length,
            distance ½‖x/‖x‖ - c‖² = 1 - cos; a zero row gets label 0 and distance 1 and
            contributes nothing).
        empty_cluster: what becomes of a cluster without samples: "relocate" it to the farthest
            samples as in scikit-learn, "split" the heaviest cluster as in faiss, "keep" its
            centroid, or raise an "error".
        batch_shape: leading shape of independent problems, each with its own centroids.
        requires_grad: whether the centroids are a Parameter, under the same key of the
            state_dict, for losses of :meth:`transform`, :meth:`decode` or :meth:`soft_assign`.
        device, dtype: of the centroids.

    Shape:
        - Input: (\*, d); with a batch_shape (\*batch_shape, n, d), or (n, d) for all problems.
        - Output: (\*) int64; with a batch_shape (\*batch_shape, n).

    Attributes:
        centroids: (\*batch_shape, k, d).
        counts: weight of the samples of each cluster, (\*batch_shape, k) float64 whatever the
            layer's dtype (float32 on MPS).
        n_iter: iterations (M-steps) since initialization, (\*batch_shape) int64.
        initialized: whether there are centroids, () bool.

    Examples:
        >>> import torch
        >>> from kmeans_module import KMeansLayer
        >>> x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [9.0, 0.0], [9.0, 1.0]])
        >>> layer = KMeansLayer(n_clusters=2, n_features=2)
        >>> result = layer.fit(x, generator=torch.Generator().manual_seed(0))
        >>> result.inertia
        tensor(1., dtype=torch.float64)
        >>> bool((layer(x) == result.labels).all())
        True
    """

    exact = ("counts",)
    centroids: Tensor
    counts: Tensor
    n_iter: Tensor
    initialized: Tensor

    def __init__(
        self,
        n_clusters: int,
        n_features: int,
        *,
        metric: str = "euclidean",
        empty_cluster: str = "relocate",
        batch_shape: tuple[int, ...] = (),
        requires_grad: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.n_clusters = check.check_integer("n_clusters", n_clusters, minimum=1)
        self.n_features = check.check_integer("n_features", n_features, minimum=1)
        check.check_choice("metric", metric, tuple(METRICS))
        check.check_choice("empty_cluster", empty_cluster, POLICIES)
        self.metric = metric
        self.empty_cluster = empty_cluster
        self.batch_shape = check.check_shape("batch_shape", batch_shape)
        shape = (*self.batch_shape, self.n_clusters, self.n_features)
        centroids = check.allocate("centroids", shape, device=device, dtype=dtype)
        device, exact = centroids.device, accumulator_dtype(centroids.device)
        if requires_grad:
            self.register_parameter("centroids", nn.Parameter(centroids))
        else:
            self.register_buffer("centroids", centroids)
        self.register_buffer("counts", torch.zeros(shape[:-1], device=device, dtype=exact))
        n_iter = torch.zeros(self.batch_shape, device=device, dtype=torch.int64)
        self.register_buffer("n_iter", n_iter)
        self.register_buffer("initialized", torch.zeros((), device=device, dtype=torch.bool))
        self._known_initialized = False
        self._last_search = LastSearch()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Forget the centroids."""
        for state in (self.centroids, self.counts, self.n_iter, self.initialized):
            state.zero_()
        self._known_initialized = False

    def extra_repr(self) -> str:
        parts = [f"n_clusters={self.n_clusters}, n_features={self.n_features}"]
        if self.metric != "euclidean":
            parts.append(f"metric={self.metric!r}")
        if self.empty_cluster != "relocate":
            parts.append(f"empty_cluster={self.empty_cluster!r}")
        if self.batch_shape:
            parts.append(f"batch_shape={self.batch_shape}")
        return ", ".join(parts)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Labels of the nearest centroids; never changes the layer.

        Args:
            x: samples, (*, d), or with a batch_shape (*batch_shape, n, d) or (n, d).

        Returns:
            (*), or (*batch_shape, n), int64. Ties go to the lowest index.

        Raises:
            NotInitializedError: the layer has no centroids.
            ValueError: x has another number of features, or holds NaN or infinity (checked on
                the CPU, not in compiled code).
        """
        x = self._check_input(x)
        rows = x if self.batch_shape else x.reshape(-1, self.n_features)
        labels, finite = F.assign(rows, self.centroids, metric=self.metric)
        if readable(x) and not finite:
            refuse_nonfinite(x, compute_dtype(x, self.centroids))
        return labels.reshape(self._label_shape(x))

    def transform(self, x: Tensor) -> Tensor:
        """Squared distances to all centroids, or 1 - cos, differentiable.

        Args:
            x: samples, (*, d), or with a batch_shape (*batch_shape, n, d) or (n, d).

        Returns:
            (*, k), or (*batch_shape, n, k).

        Raises:
            NotInitializedError, ValueError: as :meth:`forward`.
        """
        x = self._check_input(x)
        rows = x if self.batch_shape else x.reshape(-1, self.n_features)
        distances = F.pairwise_distances(rows, self.centroids, metric=self.metric)
        if readable(x) and not distances.isfinite().all():
            refuse_nonfinite(x, distances.dtype)
        return distances.reshape(*self._label_shape(x), self.n_clusters)

    def soft_assign(
        self, x: Tensor, *, temperature: float = 1.0, kernel: str = "softmax"
    ) -> Tensor:
        """Shares of the clusters in each sample, differentiable; see
        :func:`kmeans_module.core.soft.soft_assign`.

        Args:
            x: samples, (*, d), or with a batch_shape (*batch_shape, n, d) or (n, d).
            temperature: T of "softmax", degrees of freedom of "student-t"; more than 0.
            kernel: "softmax" of -distance / T, or "student-t".

        Returns:
            (*, k), or (*batch_shape, n, k); each row sums to 1.

        Raises:
            NotInitializedError, ValueError: as :meth:`forward`.
        """
        x = self._check_input(x)
        rows = x if self.batch_shape else x.reshape(-1, self.n_features)
        shares = F.soft_assign(
            rows, self.centroids, temperature=temperature, kernel=kernel, metric=self.metric
        )
        if readable(x) and not shares.isfinite().all():
            refuse_nonfinite(x, shares.dtype)
        return shares.reshape(*self._label_shape(x), self.n_clusters)

    def decode(self, labels: Tensor) -> Tensor:
        """The centroids of labels.

        Args:
            labels: integers, (*), or with a batch_shape (*batch_shape, n).

        Returns:
            (*, d), or (*batch_shape, n, d).

        Raises:
            ValueError: labels outside 0 .. k-1 (checked on the CPU).
        """
        self.check_initialized()
        labels = check.check_labels(labels, self.n_clusters, self.batch_shape)
        check.check_device("labels", labels, self.centroids.device)
        return F.decode(labels, self.centroids)

    @torch.no_grad()
    def initialize(
        self,
        x: Data,
        init: Init = "k-means++",
        *,
        sample_weight: Tensor | None = None,
        generator: torch.Generator | None = None,
        process_group: ProcessGroup | None = None,
        batch_of: Callable[[Any], Any] | None = None,
    ) -> None:
        """Choose the initial centroids; counts and n_iter start at 0.

        Args:
            x: samples, (*batch_shape, n, d) or (n, d), batches or Rows, as in :meth:`fit`.
            init: "k-means++", "k-means||", "random", a tensor (*batch_shape, k, d) or (k, d),
                or a function ``init(x, n_clusters, generator)`` that returns one.
            sample_weight: (*batch_shape, n) or (n,), of a tensor.
            generator: None draws from torch's default generator.
            process_group: the ranks that hold the rest of the rows.
            batch_of: makes a batch of what a loader hands out.

        Raises:
            ValueError: n_samples < n_clusters, NaN or infinity in x, bad weights or init.
        """
        check.check_process_group(process_group)
        with errors_shared(process_group):
            check.check_generator(generator)
            init = self._flat_init(init)
        rows = self._rows(x, sample_weight, process_group, batch_of=batch_of)
        self._survey(rows, init)
        self.set_centroids(initialize(rows, self.problem(), init, generator=generator))

    def prepare(
        self,
        x: Data,
        sample_weight: Tensor | None = None,
        *,
        process_group: ProcessGroup | None = None,
        resident: bool = False,
        batch_of: Callable[[Any], Any] | None = None,
    ) -> HeldRows | StreamRows:
        """The rows of x, checked once, for :meth:`fit` and repeated :meth:`e_step`.

        Needs no centroids yet. The rows and weights must not change meanwhile.

        Args:
            x, sample_weight, process_group, resident, batch_of: see :meth:`fit`.

        Raises:
            ValueError: what :meth:`e_step` and :meth:`fit` refuse: bad shapes, NaN, infinity.
        """
        check.check_process_group(process_group)
        rows = self._rows(x, sample_weight, process_group, resident=resident, batch_of=batch_of)
        with errors_shared(process_group):
            refuse(rows.moments(self._kernel), rows.example, self.problem())
        return rows

    @torch.no_grad()
    def e_step(
        self,
        x: Tensor | HeldRows | StreamRows,
        sample_weight: Tensor | None = None,
        *,
        start: int = 0,
    ) -> EStep:
        """Assign samples and sum up the clusters; never changes the layer.

        Args:
            x: samples, (*batch_shape, n, d) or (n, d); or what :meth:`prepare` made of them: each
                E-step of the same rows is then faster than the first.
            sample_weight: (*batch_shape, n) or (n,), of a tensor; rows have theirs already.
            start: number of the first row where a tensor is a part of the data.

        Returns:
            labels (*batch_shape, n), squared distances (*batch_shape, n), both None for a stream,
            and stats for :meth:`m_step`; those of several batches add up. For rows over ranks
            the stats are those of all ranks.

        Raises:
            NotInitializedError: the layer has no centroids.
            ValueError: bad shapes; NaN or infinity in x, bad weights (on the CPU, not in
                compiled code).
        """
        self.check_initialized()
        start = check.check_integer("start", start, minimum=0)
        if isinstance(x, HeldRows | StreamRows):
            if sample_weight is not None or start:
                raise ValueError("rows have their sample_weight and start already; got them again")
            return self._e_step_of_rows(x)
        x = check.check_samples(x, self.n_features, self.batch_shape)
        check.check_device("x", x, self.centroids.device)
        weight = check.check_sample_weight(sample_weight, x, self.batch_shape)
        step = F.e_step(x, self.centroids, weight, metric=self.metric, start=start)
        if readable(x) and not step.stats.inertia.isfinite().all():
            refuse_nonfinite(x, step.distances.dtype)
        return step

    def _e_step_of_rows(self, rows: HeldRows | StreamRows) -> EStep:
        self._check_fits(rows)
        search = self._last_search.of(rows, self.problem())
        labels, distances, stats = search.e_step(rows, self._flat_centroids())
        if readable(stats.inertia) and not stats.inertia.isfinite().all():
            raise ValueError(f"squared distances overflow {self.centroids.dtype}")
        if labels is not None:
            labels = labels.reshape(*self.batch_shape, -1)
            distances = distances.reshape(*self.batch_shape, -1)
        stats, _ = rows.merge(stats, [])
        return EStep(labels, distances, stats.reshape(self.batch_shape))

    @torch.no_grad()
    def m_step(self, stats: ClusterStats, *, decay: float = 0.0) -> Tensor:
        """Move the centroids, in place; see :func:`kmeans_module.functional.update_centroids`.

        Args:
            stats: of one E-step, or the sum over several.
            decay: weight of what the centroids were: 0 is Lloyd, 1 Sculley's mini-batch,
                between them the moving average of codebooks.

        Returns:
            The shift Σ‖c_new - c_old‖², (*batch_shape) float64.

        Raises:
            EmptyClusterError: a cluster is empty and the policy is "error".
        """
        self.check_initialized()
        decay = check.check_number("decay", decay, minimum=0, maximum=1)
        if not isinstance(stats, ClusterStats):
            raise TypeError(f"stats should be ClusterStats; got {type(stats).__name__}")
        shapes = [tuple(field.shape) for field in (stats.sums, stats.counts, stats.inertia)]
        if shapes != [self.centroids.shape, self.counts.shape, self.batch_shape]:
            raise ValueError(
                f"stats should be of centroids {tuple(self.centroids.shape)}; "
                f"got sums, counts and inertia of shapes {', '.join(map(str, shapes))}"
            )
        centroids, counts, shift = F.update_centroids(
            self.centroids, self.counts, stats,
            decay=decay, empty_cluster=self.empty_cluster, metric=self.metric,
        )  # fmt: skip
        if readable(shift) and not (shift.isfinite().all() and counts.isfinite().all()):
            raise ValueError("stats should be finite; they move centroids to NaN or infinity")
        self.centroids.copy_(centroids)
        self.counts.copy_(counts)
        self.n_iter += 1
        return shift

    @torch.no_grad()
    def fit(
        self,
        x: Data,
        *,
        init: Init = "k-means++",
        max_iter: int = 300,
        tol: float = 1e-4,
        n_init: int = 1,
        sample_weight: Tensor | None = None,
        generator: torch.Generator | None = None,
        process_group: ProcessGroup | None = None,
        callback: Callable[[Iteration], object] | None = None,
        resident: bool = False,
        batch_of: Callable[[Any], Any] | None = None,
    ) -> FitResult:
        """Lloyd's algorithm from fresh centroids until it converges.

        A debug line of the logger ``kmeans_module.backends`` says which backend serves, see also
        :func:`kmeans_module.show_backends`; the environment variable KMEANS_KERNEL=reference
        forces the torch reference.

        Args:
            x: samples, (*batch_shape, n, d) or (n, d); what :meth:`prepare` made of them; or
                batches that can be gone through again and again: a list, a DataLoader, any
                class whose ``__iter__`` starts again. A batch is a tensor (n, d), (tensor,
                labels), a :class:`~kmeans_module.rows.batch.Batch`, or a dictionary with "x" and
                perhaps "target" and "sample_weight"; it is moved to the layer's device. Batches
                of a loader are not held. With a process_group x is this rank's part.
            init: see :meth:`initialize`; "current" continues from the layer's centroids. Of
                loaders whose batches do not stay in memory, "k-means++" draws from a uniform
                sample.
            max_iter: iterations at most.
            tol: stop when the shift Σ‖c_new - c_old‖² is at most tol × the mean variance of
                the features, as in scikit-learn, or when no label changes.
            n_init: restarts, of which the one of lowest inertia is kept (one is enough for an
                init that is a tensor or "current").
            sample_weight: (*batch_shape, n) or (n,), of a tensor; batches bring their own.
            generator: None draws from torch's default generator.
            process_group: the ranks that hold the rest of the rows: inertia and centroids are
                then those of the whole, labels those of this rank.
            callback: called with an :class:`~kmeans_module.core.lloyd.Iteration` after each
                iteration.
            resident: whether all batches of a loader are kept in memory, on the layer's device.
            batch_of: makes a batch of what a loader hands out, where that is anything else.

        Returns:
            labels (None for a stream), inertia, n_iter, converged, history; ``labels ==
            layer(x)`` and the inertia is that of the layer's centroids.

        Raises:
            ValueError: n_samples < n_clusters, NaN or infinity, bad arguments, an iterator
                which can be gone through only once, a pass that brings other rows than the one
                before. The layer is then as it was.
            EmptyClusterError: a cluster is empty and the policy is "error".
        """
        check.check_process_group(process_group)
        with errors_shared(process_group):
            check.check_integer("max_iter", max_iter, minimum=1)
            check.check_integer("n_init", n_init, minimum=1)
            tol = check.check_number("tol", tol, minimum=0)
            check.check_generator(generator)
            init = self._flat_init(init)
        rows = self._rows(x, sample_weight, process_group, resident=resident, batch_of=batch_of)
        problem = self.problem()
        self._survey(rows, init)
        variance = rows.moments(self._kernel).variance.expand(problem.n_problems)
        report = None
        if callback is not None:
            told = callback

            def report(iteration: Iteration) -> None:
                told(iteration.reshape(self.batch_shape))

        try:
            best = fit(
                rows, problem, init=init, max_iter=max_iter,
                threshold=tol * variance, n_init=n_init, generator=generator, callback=report,
            )  # fmt: skip
        except NonFiniteInertiaError as error:
            raise ValueError(
                f"squared distances overflow {compute_dtype(rows.example, problem.dtype)}: "
                "scale x down or use float64"
            ) from error
        self.set_centroids(best.centroids, best.counts)
        self.n_iter.copy_(best.n_iter.view_as(self.n_iter))
        warn_of_surplus(
            best.centroids, best.counts, best.inertia,
            empty_cluster=self.empty_cluster, stacklevel=3,
        )  # fmt: skip
        return FitResult(
            None if best.labels is None else best.labels.reshape(*self.batch_shape, -1),
            best.inertia.reshape(self.batch_shape),
            best.n_iter.reshape(self.batch_shape),
            best.converged.reshape(self.batch_shape),
            best.history.reshape(*self.batch_shape, -1),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state and the configuration to a .safetensors file, atomically."""
        from kmeans_module.files import save_tensors

        self.check_initialized()
        config = json.dumps({"metric": self.metric, "empty_cluster": self.empty_cluster})
        save_tensors(path, dict(self.state_dict()), {"kmeans_module": config})

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], *, device: torch.device | str | None = None
    ) -> KMeansLayer:
        """A layer from the file that :meth:`save` wrote.

        Raises:
            ValueError: the file is not one, or is damaged; it is named.
        """
        from kmeans_module.files import load_tensors

        tensors, metadata = load_tensors(path)
        centroids = tensors.get("centroids")
        if centroids is None or centroids.ndim < 2 or not centroids.is_floating_point():
            raise ValueError(f"{path}: holds no centroids (n_clusters, n_features)")
        try:
            layer = cls(
                *centroids.shape[-2:],
                batch_shape=tuple(centroids.shape[:-2]),
                dtype=centroids.dtype,
                **json.loads(metadata.get("kmeans_module", "{}")),
            )
            state = {**layer.state_dict(), "initialized": torch.ones((), dtype=torch.bool)}
            layer.load_state_dict({**state, **tensors})
            if not layer.centroids.isfinite().all():
                raise ValueError("its centroids are NaN or infinite")
        except (RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path}: not the file of a KMeansLayer ({reason})") from error
        return layer.to(device) if device is not None else layer

    @property
    def _kernel(self) -> str:
        """What the backends compute."""
        return METRICS[self.metric].kernel

    def problem(self) -> Problem:
        """What the layer asks of k-means, in one object."""
        return Problem(
            self.n_clusters, self.n_features, math.prod(self.batch_shape), metric=self._kernel,
            empty_cluster=self.empty_cluster, dtype=self.centroids.dtype,
            device=self.centroids.device,
        )  # fmt: skip

    def _flat_centroids(self) -> Tensor:
        return self.centroids.detach().reshape(-1, self.n_clusters, self.n_features)

    def _label_shape(self, x: Tensor) -> tuple[int, ...]:
        return (*self.batch_shape, x.shape[-2]) if self.batch_shape else tuple(x.shape[:-1])

    def check_initialized(self) -> None:
        """Raise NotInitializedError where there are no centroids yet (not in recorded code)."""
        # The buffer may be on an accelerator: it is read once.
        if self._known_initialized or under_mode():
            return
        self._known_initialized = bool(self.initialized)
        if not self._known_initialized:
            raise check.NotInitializedError(
                "KMeansLayer has no centroids yet: call fit or initialize, or load a state_dict"
            )

    def _check_input(self, x: Tensor) -> Tensor:
        self.check_initialized()
        if self.batch_shape:
            x = check.check_samples(x, self.n_features, self.batch_shape)
        else:
            x = check.check_features(x, self.n_features)
        check.check_device("x", x, self.centroids.device)
        return x

    def _rows(
        self,
        x: Data,
        sample_weight: Tensor | None,
        group: ProcessGroup | None,
        *,
        resident: bool = False,
        batch_of: Callable[[Any], Any] | None = None,
    ) -> HeldRows | StreamRows:
        """Rows of whatever was handed in, in the space of the metric."""
        if isinstance(x, HeldRows | StreamRows):
            if sample_weight is not None or group is not None:
                raise ValueError(
                    "rows have their sample_weight and process_group already; got them again"
                )
            self._check_fits(x)
            return x
        rows = rows_of(
            x, sample_weight, n_features=self.n_features, device=self.centroids.device,
            batch_shape=self.batch_shape, group=group, resident=resident, batch_of=batch_of,
        )  # fmt: skip
        to_space = METRICS[self.metric].map
        return rows if to_space is None else rows.map(to_space)

    def _check_fits(self, rows: HeldRows | StreamRows) -> None:
        problems = math.prod(self.batch_shape)
        if rows.n_features != self.n_features or rows.n_problems not in (1, problems):
            raise ValueError(
                f"rows should be of n_features={self.n_features} and batch_shape="
                f"{self.batch_shape}; they are of {rows.n_features} features and "
                f"{rows.n_problems} problems"
            )
        check.check_device("x", rows.example, self.centroids.device)

    def _survey(self, rows: HeldRows | StreamRows, init: Init) -> None:
        """Refuse data that cannot be clustered, and inits that are of another shape."""
        with errors_shared(rows.group):
            problem, moments = self.problem(), rows.moments(self._kernel)
            refuse_too_few(moments, self.n_clusters)
            refuse(moments, rows.example, problem)
            if not isinstance(init, str) and not callable(init):
                check_init(init, problem)

    def _flat_init(self, init: Init) -> Init:
        """Checks what the batch_shape and the buffers have to say of an init."""
        if isinstance(init, str) and init == "current":
            self.check_initialized()
            return self._flat_centroids()
        if isinstance(init, Tensor) and init.ndim > 2:
            if init.shape != self.centroids.shape:
                raise ValueError(
                    f"init should have shape {tuple(self.centroids.shape)}; got {tuple(init.shape)}"
                )
            return init.flatten(0, -3)
        check_name(init)
        return init

    @torch.no_grad()
    def set_centroids(self, centroids: Tensor, counts: Tensor | None = None) -> None:
        """Take centroids, and what they weigh, as those to start from; n_iter becomes 0.

        Args:
            centroids: as many numbers as (*batch_shape, k, d).
            counts: as many as (*batch_shape, k); None for 0.
        """
        self.centroids.copy_(centroids.view_as(self.centroids))
        if counts is None:
            self.counts.zero_()
        else:
            self.counts.copy_(counts.view_as(self.counts))
        self.n_iter.zero_()
        self.initialized.fill_(True)
        self._known_initialized = True

    @torch.no_grad()
    def take_step(self, centroids: Tensor, counts: Tensor) -> None:
        """Hold what an M-step made elsewhere gave; n_iter counts it.

        Args:
            centroids: as many numbers as (*batch_shape, k, d).
            counts: as many as (*batch_shape, k).
        """
        self.centroids.copy_(centroids.view_as(self.centroids))
        self.counts.copy_(counts.view_as(self.counts))
        self.n_iter += 1

    def note_initialized(self, initialized: bool) -> None:
        """Say what the buffer ``initialized`` was set to from outside, which is read only once."""
        self._known_initialized = initialized

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> KMeansLayer:
        super()._apply(fn, recurse)
        self._known_initialized = False
        return self

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Centroids of another shape are refused before anything is copied.
        state = dict(self._parameters) | dict(self._buffers)
        mismatched = size_mismatches(state.items(), state_dict, prefix)
        if mismatched:
            *_, errors = args
            errors.extend(mismatched)
            return
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._known_initialized = False
