"""KMeansLayer: the state of k-means (buffers) and its steps."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kmeans_module import checks as check
from kmeans_module import functional as F
from kmeans_module.backends import ClusterStats, EStep, Workspace, accumulator_dtype, compute_dtype
from kmeans_module.core.empty_clusters import POLICIES
from kmeans_module.core.fit import fit, survey, warn_of_surplus
from kmeans_module.core.seeding import Init, initialize_centroids
from kmeans_module.core.soft import soft_assign
from kmeans_module.files import readers as io
from kmeans_module.rows.batch import Batch
from kmeans_module.rows.ranks import ProcessGroup, errors_shared


class FitResult(NamedTuple):
    """What a fit found; the centroids are in the layer.

    Attributes:
        labels: nearest centroid of each sample, (*batch_shape, n) int64.
        inertia: weighted sum of squared distances, (*batch_shape) float64.
        n_iter: iterations, (*batch_shape) int64.
        converged: whether it stopped before max_iter, (*batch_shape) bool.
        history: inertia of the centroids before each iteration, and at last of those that
            the layer holds, (*batch_shape, n_iter.max() + 1) float64.
    """

    labels: Tensor
    inertia: Tensor
    n_iter: Tensor
    converged: Tensor
    history: Tensor


class KMeansLayer(nn.Module):
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
        n_iter: iterations (M-steps) since initialisation, (\*batch_shape) int64.
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
        check.check_choice("metric", metric, F.METRICS)
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
        workspace = self._workspace(x)
        labels, finite = workspace.assign(self._flat_centroids())
        if x.device.type == "cpu" and not torch.compiler.is_compiling() and not finite:
            check.raise_nonfinite(x, compute_dtype(x, self.centroids))
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
        on_cpu = x.device.type == "cpu" and not torch.compiler.is_compiling()
        if on_cpu and not distances.isfinite().all():
            check.raise_nonfinite(x, distances.dtype)
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
        shares = soft_assign(
            rows, self.centroids, temperature=temperature, kernel=kernel, metric=self.metric
        )
        on_cpu = x.device.type == "cpu" and not torch.compiler.is_compiling()
        if on_cpu and not shares.isfinite().all():
            check.raise_nonfinite(x, shares.dtype)
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
        if not self.batch_shape:
            return self.centroids[labels]
        index = labels.unsqueeze(-1).expand(*labels.shape, self.n_features)
        return self.centroids.gather(-2, index)

    @torch.no_grad()
    def initialize(
        self,
        x: Tensor,
        init: Init = "k-means++",
        *,
        sample_weight: Tensor | None = None,
        generator: torch.Generator | None = None,
        process_group: ProcessGroup | None = None,
    ) -> None:
        """Choose the initial centroids; counts and n_iter start at 0.

        Args:
            x: samples, (*batch_shape, n, d) or (n, d); with a process_group this rank's rows.
            init: "k-means++", "k-means||", "random", a tensor (*batch_shape, k, d) or (k, d),
                or a function ``init(x, n_clusters, generator)`` that returns one.
            sample_weight: (*batch_shape, n) or (n,).
            generator: None draws from torch's default generator.
            process_group: the ranks that hold the rest of the rows.

        Raises:
            ValueError: n_samples < n_clusters, NaN or infinity in x, bad weights or init.
        """
        check.check_process_group(process_group)
        with errors_shared(process_group):
            batch = self._check_batch(x, sample_weight, generator)
        self.initialize_from_batches(
            [batch], init, generator=generator, process_group=process_group
        )

    @torch.no_grad()
    def initialize_from_batches(
        self,
        batches: list[Batch],
        init: Init = "k-means++",
        *,
        generator: torch.Generator | None = None,
        process_group: ProcessGroup | None = None,
    ) -> Tensor:
        """:meth:`initialize` for data in batches, whose ``start`` says their order.

        Returns:
            Mean variance of the features, (*batch_shape) float64: what ``tol`` is relative to.
        """
        with errors_shared(process_group):
            init = self._flat_init(init)
        batches, variance = survey(
            batches, n_clusters=self.n_clusters, n_problems=self._n_problems,
            metric=self.metric, like=self.centroids, process_group=process_group,
        )  # fmt: skip
        centroids = initialize_centroids(
            batches, self.n_clusters, init=init, n_problems=self._n_problems, metric=self.metric,
            like=self.centroids, generator=generator, process_group=process_group,
        )  # fmt: skip
        self.set_centroids(centroids)
        return variance.reshape(self.batch_shape)

    def prepare(self, x: Tensor, sample_weight: Tensor | None = None) -> Workspace:
        """Get ready for repeated :meth:`e_step` on the same rows, each faster than the first.

        The rows and weights must not change meanwhile. Arguments and errors are those of
        :meth:`e_step`.
        """
        return self._prepare(x, sample_weight)

    def _prepare(self, x: Tensor, sample_weight: Tensor | None, *, once: bool = False) -> Workspace:
        self.check_initialized()
        x = check.check_samples(x, self.n_features, self.batch_shape)
        check.check_device("x", x, self.centroids.device)
        weight = check.check_sample_weight(sample_weight, x, self.batch_shape)
        return self._workspace(x, weight, once=once)

    @torch.no_grad()
    def e_step(
        self,
        x: Tensor,
        sample_weight: Tensor | None = None,
        *,
        start: int = 0,
        workspace: Workspace | None = None,
        distances: bool = True,
    ) -> EStep:
        """Assign samples and sum up the clusters; never changes the layer.

        Args:
            x: samples, (*batch_shape, n, d) or (n, d).
            sample_weight: (*batch_shape, n) or (n,).
            start: number of the first row where x is a part of the data.
            workspace: what :meth:`prepare` made of this x and sample_weight; its next E-step
                overwrites the labels and distances of this one.
            distances: whether they are needed; without them a workspace may be faster.

        Returns:
            labels (*batch_shape, n), squared distances (*batch_shape, n), of no sample where they
            are not needed and not known, and stats for :meth:`m_step`; those of several batches
            add up.

        Raises:
            NotInitializedError: the layer has no centroids.
            ValueError: bad shapes; NaN or infinity in x, bad weights (on the CPU, not in
                compiled code).
        """
        start = check.check_integer("start", start, minimum=0)
        if workspace is None:
            workspace = self._prepare(x, sample_weight, once=True)
        step = workspace.e_step(self._flat_centroids(), start=start, distances=distances)
        on_cpu = x.device.type == "cpu" and not torch.compiler.is_compiling()
        if on_cpu and not step.stats.inertia.isfinite().all():
            check.raise_nonfinite(x, step.distances.dtype)
        return EStep(
            step.labels.reshape(*self.batch_shape, -1),
            step.distances.reshape(*self.batch_shape, step.distances.shape[-1]),
            step.stats.reshape(self.batch_shape),
        )

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
        on_cpu = shift.device.type == "cpu"
        if on_cpu and not (shift.isfinite().all() and counts.isfinite().all()):
            raise ValueError("stats should be finite; they move centroids to NaN or infinity")
        self.centroids.copy_(centroids)
        self.counts.copy_(counts)
        self.n_iter += 1
        return shift

    @torch.no_grad()
    def fit(
        self,
        x: Tensor,
        *,
        init: Init = "k-means++",
        max_iter: int = 300,
        tol: float = 1e-4,
        n_init: int = 1,
        sample_weight: Tensor | None = None,
        generator: torch.Generator | None = None,
        process_group: ProcessGroup | None = None,
    ) -> FitResult:
        """Lloyd's algorithm from fresh centroids until it converges.

        A debug line of the logger ``kmeans_module.backends`` says whether the native kernel or
        the torch reference serves; the environment variable KMEANS_KERNEL=reference forces the
        latter.

        Args:
            x: samples, (*batch_shape, n, d) or (n, d); with a process_group this rank's rows.
            init: see :meth:`initialize`; "current" continues from the layer's centroids.
            max_iter: iterations at most.
            tol: stop when the shift Σ‖c_new - c_old‖² is at most tol × the mean variance of
                the features, as in scikit-learn, or when no label changes.
            n_init: restarts, of which the one of lowest inertia is kept (one is enough for an
                init that is a tensor or "current").
            sample_weight: (*batch_shape, n) or (n,).
            generator: None draws from torch's default generator.
            process_group: the ranks that hold the rest of the rows: inertia and centroids are
                then those of the whole, labels those of this rank.

        Returns:
            labels, inertia, n_iter, converged, history; ``labels == layer(x)`` and the
            inertia is that of the layer's centroids.

        Raises:
            ValueError: n_samples < n_clusters, NaN or infinity, bad arguments. The layer is
                then as it was.
            EmptyClusterError: a cluster is empty and the policy is "error".
        """
        check.check_process_group(process_group)
        with errors_shared(process_group):
            check.check_integer("max_iter", max_iter, minimum=1)
            check.check_integer("n_init", n_init, minimum=1)
            tol = check.check_number("tol", tol, minimum=0)
            batch = self._check_batch(x, sample_weight, generator)
            init = self._flat_init(init)
        best = fit(
            batch, self.n_clusters, init=init, max_iter=max_iter, tol=tol, n_init=n_init,
            n_problems=self._n_problems, metric=self.metric, empty_cluster=self.empty_cluster,
            like=self.centroids, generator=generator, process_group=process_group,
        )  # fmt: skip
        self.set_centroids(best.centroids)
        self.counts.copy_(best.counts.view_as(self.counts))
        self.n_iter.copy_(best.n_iter.view_as(self.n_iter))
        warn_of_surplus(
            best.centroids, best.counts, best.inertia,
            empty_cluster=self.empty_cluster, stacklevel=3,
        )  # fmt: skip
        return FitResult(
            best.labels.reshape(*self.batch_shape, -1),
            best.inertia.reshape(self.batch_shape),
            best.n_iter.reshape(self.batch_shape),
            best.converged.reshape(self.batch_shape),
            best.history.reshape(*self.batch_shape, -1),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state and the configuration to a .safetensors file, atomically."""
        self.check_initialized()
        config = json.dumps({"metric": self.metric, "empty_cluster": self.empty_cluster})
        io.save_tensors(path, dict(self.state_dict()), {"kmeans_module": config})

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], *, device: torch.device | str | None = None
    ) -> KMeansLayer:
        """A layer from the file that :meth:`save` wrote.

        Raises:
            ValueError: the file is not one, or is damaged; it is named.
        """
        tensors, metadata = io.load_tensors(path)
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
    def _n_problems(self) -> int:
        return math.prod(self.batch_shape)

    def _flat_centroids(self) -> Tensor:
        return self.centroids.reshape(-1, self.n_clusters, self.n_features)

    def _workspace(
        self, x: Tensor, sample_weight: Tensor | None = None, *, once: bool = False
    ) -> Workspace:
        if not self.batch_shape:
            x = x.reshape(-1, self.n_features)
        dims = len(self.batch_shape)
        return F.workspace(x, sample_weight, metric=self.metric, n_batch_dims=dims, once=once)

    def _label_shape(self, x: Tensor) -> tuple[int, ...]:
        return (*self.batch_shape, x.shape[-2]) if self.batch_shape else tuple(x.shape[:-1])

    def check_initialized(self) -> None:
        """Raise NotInitializedError where there are no centroids yet (not in compiled code)."""
        # The buffer may be on an accelerator: it is read once, and not by compiled code.
        if torch.compiler.is_compiling() or self._known_initialized:
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

    def _check_batch(self, x: object, sample_weight: object, generator: object) -> Batch:
        check.check_generator(generator)
        samples = check.check_samples(x, self.n_features, self.batch_shape)
        check.check_device("x", samples, self.centroids.device)
        weight = check.check_sample_weight(sample_weight, samples, self.batch_shape)
        if samples.ndim > 2:
            samples = samples.flatten(0, -3)
        if weight is not None and weight.ndim > 1:
            weight = weight.flatten(0, -2)
        return Batch(samples, weight)

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

    def note_initialized(self, initialized: bool) -> None:
        """Say what the buffer ``initialized`` was set to from outside, which is read only once."""
        self._known_initialized = initialized

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> KMeansLayer:
        """Move the counts with the module, but keep them exact whatever dtype is asked for."""
        counts = self.counts
        self.counts = counts.float()  # no float64 goes to MPS
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._known_initialized = False
        device = self.counts.device
        counts = self.counts if counts.is_meta else counts
        self.counts = counts.to(dtype=accumulator_dtype(device)).to(device)
        return self

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Centroids of another shape are refused before anything is copied.
        state = dict(self._parameters) | dict(self._buffers)
        mismatched = [
            f"size mismatch for {prefix}{name}: copying a tensor of shape "
            f"{tuple(state_dict[prefix + name].shape)} from the checkpoint, the layer's has shape "
            f"{tuple(own.shape)}"
            for name, own in state.items()
            if own is not None
            and isinstance(state_dict.get(prefix + name), Tensor)
            and state_dict[prefix + name].shape != own.shape
        ]
        if mismatched:
            *_, errors = args
            errors.extend(mismatched)
            return
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._known_initialized = False
