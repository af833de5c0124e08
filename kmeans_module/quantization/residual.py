"""ResidualQuantizer: each level quantizes what the levels before it left."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kmeans_module import checks as check
from kmeans_module.backends import beam_search
from kmeans_module.core.distances import compute_dtype
from kmeans_module.core.guard import compiling
from kmeans_module.layer import KMeansLayer
from kmeans_module.quantization.gradients import rotate, straight_through
from kmeans_module.quantization.layout import NO_CODE, Layout, check_codes
from kmeans_module.quantization.offline import fit_levels
from kmeans_module.quantization.packing import bits_of, pack, unpack
from kmeans_module.quantization.quantized import Quantized, Quantizer
from kmeans_module.quantization.tables import looked_up
from kmeans_module.quantization.vector import VectorQuantizer
from kmeans_module.rows.ranks import ProcessGroup
from kmeans_module.rows.survey import refuse_nonfinite


class ResidualQuantizer(Quantizer):
    r"""Sums of one centroid of each level: level l quantizes :math:`x - q_1 - \dots - q_{l-1}`.

    In a network, levels learn as :class:`VectorQuantizer` does and the gradient passes their
    sum as one step. Offline, :meth:`fit` trains all levels by EM with a beam search.

    Source: Chen, Guan & Wang, Approximate nearest neighbor search by residual vector
    quantization, Sensors 10, 2010; Zeghidour et al., SoundStream, arXiv:2107.03312 (quantizer
    dropout).

    Args:
        n_clusters: codes of a level, k.
        n_features: features of a vector, d.
        n_levels: L.
        shared_codebook: whether all levels use one codebook.
        dropout: whether in training each batch uses a random number of levels, from 1 to L;
            codes of the levels after them are -1.
        beam_size: choices kept from level to level by :meth:`fit` and :meth:`encode`; forward
            takes the nearest centroid of each level.
        update: how a codebook learns: "ema", a moving average of the samples of each code;
            "gradient", the centroids are a Parameter and the loss has a term for them; or
            "frozen".
        decay: of the moving average and the counts, for each batch; None, the default, lets a
            codebook remember a twentieth of the samples that it has seen.
        smoothing: Laplace smoothing of the counts, in samples of a batch.
        estimator: of the gradient for x: "straight-through", "rotation", or "gumbel": codes are
            drawn from softmax(-distance / temperature) in training.
        temperature: of "gumbel".
        commitment: β, the weight of mean ‖x - sg[q]‖² in the loss of a level.
        init_batches: batches that initialize each codebook; more, while they have fewer
            samples than there are codes.
        revive_below: a code that gets fewer samples of a batch than this, on average, moves
            towards a random sample. None, the default: a tenth of an even share. 0 is off.
        channel_first: whether features are dimension 1 of x, as in images.
        nonfinite: what a batch with NaN or infinity in training does: raise an "error", or
            "skip": nothing is learnt from it, and rows that are not finite count as masked.
        process_group: the ranks whose samples codebooks learn from: "default" for all ranks
            where torch.distributed is in use; a ProcessGroup; or None for this process only,
            whatever the other ranks do.
        device, dtype: of the codebooks.

    Shape:
        - Input: (\*, d), or (N, d, \*) with channel_first.
        - Output: quantized like the input, codes (\*, L), loss (), the sum over levels.

    Attributes:
        levels: one :class:`VectorQuantizer` for each level, or a single shared one; features
            are last in what levels take.

    Examples:
        >>> import torch
        >>> from kmeans_module import ResidualQuantizer
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(1000, 8)
        >>> rq = ResidualQuantizer(n_clusters=16, n_features=8, n_levels=4)
        >>> rq.fit(x)
        >>> codes = rq.encode(x)
        >>> codes.shape, rq.pack(codes).shape
        (torch.Size([1000, 4]), torch.Size([1000, 2]))
    """

    def __init__(
        self,
        n_clusters: int,
        n_features: int,
        n_levels: int,
        *,
        shared_codebook: bool = False,
        dropout: bool = False,
        beam_size: int = 5,
        update: str = "ema",
        decay: float | None = None,
        smoothing: float = 1e-5,
        estimator: str = "straight-through",
        temperature: float = 1.0,
        commitment: float = 0.25,
        init_batches: int = 1,
        revive_below: float | None = None,
        channel_first: bool = False,
        nonfinite: str = "error",
        process_group: ProcessGroup | str | None = "default",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.n_levels = check.check_integer("n_levels", n_levels, minimum=1)
        self.beam_size = check.check_integer("beam_size", beam_size, minimum=1)
        self.shared_codebook = shared_codebook
        self.dropout = dropout
        self.levels = nn.ModuleList(
            VectorQuantizer(
                n_clusters,
                n_features,
                update=update,
                decay=decay,
                smoothing=smoothing,
                estimator=estimator,
                temperature=temperature,
                commitment=commitment,
                init_batches=init_batches,
                revive_below=revive_below,
                nonfinite=nonfinite,
                process_group=process_group,
                device=device,
                dtype=dtype,
            )
            for _ in range(1 if shared_codebook else n_levels)
        )
        self.layout = Layout(self.level(0).n_features, channel_first=channel_first)

    @property
    def n_clusters(self) -> int:
        """Codes of a level, k."""
        return self.level(0).n_clusters

    @property
    def codebooks(self) -> Tensor:
        """Centroids of all levels, (L, k, d)."""
        return torch.stack([layer.centroids for layer in self.codebook_layers()])

    def codebook_layers(self) -> list[KMeansLayer]:
        return [self.level(number).codebook for number in range(self.n_levels)]

    def level(self, number: int) -> VectorQuantizer:
        """The quantizer of a level, from 0 to L-1: the same for all where they share it."""
        level = self.levels[0 if self.shared_codebook else number]
        assert isinstance(level, VectorQuantizer)
        return level

    def extra_repr(self) -> str:
        return f"n_levels={self.n_levels}, shared_codebook={self.shared_codebook}"

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Quantized:
        """Quantize level by level; in training also record the batch.

        Arguments, errors and the mask are those of :meth:`VectorQuantizer.forward`.
        """
        first = self.level(0)
        if not first.learns:
            self.check_answers()
        centroids = first.codebook.centroids
        x, mask = self.layout.check(x, mask, centroids.device)
        dtype, x = x.dtype, x.to(compute_dtype(x, centroids))
        levels = self._quantize(x, self._masks(x, mask))
        quantized = torch.stack([level.quantized for level in levels]).sum(dim=0)
        if not (first.estimator == "gumbel" and self.training):
            # The gradient passes the sum of all levels as one step.
            estimate = rotate if first.estimator == "rotation" else straight_through
            quantized = estimate(x, quantized.detach())
            known = levels[0].codes != NO_CODE
            quantized = quantized.where(known.unsqueeze(-1), 0.0)
        codes = torch.stack([level.codes for level in levels], dim=-1)
        loss = torch.stack([level.loss for level in levels]).sum()
        quantized = quantized.to(dtype)
        return Quantized(self.layout.features_back(quantized), codes, loss)

    def _masks(self, x: Tensor, mask: Tensor | None) -> list[Tensor | None]:
        """Which samples count at each level, (*) bool, and None for all: with dropout, no sample
        does at the levels after a random one."""
        if not (self.dropout and self.training):
            return [mask] * self.n_levels
        present = x.new_ones(x.shape[:-1], dtype=torch.bool) if mask is None else mask
        # A level that is not used takes part in the collectives: ranks draw their own numbers.
        used = torch.randint(1, self.n_levels + 1, (), device=x.device)
        return [present & (level < used) for level in range(self.n_levels)]

    def _quantize(self, x: Tensor, masks: list[Tensor | None]) -> list[Quantized]:
        """Each level on what the levels before it left of x (*, d)."""
        if self.shared_codebook:
            return self.level(0).quantize_in_turn(x, masks)
        levels = []
        for number, mask in enumerate(masks):
            level: Quantized = self.level(number)(x, mask)
            levels.append(level)
            x = x - level.quantized.detach()
        return levels

    @torch.no_grad()
    def encode(self, x: Tensor, *, beam_size: int | None = None) -> Tensor:
        """Codes by a beam search; learns nothing.

        Args:
            x: (*, d), or (N, d, *) with channel_first.
            beam_size: choices kept; 1 takes the nearest centroid of each level, as forward
                does.

        Returns:
            (*, L) int64.

        Raises:
            NotInitializedError: a level has no centroids.
            ValueError: NaN or infinity in x.
        """
        self.check_initialized()
        beam_size = self.beam_size if beam_size is None else beam_size
        beam_size = check.check_integer("beam_size", beam_size, minimum=1)
        centroids = self.level(0).codebook.centroids
        x, _ = self.layout.check(x, None, centroids.device)
        rows = self.layout.to_rows(x, compute_dtype(x, centroids))[0]
        if beam_size == 1 or compiling():
            by_level, left = [], rows
            for layer in self.codebook_layers():
                by_level.append(layer(left))
                left = left - layer.centroids[by_level[-1]]
            codes = torch.stack(by_level, dim=-1)
        else:
            if not rows.square().sum(dim=-1).isfinite().all():
                refuse_nonfinite(rows, rows.dtype)
            codes, _ = beam_search(rows, self.codebooks.to(rows.dtype), beam_size=beam_size)
        return codes.view(*x.shape[:-1], self.n_levels)

    def decode(self, codes: Tensor) -> Tensor:
        """Sums of the centroids of codes; a code of -1 adds nothing.

        Args:
            codes: integers (*, L), or fewer levels than L: the first ones.

        Returns:
            (*, d), or (N, d, *) with channel_first.

        Raises:
            ValueError: a code that is neither -1 nor one of 0 .. k-1 (seen on the CPU).
        """
        self.check_answers()
        codes = check_codes(codes, n_codes=self.n_levels, fewer=True)
        parts = [self.level(n).looked_up(codes[..., n]) for n in range(codes.shape[-1])]
        decoded = torch.stack(parts).sum(dim=0).to(self.level(0).precision.dtype)
        return self.layout.features_back(decoded)

    @torch.no_grad()
    def fit(
        self,
        x: Tensor,
        *,
        max_iter: int = 20,
        refinements: int = 3,
        generator: torch.Generator | None = None,
    ) -> None:
        """Train all levels on samples, afresh: k-means level by level, each on what a beam
        search with the levels before left; then all levels together by least squares.

        Args:
            x: (n, d).
            max_iter: Lloyd's iterations of a level at most.
            refinements: times that all levels are fitted together, and all samples encoded.
            generator: None draws from torch's default generator.

        Raises:
            ValueError: n_samples < n_clusters, NaN or infinity, bad shapes.
            NotImplementedError: levels share their codebook.
        """
        if self.shared_codebook:
            raise NotImplementedError("levels that share a codebook learn in training only")
        max_iter = check.check_integer("max_iter", max_iter, minimum=1)
        refinements = check.check_integer("refinements", refinements, minimum=0)
        check.check_generator(generator)
        x = check.check_samples(x, self.n_features)
        check.check_device("x", x, self.level(0).codebook.centroids.device)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if len(x) < self.n_clusters:
            raise ValueError(f"n_samples={len(x)} should be >= n_clusters={self.n_clusters}")
        if not x.isfinite().all():
            refuse_nonfinite(x, x.dtype)
        codebooks, codes = fit_levels(
            x,
            self.n_clusters,
            self.n_levels,
            beam_size=self.beam_size,
            max_iter=max_iter,
            refinements=refinements,
            generator=generator,
        )
        for number, centroids in enumerate(codebooks):
            level = self.level(number)
            level.forget_recorded()
            counts = torch.bincount(codes[:, number], minlength=self.n_clusters)
            level.codebook.set_centroids(centroids, counts)

    def tables(self, queries: Tensor) -> Tensor:
        """Inner products of queries with all centroids.

        Args:
            queries: (q, d).

        Returns:
            (q, L, k): ‖query - x̂‖² = ‖query‖² - 2 Σ_l table[l, code_l] + ‖x̂‖².
        """
        self.check_initialized()
        queries = check.check_samples(queries, self.n_features)
        return torch.einsum("qd,lkd->qlk", queries, self.codebooks.to(queries.dtype))

    def distances(self, queries: Tensor, codes: Tensor) -> Tensor:
        """Squared distances of queries to what codes stand for, from :meth:`tables`.

        Args:
            queries: (q, d).
            codes: (n, L), or fewer levels than L: the first ones; -1 adds nothing.

        Returns:
            (q, n).
        """
        tables = self.tables(queries)
        norms = self.decode(codes).square().sum(dim=-1)
        tables = nn.functional.pad(tables, (0, 1))  # a code of -1 adds nothing
        products = looked_up(tables, codes)
        distances = queries.square().sum(dim=-1, keepdim=True) - 2 * products + norms
        return distances.clamp(min=0)

    def pack(self, codes: Tensor) -> Tensor:
        """Codes (..., L) as bytes, see :func:`kmeans_module.quantization.packing.pack`."""
        return pack(codes, self.n_clusters)

    def unpack(self, packed: Tensor) -> Tensor:
        """Codes (..., L) of bytes."""
        return unpack(packed, self.n_clusters, self.n_levels)

    def to_faiss(self) -> Any:
        """A trained, empty ``faiss.IndexResidualQuantizer`` with the same codebooks.

        Raises:
            ImportError: faiss is not installed.
            ValueError: n_clusters is not a power of 2.
        """
        from kmeans_module.quantization.export import residual_index

        self.check_initialized()
        return residual_index(self.codebooks, bits_of(self.n_clusters), self.beam_size)

    def apply_update(self) -> None:
        """Move the codebooks to what the last forward pass in training recorded."""
        for level in self.levels:
            assert isinstance(level, VectorQuantizer)
            level.apply_update()
