"""The state of modules: buffers that stay exact, shapes that are refused, saving and loading."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kmeans_module import checks as check
from kmeans_module.core.distances import at_unit_length
from kmeans_module.core.empty_clusters import POLICIES
from kmeans_module.core.guard import no_values, under_mode
from kmeans_module.core.metrics import METRICS
from kmeans_module.core.problem import Problem
from kmeans_module.core.statistics import accumulator_dtype
from kmeans_module.devices import allocate


class NotScripted(nn.Module):
    """A module that torch.jit.script refuses in words, also inside of another one."""

    def __prepare_scriptable__(self) -> nn.Module:
        raise TypeError(
            f"torch.jit.script cannot read {type(self).__name__}: use torch.jit.trace, "
            "torch.export.export or torch.compile"
        )


class ExactBuffers(NotScripted):
    """A module some of whose buffers keep their precision whatever is asked for.

    Attributes:
        exact: names of buffers that are float64 (float32 on MPS).
        averages: names of buffers that are float32 at least: what moves by less than a rounding
            step of half precision would stand still in it.
    """

    exact: Sequence[str] = ()
    averages: Sequence[str] = ()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ExactBuffers:
        """Move these buffers with the module, but not to another precision."""
        before = {name: getattr(self, name) for name in (*self.exact, *self.averages)}
        for name in self.exact:
            setattr(self, name, before[name].float())  # no float64 goes to MPS
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in before.items():
            moved = getattr(self, name)
            dtype = self._kept_dtype(name, moved)
            # What has been float32 on the way is not what it was, whatever it became.
            if name in self.exact or moved.dtype != dtype:
                kept = moved if buffer.is_meta else buffer
                setattr(self, name, kept.to(dtype=dtype).to(device=moved.device))
        return self

    def _kept_dtype(self, name: str, buffer: Tensor) -> torch.dtype:
        if name in self.exact:
            return accumulator_dtype(buffer.device)
        return torch.promote_types(buffer.dtype, torch.float32)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        for name in (*self.exact, *self.averages):  # loading may assign tensors as they are
            buffer = getattr(self, name)
            setattr(self, name, buffer.to(self._kept_dtype(name, buffer)))


def size_mismatches(
    state: Iterable[tuple[str, Tensor | None]], state_dict: Mapping[str, Any], prefix: str
) -> list[str]:
    """Errors for tensors of a state_dict that have another shape than a module's.

    Args:
        state: names and tensors of the module.
        state_dict: to be loaded.
        prefix: of the module's keys.
    """
    return [
        f"size mismatch for {prefix}{name}: copying a tensor of shape "
        f"{tuple(state_dict[prefix + name].shape)} from the checkpoint, the layer's has shape "
        f"{tuple(tensor.shape)}"
        for name, tensor in state
        if tensor is not None
        and isinstance(state_dict.get(prefix + name), Tensor)
        and state_dict[prefix + name].shape != tensor.shape
    ]


def holds_centroids_alone(state_dict: Mapping[str, Any], prefix: str) -> bool:
    """Whether a state_dict holds centroids under a prefix, and nothing of what goes with them."""
    others = (prefix + name for name in ("counts", "n_iter", "initialized"))
    return isinstance(state_dict.get(prefix + "centroids"), Tensor) and not any(
        name in state_dict for name in others
    )


def loaded_to(like: Tensor, centroids: Tensor, local_metadata: Mapping[str, Any]) -> torch.device:
    """Where a buffer is to be after a state_dict was loaded that holds the centroids beside it: on
    their device if its tensors become the module's, else where it is."""
    assigns = local_metadata.get("assign_to_params_buffers", False)
    return centroids.device if assigns else like.device


