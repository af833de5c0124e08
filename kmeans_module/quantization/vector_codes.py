"""A codebook as it is: vectors become codes and codes vectors, nothing learns."""

from __future__ import annotations

import torch
from torch import Tensor

from kmeans_module.core.distances import compute_dtype
from kmeans_module.core.guard import readable, without_gradients
from kmeans_module.core.statistics import gather_rows
from kmeans_module.quantization import learning
from kmeans_module.quantization.codebook import LearningCodebook
from kmeans_module.quantization.codebook_state import CodebookState
from kmeans_module.quantization.layout import (
    NO_CODE,
    Layout,
    check_code_dtype,
    check_codes,
    check_range,
)
from kmeans_module.quantization.projection import Projection


class VectorCodes(LearningCodebook):
    """Encodes and decodes; the base of :class:`VectorQuantizer`.

    Attributes:
        code_dtype: of the codes that forward and :meth:`encode` return.
        projection: what is before and behind the codebook, or None.
        parts: the layout of what the codebook takes, behind the projection; features are last.
    """

    code_dtype: torch.dtype
    projection: Projection | None
    parts: Layout

    def encode(self, x: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
        """Codes of the nearest centroids; learns nothing, whatever mode the module is in.

        Args:
            x: (*, d), or (N, d, *) with channel_first; floats, or integers.
            dtype: of the codes, torch.int16, int32 or int64; None for code_dtype.

        Returns:
            (*), or (*, heads).

        Raises:
            NotInitializedError: the codebook has no centroids.
            ValueError: x of another number of features; NaN or infinity; a dtype that k overflows.

        Example:
            >>> import torch
            >>> from kmeans_module import VectorQuantizer
            >>> vq = VectorQuantizer(n_clusters=2, n_features=1, update="frozen")
            >>> vq.codebook.set_centroids(torch.tensor([[0.0], [9.0]]))
            >>> vq.encode(torch.tensor([[8.0], [1.0]]))
            tensor([1, 0])
            >>> vq.decode(torch.tensor([1, -1])).flatten()
            tensor([9., 0.])
        """
        dtype = self.code_dtype if dtype is None else dtype
        dtype = check_code_dtype("dtype", dtype, self.n_clusters)
        self.check_initialized()
        centroids = self.codebook.centroids
        x, _ = self.layout.check(x, None, centroids.device, integers=True)
        return self.codes_of(x.to(compute_dtype(x, centroids))).to(dtype)

    @without_gradients
    def codes_of(self, x: Tensor) -> Tensor:
        """Codes (*) or (*, heads) int64 of x (*, d), in the precision of distances."""
        inner = x if self.projection is None else self.projection(x)
        rows = self.parts.to_rows(inner, compute_dtype(inner, self.codebook.centroids))
        return self.parts.codes_from_rows(self._nearest(rows, None), inner.shape)

    def decode(self, codes: Tensor) -> Tensor:
        """The centroids of codes; 0 for -1, which says that there is none.

        Args:
            codes: integers of any type, (*), or (*, heads).

        Returns:
            (*, d), or (N, d, *) with channel_first, of the dtype of the module.

        Raises:
            NotInitializedError: in training, before the codebook has centroids.
            ValueError: a code that is neither -1 nor one of 0 .. k-1 (seen on the CPU).
        """
        return self.layout.features_back(self.looked_up(codes).to(self.precision.dtype))

    def looked_up(self, codes: Tensor) -> Tensor:
        """What :meth:`decode` gives, (*, d), of the dtype of the centroids or the projection."""
        self.check_answers()
        parts = self.parts
        codes = check_codes(codes, n_codes=parts.heads if parts.heads > 1 else None)
        if readable(codes):
            check_range(codes, self.n_clusters, lowest=NO_CODE)
        return self.vectors_of(codes)

    def vectors_of(self, codes: Tensor) -> Tensor:
        """The same for codes of int64 that are known to be right."""
        parts = self.parts
        shape = codes.shape if parts.heads == 1 else codes.shape[:-1]
        by_row = parts.codes_to_rows(codes)
        rows = self._centroids_of(by_row.clamp(min=0))
        rows = rows.where((by_row != NO_CODE).unsqueeze(-1), 0.0)
        vectors = parts.from_rows(rows, torch.Size((*shape, parts.n_features)), rows.dtype)
        return (
            vectors
            if self.projection is None
            else self.projection.back(vectors, self._known(codes))
        )

    def _known(self, codes: Tensor) -> Tensor:
        """Samples (*) of which a head has a code, of codes (*) or (*, heads)."""
        known = codes != NO_CODE
        return known if self.parts.heads == 1 else known.any(dim=-1)

    def _nearest(self, rows: Tensor, state: CodebookState | None) -> Tensor:
        """Codes (P, n) of the nearest centroids: of a layer, which refuses rows that are not
        finite, or of a state that learns, which refuses them on all ranks at once, later."""
        if state is None:
            return self.codebook.nearest(rows)
        with torch.no_grad():
            return learning.nearest(rows.detach(), state.centroids)

    def _centroids_of(self, codes: Tensor) -> Tensor:
        """Centroids (P, n, d / heads) of codes (P, n)."""
        centroids = self.codebook.centroids
        if not self.parts.separate_codebooks:
            return centroids[codes]
        return gather_rows(centroids, codes)
