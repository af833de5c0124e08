"""Promises of codes in smaller integers: the same codes, -1 too, and nothing overflows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kmeans_module import ProductQuantizer, ResidualQuantizer, VectorQuantizer
from tests.quantization.helpers import normal

D = 8
KINDS: dict[str, Callable[..., Any]] = {
    "vector": lambda **options: VectorQuantizer(16, D, **options),
    "heads": lambda **options: VectorQuantizer(16, D, heads=2, **options),
    "product": lambda **options: ProductQuantizer(16, D, 4, **options),
    "one part": lambda **options: ProductQuantizer(16, D, 1, **options),
    "residual": lambda **options: ResidualQuantizer([16, 4], D, **options),
    "shared": lambda **options: ResidualQuantizer(16, D, 2, shared_codebook=True, **options),
}


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("name", KINDS)
def test_codes_are_of_the_dtype_that_is_asked_for(name: str, dtype: torch.dtype) -> None:
    found = []
    for own in (torch.int64, dtype):
        torch.manual_seed(0)
        quantizer = KINDS[name](code_dtype=own)
        assert quantizer.code_dtype == own
        mask = torch.arange(60) % 4 > 0
        outputs = [quantizer(normal(60, D, seed=step), mask) for step in range(3)]
        codes = [output.codes for output in outputs]
        codes += [quantizer.eval()(normal(60, D)).codes, quantizer.encode(normal(60, D))]
        assert {code.dtype for code in codes} == {own}
        assert (codes[0][~mask] == -1).all()
        assert all(output.perplexity.isfinite().all() for output in outputs)
        found.append(codes)
        assert quantizer.encode(normal(60, D), dtype=dtype).dtype == dtype
        assert torch.equal(quantizer.decode(codes[0]), quantizer.decode(codes[0].long()))
    for wide, narrow in zip(*found, strict=True):
        assert torch.equal(wide, narrow.long())


@pytest.mark.parametrize("name", KINDS)
def test_codes_of_any_integer_type_are_decoded_and_packed(name: str) -> None:
    quantizer = KINDS[name]()
    quantizer(normal(60, D))
    quantizer.eval()
    codes = quantizer.encode(normal(60, D))
    expected = quantizer.decode(codes)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16):
        assert torch.equal(quantizer.decode(codes.to(dtype)), expected)
        if hasattr(quantizer, "pack"):
            assert torch.equal(quantizer.pack(codes.to(dtype)), quantizer.pack(codes))
    for dtype in (torch.float32, torch.bool):
        with pytest.raises(TypeError, match="codes should be integers"):
            quantizer.decode(codes.to(dtype))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.float32, "int16", int])
def test_other_types_are_refused(name: str, dtype: Any) -> None:
    with pytest.raises(TypeError, match=r"code_dtype should be one of torch\.int16"):
        KINDS[name](code_dtype=dtype)
    quantizer = KINDS[name]()
    with pytest.raises(TypeError, match=r"dtype should be one of torch\.int16"):
        quantizer.encode(normal(5, D), dtype=dtype)


def test_a_type_that_the_codes_overflow_is_refused() -> None:
    VectorQuantizer(2**15, 1, code_dtype=torch.int16)
    many: list[Callable[..., Any]] = [
        lambda **options: VectorQuantizer(2**15 + 1, 1, **options),
        lambda **options: ProductQuantizer(2**15 + 1, 2, 2, **options),
        lambda **options: ResidualQuantizer([2, 2**15 + 1], 1, **options),
    ]
    for make in many:
        with pytest.raises(ValueError, match=r"code_dtype=torch\.int16 overflows with n_clusters"):
            make(code_dtype=torch.int16)
        quantizer = make()
        with pytest.raises(ValueError, match=r"dtype=torch\.int16 overflows with n_clusters=32769"):
            quantizer.encode(normal(5, quantizer.n_features), dtype=torch.int16)
