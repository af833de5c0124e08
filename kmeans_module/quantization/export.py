"""Codebooks as indexes of faiss, which is an optional extra."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from kmeans_module.indexes import as_float32, faiss_for
from kmeans_module.quantization.packing import bits_of


def _numbers(tensor: Tensor, bits: int) -> np.ndarray:
    if tensor.shape[-2] != 2**bits:
        raise ValueError(f"faiss needs n_clusters to be a power of 2; got {tensor.shape[-2]}")
    return as_float32(tensor)


def product_index(codebooks: Tensor, bits: int, rotation: Tensor | None) -> Any:
    """A trained ``IndexPQ`` of codebooks (m, k, d / m), behind the rotation (d, d)."""
    faiss = faiss_for("to_faiss")
    m, _, part = codebooks.shape
    index = faiss.IndexPQ(m * part, m, bits)
    faiss.copy_array_to_vector(_numbers(codebooks, bits).ravel(), index.pq.centroids)
    index.is_trained = True
    if rotation is None:
        return index
    turn = faiss.LinearTransform(m * part, m * part, False)
    faiss.copy_array_to_vector(as_float32(rotation).ravel(), turn.A)
    turn.is_trained = True
    turn.set_is_orthonormal()
    return faiss.IndexPreTransform(turn, index)


def residual_index(codebooks: Sequence[Tensor], beam_size: int) -> Any:
    """A trained ``IndexResidualQuantizer`` of the codebooks (k, d) of the levels."""
    faiss = faiss_for("to_faiss")
    bits = [bits_of(len(book)) for book in codebooks]
    numbers = [_numbers(book, bit).ravel() for book, bit in zip(codebooks, bits, strict=True)]
    d = codebooks[0].shape[1]
    if len(set(bits)) == 1:
        index = faiss.IndexResidualQuantizer(d, len(bits), bits[0])
    else:
        sizes = faiss.UInt64Vector()
        for bit in bits:
            sizes.push_back(bit)
        index = faiss.IndexResidualQuantizer(d, sizes)
    quantizer = index.rq
    faiss.copy_array_to_vector(np.concatenate(numbers), quantizer.codebooks)
    quantizer.is_trained = True
    quantizer.max_beam_size = beam_size
    quantizer.compute_codebook_tables()
    index.is_trained = True
    return index
