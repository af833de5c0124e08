"""ResidualQuantizer: each level quantizes what the levels before it left."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kmeans_module import checks as check
from kmeans_module.core.distances import compute_dtype, full_precision
from kmeans_module.core.guard import require_values
from kmeans_module.core.lloyd import Iteration
from kmeans_module.core.words import shown
from kmeans_module.progress.observer import observing
from kmeans_module.quantization.gradients import mean_loss, rotate, straight_through
from kmeans_module.quantization.layout import NO_CODE, Layout, check_code_dtype, check_levels
from kmeans_module.quantization.offline import fit_levels, training_samples
from kmeans_module.quantization.quantized import Quantized
from kmeans_module.quantization.residual_levels import DROPOUTS, ResidualLevels
from kmeans_module.quantization.vector import VectorQuantizer
from kmeans_module.rows.ranks import ProcessGroup
from kmeans_module.seeds import generator_of


class ResidualQuantizer(ResidualLevels):
    r"""Sums of one centroid of each level: level l quantizes :math:`x - q_1 - \cdots - q_{l-1}`.

    In a network, levels learn as :class:`VectorQuantizer` does and the gradient passes their
    sum as one step. Offline, :meth:`fit` trains all levels by EM with a beam search.

    Source: Chen, Guan & Wang, Approximate nearest neighbor search by residual vector
    quantization, Sensors 10, 2010; Zeghidour et al., SoundStream, arXiv:2107.03312 (quantizer
    dropout).

    Args:
        n_clusters: codes of a level, k; or a list of the sizes of all levels.
        n_features: features of a vector, d.
        n_levels: L; None for as many as there are sizes.
        metric: "euclidean", or "cosine": levels take vectors and codes of unit length, and what
            they leave is that of x. Mostly with a projection, as in DAC; else of vectors that
            have unit length themselves.
        projection: features that each level quantizes, between two linear maps of its own, which
            learn by gradient (factorized codes, DAC). None for no maps.
        shared_codebook: whether all levels use one codebook.
        dropout: whether in training a random number of levels is used, from 1 to L; codes of the
            levels after them are -1. "batch" or True draws a number for a batch, as EnCodec does;
            "sample" one for each entry of dimension 0 of x, as DAC does: the loss is then the
            mean over all samples of the sum over the levels that a sample uses.
        beam_size: choices kept from level to level by :meth:`fit`. Forward takes the nearest
            centroid of each level, and so does :meth:`encode`, unless they are told otherwise.
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
            towards a sample far from its code. None, the default: a tenth of an even share.
            0 is off.
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
        - Output: quantized like the input, codes (\*, L), loss (), the sum over levels; codes
          (\*, m) where only m levels are asked for.

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
        n_clusters: int | Sequence[int],
        n_features: int,
        n_levels: int | None = None,
        *,
        metric: str = "euclidean",
        projection: int | None = None,
        shared_codebook: bool = False,
        dropout: bool | str = False,
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
        code_dtype: torch.dtype = torch.int64,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        sizes = _sizes(n_clusters, n_levels)
        self.n_levels = len(sizes)
        self.beam_size = check.check_integer("beam_size", beam_size, minimum=1)
        check.check_flag("shared_codebook", shared_codebook)
        if shared_codebook and (projection is not None or len(set(sizes)) > 1):
            raise ValueError(
                "levels that share a codebook have one size and no projection; "
                f"got n_clusters={shown(n_clusters)}, projection={shown(projection)}"
            )
        if not isinstance(dropout, bool) and dropout not in DROPOUTS:
            raise ValueError(
                f"dropout should be True, False, batch or sample; got {shown(dropout)}"
            )
        self.shared_codebook = shared_codebook
        self.dropout = ("batch" if dropout else None) if isinstance(dropout, bool) else dropout
        self.levels = nn.ModuleList(
            VectorQuantizer(
                size,
                n_features,
                metric=metric,
                projection=projection,
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
            for size in sizes[: 1 if shared_codebook else None]
        )
        self.layout = Layout(self.level(0).n_features, channel_first=channel_first)
        self.code_dtype = check_code_dtype("code_dtype", code_dtype, max(sizes))

    def extra_repr(self) -> str:
        return f"n_levels={self.n_levels}, shared_codebook={self.shared_codebook}"

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        sample_weight: Tensor | None = None,
        *,
        beam_size: int = 1,
        n_levels: int | None = None,
    ) -> Quantized:
        """Quantize level by level; in training also record the batch.

        Args:
            x: (*, d), or (N, d, *) with channel_first.
            mask: True for samples that count, as of :meth:`VectorQuantizer.forward`.
            sample_weight: how much samples count in the loss and in learning, likewise.
            beam_size: choices kept from level to level, as in :meth:`encode`; in evaluation only.
            n_levels: use the first m levels only, as a codec of a lower bit rate does: the
                others neither learn nor are part of the loss. Dropout then draws from 1 to m.
                None for all levels.

        Returns:
            quantized, codes, loss, see :class:`~kmeans_module.quantization.Quantized`.

        Raises:
            NotInitializedError, ValueError: as :meth:`VectorQuantizer.forward`; a beam in training.
        """
        beam_size = check.check_integer("beam_size", beam_size, minimum=1)
        n_levels = check_levels(n_levels, self.n_levels)
        first = self.level(0)
        if beam_size > 1 and self.training:
            raise ValueError(f"beam_size should be 1 in training; got {beam_size}")
        self.check_beams(beam_size)
        if not first.learns:
            self.check_answers(n_levels)
        centroids = first.codebook.centroids
        x, mask = self.layout.check(x, mask, centroids.device)
        weight = self.layout.check_weight(sample_weight, x)
        dtype, x = x.dtype, x.to(compute_dtype(x, centroids))
        if beam_size > 1:
            levels = self.quantize_by_beams(x, mask, weight, beam_size, n_levels)
        else:
            masks = self.level_masks(x, mask, n_levels)
            levels = self.quantize_greedily(x, masks, weight)[:n_levels]
        quantized = torch.stack([level.quantized for level in levels]).sum(dim=0)
        if first.projection is None and not (first.estimator == "gumbel" and self.training):
            # The gradient passes the sum of all levels as one step.
            estimate = rotate if first.estimator == "rotation" else straight_through
            quantized = estimate(x, quantized.detach())
            known = levels[0].codes != NO_CODE
            quantized = quantized.where(known.unsqueeze(-1), 0.0)
        codes = torch.stack([level.codes for level in levels], dim=-1).to(self.code_dtype)
        loss = torch.stack([level.loss for level in levels]).sum()
        quantized = self.layout.features_back(quantized.to(dtype))
        output = Quantized(quantized, codes, loss, measures=self.measures_of(levels))
        if self.dropout == "sample" and self.training:
            known = levels[0].codes != NO_CODE
            counted = known if weight is None else weight.where(known, 0.0)
            output = output._replace(loss=mean_loss(output.sample_loss, counted))
        return output

    @torch.no_grad()
    def fit(
        self,
        x: Tensor,
        *,
        sample_weight: Tensor | None = None,
        max_iter: int = 20,
        refinements: int = 3,
        beam_size: int | None = None,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        verbose: bool = False,
        callback: Callable[[Iteration], object] | None = None,
    ) -> None:
        """Train all levels on samples, afresh.

        k-means level by level, each on what a beam search with the levels before left; then all
        levels together by least squares.

        Args:
            x: (n, d).
            sample_weight: (n,), numbers >= 0; rows of weight 0 do not count.
            max_iter: Lloyd's iterations of a level at most; 0 keeps the samples that were drawn.
            refinements: times that all levels are fitted together, and all samples encoded.
            beam_size: choices kept when samples are encoded; None for that of the quantizer.
            generator: None draws from torch's default generator.
            seed: an integer in place of a generator.
            verbose: whether a bar shows what happens; see :meth:`KMeansLayer.fit`.
            callback: called with an :class:`~kmeans_module.Iteration` after each of Lloyd's
                iterations, in their order; ``iteration.stage`` says the level and its directions.

        Raises:
            ValueError: n_samples < n_clusters, NaN or infinity, bad shapes, bad weights.
            NotImplementedError: levels share their codebook, have a projection, or the metric
                is "cosine".
        """
        if self.shared_codebook:
            raise NotImplementedError("levels that share a codebook learn in training only")
        if self.level(0).projection is not None:
            raise NotImplementedError("levels with a projection learn in training only")
        if self.level(0).codebook.metric == "cosine":
            raise NotImplementedError("levels learn in training only where the metric is cosine")
        x = check.check_tensor("x", x)
        require_values("ResidualQuantizer.fit", self.level(0).codebook.centroids, x)
        beam_size = self.beam_size if beam_size is None else beam_size
        beam_size = check.check_integer("beam_size", beam_size, minimum=1)
        max_iter = check.check_integer("max_iter", max_iter, minimum=0)
        refinements = check.check_integer("refinements", refinements, minimum=0)
        generator = generator_of(generator, seed)
        check.check_callable("callback", callback)
        centroids = self.level(0).codebook.centroids
        x, weight = training_samples(x, self.n_features, max(self.sizes), centroids, sample_weight)
        with observing(verbose, callback) as observer, full_precision(x.device):
            codebooks, codes = fit_levels(
                x,
                self.sizes,
                beam_size=beam_size,
                max_iter=max_iter,
                refinements=refinements,
                generator=generator,
                sample_weight=weight,
                observer=observer,
            )
            observer.done(f"{self.n_levels} levels are fitted")
        for number, centroids in enumerate(codebooks):
            level = self.level(number)
            level.forget_recorded()
            counts = torch.bincount(codes[:, number], weight, minlength=level.n_clusters)
            level.codebook.set_centroids(centroids, counts)

    def apply_update(self) -> None:
        """Move the codebooks to what the last forward pass in training recorded."""
        for level in self.levels:
            assert isinstance(level, VectorQuantizer)
            level.apply_update()


def _sizes(n_clusters: object, n_levels: object) -> list[int]:
    """Codes of each level."""
    if n_levels is not None:
        n_levels = check.check_integer("n_levels", n_levels, minimum=1)
    if getattr(n_clusters, "ndim", 0):  # an array
        n_clusters = n_clusters.tolist()  # type: ignore[attr-defined]
    if not isinstance(n_clusters, Sequence) or isinstance(n_clusters, str):
        size = check.check_integer("n_clusters", n_clusters, minimum=1)
        if n_levels is None:
            raise TypeError("n_levels should be an integer where n_clusters is one; got None")
        return [size] * n_levels
    sizes = [check.check_integer("n_clusters", size, minimum=1) for size in n_clusters]
    if not sizes or (n_levels is not None and len(sizes) != n_levels):
        wanted = "1 or more sizes" if n_levels is None else f"{n_levels} sizes, one for each level"
        raise ValueError(f"n_clusters should be {wanted}; got {len(sizes)}")
    return sizes
