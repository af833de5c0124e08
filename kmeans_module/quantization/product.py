"""ProductQuantizer: each sub-space has a codebook of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kmeans_module import checks as check
from kmeans_module.core.distances import compute_dtype, full_precision
from kmeans_module.core.guard import readable, require_values
from kmeans_module.layer import KMeansLayer
from kmeans_module.quantization.layout import Layout, check_codes, check_range
from kmeans_module.quantization.offline import principal_rotation, training_samples
from kmeans_module.quantization.packing import bits_of, pack, unpack
from kmeans_module.quantization.quantized import Quantized, Quantizer
from kmeans_module.quantization.rotation import rotation_like, weight_of
from kmeans_module.quantization.tables import looked_up
from kmeans_module.quantization.vector import VectorQuantizer
from kmeans_module.rows.ranks import ProcessGroup
from kmeans_module.rows.survey import refuse_nonfinite

SEEDING_ROWS = 16  # for each code


class ProductQuantizer(Quantizer):
    r"""Cuts vectors into m parts and quantizes each with a codebook of its own: k^m codes.

    In a network it learns as :class:`VectorQuantizer` does; offline, :meth:`fit` runs k-means
    in all sub-spaces. A rotation before the cut balances the parts: it is orthogonal, a
    Parameter in a network, and the Procrustes solution in :meth:`fit`.

    Source: Jégou, Douze & Schmid, Product quantization for nearest neighbor search, PAMI 2011;
    Ge et al., Optimized product quantization, CVPR 2013 (section 3.1, non-parametric).

    Args:
        n_clusters: codes of a part, k.
        n_features: features of a vector, d.
        n_subspaces: parts, m; divides n_features.
        rotation: whether vectors are rotated before they are cut.
        update: how a codebook learns: "ema", a moving average of the samples of each code;
            "gradient", the centroids are a Parameter and the loss has a term for them; or
            "frozen".
        decay: of the moving average, for each batch; of the counts also where update is
            "gradient". None, the default, lets the codebook remember a twentieth of the samples
            that it has seen: 8 for each code at least, until the decay is 0.99.
        smoothing: Laplace smoothing of the counts, in samples of a batch.
        estimator: of the gradient for x: "straight-through", "rotation", or "gumbel": codes are
            drawn from softmax(-distance / temperature) in training.
        temperature: of "gumbel".
        commitment: β, the weight of mean ‖x - sg[q]‖² in the loss.
        init_batches: batches that initialize the codebooks; more, while they have fewer
            samples than there are codes.
        revive_below: a code that gets fewer samples of a batch than this, on average, moves
            to a random sample, or towards it from the nearest code, by half the spread of the
            codebook at most. None, the default, is on: a tenth of an even share. 0 is off.
        channel_first: whether features are dimension 1 of x, as in images.
        nonfinite: what a batch with NaN or infinity in training does: raise an "error", or
            "skip": nothing is learnt from it, and rows that are not finite count as masked.
        process_group: the ranks whose samples codebooks learn from: "default" for all ranks
            where torch.distributed is in use; a ProcessGroup; or None for this process only,
            whatever the other ranks do.
        device, dtype: of the codebooks.

    Shape:
        - Input: (\*, d), or (N, d, \*) with channel_first.
        - Output: quantized like the input, codes (\*, m), loss ().

    Attributes:
        quantizer: the :class:`VectorQuantizer`, with m heads.
        rotation: an orthogonal ``nn.Linear``, float32 at least, or None. Before torch.onnx.export
            with dynamo=True, which does not know how its weight is kept orthogonal, make it plain:
            ``torch.nn.utils.parametrize.remove_parametrizations(pq.rotation, "weight")``.

    Examples:
        >>> import torch
        >>> from kmeans_module import ProductQuantizer
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(1000, 8)
        >>> pq = ProductQuantizer(n_clusters=16, n_features=8, n_subspaces=4)
        >>> pq.fit(x)
        >>> codes = pq.encode(x)
        >>> codes.shape, pq.pack(codes).shape
        (torch.Size([1000, 4]), torch.Size([1000, 2]))
    """

    def __init__(
        self,
        n_clusters: int,
        n_features: int,
        n_subspaces: int,
        *,
        rotation: bool = False,
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
        n_features = check.check_integer("n_features", n_features, minimum=1)
        self.n_subspaces = check.check_integer("n_subspaces", n_subspaces, minimum=1)
        check.check_flag("rotation", rotation)
        if n_features % n_subspaces:
            raise ValueError(
                f"n_subspaces should divide n_features={n_features}; got {n_subspaces}"
            )
        # Channels are moved here, before the rotation.
        self.quantizer = VectorQuantizer(
            n_clusters,
            n_features,
            heads=n_subspaces,
            separate_codebooks=True,
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
        self.layout = Layout(
            n_features, n_subspaces, self.quantizer.separate_codebooks, channel_first
        )
        self.rotation: nn.Linear | None = None
        if rotation:
            self.rotation = rotation_like(self.quantizer.codebook.centroids, n_features)

    @property
    def n_clusters(self) -> int:
        """Codes of a part, k."""
        return self.quantizer.n_clusters

    @property
    def codebooks(self) -> Tensor:
        """Centroids of the parts, (m, k, d / m), after the rotation."""
        shape = (self.n_subspaces, self.n_clusters, -1)
        return self.quantizer.codebook.centroids.view(shape)

    def codebook_layers(self) -> list[KMeansLayer]:
        return [self.quantizer.codebook]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw random codebooks, and forget what was learnt; nothing is rotated."""
        super().reset_parameters()
        if self.rotation is not None:
            like = next(self.rotation.parameters())
            self.rotation.weight = torch.eye(self.n_features, dtype=like.dtype, device=like.device)

    def extra_repr(self) -> str:
        return f"n_subspaces={self.n_subspaces}"

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Quantized:
        """Quantize; in training also record the batch.

        Arguments, errors and the mask are those of :meth:`VectorQuantizer.forward`.
        """
        if not self.quantizer.learns:
            self.check_answers()
        x, mask = self.layout.check(x, mask, self._device)
        quantized, codes, loss = self.quantizer(self._rotated(x), mask)
        quantized = self._rotated_back(quantized).to(x.dtype)
        return Quantized(self.layout.features_back(quantized), self._with_subspaces(codes), loss)

    def encode(self, x: Tensor) -> Tensor:
        """Codes of the nearest centroids, (*, m) int64; learns nothing.

        Args:
            x: (*, d), or (N, d, *) with channel_first; floats, or integers.

        Raises:
            NotInitializedError, ValueError: as :meth:`VectorQuantizer.forward`.
        """
        self.check_initialized()
        x, _ = self.layout.check(x, None, self._device, integers=True)
        x = x.to(compute_dtype(x, self.quantizer.codebook.centroids))
        with torch.no_grad():
            return self._with_subspaces(self.quantizer.encode(self._rotated(x)))

    def decode(self, codes: Tensor) -> Tensor:
        """The vectors that codes (*, m) stand for, (*, d), or (N, d, *) with channel_first.

        Raises:
            ValueError: a code that is neither -1 nor one of 0 .. k-1 (seen on the CPU).
        """
        self.check_answers()
        codes = check_codes(codes, n_codes=self.n_subspaces)
        decoded = self.quantizer.decode(codes if self.n_subspaces > 1 else codes[..., 0])
        return self.layout.features_back(self._rotated_back(decoded))

    @torch.no_grad()
    def fit(
        self,
        x: Tensor,
        *,
        max_iter: int = 20,
        rotations: int = 20,
        generator: torch.Generator | None = None,
    ) -> None:
        """Train on samples, afresh: Lloyd's algorithm in all sub-spaces.

        Args:
            x: (n, d).
            max_iter: Lloyd's iterations at most.
            rotations: times that the rotation is fitted to the codes in turn with two of
                Lloyd's iterations, before that.
            generator: None draws from torch's default generator.

        Raises:
            ValueError: n_samples < n_clusters, NaN or infinity, bad shapes.
        """
        x = check.check_tensor("x", x)
        require_values("ProductQuantizer.fit", self.quantizer.codebook.centroids, x)
        max_iter = check.check_integer("max_iter", max_iter, minimum=1)
        rotations = check.check_integer("rotations", rotations, minimum=0)
        check.check_generator(generator)
        codebook = self.quantizer.codebook
        x = training_samples(x, self.n_features, self.n_clusters, codebook.centroids)
        with full_precision(x.device):
            if self.rotation is None:
                self._seed(x, generator)
            else:
                x = self._fit_rotation(x, rotations, generator)
            codebook.fit(self._cut(x), init="current", max_iter=max_iter)
        self.quantizer.forget_recorded()

    def _fit_rotation(self, x: Tensor, rotations: int, generator: torch.Generator | None) -> Tensor:
        """Fit the rotation, and centroids to start from; returns the rotated samples."""
        assert self.rotation is not None
        codebook = self.quantizer.codebook
        # Products of a large common part would hide the rest.
        center = x.mean(dim=0)
        around = x - center
        rotation = principal_rotation(around, self.n_subspaces)
        self._seed(around @ rotation.T, generator)
        for _ in range(rotations):
            turned = self._cut(around @ rotation.T)
            labels = codebook.fit(turned, init="current", max_iter=2, tol=0).labels
            assert labels is not None
            decoded = self._joined(codebook.decode(labels), x.shape).to(x.dtype)
            u, _, v = torch.linalg.svd(decoded.T @ around)
            rotation = u @ v
        self.rotation.weight = rotation.to(self.rotation.weight.dtype)
        center = self._cut(self._rotated(center.unsqueeze(0)))
        codebook.set_centroids(codebook.centroids + center.to(codebook.centroids.dtype))
        return self._rotated(x)

    def _seed(self, x: Tensor, generator: torch.Generator | None) -> None:
        """k-means++ on a sample: with more rows it takes longer than all that follows."""
        device = "cpu" if generator is None else generator.device
        chosen = torch.randperm(len(x), generator=generator, device=device)
        chosen = chosen[: SEEDING_ROWS * self.n_clusters].to(x.device)
        self.quantizer.codebook.initialize(self._cut(x[chosen]), generator=generator)

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
        """Codes (..., m) as bytes, see :func:`kmeans_module.quantization.packing.pack`."""
        return pack(codes, self.n_clusters)

    def unpack(self, packed: Tensor) -> Tensor:
        """Codes (..., m) of bytes."""
        return unpack(packed, self.n_clusters, self.n_subspaces)

    def to_faiss(self) -> Any:
        """A trained, empty ``faiss.IndexPQ`` with the same codebooks, behind the rotation if
        there is one.

        Raises:
            ImportError: faiss is not installed.
            ValueError: n_clusters is not a power of 2.
        """
        from kmeans_module.quantization.export import product_index

        self.check_initialized()
        with full_precision(self._device):
            rotation = None if self.rotation is None else self.rotation.weight
        return product_index(self.codebooks, bits_of(self.n_clusters), rotation)

    def apply_update(self) -> None:
        """Move the codebooks to what the last forward pass in training recorded."""
        self.quantizer.apply_update()

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
        return rotated.where(finite, torch.nan)

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
