"""Levels of centroids as they are, whose sums stand for vectors."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from kmeans_module import checks as check
from kmeans_module.core.distances import compute_dtype, full_precision
from kmeans_module.core.guard import readable, without_gradients
from kmeans_module.layer import KMeansLayer
from kmeans_module.quantization.beams import search_beams
from kmeans_module.quantization.layout import (
    NO_CODE,
    check_code_dtype,
    check_codes,
    check_levels,
    check_range,
)
from kmeans_module.quantization.packing import pack, unpack
from kmeans_module.quantization.quantizer import Quantizer
from kmeans_module.quantization.tables import distances_to_sums, inner_products, padded
from kmeans_module.quantization.vector import VectorQuantizer
from kmeans_module.rows.survey import refuse_nonfinite

Residual = TypeVar("Residual", bound="ResidualCodes")


class ResidualCodes(Quantizer):
    """Vectors become codes and codes vectors, nothing learns; the base of ResidualQuantizer.

    Attributes:
        n_levels: L.
        shared_codebook: whether all levels use one codebook.
        beam_size: choices that an index of faiss keeps.
        levels: one quantizer for each level, or a single shared one.
    """

    n_levels: int
    shared_codebook: bool
    beam_size: int
    code_dtype: torch.dtype
    levels: nn.ModuleList

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes of each level."""
        return tuple(self.level(number).n_clusters for number in range(self.n_levels))

    @property
    def n_clusters(self) -> int | tuple[int, ...]:
        """Codes of a level, k; those of all levels where they differ."""
        return self.sizes if len(set(self.sizes)) > 1 else self.sizes[0]

    @property
    def codebooks(self) -> Tensor:
        """What the codes of all levels add, (L, k, d), which is the centroids, behind a projection
        if there is one. Where sizes differ, k is the largest, and the other levels end in NaN."""
        return padded(self.codebook_list())

    def codebook_list(self) -> list[Tensor]:
        """What the codes of each level add, one tensor for each level.

        Returns:
            (k, d) for each level, with a k of its own; behind a projection if there is one.
        """
        books = []
        for number in range(self.n_levels):
            level = self.level(number)
            if level.projection is None:
                books.append(level.codebook.centroids)
            else:
                books.append(level.projection.back(level.codebook.centroids, None))
        return books

    def codebook_layers(self) -> list[KMeansLayer]:
        return [self.level(number).codebook for number in range(self.n_levels)]

    def level(self, number: int) -> VectorQuantizer:
        """The quantizer of a level, the same for all where levels share it.

        Args:
            number: from 0 to L - 1.

        Returns:
            One of ``levels``, which learns and is saved with them.
        """
        level = self.levels[0 if self.shared_codebook else number]
        assert isinstance(level, VectorQuantizer)
        return level

    @without_gradients
    def encode(
        self,
        x: Tensor,
        *,
        beam_size: int = 1,
        n_levels: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Codes of the nearest centroid of each level, or of a beam search; learns nothing.

        Args:
            x: (*, d), or (N, d, *) with channel_first; floats, or integers.
            beam_size: choices kept from level to level. 1 takes the codes of forward, whose
                prefixes are the codes for fewer levels. More find better codes for all levels
                together; prefixes of these are worse than codes for fewer levels.
            n_levels: codes of the first m levels only; None for all.
            dtype: of the codes, torch.int16, int32 or int64; None for code_dtype.

        Returns:
            (*, m).

        Raises:
            NotInitializedError: a level has no centroids.
            ValueError: NaN or infinity in x; a dtype that k overflows; a beam where the metric is
                "cosine" or there is a projection.
        """
        beam_size = check.check_integer("beam_size", beam_size, minimum=1)
        self.check_beams(beam_size)
        dtype = self.code_dtype if dtype is None else dtype
        dtype = check_code_dtype("dtype", dtype, max(self.sizes))
        n_levels = check_levels(n_levels, self.n_levels)
        self.check_initialized(n_levels)
        centroids = self.level(0).codebook.centroids
        x, _ = self.layout.check(x, None, centroids.device, integers=True)
        rows = self.layout.to_rows(x, compute_dtype(x, centroids))[0]
        codes = self.search(rows, beam_size=beam_size, n_levels=n_levels)
        return codes.view(*x.shape[:-1], n_levels).to(dtype)

    def check_beams(self, beam_size: int) -> None:
        """Refuse beams that no search can follow: they compare sums of centroids with x."""
        first = self.level(0)
        if beam_size > 1 and (first.projection is not None or first.codebook.metric == "cosine"):
            raise ValueError(
                "beam_size should be 1 where levels have a projection or the metric is cosine; "
                f"got {beam_size}"
            )

    @without_gradients
    def search(self, rows: Tensor, *, beam_size: int, n_levels: int) -> Tensor:
        """Codes (n, m) of rows (n, d), in the precision of distances; see :meth:`encode`."""
        if beam_size > 1:
            codes, left = search_beams(rows, self.codebook_list()[:n_levels], beam_size=beam_size)
            if readable(left) and not left.square().sum(dim=-1).isfinite().all():
                refuse_nonfinite(rows, rows.dtype)
            return codes
        by_level = []
        for number in range(n_levels):
            level = self.level(number)
            by_level.append(level.codes_of(rows))
            rows = rows - level.vectors_of(by_level[-1])
        return torch.stack(by_level, dim=-1)

    def decode(self, codes: Tensor, *, n_levels: int | None = None) -> Tensor:
        """Sums of the centroids of codes; a code of -1 adds nothing.

        Args:
            codes: integers of any type, (*, L), or fewer levels than L: the first ones.
            n_levels: decode the first m of these levels only; None for all.

        Returns:
            (*, d), or (N, d, *) with channel_first.

        Raises:
            ValueError: a code that is neither -1 nor one of 0 .. k-1 (seen on the CPU).
        """
        codes = check_codes(codes, n_codes=self.n_levels, fewer=True)
        n_levels = check_levels(n_levels, codes.shape[-1])
        self.check_answers(n_levels)
        parts = [self.level(n).looked_up(codes[..., n]) for n in range(n_levels)]
        with full_precision(codes.device):
            decoded = torch.stack(parts).sum(dim=0).to(self.level(0).precision.dtype)
        return self.layout.features_back(decoded)

    def tables(self, queries: Tensor, *, n_levels: int | None = None) -> Tensor:
        """Inner products of queries with all centroids.

        Args:
            queries: (q, d).
            n_levels: of the first m levels only; None for all.

        Returns:
            (q, L, k), or (q, m, k): ‖query - x̂‖² = ‖query‖² - 2 Σ_l table[l, code_l] + ‖x̂‖²,
            which cancels where queries have a large common part; in the wider dtype of queries
            and centroids, at least float32. Where sizes differ, k is the largest, and the tables
            of the other levels end in NaN.
        """
        n_levels = check_levels(n_levels, self.n_levels)
        self.check_initialized(n_levels)
        queries = check.check_samples(queries, self.n_features, name="queries")
        check.check_device("queries", queries, self.level(0).codebook.centroids.device)
        return inner_products(queries, padded(self.codebook_list()[:n_levels]))

    def distances(self, queries: Tensor, codes: Tensor) -> Tensor:
        """Squared distances of queries to what codes stand for, by look-up tables.

        An offset that queries and the first level lose keeps large common parts from cancelling;
        distances near 0 have an error of rounding, relative to the squared norms.

        Args:
            queries: (q, d).
            codes: (n, L), or fewer levels than L: the first ones; -1 adds nothing.

        Returns:
            (q, n), of the dtype of :meth:`tables`.

        Raises:
            ValueError: a code that is neither -1 nor one of 0 .. k-1.
        """
        codes = check_codes(codes, n_codes=self.n_levels, fewer=True, rows=True)
        self.check_initialized(codes.shape[-1])
        queries = check.check_samples(queries, self.n_features, name="queries")
        check.check_device("queries", queries, self.level(0).codebook.centroids.device)
        books = self.codebook_list()[: codes.shape[-1]]
        for level, book in zip(codes.unbind(dim=-1), books, strict=True):
            check_range(level, len(book), lowest=NO_CODE)
        return distances_to_sums(queries, books, codes)

    def pack(self, codes: Tensor) -> Tensor:
        """Codes as bytes, see :func:`kmeans_module.quantization.packing.pack`.

        Args:
            codes: (..., L), or those of the first m levels; none is -1.

        Returns:
            (..., n_bytes) uint8; each code has the bits that its level needs.

        Raises:
            ValueError: a code that is not one of 0 .. k-1.
        """
        return pack(codes, self.n_clusters)

    def unpack(self, packed: Tensor, *, n_levels: int | None = None) -> Tensor:
        """The codes that :meth:`pack` packed.

        Args:
            packed: (..., n_bytes) uint8.
            n_levels: how many levels were packed; None for all.

        Returns:
            (..., L) or (..., m), int64.

        Raises:
            ValueError: another number of bytes, or bytes that hold no codes.
        """
        n_levels = check_levels(n_levels, self.n_levels)
        return unpack(packed, self.n_clusters, n_levels)

    def to_faiss(self, *, n_levels: int | None = None) -> Any:
        """The codebooks as a residual quantizer of faiss.

        Args:
            n_levels: of the first m levels only; None for all.

        Returns:
            A trained, empty ``faiss.IndexResidualQuantizer``, which finds the codes of
            ``encode(x, beam_size=self.beam_size)``.

        Raises:
            ImportError: faiss is not installed.
            ValueError: a number of codes is not a power of 2; the metric is "cosine", or there is
                a projection: faiss would find other codes.
        """
        from kmeans_module.quantization.export import residual_index

        n_levels = check_levels(n_levels, self.n_levels)
        self.check_initialized(n_levels)
        first = self.level(0)
        if first.projection is not None or first.codebook.metric == "cosine":
            raise ValueError(
                "to_faiss should be of levels without a projection and with the metric euclidean: "
                "faiss would find other codes"
            )
        return residual_index(self.codebook_list()[:n_levels], self.beam_size)

    @classmethod
    def from_faiss(cls: type[Residual], index: Any, **options: Any) -> Residual:
        """A quantizer with the codebooks of an index of faiss.

        Args:
            index: a trained ``faiss.ResidualQuantizer``, or an index of its codes, such as
                ``faiss.IndexResidualQuantizer``; of an IVF index the codes of what its lists leave.
            options: of the quantizer, such as ``update``, ``device`` and ``dtype``.

        Returns:
            A quantizer; ``encode(x, beam_size=quantizer.beam_size)`` finds the codes of the index.

        Raises:
            ImportError: faiss is not installed.
            TypeError: index has no residual codes.
            ValueError: it is not trained.
        """
        from kmeans_module.quantization.export import residual_codebooks

        codebooks, beam_size = residual_codebooks(index)
        sizes, d = [len(centroids) for centroids in codebooks], codebooks[0].shape[1]
        quantizer = cls(sizes, d, **{"beam_size": beam_size, **options})
        for layer, centroids in zip(quantizer.codebook_layers(), codebooks, strict=True):
            layer.set_centroids(centroids.to(layer.centroids.device))
        return quantizer
