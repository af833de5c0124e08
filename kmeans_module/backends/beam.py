"""Beam search in plain torch, see :func:`kmeans_module.backends.beam_search`."""

from __future__ import annotations

import torch
from torch import Tensor

from kmeans_module.core.distances import full_precision
from kmeans_module.core.guard import for_other_inputs

_CHUNK = 1 << 21  # numbers in the scores of a chunk


def torch_beam_search(x: Tensor, codebooks: Tensor, *, beam_size: int) -> tuple[Tensor, Tensor]:
    """See :func:`kmeans_module.backends.beam_search`."""
    if for_other_inputs():
        return _search(x, codebooks, beam_size)
    size = max(1, _CHUNK // (beam_size * codebooks.shape[1]))
    chunks = [_search(rows, codebooks, beam_size) for rows in torch.split(x, size)]
    codes = torch.cat([codes for codes, _ in chunks])
    return codes, torch.cat([left for _, left in chunks])


def _search(rows: Tensor, codebooks: Tensor, beam_size: int) -> tuple[Tensor, Tensor]:
    n, d = rows.shape
    k = codebooks.shape[1]
    left = rows.unsqueeze(1)  # (n, beams, d)
    codes: Tensor | None = None  # (n, beams, levels so far)
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
        chosen = code.unsqueeze(-1)
        codes = chosen if codes is None else torch.cat([codes[every, beam], chosen], dim=-1)
    assert codes is not None
    return codes[:, 0], left[:, 0]  # topk sorts
