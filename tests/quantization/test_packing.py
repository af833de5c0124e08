"""Promises of packed codes: nothing is lost, and the bytes are those of faiss."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kmeans_module.quantization.packing import bits_of, pack, unpack
from tests.conftest import seeded


@given(
    k=st.one_of(st.integers(1, 70), st.integers(1, 2**20)), m=st.integers(1, 20),
    rows=st.sampled_from([(), (1,), (7,), (2, 3), (0,)]), seed=st.integers(0, 999),
)  # fmt: skip
def test_unpacking_gives_back_what_was_packed(
    k: int, m: int, rows: tuple[int, ...], seed: int
) -> None:
    codes = torch.randint(k, (*rows, m), generator=seeded(seed))
    codes.view(-1)[:1] = k - 1
    packed = pack(codes, k)
    assert packed.dtype == torch.uint8
    assert packed.shape == (*rows, -(-m * bits_of(k) // 8))
    found = unpack(packed, k, m)
    assert found.dtype == torch.int64
    assert torch.equal(found, codes)


@pytest.mark.parametrize(
    ("k", "bits"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (256, 8), (257, 9), (65536, 16)]
)
def test_a_code_has_as_few_bits_as_hold_it(k: int, bits: int) -> None:
    assert bits_of(k) == bits


@pytest.mark.parametrize("bits", [1, 4, 6, 8, 10, 12])
def test_bytes_are_those_of_faiss(bits: int) -> None:
    faiss = pytest.importorskip("faiss")
    codes = torch.randint(2**bits, (50, 5), generator=seeded())
    packed = pack(codes, 2**bits)
    theirs = faiss.pack_bitstrings(codes.int().numpy(), bits)
    assert packed.tolist() == theirs.tolist()
    assert unpack(torch.from_numpy(theirs), 2**bits, 5).tolist() == codes.tolist()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_codes_of_every_integer_type_are_packed_alike(dtype: torch.dtype) -> None:
    codes = torch.randint(100, (20, 3), generator=seeded())
    assert torch.equal(pack(codes.to(dtype), 100), pack(codes, 100))


@pytest.mark.parametrize("codes", [[[0, 16]], [[-1, 3]]])
@pytest.mark.parametrize("k", [16, 15])
def test_codes_out_of_range_are_refused(codes: list[list[int]], k: int) -> None:
    with pytest.raises(ValueError, match=rf"codes should be from 0 to {k - 1}; got"):
        pack(torch.tensor(codes), k)


def test_bytes_that_do_not_fit_are_refused() -> None:
    packed = pack(torch.tensor([[1, 2, 3]]), 16)
    with pytest.raises(ValueError, match=r"uint8 of 3 bytes for 5 codes of 4 bits; got .*\(1, 2\)"):
        unpack(packed, 16, 5)
    with pytest.raises(ValueError, match=r"got torch\.int64"):
        unpack(packed.long(), 16, 3)


def test_what_is_no_code_is_neither_packed_nor_unpacked() -> None:
    with pytest.raises(TypeError, match=r"codes should be integers; got torch\.float32"):
        pack(torch.tensor([[1.0, 2.0]]), 256)
    with pytest.raises(ValueError, match=r"codes should have shape \(\.\.\., m\); got \(\)"):
        pack(torch.tensor(3), 16)
    packed = pack(torch.tensor([[12, 3]]), 13)
    packed[0, 0] |= 15
    with pytest.raises(ValueError, match="codes should be from 0 to 12; got 3 to 15"):
        unpack(packed, 13, 2)
    with pytest.raises(TypeError, match=r"packed should be a torch\.Tensor; got list"):
        unpack([33, 3], 16, 3)  # type: ignore[arg-type]


@given(
    k=st.integers(2, 300), m=st.integers(1, 6), seed=st.integers(0, 999),
    dtype=st.sampled_from([torch.uint8, torch.int16, torch.int32, torch.int64]),
)  # fmt: skip
def test_codes_of_any_type_and_number_come_back(
    k: int, m: int, seed: int, dtype: torch.dtype
) -> None:
    most = min(k, torch.iinfo(dtype).max + 1)
    codes = torch.randint(most, (9, m), generator=seeded(seed))
    assert torch.equal(unpack(pack(codes.to(dtype), k), k, m), codes)
