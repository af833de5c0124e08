"""What a quantizer returns: three tensors, and what can be said of them without another E-step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from kmeans_module.core.statistics import accumulator_dtype

_NAMES = ("quantized", "codes", "loss")


class Measures(NamedTuple):
    """What a forward pass knows of its codes, of which :class:`Quantized` makes its attributes.

    Attributes:
        errors: mean over features of the squared difference of a vector and its code, one tensor,
            or one for each level; of masked vectors any number.
        losses: the loss of each code, likewise.
        scale: what makes a distance of an error: d of a code; half of it for "cosine".
        sizes: codes of each codebook that the last axis of the codes is about, k of each head or
            level; one number where codes have no such axis.
        axis: what that axis is: "heads", over which the loss is a mean; "levels", over which it
            is a sum; or None.
        by_row: whether errors and losses are (P, n), for n rows of P codebooks, not of the shape
            of the codes: to shape them costs time, and few are read.
    """

    errors: tuple[Tensor, ...]
    losses: tuple[Tensor, ...]
    scale: float
    sizes: tuple[int, ...]
    axis: str | None = None
    by_row: bool = True


class Quantized(tuple[Tensor, Tensor, Tensor]):
    """What a quantizer makes of x: unpacks as ``quantized, codes, loss``.

    The other attributes are computed when they are read, from what the forward pass found. They
    are known of what a quantizer returned, and of what tree_map makes of it; a plain tuple of it,
    as torch.jit.trace and torch.onnx make, does not have them.

    Args:
        quantized, codes, loss: the three tensors; or one iterable of the three.
        measures: what the other attributes come from.

    Example:
        >>> import torch
        >>> from kmeans_module import VectorQuantizer
        >>> _ = torch.manual_seed(0)
        >>> output = VectorQuantizer(n_clusters=4, n_features=2)(torch.randn(64, 2))
        >>> output.distances.shape, output.usage
        (torch.Size([64]), tensor(1.))
        >>> quantized, codes, loss = output
    """

    measures: Measures | None = None

    def __new__(
        cls,
        quantized: Tensor | Iterable[Tensor],
        codes: Tensor | None = None,
        loss: Tensor | None = None,
        *,
        measures: Measures | None = None,
    ) -> Quantized:
        if codes is None or loss is None:
            parts = tuple(quantized)
            if len(parts) != 3:
                raise TypeError(f"Quantized takes {', '.join(_NAMES)}; got {len(parts)} values")
            return super().__new__(cls, parts)
        return super().__new__(cls, cast("tuple[Tensor, Tensor, Tensor]", (quantized, codes, loss)))

    def __init__(
        self,
        quantized: Tensor | Iterable[Tensor],
        codes: Tensor | None = None,
        loss: Tensor | None = None,
        *,
        measures: Measures | None = None,
    ) -> None:
        self.measures = measures

    @property
    def quantized(self) -> Tensor:
        """The centroids of the codes, of the shape and dtype of x; 0 where masked."""
        return self[0]

    @property
    def codes(self) -> Tensor:
        """The codes, of the quantizer's code_dtype, of the shape of x without its features, then
        (heads,) or (levels,); -1 where masked."""
        return self[1]

    @property
    def loss(self) -> Tensor:
        """The loss, (), with a gradient."""
        return self[2]

    @property
    def distances(self) -> Tensor:
        """Squared distance of each vector to its code, or 1 - cos, of the shape of the codes; 0
        where masked. A level of a residual quantizer measures what the levels before it left; a
        projection measures behind it. With a gradient for x, none for the codebook."""
        measures = self._known()
        return (self._joined(measures.errors) * measures.scale).where(self.codes >= 0, 0.0)

    @property
    def sample_loss(self) -> Tensor:
        """The loss of each sample, of the shape of x without its features; 0 where masked. Its
        mean over the samples that count, weighted by sample_weight, is the loss, and so is its
        gradient."""
        measures = self._known()
        losses = self._joined(measures.losses).where(self.codes >= 0, 0.0)
        if measures.axis is None:
            return losses
        return losses.sum(dim=-1) if measures.axis == "levels" else losses.mean(dim=-1)

    @property
    def perplexity(self) -> Tensor:
        """exp of the entropy of how often this batch, on this rank, takes each code, from 1 to
        k, and 0 without samples; (), (heads,) or (levels,)."""
        counts = self._counts()
        total = counts.sum(dim=-1, keepdim=True)
        shares = counts / total.clamp(min=1)
        entropy = torch.special.entr(shares).sum(dim=-1)
        return self._by_codebook((entropy.exp() * (total.squeeze(-1) > 0)).float())

    @property
    def usage(self) -> Tensor:
        """Share of the codes that this batch, on this rank, takes at least once; (), (heads,) or
        (levels,). Over many batches see ``(vq.codebook.counts > 0)``, the moving counts."""
        in_use = (self._counts() > 0).sum(dim=-1)
        shares = [used / k for used, k in zip(in_use, self._known().sizes, strict=True)]
        return self._by_codebook(torch.stack(shares).float())

    def _joined(self, parts: tuple[Tensor, ...]) -> Tensor:
        """Errors or losses, of the shape of the codes."""
        parts = self._shaped(parts)
        return torch.stack(parts, dim=-1) if self._known().axis == "levels" else parts[0]

    def _shaped(self, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        measures = self._known()
        if not measures.by_row:
            return parts
        shape = self.codes.shape[:-1] if measures.axis == "levels" else self.codes.shape
        return tuple(part.T.reshape(shape) for part in parts)

    def _known(self) -> Measures:
        if self.measures is None:
            raise ValueError(
                "a Quantized that was put together from tensors knows these three alone; read "
                "distances, sample_loss, perplexity and usage of what a quantizer returned"
            )
        return self.measures

    def _counts(self) -> Tensor:
        """How often each code is taken, (codebooks, largest k)."""
        sizes = self._known().sizes
        books, slots = len(sizes), max(sizes) + 1  # slot 0 for -1
        codes = self.codes.long().reshape(-1, books)
        index = codes + 1 + torch.arange(books, device=codes.device) * slots
        ones = torch.ones(1, device=codes.device, dtype=accumulator_dtype(codes.device))
        counts = ones.new_zeros(books * slots)
        counts.index_add_(0, index.flatten(), ones.expand(index.numel()))
        return counts.view(books, slots)[:, 1:]

    def _by_codebook(self, values: Tensor) -> Tensor:
        return values.squeeze(0) if self._known().axis is None else values

    def _asdict(self) -> dict[str, Tensor]:
        return dict(zip(_NAMES, self, strict=True))

    def _replace(self, **tensors: Tensor) -> Quantized:
        """A copy in which some of the three are others, as of a NamedTuple."""
        return Quantized(*{**self._asdict(), **tensors}.values(), measures=self.measures)

    def __repr__(self) -> str:
        parts = (f"{name}={tensor!r}" for name, tensor in self._asdict().items())
        return f"Quantized({', '.join(parts)})"


def _flatten(output: Quantized) -> tuple[list[Any], Any]:
    if output.measures is None:
        return list(output), None
    errors, losses, scale, sizes, axis, _ = output.measures
    leaves = [*output, *output._shaped(errors), *output._shaped(losses)]
    return leaves, [scale, list(sizes), axis]


def _unflatten(leaves: Iterable[Any], context: Any) -> Quantized:
    tensors = list(leaves)
    if context is None:
        return Quantized(*tensors)
    scale, sizes, axis = context
    half = (3 + len(tensors)) // 2
    errors, losses = tuple(tensors[3:half]), tuple(tensors[half:])
    measures = Measures(errors, losses, scale, tuple(sizes), axis, by_row=False)
    return Quantized(*tensors[:3], measures=measures)


pytree.register_pytree_node(
    Quantized,
    _flatten,
    cast("Any", _unflatten),
    serialized_type_name="kmeans_module.quantization.Quantized",
)
