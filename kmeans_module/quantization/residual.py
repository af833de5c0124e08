"""ResidualQuantizer: each level quantizes what the levels before it left."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kmeans_module import checks as check
from kmeans_module.core.distances import compute_dtype, full_precision
from kmeans_module.core.guard import require_values
from kmeans_module.quantization.gradients import quantization_loss, rotate, straight_through
from kmeans_module.quantization.layout import NO_CODE, Layout, check_levels, hide_rows
from kmeans_module.quantization.offline import fit_levels, training_samples
from kmeans_module.quantization.quantized import Quantized
from kmeans_module.quantization.residual_codes import ResidualCodes
from kmeans_module.quantization.vector import VectorQuantizer
from kmeans_module.rows.ranks import ProcessGroup


class ResidualQuantizer(ResidualCodes):
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
        check.check_flag("shared_codebook", shared_codebook)
        check.check_flag("dropout", dropout)
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

    def extra_repr(self) -> str:
        return f"n_levels={self.n_levels}, shared_codebook={self.shared_codebook}"

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        beam_size: int = 1,
        n_levels: int | None = None,
    ) -> Quantized:
        """Quantize level by level; in training also record the batch.

        Arguments, errors and the mask are those of :meth:`VectorQuantizer.forward`.

        Args:
            x: (*, d), or (N, d, *) with channel_first.
            mask: True for samples that count.
            beam_size: choices kept from level to level, as in :meth:`encode`; in evaluation only.
            n_levels: use the first m levels only, as a codec of a lower bit rate does: the
                others neither learn nor are part of the loss. Dropout then draws from 1 to m.
                None for all levels.
        """
        beam_size = check.check_integer("beam_size", beam_size, minimum=1)
        n_levels = check_levels(n_levels, self.n_levels)
        first = self.level(0)
        if beam_size > 1 and self.training:
            raise ValueError(f"beam_size should be 1 in training; got {beam_size}")
        if not first.learns:
            self.check_answers(n_levels)
        centroids = first.codebook.centroids
        x, mask = self.layout.check(x, mask, centroids.device)
        dtype, x = x.dtype, x.to(compute_dtype(x, centroids))
        if beam_size > 1:
            levels = self._quantize_by_beams(x, mask, beam_size, n_levels)
        else:
            levels = self._quantize(x, self._masks(x, mask, n_levels))[:n_levels]
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

    def _masks(self, x: Tensor, mask: Tensor | None, n_levels: int) -> list[Tensor | None]:
        """Which samples count at each level, (*) bool, and None for all: with dropout, no sample
        does at the levels after a random one."""
        masks = [mask] * n_levels
        present = x.new_ones(x.shape[:-1], dtype=torch.bool) if mask is None else mask
        if self.dropout and self.training:
            # A level that is not used takes part in the collectives: ranks draw their own numbers.
            used = torch.randint(1, n_levels + 1, (), device=x.device)
            masks = [present & (level < used) for level in range(n_levels)]
        if n_levels < self.n_levels and self.level(0).learns and self.level(0).group is not None:
            # So it does where ranks ask for numbers of their own.
            masks += [torch.zeros_like(present)] * (self.n_levels - n_levels)
        return masks

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

    def _quantize_by_beams(
        self, x: Tensor, mask: Tensor | None, beam_size: int, n_levels: int
    ) -> list[Quantized]:
        """The same in evaluation, with the codes of a beam search."""
        valid = None if mask is None else self.layout.mask_to_rows(mask)
        rows, _, (valid,) = hide_rows(
            self.layout.to_rows(x, x.dtype),
            [valid],
            metric="euclidean",
            skip_nonfinite=self.level(0).nonfinite == "skip",
        )
        searched = self.search(rows[0].detach(), beam_size=beam_size, n_levels=n_levels)
        levels = []
        for number, codes in enumerate(searched.unbind(dim=-1)):
            level = self.level(number)
            if valid is not None:
                codes = codes.where(valid[0], NO_CODE)
            quantized = level.looked_up(codes)
            loss = quantization_loss(
                rows,
                quantized.unsqueeze(0),
                valid,
                commitment=level.commitment,
                learns_by_gradient=level.update_rule == "gradient",
            )
            rows = rows - quantized.detach()
            levels.append(Quantized(quantized.view(x.shape), codes.view(x.shape[:-1]), loss))
        return levels

    @torch.no_grad()
    def fit(
        self,
        x: Tensor,
        *,
        max_iter: int = 20,
        refinements: int = 3,
        beam_size: int | None = None,
        generator: torch.Generator | None = None,
        seed: int | None = None,
    ) -> None:
        """Train all levels on samples, afresh: k-means level by level, each on what a beam
        search with the levels before left; then all levels together by least squares.

        Args:
            x: (n, d).
            max_iter: Lloyd's iterations of a level at most.
            refinements: times that all levels are fitted together, and all samples encoded.
            beam_size: choices kept when samples are encoded; None for that of the quantizer.
            generator: None draws from torch's default generator.
            seed: an integer in place of a generator.

        Raises:
            ValueError: n_samples < n_clusters, NaN or infinity, bad shapes.
            NotImplementedError: levels share their codebook.
        """
        if self.shared_codebook:
            raise NotImplementedError("levels that share a codebook learn in training only")
        x = check.check_tensor("x", x)
        require_values("ResidualQuantizer.fit", self.level(0).codebook.centroids, x)
        beam_size = self.beam_size if beam_size is None else beam_size
        beam_size = check.check_integer("beam_size", beam_size, minimum=1)
        max_iter = check.check_integer("max_iter", max_iter, minimum=1)
        refinements = check.check_integer("refinements", refinements, minimum=0)
        generator = check.generator_of(generator, seed)
        centroids = self.level(0).codebook.centroids
        x = training_samples(x, self.n_features, self.n_clusters, centroids)
        with full_precision(x.device):
            codebooks, codes = fit_levels(
                x,
                self.n_clusters,
                self.n_levels,
                beam_size=beam_size,
                max_iter=max_iter,
                refinements=refinements,
                generator=generator,
            )
        for number, centroids in enumerate(codebooks):
            level = self.level(number)
            level.forget_recorded()
            counts = torch.bincount(codes[:, number], minlength=self.n_clusters)
            level.codebook.set_centroids(centroids, counts)

    def apply_update(self) -> None:
        """Move the codebooks to what the last forward pass in training recorded."""
        for level in self.levels:
            assert isinstance(level, VectorQuantizer)
            level.apply_update()
