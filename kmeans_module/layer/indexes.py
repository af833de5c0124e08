"""Centroids as indexes of faiss, and out of them; faiss is an optional extra."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor

# Lengths of vectors that rank by inner product as by cosine.
_UNIT = 1e-3


def faiss_for(method: str) -> ModuleType:
    """The package faiss, for a method of that name."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            f"{method} needs faiss: pip install faiss-cpu, or 'kmeans-module[faiss]'"
        ) from error
    module: ModuleType = faiss
    return module


def as_float32(tensor: Tensor) -> np.ndarray:
    """The numbers of a tensor as faiss takes them."""
    array = np.ascontiguousarray(tensor.detach().float().cpu().numpy())
    if not np.isfinite(array).all():
        raise ValueError("faiss holds float32, in which the centroids overflow: scale them down")
    return array


def centroid_index(centroids: Tensor, kind: str, *, by_product: bool) -> Any:
    """Centroids (k, d) as a flat index, or as the coarse quantizer of an empty IVF index.

    Args:
        centroids: (k, d).
        kind: "flat" or "ivf".
        by_product: whether rows are ranked by inner product.
    """
    faiss = faiss_for("to_faiss")
    vectors = as_float32(centroids)
    k, d = vectors.shape
    flat = faiss.IndexFlatIP(d) if by_product else faiss.IndexFlatL2(d)
    flat.add(vectors)
    if kind == "flat":
        return flat
    index = faiss.IndexIVFFlat(flat, d, k, flat.metric_type)
    flat.this.disown()
    index.own_fields = True
    index.is_trained = True
    return index


def centroids_of(index: Any) -> tuple[np.ndarray, bool]:
    """Centroids (k, d) of a flat or IVF index, of faiss.Kmeans or faiss.Clustering, and whether
    rows are ranked by inner product.

    Raises:
        TypeError, ValueError: see :meth:`kmeans_module.KMeansLayer.from_faiss`.
    """
    faiss = faiss_for("from_faiss")
    if isinstance(index, faiss.Kmeans):
        vectors, by_product = index.centroids, bool(index.cp.spherical)
    elif isinstance(index, faiss.Clustering):
        vectors = faiss.vector_to_array(index.centroids).reshape(-1, index.d)
        by_product = bool(index.spherical)
    else:
        vectors, by_product = _vectors(faiss, index)
    if vectors is None or not len(vectors):
        raise ValueError(f"index should hold centroids; the {type(index).__name__} has none yet")
    if by_product:
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
        if np.abs(lengths - 1).max() > _UNIT:
            raise ValueError(
                "index ranks by inner product, which is the cosine of centroids of length 1; "
                f"it holds lengths from {lengths.min():.3g} to {lengths.max():.3g}"
            )
    return np.array(vectors, dtype=np.float32), by_product


def _vectors(faiss: ModuleType, index: Any) -> tuple[np.ndarray | None, bool]:
    index = on_host(faiss, index)
    if isinstance(index, faiss.IndexIVF):
        held = faiss.downcast_index(index.quantizer)
        present = held.ntotal == index.nlist
    elif isinstance(index, faiss.IndexFlat):
        held, present = index, True
    else:
        raise TypeError(
            "index should be a flat or an IVF index of faiss, a faiss.Kmeans or a "
            f"faiss.Clustering; got {type(index).__name__}"
        )
    kinds = {faiss.METRIC_L2: False, faiss.METRIC_INNER_PRODUCT: True}
    if index.metric_type not in kinds:
        raise ValueError(
            "index should rank by squared distance or inner product; got metric_type="
            f"{index.metric_type}"
        )
    vectors = held.reconstruct_n(0, held.ntotal) if present and held.ntotal else None
    return vectors, kinds[index.metric_type]


def on_host(faiss: ModuleType, index: Any) -> Any:
    """An index as its own class, with its numbers in the memory of the host."""
    gpu = getattr(faiss, "GpuIndex", None)
    if gpu is not None and isinstance(index, gpu):
        index = faiss.index_gpu_to_cpu(index)
    return faiss.downcast_index(index) if isinstance(index, faiss.Index) else index
