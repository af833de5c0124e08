"""VectorQuantizer: a codebook inside a network."""

from __future__ import annotations

import torch
from torch import Tensor

from kmeans_module import checks as check
from kmeans_module.core.distances import compute_dtype
from kmeans_module.core.soft import check_soft
from kmeans_module.quantization.centroids import Codebook
from kmeans_module.quantization.codebook import UPDATES
from kmeans_module.quantization.gradients import ESTIMATORS
from kmeans_module.quantization.layout import Layout, check_code_dtype, hide_rows, weigh_rows
from kmeans_module.quantization.projection import Projection
from kmeans_module.quantization.quantized import Quantized
from kmeans_module.quantization.vector_rows import VectorRows
from kmeans_module.rows.ranks import ProcessGroup


class VectorQuantizer(VectorRows):
    r"""Replaces every vector by the nearest of a codebook that learns in training.

    .. math:: \text{loss} = \beta \, \text{mean} \|x - \text{sg}[q]\|^2
              \; (+ \, \text{mean} \|\text{sg}[x] - q\|^2
              \text{ where the codebook learns by gradient})

    with means over samples and features. A forward pass in training only records what it saw:
    the codebook moves at the next one, on leaving training, or by :meth:`apply_update`; so
    backward sees the codebook that forward saw. The first batches in training initialize the
    codebook. Evaluation before that answers from random centroids, those of a
    :class:`~kmeans_module.quantization.centroids.Codebook`, and warns once; :meth:`encode` refuses.

    Under torch.distributed all ranks record the same, over the samples of all of them. Where
    ranks have unequal numbers of batches, train within
    :func:`kmeans_module.quantization.join`.

    Args:
        n_clusters: codes, k.
        n_features: features of a vector, d.
        metric: "euclidean", or "cosine": vectors and codes of unit length.
        projection: features that a linear map takes vectors to before they are quantized, and
            another one back (factorized codes: VQGAN, LlamaGen, DAC); both learn by gradient. Loss
            and distances are of the few features. None for no maps.
        heads: parts of the features that are quantized each on its own; divides n_features, or
            the projection.
        separate_codebooks: whether each head has a codebook of its own.
        update: how the codebook learns: "ema", a moving average of the samples of each code
            (van den Oord 2017, appendix A); "gradient", the centroids are a Parameter and the
            loss has a term for them; or "frozen".
        decay: of the moving average, for each batch; of the counts also where update is
            "gradient". None, the default, lets the codebook remember a twentieth of the samples
            that it has seen: 4 for each code at least, until the decay is 0.99.
        smoothing: Laplace smoothing of the counts, in samples of a batch.
        estimator: of the gradient for x: "straight-through", "rotation" (Fifty 2024), or
            "gumbel": codes are drawn from softmax(-distance / temperature) in training.
        temperature: of "gumbel"; may be changed in training.
        commitment: β, the weight of mean ‖x - sg[q]‖² in the loss.
        init_batches: batches that initialize the codebook, by k-means++ and a few of Lloyd's
            steps; more, while they have fewer samples than there are codes.
        revive_below: a code that gets fewer samples of a batch than this, on average, moves
            to a sample, the farthest of a few random ones from its code, or towards it from
            that code, by half the spread of the codebook at most. None, the default, is on: a
            tenth of an even share. 0 is off.
        channel_first: whether features are dimension 1 of x, as in images.
        nonfinite: what a batch with NaN or infinity in training does: raise an "error", or
            "skip": nothing is learnt from it, and rows that are not finite count as masked. On an
            accelerator the next apply_update, eval or state_dict raises; nothing waits before.
        process_group: the ranks whose samples the codebook learns from: "default" for all ranks
            where torch.distributed is in use; a ProcessGroup; or None for this process only,
            whatever the other ranks do.
        code_dtype: of the codes that forward and :meth:`encode` return: torch.int64, int32 or
            int16, if it holds k - 1.
        device: of the codebook.
        dtype: of what :meth:`decode` returns, and of the codebook: but one that learns by moving
            average is float32 at least, also after ``network.bfloat16()``.

    Shape:
        - Input: (\*, d), or (N, d, \*) with channel_first.
        - Output: quantized like the input, codes (\*) or (\*, heads), loss ().

    Attributes:
        codebook: a :class:`KMeansLayer` of k centroids, with a batch_shape (heads,) where
            codebooks are separate.
        projection: a module of two ``nn.Linear``, project_in and project_out, or None.
        precision: an empty tensor of the module's dtype.
        skipped: batches that were not finite where nonfinite is "skip", () int64.

    Examples:
        >>> import torch
        >>> from kmeans_module import VectorQuantizer
        >>> _ = torch.manual_seed(0)
        >>> vq = VectorQuantizer(n_clusters=16, n_features=4)
        >>> quantized, codes, loss = vq(torch.randn(8, 50, 4))
        >>> quantized.shape, codes.shape, loss.shape
        (torch.Size([8, 50, 4]), torch.Size([8, 50]), torch.Size([]))
        >>> bool((vq.decode(codes) == quantized).all())
        True
    """

    def __init__(
        self,
        n_clusters: int,
        n_features: int,
        *,
        metric: str = "euclidean",
        projection: int | None = None,
        heads: int = 1,
        separate_codebooks: bool = False,
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
        n_features = check.check_integer("n_features", n_features, minimum=1)
        heads = check.check_integer("heads", heads, minimum=1)
        width, named = n_features, "n_features"
        if projection is not None:
            width, named = check.check_integer("projection", projection, minimum=1), "projection"
        if width % heads:
            raise ValueError(f"heads should divide {named}={width}; got {heads}")
        check.check_choice("update", update, UPDATES)
        check.check_flag("separate_codebooks", separate_codebooks)
        check.check_flag("channel_first", channel_first)
        check.check_choice("estimator", estimator, ESTIMATORS)
        check_soft(temperature)
        parts = Layout(width, heads, separate_codebooks and heads > 1)
        codebook = Codebook(
            n_clusters,
            width // heads,
            metric=metric,
            empty_cluster="keep",
            batch_shape=(heads,) if parts.separate_codebooks else (),
            requires_grad=update == "gradient",
            moving_average=update == "ema",
            device=device,
            dtype=dtype,
        )
        super().__init__(
            codebook,
            dtype=dtype,
            update=update,
            decay=decay,
            smoothing=smoothing,
            init_batches=init_batches,
            revive_below=revive_below,
            nonfinite=nonfinite,
            process_group=process_group,
        )
        self.parts = parts
        self.layout = Layout(n_features, heads, parts.separate_codebooks, channel_first)
        self.code_dtype = check_code_dtype("code_dtype", code_dtype, codebook.n_clusters)
        self.projection = None
        if projection is not None:
            self.projection = Projection(n_features, width, device=device, dtype=dtype)
        part = width // heads
        self.measured = (
            part / 2 if metric == "cosine" else float(part),
            (codebook.n_clusters,) * heads,
            "heads" if heads > 1 else None,
        )
        self.estimator = estimator
        self.temperature = temperature
        self.commitment = check.check_number("commitment", commitment, minimum=0)

    def reset_parameters(self) -> None:
        """Draw a random codebook, and new maps of the projection; forget what was learnt."""
        super().reset_parameters()
        if self.projection is not None:
            self.projection.reset_parameters()

    @property
    def heads(self) -> int:
        """Parts of the features that are quantized each on its own."""
        return self.layout.heads

    @property
    def separate_codebooks(self) -> bool:
        """Whether each head has a codebook of its own."""
        return self.layout.separate_codebooks

    def extra_repr(self) -> str:
        parts = [f"n_features={self.n_features}, update={self.update_rule!r}"]
        if self.heads > 1:
            parts.append(f"heads={self.heads}, separate_codebooks={self.separate_codebooks}")
        if self.projection is not None:
            parts.append(f"projection={self.parts.n_features}")
        if self.estimator != "straight-through":
            parts.append(f"estimator={self.estimator!r}")
        return ", ".join(parts)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, sample_weight: Tensor | None = None
    ) -> Quantized:
        """Quantize; in training also record the batch.

        Args:
            x: (*, d), or (N, d, *) with channel_first; any float dtype.
            mask: True for samples that count, of the shape of x without its features. Masked
                samples get code -1, quantized 0, and no part in loss or learning.
            sample_weight: how much samples count in the loss, in the moving average and in the
                draws that start and revive codes: numbers >= 0, of the shape of x without its
                features. Samples of weight 0 are quantized all the same. Their scale does not
                matter. Over ranks, all or none have weights.

        Returns:
            quantized, codes, loss; and distances, sample_loss, perplexity and usage as
            attributes, see :class:`~kmeans_module.quantization.Quantized`.

        Raises:
            NotInitializedError: frozen in training before the codebook has centroids.
            ValueError: x of another number of features, a mask or weights of another shape;
                weights that are negative or not finite; NaN or infinity in training unless
                nonfinite is "skip", and in evaluation.
        """
        layout, parts, codebook = self.layout, self.parts, self.codebook
        x, mask = layout.check(x, mask, codebook.centroids.device)
        weight = layout.check_weight(sample_weight, x)
        inner = x if self.projection is None else self.projection(x)
        rows = parts.to_rows(inner, compute_dtype(inner, codebook.centroids))
        valid = None if mask is None else parts.mask_to_rows(mask)
        rows, seen, (valid,) = hide_rows(
            rows, [valid], metric=codebook.metric, skip_nonfinite=self.nonfinite == "skip"
        )
        weight = None if weight is None else parts.mask_to_rows(weight)
        seen, counted = weigh_rows(seen, valid, weight)
        if not self.learns:
            self.check_answers()
        state = self.begin(seen, counted) if self.learns else None
        relaxed, codes = self.draw(rows)
        if state is not None:
            codes = self.record(seen, counted, codes, state)
        elif codes is None:
            codes = self._nearest(rows, state)
        found = self.replace(rows, codes, relaxed, valid, counted)
        return self.output(found, valid, inner.shape, x.dtype)
