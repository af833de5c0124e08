"""Parts of centroids as they are, which put together stand for vectors."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from kmeans_module import checks as check
from kmeans_module.core.distances import compute_dtype, full_precision
from kmeans_module.core.guard import nan_like, readable
from kmeans_module.layer import KMeansLayer
from kmeans_module.quantization.layout import check_code_dtype, check_codes, check_range
from kmeans_module.quantization.packing import bits_of, pack, unpack
from kmeans_module.quantization.quantizer import Quantizer
from kmeans_module.quantization.rotation import weight_of
from kmeans_module.quantization.tables import looked_up
from kmeans_module.quantization.vector import VectorQuantizer
from kmeans_module.rows.survey import refuse_nonfinite

Product = TypeVar("Product", bound="ProductCodes")


class ProductCodes(Quantizer):
    """Vectors become codes and codes vectors, nothing learns; the base of ProductQuantizer.

    Attributes:
        n_subspaces: parts of a vector, m.
        quantizer: of the parts, with m heads.
        rotation: an orthogonal ``nn.Linear``, or None.
    """

    n_subspaces: int
    quantizer: VectorQuantizer
    rotation: nn.Linear | None

    @property
    def n_clusters(self) -> int:
        """Codes of a part, k."""
        return self.quantizer.n_clusters

    @property
    def code_dtype(self) -> torch.dtype:
        """Of the codes that forward and :meth:`encode` return."""
        return self.quantizer.code_dtype

    @property
    def codebooks(self) -> Tensor:
        """Centroids of the parts, (m, k, d / m), after the rotation."""
        shape = (self.n_subspaces, self.n_clusters, -1)
        return self.quantizer.codebook.centroids.view(shape)

    def codebook_layers(self) -> list[KMeansLayer]:
        return [self.quantizer.codebook]

    def encode(self, x: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
        """Codes of the nearest centroids; learns nothing.

        Args:
            x: (*, d), or (N, d, *) with channel_first; floats, or integers.
            dtype: of the codes, torch.int16, int32 or int64; None for code_dtype.

        Returns:
            (*, m).

        Raises:
            NotInitializedError, ValueError: as :meth:`VectorQuantizer.forward`.
        """
        dtype = self.code_dtype if dtype is None else dtype
        dtype = check_code_dtype("dtype", dtype, self.n_clusters)
        self.check_initialized()
        x, _ = self.layout.check(x, None, self._device, integers=True)
        x = x.to(compute_dtype(x, self.quantizer.codebook.centroids))
        with torch.no_grad():
            return self._with_subspaces(self.quantizer.encode(self._rotated(x), dtype=dtype))

    def decode(self, codes: Tensor) -> Tensor:
        """The vectors that codes stand for; a code of -1 stands for a part of 0.

        Args:
            codes: integers of any type, (*, m).

        Returns:
            (*, d), or (N, d, *) with channel_first.

        Raises:
            ValueError: a code that is neither -1 nor one of 0 .. k-1 (seen on the CPU).
        """
        self.check_answers()
        codes = check_codes(codes, n_codes=self.n_subspaces)
        decoded = self.quantizer.decode(codes if self.n_subspaces > 1 else codes[..., 0])
        return self.layout.features_back(self._rotated_back(decoded))

    def tables(self, queries: Tensor) -> Tensor:
        """Squared distances of the parts of queries to all centroids.

        Args:
            queries: (q, d).

        Returns:
            (q, m, k): ‖query - x̂‖² = Σ_j table[j, code_j]; in the wider dtype of queries and
            centroids, at least float32.
        """
        self.check_initialized()
        queries = check.check_samples(queries, self.n_features, name="queries")
        check.check_device("queries", queries, self.quantizer.codebook.centroids.device)
        parts = self._cut(self._rotated(queries))
        parts = parts.to(compute_dtype(parts, self.quantizer.codebook.centroids))
        if readable(parts) and not parts.square().sum(dim=-1).isfinite().all():
            refuse_nonfinite(queries, parts.dtype, "queries")
        tables: Tensor = self.quantizer.codebook.transform(parts)
        return tables.view(self.n_subspaces, queries.shape[0], self.n_clusters).transpose(0, 1)

    def distances(self, queries: Tensor, codes: Tensor) -> Tensor:
        """Squared distances of queries to what codes stand for, from :meth:`tables`.

        Args:
            queries: (q, d).
            codes: (n, m).

        Returns:
            (q, n).

        Raises:
            ValueError: a code that is not one of 0 .. k-1.
        """
        codes = check_codes(codes, n_codes=self.n_subspaces, rows=True)
        check_range(codes, self.n_clusters)
        return looked_up(self.tables(queries), codes)

    def pack(self, codes: Tensor) -> Tensor:
        """Codes as bytes, see :func:`kmeans_module.quantization.packing.pack`.

        Args:
            codes: (..., m); none is -1.

        Returns:
            (..., n_bytes) uint8.

        Raises:
            ValueError: a code that is not one of 0 .. k-1.
        """
        return pack(codes, self.n_clusters)

    def unpack(self, packed: Tensor) -> Tensor:
        """The codes that :meth:`pack` packed.

        Args:
            packed: (..., n_bytes) uint8.

        Returns:
            (..., m) int64.

        Raises:
            ValueError: another number of bytes, or bytes that hold no codes.
        """
        return unpack(packed, self.n_clusters, self.n_subspaces)

    def to_faiss(self) -> Any:
        """The codebooks as an index of product codes of faiss.

        Returns:
            A trained, empty ``faiss.IndexPQ``; behind the rotation, where there is one, as a
            ``faiss.IndexPreTransform``.

        Raises:
            ImportError: faiss is not installed.
            ValueError: n_clusters is not a power of 2.
        """
        from kmeans_module.quantization.export import product_index

        self.check_initialized()
        with full_precision(self._device):
            rotation = None if self.rotation is None else self.rotation.weight
        return product_index(self.codebooks, bits_of(self.n_clusters), rotation)

    @classmethod
    def from_faiss(cls: type[Product], index: Any, **options: Any) -> Product:
        """A quantizer with the codebooks of an index of faiss.

        Args:
            index: a trained ``faiss.ProductQuantizer``; an index of its codes, such as
                ``faiss.IndexPQ``; of an IVF index the codes of what its lists leave; perhaps behind
                a rotation, such as OPQ, that keeps the number of features.
            options: of the quantizer, such as ``update``, ``device`` and ``dtype``.

        Returns:
            A quantizer; :meth:`encode` finds the codes of the index.

        Raises:
            ImportError: faiss is not installed.
            TypeError: index has no product codes.
            ValueError: it is not trained; it has other transforms than rotations before its codes.
        """
        from kmeans_module.quantization.export import product_codebooks

        codebooks, rotation = product_codebooks(index)
        m, k, part = codebooks.shape
        quantizer = cls(k, m * part, m, rotation=rotation is not None, **options)
        quantizer.quantizer.codebook.set_centroids(codebooks.to(quantizer._device))
        if quantizer.rotation is not None and rotation is not None:
            like = quantizer.rotation.weight
            quantizer.rotation.weight = rotation.to(like.device, like.dtype)
        return quantizer

    @property
    def _device(self) -> torch.device:
        return self.quantizer.codebook.centroids.device

    def _rotated(self, x: Tensor) -> Tensor:
        """x (*, d) as the sub-spaces have it."""
        if self.rotation is None:
            return x
        # A row that is not finite stays so, and leaves the rotation's gradient alone.
        finite = x.detach().isfinite().all(dim=-1, keepdim=True)
        with full_precision(x.device):
            weight = weight_of(self.rotation)
            dtype = compute_dtype(x, weight)
            rotated = x.where(finite, 0.0).to(dtype) @ weight.T.to(dtype)
        return rotated.where(finite, nan_like(rotated))

    def _rotated_back(self, quantized: Tensor) -> Tensor:
        if self.rotation is None:
            return quantized
        with full_precision(quantized.device):
            return quantized @ weight_of(self.rotation).to(quantized.dtype)

    def _with_subspaces(self, codes: Tensor) -> Tensor:
        """Codes (*, m), also of one sub-space."""
        return codes if self.n_subspaces > 1 else codes.unsqueeze(-1)

    def _cut(self, x: Tensor) -> Tensor:
        """(n, d) as the codebook's layer takes it: (m, n, d / m), or (n, d) for one sub-space."""
        if self.n_subspaces == 1:
            return x
        return self.layout.to_rows(x, x.dtype).contiguous()

    def _joined(self, parts: Tensor, shape: torch.Size) -> Tensor:
        """The inverse of :meth:`_cut`."""
        return parts if self.n_subspaces == 1 else parts.transpose(0, 1).reshape(shape)
