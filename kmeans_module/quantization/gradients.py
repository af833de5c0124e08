"""How gradients pass the choice of a code, which has none; and the loss.

Each estimator returns the quantized vectors as they are: it adds a zero, a linear map of
x - sg[x], whose derivative is the gradient it wants. Plain operators have derivatives of every
order and kind, and are traced and exported as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kmeans_module.core.distances import squared_distances
from kmeans_module.core.guard import differentiated
from kmeans_module.core.soft import in_chunks

ESTIMATORS = ("straight-through", "rotation", "gumbel")


def straight_through(x: Tensor, quantized: Tensor) -> Tensor:
    """The quantized vectors, with the gradient passed on to x unchanged.

    Source: Bengio, Leonard & Courville, arXiv:1308.3432; van den Oord, Vinyals & Kavukcuoglu,
    Neural discrete representation learning, NeurIPS 2017.

    Args:
        x, quantized: (..., d).
    """
    if not differentiated(x):
        return quantized  # no copy
    return quantized + (x - x.detach()).to(quantized.dtype)


def rotate(x: Tensor, quantized: Tensor) -> Tensor:
    """The quantized vectors, as x turned and stretched: so is the gradient that x gets.

    A gradient keeps its angle to the vector, which straight-through does not do. Where x or
    its code is zero, the gradient passes unchanged.

    Source: Fifty et al., Restructuring vector quantization with the rotation trick,
    arXiv:2410.06424, section 4.

    Args:
        x, quantized: (..., d).
    """
    if not differentiated(x):
        return quantized
    source, target = x.detach(), quantized.detach()
    length = torch.linalg.vector_norm(source, dim=-1, keepdim=True)
    target_length = torch.linalg.vector_norm(target, dim=-1, keepdim=True)
    turns = (length > 0) & (target_length > 0)
    scale = (target_length / length).where(turns, 1.0)
    source = (source / length).where(turns, 0.0)
    target = (target / target_length).where(turns, 0.0)
    middle = source + target
    middle = middle / torch.linalg.vector_norm(middle, dim=-1, keepdim=True).clamp(min=1e-6)
    zero = x - x.detach()
    turned: Tensor = (
        zero
        - 2 * middle * (middle * zero).sum(dim=-1, keepdim=True)
        + 2 * target * (source * zero).sum(dim=-1, keepdim=True)
    )
    turned = scale * turned
    return quantized + turned.to(quantized.dtype)


def gumbel(
    x: Tensor, centroids: Tensor, *, temperature: float, metric: str = "euclidean"
) -> tuple[Tensor, Tensor]:
    """Codes drawn from softmax(-distance / T), and their centroids with relaxed gradients.

    What ``F.gumbel_softmax(-distance / T, hard=True) @ centroids`` is, in chunks: no (n, k) is
    kept. Gradients flow to x, and to centroids.

    Source: Jang, Gu & Poole, Categorical reparameterization with Gumbel-softmax, ICLR 2017.

    Args:
        x: (..., n, d).
        centroids: (..., k, d).
        temperature: T; towards 0 the nearest centroid is drawn.
        metric: "euclidean" or "cosine".

    Returns:
        quantized (..., n, d) and codes (..., n) int64.
    """

    def draw(rows: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
        scores = squared_distances(rows, centroids, metric=metric) / -temperature
        noise = torch.empty_like(scores).exponential_().log().neg()
        scores = scores + noise
        codes = scores.argmax(dim=-1, keepdim=True)
        index = codes.expand(*codes.shape[:-1], centroids.shape[-1])
        hard = centroids.gather(-2, index)
        soft = scores.softmax(dim=-1) @ centroids.detach().to(scores.dtype)
        return hard + (soft - soft.detach()).to(hard.dtype), codes

    quantized, codes = in_chunks(draw, x, centroids)
    return quantized, codes.squeeze(-1)


def quantization_losses(
    x: Tensor, quantized: Tensor, *, commitment: float, learns_by_gradient: bool
) -> tuple[Tensor, Tensor]:
    """β ‖x - sg[q]‖², and ‖sg[x] - q‖² where the codebook learns by gradient, of each row.

    Source: van den Oord, Vinyals & Kavukcuoglu, NeurIPS 2017, equation 3.

    Args:
        x: (..., n, d).
        quantized: the centroids of the codes, (..., n, d).
        commitment: β.
        learns_by_gradient: whether the second term, for the codebook, is added.

    Returns:
        The first squared difference, and the loss: means over features, (..., n) both.
    """
    if quantized.dtype != x.dtype:
        quantized = quantized.to(x.dtype)
    errors = (x - quantized.detach()).square().mean(dim=-1)
    losses = commitment * errors
    if learns_by_gradient:
        losses = losses + (x.detach() - quantized).square().mean(dim=-1)
    return errors, losses


def mean_loss(losses: Tensor, counted: Tensor | None) -> Tensor:
    """The mean () over rows that count; 0 where no row counts.

    Args:
        losses: (..., n).
        counted: which rows count, (..., n) bool, or how much, floats; None for all alike.
    """
    if counted is None:
        return losses.sum() / max(losses.numel(), 1)
    if counted.dtype == torch.bool:
        return losses.where(counted, 0.0).sum() / counted.sum().clamp(min=1)
    total = counted.sum()
    weighted = (losses.where(counted > 0, 0.0) * counted).sum() / total.where(total > 0, 1.0)
    return weighted.to(losses.dtype)
