"""Codes in as few bytes as they need."""

from __future__ import annotations

import torch
from torch import Tensor

from kmeans_module import checks as check
from kmeans_module.quantization.layout import check_codes, check_range


def bits_of(n_clusters: int) -> int:
    """Bits of one code: enough for 0 .. k-1."""
    return max(1, (n_clusters - 1).bit_length())


def pack(codes: Tensor, n_clusters: int) -> Tensor:
    """Codes one after the other, the lowest bits first, as faiss packs them.

    Args:
        codes: from 0 to k-1, (..., m) integers.
        n_clusters: k.

    Returns:
        (..., ceil(m · bits / 8)) uint8.

    Raises:
        TypeError: codes that are not integers.
        ValueError: codes that are not in 0 .. k-1.

    Example:
        >>> import torch
        >>> pack(torch.tensor([[1, 2, 3]]), n_clusters=16)
        tensor([[33,  3]], dtype=torch.uint8)
    """
    n_clusters = check.check_integer("n_clusters", n_clusters, minimum=1)
    codes = check_codes(codes)
    if codes.ndim < 1:
        raise ValueError("codes should have shape (..., m); got ()")
    check_range(codes, n_clusters)
    bits = bits_of(n_clusters)
    if bits == 8:
        return codes.to(torch.uint8)
    places = torch.arange(bits, device=codes.device)
    stream = (codes.unsqueeze(-1) >> places & 1).flatten(-2)
    stream = torch.nn.functional.pad(stream, (0, -stream.shape[-1] % 8))
    values = 1 << torch.arange(8, device=codes.device)
    stream = stream.reshape(*codes.shape[:-1], stream.shape[-1] // 8, 8)
    packed: Tensor = (stream * values).sum(dim=-1).to(torch.uint8)
    return packed


def unpack(packed: Tensor, n_clusters: int, n_codes: int) -> Tensor:
    """The codes that :func:`pack` packed.

    Args:
        packed: (..., ceil(m · bits / 8)) uint8.
        n_clusters: k.
        n_codes: m.

    Returns:
        (..., m) int64.

    Raises:
        ValueError: another number of bytes, or another dtype; bytes that hold a code of k or more.
    """
    packed = check.check_tensor("packed", packed)
    n_clusters = check.check_integer("n_clusters", n_clusters, minimum=1)
    n_codes = check.check_integer("n_codes", n_codes, minimum=0)
    bits = bits_of(n_clusters)
    n_bytes = (n_codes * bits + 7) // 8
    if packed.dtype != torch.uint8 or packed.ndim < 1 or packed.shape[-1] != n_bytes:
        raise ValueError(
            f"packed should be uint8 of {n_bytes} bytes for {n_codes} codes of {bits} bits; "
            f"got {packed.dtype} of shape {tuple(packed.shape)}"
        )
    codes = packed.long()
    if bits != 8:
        places = torch.arange(8, device=packed.device)
        stream = (codes.unsqueeze(-1) >> places & 1).flatten(-2)
        stream = stream[..., : n_codes * bits].reshape(*packed.shape[:-1], n_codes, bits)
        codes = (stream << torch.arange(bits, device=packed.device)).sum(dim=-1)
    if n_clusters < 2**bits:
        check_range(codes, n_clusters)
    return codes
