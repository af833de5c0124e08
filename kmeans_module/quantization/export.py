"""Codebooks as indexes of faiss, and out of them; faiss is an optional extra."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kmeans_module.layer.indexes import as_float32, faiss_for, on_host
from kmeans_module.quantization.packing import bits_of

# Of a rotation: how far the products of its rows are from those of unit vectors.
_ORTHOGONAL = 1e-3


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


def product_codebooks(index: Any) -> tuple[Tensor, Tensor | None]:
    """Codebooks (m, k, d / m) of an index or a ProductQuantizer of faiss, and the rotation (d, d)
    before them.

    Raises:
        TypeError, ValueError: see :meth:`ProductQuantizer.from_faiss`.
    """
    faiss = faiss_for("from_faiss")
    index, rotation = _behind_rotation(faiss, index)
    quantizer = getattr(index, "pq", index)
    if not isinstance(quantizer, faiss.ProductQuantizer):
        raise TypeError(
            "index should be an index with product codes of faiss or a faiss.ProductQuantizer; "
            f"got {type(index).__name__}"
        )
    numbers = faiss.vector_to_array(quantizer.centroids)
    if not getattr(index, "is_trained", True) or not numbers.any():
        raise ValueError(f"index should be trained; the {type(index).__name__} is not")
    codebooks = torch.from_numpy(numbers).view(quantizer.M, quantizer.ksub, quantizer.dsub)
    if rotation is not None and len(rotation) != quantizer.d:
        raise ValueError(
            f"index should keep its {len(rotation)} features where it turns them; it leaves "
            f"{quantizer.d}"
        )
    return codebooks, rotation


def residual_codebooks(index: Any) -> tuple[list[Tensor], int]:
    """Codebooks (k, d) of the levels of an index or quantizer of faiss, and its beam size.

    Raises:
        TypeError, ValueError: see :meth:`ResidualQuantizer.from_faiss`.
    """
    faiss = faiss_for("from_faiss")
    index = on_host(faiss, index)
    quantizer = getattr(index, "rq", index)
    if not isinstance(quantizer, faiss.ResidualQuantizer):
        raise TypeError(
            "index should be an index with residual codes of faiss or a faiss.ResidualQuantizer; "
            f"got {type(index).__name__}"
        )
    if not quantizer.is_trained:
        raise ValueError(f"index should be trained; the {type(index).__name__} is not")
    bits = faiss.vector_to_array(quantizer.nbits).tolist()
    numbers = torch.from_numpy(faiss.vector_to_array(quantizer.codebooks)).view(-1, quantizer.d)
    codebooks = torch.split(numbers, [2**bit for bit in bits])
    return list(codebooks), int(quantizer.max_beam_size)


def _behind_rotation(faiss: ModuleType, index: Any) -> tuple[Any, Tensor | None]:
    """An index, without the transforms before it, and these as one rotation."""
    index, rotation = on_host(faiss, index), None
    if not isinstance(index, faiss.IndexPreTransform):
        return index, None
    for number in range(index.chain.size()):
        step = faiss.downcast_VectorTransform(index.chain.at(number))
        matrix = None
        if isinstance(step, faiss.LinearTransform) and step.is_trained:
            matrix = torch.from_numpy(faiss.vector_to_array(step.A)).view(step.d_out, step.d_in)
        moved = step.have_bias and faiss.vector_to_array(step.b).any() if matrix is not None else 0
        if matrix is None or moved or not _turns(matrix):
            raise ValueError(
                "index should have trained rotations alone before its codes; got "
                f"{type(step).__name__} from {step.d_in} to {step.d_out} features"
            )
        rotation = matrix if rotation is None else matrix @ rotation
    return faiss.downcast_index(index.index), rotation


def _turns(matrix: Tensor) -> bool:
    products = matrix.double() @ matrix.double().T
    off = products - torch.eye(len(matrix), dtype=torch.float64)
    return matrix.shape[0] == matrix.shape[1] and bool(off.abs().max() < _ORTHOGONAL)
