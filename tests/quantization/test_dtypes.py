"""Promises of every door of the quantizers for rows of every dtype: distances are computed in the
wider dtype of rows and codebooks, at least float32, and codebooks are never rounded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kmeans_module import ProductQuantizer, ResidualQuantizer
from tests.conftest import seeded
from tests.quantization.helpers import normal

Quantizer = ProductQuantizer | ResidualQuantizer
HALF = (torch.float16, torch.bfloat16)
FLOATS = (*HALF, torch.float32, torch.float64)
INTEGERS = (torch.uint8, torch.int16, torch.int64)
KINDS = ("residual", "product", "rotated", "one part")

dtypes = pytest.mark.parametrize("dtype", FLOATS + INTEGERS)
kinds = pytest.mark.parametrize("kind", KINDS)
own_dtypes = pytest.mark.parametrize("own", [torch.float32, torch.float64, torch.bfloat16])


def rows_of(dtype: torch.dtype, n: int = 200) -> Tensor:
    x = normal(n, 8)
    return x.to(dtype) if dtype.is_floating_point else (20 * x + 100).clamp(0, 255).to(dtype)


def make(kind: str, **options: Any) -> Quantizer:
    if kind == "residual":
        return ResidualQuantizer(16, 8, 3, **options)
    parts = 1 if kind == "one part" else 4
    return ProductQuantizer(16, 8, parts, rotation=kind == "rotated", **options)


def fitted(kind: str, x: Tensor, dtype: torch.dtype) -> Quantizer:
    quantizer = make(kind, dtype=dtype).eval()
    quantizer.fit(x, max_iter=3, generator=seeded())
    return quantizer


@torch.no_grad()
def decoded(quantizer: Quantizer, codes: Tensor) -> Tensor:
    """What codes (n, m) stand for, in float64."""
    books = quantizer.codebooks.double()
    parts = [book[column] for book, column in zip(books, codes.T, strict=False)]
    if isinstance(quantizer, ResidualQuantizer):
        return torch.stack(parts).sum(dim=0)
    joined = torch.cat(parts, dim=1)
    return joined if quantizer.rotation is None else joined @ quantizer.rotation.weight.double()


@kinds
@dtypes
@own_dtypes
def test_every_door_takes_rows_of_every_dtype(
    kind: str, dtype: torch.dtype, own: torch.dtype
) -> None:
    x = rows_of(dtype)
    quantizer = fitted(kind, x, own)
    wide = torch.promote_types(own, torch.float32)
    if dtype.is_floating_point:
        wide = torch.promote_types(dtype, wide)
    codes, queries = quantizer.encode(x), x[:20]
    assert torch.equal(codes, quantizer.encode(x.to(wide)))
    tables, distances = quantizer.tables(queries), quantizer.distances(queries, codes)
    assert tables.dtype == distances.dtype == wide
    expected = torch.cdist(queries.double(), decoded(quantizer, codes)).square()
    torch.testing.assert_close(distances.double(), expected, rtol=1e-4, atol=1e-3)
    assert quantizer.decode(codes).dtype == own
    assert torch.equal(quantizer.unpack(quantizer.pack(codes)), codes)
    if not dtype.is_floating_point:
        with pytest.raises(TypeError, match="x should hold floats; got"):
            quantizer(x)
        return
    found = quantizer(x)
    assert found.quantized.dtype == dtype
    assert torch.equal(found.codes, codes)


@kinds
@pytest.mark.parametrize("own", [torch.float32, torch.float64, torch.float16])
def test_autocast_changes_nothing(kind: str, own: torch.dtype) -> None:
    x = rows_of(torch.float32)

    def results() -> list[Tensor]:
        quantizer = fitted(kind, x, own)
        codes = quantizer.encode(x)
        wider = {"beam_size": 4} if isinstance(quantizer, ResidualQuantizer) else {}
        return [
            codes,
            quantizer.encode(x, **wider),
            quantizer.codebooks,
            quantizer.decode(codes),
            quantizer.tables(x[:9]),
            quantizer.distances(x[:9], codes),
            *quantizer(x),
        ]

    expected = results()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = results()
    for value, wanted in zip(found, expected, strict=True):
        assert value.dtype == wanted.dtype
        assert torch.equal(value, wanted)


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_large_common_part_does_not_cancel(kind: str, dtype: torch.dtype) -> None:
    x = normal(500, 8, dtype=torch.float64)
    x[:, 1] = 3 * x[:, 0] + x[:, 1] / 10  # what a rotation finds
    plain, moved = x.to(dtype), (x + 1e4).to(dtype)
    quantizer = fitted(kind, moved, dtype)
    codes = quantizer.encode(moved)
    apart = (moved.double() - decoded(quantizer, codes)).square().sum(dim=1)
    near = fitted(kind, plain, dtype)
    nearer = (plain.double() - decoded(near, near.encode(plain))).square().sum(dim=1)
    assert apart.mean() < 1.15 * nearer.mean()
    expected = torch.cdist(moved[:20].double(), decoded(quantizer, codes)).square()
    found = quantizer.distances(moved[:20], codes).double()
    # A rotation is orthogonal but for rounding, of which 10,000 take their part.
    rotated = kind == "rotated" and dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=0.2 if rotated else 0.02)


@kinds
def test_a_query_of_half_precision_does_not_round_the_codebooks(kind: str) -> None:
    x = rows_of(torch.float32)
    quantizer = fitted(kind, x, torch.float32)
    codes = quantizer.encode(x)
    for dtype in HALF:
        queries = x[:10].to(dtype)
        for call in (quantizer.tables, lambda q: quantizer.distances(q, codes)):
            torch.testing.assert_close(call(queries), call(queries.float()), rtol=0, atol=0)


@kinds
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_codes_of_every_integer_type_mean_the_same(kind: str, dtype: torch.dtype) -> None:
    x = rows_of(torch.float32)
    quantizer = fitted(kind, x, torch.float32)
    codes = quantizer.encode(x)
    for call in (quantizer.decode, lambda c: quantizer.distances(x[:5], c), quantizer.pack):
        assert torch.equal(call(codes.to(dtype)), call(codes))


@kinds
@pytest.mark.parametrize("code", [-2, 16, -(2**40)])
def test_codes_that_name_no_centroid_are_refused_everywhere(kind: str, code: int) -> None:
    x = rows_of(torch.float32)
    quantizer = fitted(kind, x, torch.float32)
    codes = quantizer.encode(x)
    codes[3, 0] = code
    for call in (quantizer.decode, lambda c: quantizer.distances(x[:5], c), quantizer.pack):
        with pytest.raises(ValueError, match=r"codes should be from 0 to 15.*; got"):
            call(codes)


@kinds
def test_no_rows_one_row_and_strides_are_rows_too(kind: str) -> None:
    x = rows_of(torch.float32)
    quantizer = fitted(kind, x, torch.float32)
    codes = quantizer.encode(x)
    m = codes.shape[1]
    assert quantizer.encode(x[:0]).shape == (0, m)
    assert quantizer.decode(codes[:0]).shape == (0, 8)
    assert quantizer.distances(x[:0], codes).shape == (0, len(x))
    assert quantizer.distances(x, codes[:0]).shape == (len(x), 0)
    assert quantizer.tables(x[:0]).shape == (0, m, 16)
    assert quantizer.unpack(quantizer.pack(codes[:0])).shape == (0, m)
    assert torch.equal(quantizer.encode(x[5]), codes[5])
    assert torch.equal(quantizer.encode(x.view(4, 50, 8)), codes.view(4, 50, m))
    strided = torch.cat([x, x], dim=1)[:, :8], x.T.contiguous().T
    for rows in strided:
        assert torch.equal(quantizer.encode(rows), codes)
        torch.testing.assert_close(
            quantizer.distances(rows[:7], codes), quantizer.distances(x[:7], codes)
        )
