"""Beam search in plain torch, see :func:`kmeans_module.backends.beam_search`.

A choice is a beam of the level before and a centroid; its number is beam · k + centroid. Products
only discard choices, with a margin for their rounding; among the others Σ(r - c)² decides, and
ties go to the lowest number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kmeans_module.core.distances import full_precision, pairwise_distances
from kmeans_module.core.guard import for_onnx, for_other_inputs, under_mode

_CHUNK = 1 << 21  # numbers in the scores of a chunk
_TINY = {torch.float32: 1e-30, torch.float64: 1e-290}  # of which underflow leaves nothing


def torch_beam_search(x: Tensor, codebooks: Tensor, *, beam_size: int) -> tuple[Tensor, Tensor]:
    """See :func:`kmeans_module.backends.beam_search`."""
    return search_levels(x, list(codebooks), beam_size=beam_size)


def search_levels(
    x: Tensor, codebooks: Sequence[Tensor], *, beam_size: int
) -> tuple[Tensor, Tensor]:
    """The same for codebooks (k, d) of levels that may differ in size."""
    if for_other_inputs():
        return _search(x, codebooks, beam_size)
    size = max(1, _CHUNK // (beam_size * max(len(book) for book in codebooks)))
    chunks = [_search(rows, codebooks, beam_size) for rows in torch.split(x, size)]
    codes = torch.cat([codes for codes, _ in chunks])
    return codes, torch.cat([left for _, left in chunks])


def _search(rows: Tensor, codebooks: Sequence[Tensor], beam_size: int) -> tuple[Tensor, Tensor]:
    left = rows.unsqueeze(1)  # (n, beams, d)
    codes: Tensor | None = None  # (n, beams, levels so far)
    for codebook in codebooks:
        k = len(codebook)
        wanted = min(beam_size, left.shape[1] * k)
        best = _choose_among_all if under_mode() or left.is_meta else _choose
        choice = best(left, codebook, wanted)
        beam, code = (choice // k).unsqueeze(-1), choice % k
        left = left.gather(1, beam.expand(-1, -1, left.shape[-1])) - codebook[code]
        chosen = code.unsqueeze(-1)
        if codes is not None:
            earlier = codes.gather(1, beam.expand(-1, -1, codes.shape[-1]))
            chosen = torch.cat([earlier, chosen], dim=-1)
        codes = chosen
    assert codes is not None
    return codes[:, 0], left[:, 0]


def _choose_among_all(left: Tensor, codebook: Tensor, wanted: int) -> Tensor:
    """The wanted choices, the nearest first, (n, wanted): every distance is computed."""
    distances = pairwise_distances(left, codebook).flatten(1)
    distances = distances.where(distances < math.inf, math.inf)
    if for_onnx():  # which does not know a stable sort, but takes ties by the lowest index
        return distances.topk(wanted, dim=-1, largest=False).indices
    return distances.sort(dim=-1, stable=True).indices[:, :wanted]


def _choose(left: Tensor, codebook: Tensor, wanted: int) -> Tensor:
    """The same, of vectors (n, beams, d) and centroids (k, d), by screening."""
    n, beams, d = left.shape
    k = len(codebook)
    # A median, since a few centroids far away should not matter.
    offset = codebook.median(dim=0).values
    vectors, centroids = left.reshape(-1, d) - offset, codebook - offset
    # The error of a sum of d products, in whatever order, of norms and of differences.
    margin, tiny = (d + 64) * torch.finfo(left.dtype).eps, _TINY[left.dtype]
    norms = vectors.square().sum(dim=-1, keepdim=True), centroids.square().sum(dim=-1)
    least = norms[0] * (1 - margin) - tiny + norms[1] * (1 - margin)
    with full_precision(left.device):
        least = least.addmm_(vectors, centroids.T, alpha=-2).view(n, beams * k)
    value, first = least.topk(wanted, dim=-1, largest=False)
    most = value + 2 * tiny
    most += 2 * margin * (norms[0].view(n, beams).gather(1, first // k) + norms[1][first % k])
    kept = (least > most.amax(dim=-1, keepdim=True)).logical_not_()  # what overflows stays
    row, choice = kept.nonzero(as_tuple=True)
    counts = torch.bincount(row, minlength=n)
    place = torch.arange(len(row), device=row.device) - (counts.cumsum(dim=0) - counts)[row]
    distances = torch.cat(
        [
            (left[of, number // k] - codebook[number % k]).square().sum(dim=-1)
            for of, number in zip(_pieces(row, d), _pieces(choice, d), strict=True)
        ]
    )
    distances = distances.where(distances < math.inf, math.inf)
    shape = (n, int(counts.max()) if n else wanted)
    candidates = choice.new_zeros(shape).index_put_((row, place), choice)
    measured = distances.new_full(shape, math.inf).index_put_((row, place), distances)
    # Padding comes last: it lies behind the candidates, as far as any can be.
    nearest = measured.sort(dim=-1, stable=True).indices[:, :wanted]
    return candidates.gather(1, nearest)


def _pieces(values: Tensor, d: int) -> tuple[Tensor, ...]:
    return torch.split(values, max(1, _CHUNK // d))
