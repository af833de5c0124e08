"""Codes in as few bytes as they need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from kmeans_module import checks as check
from kmeans_module.quantization.layout import check_codes, check_range


def bits_of(n_clusters: int) -> int:
    """Bits of one code: enough for 0 .. k-1."""
    return max(1, (n_clusters - 1).bit_length())


def pack(codes: Tensor, n_clusters: int | Sequence[int]) -> Tensor:
    """Codes one after the other, the lowest bits first, as faiss packs them.

    Args:
        codes: from 0 to k-1, (..., m) integers.
        n_clusters: k; or a k for each of the m codes, or of more.

    Returns:
        (..., ceil(m · bits / 8)) uint8; each code has the bits that its k needs.

    Raises:
        TypeError: codes that are not integers.
        ValueError: codes that are not in 0 .. k-1.

    Example:
        >>> import torch
        >>> pack(torch.tensor([[1, 2, 3]]), n_clusters=16)
        tensor([[33,  3]], dtype=torch.uint8)
    """
    codes = check_codes(codes)
    if codes.ndim < 1:
        raise ValueError("codes should have shape (..., m); got ()")
    sizes = _sizes(n_clusters, codes.shape[-1], "codes")
    if len(set(sizes)) > 1:
        columns = zip(torch.split(codes, 1, dim=-1), sizes, strict=True)
        return _bytes(torch.cat([_bits(column, k) for column, k in columns], dim=-1))
    k = sizes[0] if sizes else 1
    if bits_of(k) != 8:
        return _bytes(_bits(codes, k))
    check_range(codes, k)
    return codes.to(torch.uint8)


def unpack(packed: Tensor, n_clusters: int | Sequence[int], n_codes: int) -> Tensor:
    """The codes that :func:`pack` packed.

    Args:
        packed: (..., ceil(m · bits / 8)) uint8.
        n_clusters: k; or a k for each of the m codes, or of more.
        n_codes: codes of a row, m.

    Returns:
        (..., m) int64.

    Raises:
        ValueError: another number of bytes, or another dtype; bytes that hold a code of k or more.
    """
    packed = check.check_tensor("packed", packed)
    n_codes = check.check_integer("n_codes", n_codes, minimum=0)
    sizes = _sizes(n_clusters, n_codes, "n_codes")
    bits = [bits_of(k) for k in sizes]
    n_bytes = (sum(bits) + 7) // 8
    if packed.dtype != torch.uint8 or packed.ndim < 1 or packed.shape[-1] != n_bytes:
        of = "/".join(map(str, dict.fromkeys(bits)))
        raise ValueError(
            f"packed should be uint8 of {n_bytes} bytes for {n_codes} codes of {of} bits; "
            f"got {packed.dtype} of shape {tuple(packed.shape)}"
        )
    if set(bits) <= {8}:
        codes = packed.long()
    else:
        places = torch.arange(8, device=packed.device)
        stream = (packed.long().unsqueeze(-1) >> places & 1).flatten(-2)[..., : sum(bits)]
        codes = torch.cat([_numbers(part, n) for part, n in _runs(stream, bits)], dim=-1)
    for k in dict.fromkeys(sizes):  # torch.compile of 2.8 reads no Counter
        if k < 2 ** bits_of(k):
            same = [i for i, size in enumerate(sizes) if size == k]
            check_range(codes if len(same) == n_codes else codes[..., same], k)
    return codes


def _sizes(n_clusters: object, n_codes: int, name: str) -> list[int]:
    """k of each of so many codes."""
    if not isinstance(n_clusters, Sequence):
        return [check.check_integer("n_clusters", n_clusters, minimum=1)] * n_codes
    sizes = [check.check_integer("n_clusters", k, minimum=1) for k in n_clusters]
    if len(sizes) < n_codes:
        raise ValueError(
            f"{name} should be at most {len(sizes)}, the sizes of n_clusters; got {n_codes}"
        )
    return sizes[:n_codes]


def _bits(codes: Tensor, k: int) -> Tensor:
    """Bits of codes (..., m), lowest first, (..., m · bits)."""
    check_range(codes, k)
    places = torch.arange(bits_of(k), device=codes.device)
    return (codes.unsqueeze(-1) >> places & 1).flatten(-2)


def _bytes(stream: Tensor) -> Tensor:
    """Bytes of bits (..., n), (..., ceil(n / 8)) uint8."""
    stream = torch.nn.functional.pad(stream, (0, -stream.shape[-1] % 8))
    values = 1 << torch.arange(8, device=stream.device)
    stream = stream.reshape(*stream.shape[:-1], stream.shape[-1] // 8, 8)
    packed: Tensor = (stream * values).sum(dim=-1).to(torch.uint8)
    return packed


def _runs(stream: Tensor, bits: list[int]) -> Iterator[tuple[Tensor, int]]:
    """Stretches of a stream of bits (..., n) whose codes have equally many bits."""
    start = 0
    for n, run in groupby(bits):
        length = n * sum(1 for _ in run)
        yield stream[..., start : start + length], n
        start += length


def _numbers(stream: Tensor, n: int) -> Tensor:
    """Codes (..., m) int64 of n bits each, lowest first, (..., m · n)."""
    parts = stream.reshape(*stream.shape[:-1], stream.shape[-1] // n, n)
    return (parts << torch.arange(n, device=stream.device)).sum(dim=-1)
