"""Centroids that come from elsewhere and go elsewhere: arrays, files, indexes of faiss."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from kmeans_module import checks as check
from kmeans_module.arrays import as_tensor
from kmeans_module.core.distances import at_unit_length, compute_dtype
from kmeans_module.core.guard import require_values
from kmeans_module.core.warn import warn
from kmeans_module.devices import usable_device
from kmeans_module.state import CentroidState

Portable = TypeVar("Portable", bound="PortableCentroids")


class PortableCentroids(CentroidState):
    """State that is made from what one has; the base of KMeansLayer."""

    @classmethod
    def from_centroids(
        cls: type[Portable],
        centroids: Any,
        *,
        metric: str = "euclidean",
        empty_cluster: str = "relocate",
        counts: Any = None,
        requires_grad: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Portable:
        """A layer that holds given centroids.

        Args:
            centroids: (*batch_shape, k, d), a tensor or anything that NumPy reads; copied. Where
                the metric is "cosine" they are scaled to unit length, as :meth:`initialize` does.
            metric, empty_cluster, requires_grad: of the layer.
            counts: what the centroids weigh, (*batch_shape, k), none negative; None for 0.
            device: None for that of the centroids.
            dtype: None for that of the centroids; of lists and integers, the default dtype.

        Returns:
            A layer that is initialized, with n_iter 0.

        Raises:
            TypeError: centroids that are no real numbers.
            ValueError: bad shapes; NaN or infinity; a zero row where the metric is "cosine".

        Example:
            >>> import torch
            >>> from kmeans_module import KMeansLayer
            >>> layer = KMeansLayer.from_centroids([[0.0, 0.0], [9.0, 9.0]])
            >>> layer(torch.tensor([[1.0, 2.0], [8.0, 7.0]]))
            tensor([0, 1])
        """
        given = check.check_rows(as_tensor(centroids, "centroids"), "centroids").detach()
        if given.ndim < 2 or 0 in given.shape:
            raise ValueError(
                "centroids should have shape (*batch_shape, n_clusters, n_features), none of them "
                f"0; got {tuple(given.shape)}"
            )
        require_values(f"{cls.__name__}.from_centroids", given)
        if dtype is None:
            dtype = default = torch.get_default_dtype()
            if not given.is_floating_point():
                dtype = compute_dtype(given, default)
            elif not isinstance(centroids, list | tuple):
                dtype = given.dtype
        layer = cls(
            *given.shape[-2:],
            metric=metric,
            empty_cluster=empty_cluster,
            batch_shape=tuple(given.shape[:-2]),
            requires_grad=requires_grad,
            device=given.device if device is None else device,
            dtype=dtype,
        )
        given = given.to(layer.centroids.dtype)
        if not given.isfinite().all():
            raise ValueError(
                f"centroids should be finite in {given.dtype}; they contain NaN or infinity"
            )
        if metric == "cosine":
            if (given == 0).all(dim=-1).any():
                raise ValueError('centroids should have no zero row where metric="cosine"')
            given = at_unit_length(given)
        layer.set_centroids(given, None if counts is None else _weights(counts, given))
        return layer

    def save(
        self, path: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None
    ) -> None:
        """Write the state and the configuration to a .safetensors file, atomically.

        Args:
            path: of the file.
            metadata: further texts for the header of the file. "note" is what :meth:`from_file` is
                to warn of.

        Raises:
            NotInitializedError: the layer has no centroids.
            OSError: the file cannot be written; what was there stays.

        Example:
            >>> from tempfile import TemporaryDirectory
            >>> from kmeans_module import KMeansLayer
            >>> layer = KMeansLayer.from_centroids([[0.0], [9.0]])
            >>> with TemporaryDirectory() as folder:
            ...     layer.save(f"{folder}/centroids.safetensors")
            ...     restored = KMeansLayer.from_file(f"{folder}/centroids.safetensors")
            >>> restored.centroids.flatten()
            tensor([0., 9.])
        """
        from kmeans_module.files import save_tensors

        self.check_initialized()
        config = json.dumps({"metric": self.metric, "empty_cluster": self.empty_cluster})
        save_tensors(path, dict(self.state_dict()), {**(metadata or {}), "kmeans_module": config})

    @classmethod
    def from_file(
        cls: type[Portable],
        path: str | os.PathLike[str],
        *,
        device: torch.device | str | None = None,
    ) -> Portable:
        """A layer from the file that :meth:`save` wrote.

        Of a run whose rows were standardized it warns: the centroids are those of such rows.

        Args:
            path: of the file.
            device: None for the CPU.

        Returns:
            A layer of the file's metric, policy, batch_shape, dtype, counts and n_iter; see
            :meth:`save` for an example.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not one, or is damaged; it is named. The device cannot be used.
        """
        layer, note = read_file(cls, path, device=device)
        if note is not None:
            warn(f"{path}: {note}")
        return layer

    def to_faiss(self, kind: str = "flat") -> Any:
        """The centroids as an index of faiss, which holds float32.

        Args:
            kind: "flat" for a ``faiss.IndexFlatL2`` that holds the centroids, whose search finds
                labels; it is also what ``faiss.IndexIVFPQ`` and its like take as a quantizer.
                "ivf" for a trained, empty ``faiss.IndexIVFFlat`` whose coarse quantizer holds
                them, ready for ``add``. Where the metric is "cosine" they rank by inner product:
                rows that are added to the latter should have unit length.

        Returns:
            The index, in the memory of the host, whatever the layer's device.

        Raises:
            ImportError: faiss is not installed.
            NotInitializedError: the layer has no centroids.
            ValueError: the layer has a batch_shape; faiss has one index for each problem.
        """
        from kmeans_module.layer.indexes import centroid_index

        check.check_choice("kind", kind, ("flat", "ivf"))
        self.check_initialized()
        if self.batch_shape:
            raise ValueError(
                f"an index of faiss holds one problem, the layer has batch_shape={self.batch_shape}"
                ": use KMeansLayer.from_centroids(layer.centroids[i]).to_faiss()"
            )
        return centroid_index(self.centroids, kind, by_product=self.metric == "cosine")

    @classmethod
    def from_faiss(
        cls: type[Portable],
        index: Any,
        *,
        empty_cluster: str = "relocate",
        requires_grad: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Portable:
        """A layer with the centroids of an index of faiss.

        Args:
            index: a flat index; an IVF index, whose coarse quantizer it is; a trained
                ``faiss.Kmeans`` or ``faiss.Clustering``. Those that rank by inner product, and
                spherical k-means, have the metric "cosine".
            empty_cluster, requires_grad, device, dtype: of the layer.

        Returns:
            A layer that is initialized; centroids are copied.

        Raises:
            ImportError: faiss is not installed.
            TypeError: index is none of these.
            ValueError: it holds no centroids, ranks by another distance, or by the inner product
                with centroids that are not of unit length.
        """
        from kmeans_module.layer.indexes import centroids_of

        centroids, by_product = centroids_of(index)
        return cls.from_centroids(
            centroids,
            metric="cosine" if by_product else "euclidean",
            empty_cluster=empty_cluster,
            requires_grad=requires_grad,
            device=device,
            dtype=dtype,
        )


def _weights(counts: Any, centroids: Tensor) -> Tensor:
    """Counts (*batch_shape, k) of centroids (*batch_shape, k, d)."""
    weights = check.check_rows(as_tensor(counts, "counts"), "counts")
    if weights.shape != centroids.shape[:-1]:
        raise ValueError(
            f"counts should have shape {tuple(centroids.shape[:-1])}; got {tuple(weights.shape)}"
        )
    if not (weights.isfinite() & (weights >= 0)).all():
        raise ValueError("counts should be finite and >= 0; they contain NaN, infinity or less")
    return weights


def read_file(
    kind: type[Portable],
    path: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
) -> tuple[Portable, str | None]:
    """The layer that a file holds, and its note or None, of which this does not warn."""
    from kmeans_module.files import load_tensors

    place = usable_device(device)
    tensors, metadata = load_tensors(path)
    centroids = tensors.get("centroids")
    if centroids is None or centroids.ndim < 2 or not centroids.is_floating_point():
        raise ValueError(f"{path}: holds no centroids (n_clusters, n_features)")
    try:
        layer = kind(
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
    return layer if place is None else layer.to(place), metadata.get("note")
