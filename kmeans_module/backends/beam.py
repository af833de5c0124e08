"""Codes of several levels whose centroids add up to a vector.

Levels are chosen one after the other; a beam keeps the best few choices so far (Babenko &
Lempitsky, Additive quantization, CVPR 2014, section 3; Liu et al., Improved residual vector
quantization, arXiv:1509.05195).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kmeans_module.backends.native import workspace as native
from kmeans_module.backends.reference import full_precision

_CHUNK = 1 << 21  # numbers in the scores of a chunk
_MOST_BEAMS = 64  # that the native kernel keeps


def beam_search(x: Tensor, codebooks: Tensor, *, beam_size: int) -> tuple[Tensor, Tensor]:
    """The codes whose centroids add up nearest to each sample, as a beam search finds them.

    Args:
        x: (n, d).
        codebooks: (L, k, d), L levels, of the dtype of x.
        beam_size: choices kept at each level, at least 1.

    Returns:
        codes (n, L) int64, and what they leave of the samples, (n, d).
    """
    if native.serves(x) and x.dtype == torch.float32 and beam_size <= _MOST_BEAMS:
        return _native(x.contiguous(), codebooks.contiguous(), beam_size)
    size = max(1, _CHUNK // (beam_size * codebooks.shape[1]))
    chunks = [_reference(rows, codebooks, beam_size) for rows in torch.split(x, size)]
    codes = torch.cat([codes for codes, _ in chunks])
    return codes, torch.cat([left for _, left in chunks])


def _native(x: Tensor, codebooks: Tensor, beam_size: int) -> tuple[Tensor, Tensor]:
    levels, k, _ = codebooks.shape
    codes = torch.empty((len(x), levels), dtype=torch.int64)
    left = torch.empty_like(x)
    library = native.library()
    assert library is not None
    if library.km_beam_search(
        x.data_ptr(), *x.shape, codebooks.data_ptr(), levels, k, beam_size, codes.data_ptr(),
        left.data_ptr(), torch.get_num_threads(),
    ):  # fmt: skip
        raise MemoryError(f"no memory for a beam search of {tuple(x.shape)} rows")
    return codes, left


def _reference(rows: Tensor, codebooks: Tensor, beam_size: int) -> tuple[Tensor, Tensor]:
    n, d = rows.shape
    k = codebooks.shape[1]
    left = rows.unsqueeze(1)  # (n, beams, d)
    codes = rows.new_zeros((n, 1, 0), dtype=torch.int64)
    every = torch.arange(n, device=rows.device).unsqueeze(1)
    for codebook in codebooks:
        beams = left.shape[1]
        half_norms = codebook.square().sum(dim=-1) / 2
        with full_precision(rows.device):
            scores = torch.addmm(half_norms, left.reshape(-1, d), codebook.T, alpha=-1)
        scores = scores.view(n, beams, k) + left.square().sum(dim=-1, keepdim=True) / 2
        best = scores.flatten(1).topk(min(beam_size, beams * k), dim=-1, largest=False).indices
        beam, code = best // k, best % k
        left = left[every, beam] - codebook[code]
        codes = torch.cat([codes[every, beam], code.unsqueeze(-1)], dim=-1)
    return codes[:, 0], left[:, 0]  # topk sorts