class CentroidState(ExactBuffers):
    """Centroids, what they weigh, and how they came about: the buffers of a KMeansLayer.

    The arguments are those of :class:`kmeans_module.KMeansLayer`.
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
        check.check_flag("requires_grad", requires_grad)
        shape = (*self.batch_shape, self.n_clusters, self.n_features)
        centroids = allocate("centroids", shape, device=device, dtype=dtype)
        device, exact = centroids.device, accumulator_dtype(centroids.device)
        if requires_grad:
            self.register_parameter("centroids", nn.Parameter(centroids))
        else:
            self.register_buffer("centroids", centroids)
        self.register_buffer("counts", torch.zeros(shape[:-1], device=device, dtype=exact))
        n_iter = torch.zeros(self.batch_shape, device=device, dtype=torch.int64)
        self.register_buffer("n_iter", n_iter)
        self.register_buffer("initialized", torch.zeros((), device=device, dtype=torch.bool))
        # What the buffer says, which an accelerator would have to be waited for; None if unknown.
        unreadable = device.type == "meta" or under_mode()
        self._known_initialized: bool | None = None if unreadable else False

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Forget the centroids: the layer is as it was made."""
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
    def set_centroids(self, centroids: Tensor, counts: Tensor | None = None) -> None:
        """Take centroids, and what they weigh, as those to start from; n_iter becomes 0.

        Args:
            centroids: as many numbers as (*batch_shape, k, d).
            counts: as many as (*batch_shape, k); None for 0.
        """
        centroids = check.check_numel("centroids", centroids, self.centroids)
        if counts is not None:
            counts = check.check_numel("counts", counts, self.counts)
        self.centroids.copy_(centroids)
        if counts is None:
            self.counts.zero_()
        else:
            self.counts.copy_(counts)
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

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CentroidState:
        was_meta = self.initialized.is_meta
        super()._apply(fn, recurse)
        if was_meta or self.initialized.is_meta:
            self._known_initialized = None
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
        if holds_centroids_alone(state_dict, prefix):
            state_dict = self._with_counts(state_dict, prefix, args[0])
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        unreadable = self.initialized.is_meta or under_mode()
        self._known_initialized = None if unreadable else bool(self.initialized)

    def _with_counts(
        self, state_dict: Mapping[str, Any], prefix: str, local_metadata: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """A state_dict that holds centroids alone, with counts and n_iter of 0 beside them."""
        centroids = state_dict[prefix + "centroids"]
        device = loaded_to(self.counts, centroids, local_metadata)
        if self.metric == "cosine" and no_values(centroids) is None:
            unit = at_unit_length(centroids.detach())
            # The same object where nothing changes: assigned, it is to be the one handed in.
            centroids = centroids if torch.equal(unit, centroids) else unit
        return {
            **state_dict,
            prefix + "centroids": centroids,
            prefix + "counts": torch.zeros_like(self.counts, device=device),
            prefix + "n_iter": torch.zeros_like(self.n_iter, device=device),
            prefix + "initialized": torch.ones_like(self.initialized, device=device),
        }

    def has_centroids(self) -> bool:
        """Whether centroids were chosen, as far as that is known."""
        if not (self._known_initialized or under_mode() or self.initialized.is_meta):
            self._known_initialized = bool(self.initialized)
        # Code that is recorded cannot read the buffer: it goes by what was known before.
        return self._known_initialized is not False

    def check_initialized(self) -> None:
        """Raise NotInitializedError where there are no centroids yet."""
        if not self.has_centroids():
            raise check.NotInitializedError(
                "KMeansLayer has no centroids yet: call fit or initialize, or load a state_dict"
            )

    def problem(self) -> Problem:
        """What the layer asks of k-means, in one object."""
        return Problem(
            self.n_clusters,
            self.n_features,
            math.prod(self.batch_shape),
            metric=METRICS[self.metric].kernel,
            empty_cluster=self.empty_cluster,
            dtype=self.centroids.dtype,
            device=self.centroids.device,
        )

    def flat_centroids(self) -> Tensor:
        """The centroids of all problems, (P, k, d), without gradients."""
        return self.centroids.detach().reshape(-1, self.n_clusters, self.n_features)
