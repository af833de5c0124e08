"""ProductQuantizer: each sub-space has a codebook of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kmeans_module import checks as check
from kmeans_module.core.distances import full_precision
from kmeans_module.core.guard import require_values
from kmeans_module.core.lloyd import Iteration
from kmeans_module.progress.observer import Observer, observing
from kmeans_module.quantization.layout import Layout
from kmeans_module.quantization.offline import (
    principal_rotation,
    training_samples,
    unchanged_by_failures,
    weighted_mean,
)
from kmeans_module.quantization.product_codes import ProductCodes
from kmeans_module.quantization.quantized import Measures, Quantized
from kmeans_module.quantization.rotation import rotation_like
from kmeans_module.quantization.vector import VectorQuantizer
from kmeans_module.rows.ranks import ProcessGroup
from kmeans_module.seeds import generator_of

SEEDING_ROWS = 16  # for each code


class ProductQuantizer(ProductCodes):
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
            that it has seen: 4 for each code at least, until the decay is 0.99.
        smoothing: Laplace smoothing of the counts, in samples of a batch.
        estimator: of the gradient for x: "straight-through", "rotation", or "gumbel": codes are
            drawn from softmax(-distance / temperature) in training.
        temperature: of "gumbel".
        commitment: β, the weight of mean ‖x - sg[q]‖² in the loss.
        init_batches: batches that initialize the codebooks; more, while they have fewer
            samples than there are codes.
        revive_below: a code that gets fewer samples of a batch than this, on average, moves
            to a sample far from its code, or towards it from that code, by half the spread of the
            codebook at most. None, the default, is on: a tenth of an even share. 0 is off.
        channel_first: whether features are dimension 1 of x, as in images.
        nonfinite: what a batch with NaN or infinity in training does: raise an "error", or
            "skip": nothing is learnt from it, and rows that are not finite count as masked. On an
            accelerator the next apply_update, eval or state_dict raises; nothing waits before.
        process_group: the ranks whose samples codebooks learn from: "default" for all ranks
            where torch.distributed is in use; a ProcessGroup; or None for this process only,
            whatever the other ranks do.
        code_dtype: of the codes that forward and :meth:`encode` return: torch.int64, int32 or
            int16, if it holds k - 1.
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
        code_dtype: torch.dtype = torch.int64,
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
            code_dtype=code_dtype,
            device=device,
            dtype=dtype,
        )
        self.layout = Layout(
            n_features, n_subspaces, self.quantizer.separate_codebooks, channel_first
        )
        self.rotation: nn.Linear | None = None
        if rotation:
            self.rotation = rotation_like(self.quantizer.codebook.centroids, n_features)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw random codebooks, and forget what was learnt; nothing is rotated."""
        super().reset_parameters()
        if self.rotation is not None:
            like = next(self.rotation.parameters())
            self.rotation.weight = torch.eye(self.n_features, dtype=like.dtype, device=like.device)

    def extra_repr(self) -> str:
        return f"n_subspaces={self.n_subspaces}"

    def forward(
        self, x: Tensor, mask: Tensor | None = None, sample_weight: Tensor | None = None
    ) -> Quantized:
        """Quantize; in training also record the batch.

        Args:
            x: (*, d), or (N, d, *) with channel_first.
            mask: True for samples that count, as of :meth:`VectorQuantizer.forward`.
            sample_weight: how much samples count in the loss and in learning, likewise.

        Returns:
            quantized, codes, loss, see :class:`~kmeans_module.quantization.Quantized`.

        Raises:
            NotInitializedError, ValueError: as :meth:`VectorQuantizer.forward`.
        """
        if not self.quantizer.learns:
            self.check_answers()
        x, mask = self.layout.check(x, mask, self._device)
        found: Quantized = self.quantizer(self._rotated(x), mask, sample_weight)
        quantized = self._rotated_back(found.quantized).to(x.dtype)
        measures = found.measures
        if measures is not None:
            # An axis also of one sub-space; torch.compile of 2.8 reads no _replace.
            errors, losses, scale, sizes, _, by_row = measures
            measures = Measures(errors, losses, scale, sizes, "heads", by_row)
        return Quantized(
            self.layout.features_back(quantized), self._with_subspaces(found.codes), found.loss,
            measures=measures,
        )  # fmt: skip

    @torch.no_grad()
    def fit(
        self,
        x: Tensor,
        *,
        sample_weight: Tensor | None = None,
        max_iter: int = 20,
        rotations: int = 20,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        verbose: bool = False,
        callback: Callable[[Iteration], object] | None = None,
    ) -> None:
        """Train on samples, afresh: Lloyd's algorithm in all sub-spaces.

        Args:
            x: (n, d).
            sample_weight: (n,), numbers >= 0; rows of weight 0 do not count.
            max_iter: Lloyd's iterations at most; 0 keeps the centroids that were drawn.
            rotations: times that the rotation is fitted to the codes in turn with two of
                Lloyd's iterations, before that.
            generator: None draws from torch's default generator.
            seed: an integer in place of a generator.
            verbose: whether a bar shows what happens; see :meth:`KMeansLayer.fit`.
            callback: called with an :class:`~kmeans_module.Iteration` after each of Lloyd's
                iterations, with numbers (m,) of the sub-spaces; ``iteration.stage`` says which
                rotation it belongs to.

        Raises:
            ValueError: n_samples < n_clusters, NaN or infinity, bad shapes, bad weights.
        """
        x = check.check_tensor("x", x)
        require_values("ProductQuantizer.fit", self.quantizer.codebook.centroids, x)
        max_iter = check.check_integer("max_iter", max_iter, minimum=0)
        rotations = check.check_integer("rotations", rotations, minimum=0)
        generator = generator_of(generator, seed)
        check.check_callable("callback", callback)
        codebook = self.quantizer.codebook
        x, weight = training_samples(
            x, self.n_features, self.n_clusters, codebook.centroids, sample_weight
        )
        with (
            unchanged_by_failures(self),
            observing(verbose, callback, batch_shape=(self.n_subspaces,)) as observer,
            full_precision(x.device),
        ):
            if self.rotation is None:
                self._seed(x, weight, generator, observer)
            else:
                x = self._fit_rotation(x, weight, rotations, generator, observer)
            observer.enters("")
            observer.max_iter = max_iter
            codebook.fit(
                self._cut(x), init="current", max_iter=max_iter, sample_weight=weight,
                callback=observer.iteration if observer.listens else None,
            )  # fmt: skip
            observer.done(f"{self.n_subspaces} codebooks of {self.n_clusters:,} codes are fitted")
        self.quantizer.forget_recorded()

    def _fit_rotation(
        self,
        x: Tensor,
        weight: Tensor | None,
        rotations: int,
        generator: torch.Generator | None,
        observer: Observer,
    ) -> Tensor:
        """Fit the rotation, and centroids to start from; returns the rotated samples."""
        assert self.rotation is not None
        codebook = self.quantizer.codebook
        # Products of a large common part would hide the rest.
        center = weighted_mean(x, weight)
        around = x - center
        rotation = principal_rotation(around, self.n_subspaces, weight)
        self._seed(around @ rotation.T, weight, generator, observer)
        weighted = around if weight is None else around * weight.to(x.dtype).unsqueeze(-1)
        observer.max_iter = 2
        tell = observer.iteration if observer.listens else None
        for number in range(rotations):
            observer.enters(f"rotation {number + 1} of {rotations}")
            turned = self._cut(around @ rotation.T)
            labels = codebook.fit(
                turned, init="current", max_iter=2, tol=0, sample_weight=weight, callback=tell
            ).labels
            assert labels is not None
            decoded = self._joined(codebook.decode(labels), x.shape).to(x.dtype)
            u, _, v = torch.linalg.svd(decoded.T @ weighted)
            rotation = u @ v
        self.rotation.weight = rotation.to(self.rotation.weight.dtype)
        center = self._cut(self._rotated(center.unsqueeze(0)))
        codebook.set_centroids(codebook.centroids + center.to(codebook.centroids.dtype))
        return self._rotated(x)

    def _seed(
        self,
        x: Tensor,
        weight: Tensor | None,
        generator: torch.Generator | None,
        observer: Observer,
    ) -> None:
        """k-means++ on a sample: with more rows it takes longer than all that follows."""
        device = "cpu" if generator is None else generator.device
        chosen = torch.randperm(len(x), generator=generator, device=device)
        chosen = chosen[: SEEDING_ROWS * self.n_clusters].to(x.device)
        self.quantizer.codebook.initialize(
            self._cut(x[chosen]),
            sample_weight=None if weight is None else weight[chosen],
            generator=generator,
            told=observer.seeding,
        )

    def apply_update(self) -> None:
        """Move the codebooks to what the last forward pass in training recorded."""
        self.quantizer.apply_update()
