"""Promises of the beam search: what the torch reference finds, whatever the machine."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kmeans_module.backends import beam, beam_search, workspace
from kmeans_module.backends.beam import torch_beam_search
from tests.backends.conftest import INSTRUCTION_SETS, needs_native, use
from tests.conftest import seeded


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def problem(n: int, d: int, levels: int, k: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Samples, and codebooks of which each is finer than the one before."""
    generator = seeded(seed)
    scale = 0.6 ** torch.arange(levels).view(-1, 1, 1)
    x = torch.randn(n, d, generator=generator)
    return x, torch.randn(levels, k, d, generator=generator) * scale


def reconstruct(codes: Tensor, codebooks: Tensor) -> Tensor:
    return codebooks[torch.arange(len(codebooks)), codes].sum(dim=1)


def errors(x: Tensor, codes: Tensor, codebooks: Tensor) -> Tensor:
    """Squared errors in float64, (n,)."""
    return (x.double() - reconstruct(codes, codebooks.double())).square().sum(dim=-1)


def plain(x: Tensor, codebooks: Tensor, beam_size: int) -> Tensor:
    """Codes (n, L) of a beam search in float64, one sample and one choice after the other."""
    found = []
    for row in x.double().tolist():
        beams: list[tuple[float, tuple[int, ...], list[float]]] = [(0.0, (), row)]
        for codebook in codebooks.double().tolist():
            longer = []
            for _, codes, left in beams:
                for code, centroid in enumerate(codebook):
                    rest = [a - b for a, b in zip(left, centroid, strict=True)]
                    longer.append((sum(value**2 for value in rest), (*codes, code), rest))
            beams = sorted(longer, key=lambda choice: choice[0])[:beam_size]
        found.append(beams[0][1])
    return torch.tensor(found).view(len(x), len(codebooks))


def check(x: Tensor, codebooks: Tensor, beam_size: int) -> None:
    codes, left = beam_search(x, codebooks, beam_size=beam_size)
    expected, expected_left = torch_beam_search(x.double(), codebooks.double(), beam_size=beam_size)
    assert codes.dtype == torch.int64
    assert codes.shape == expected.shape
    assert left.shape == x.shape
    same = (codes == expected).all(dim=1)
    # Where rounding decides between two choices, one is as good as the other.
    assert same.double().mean() >= 0.98 or (~same).sum() <= 1
    torch.testing.assert_close(
        errors(x, codes, codebooks)[same], expected_left.square().sum(dim=-1)[same],
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip
    torch.testing.assert_close(left, x - reconstruct(codes, codebooks), rtol=1e-4, atol=1e-5)


KINDS = (
    "plain", "offset", "scales", "outliers", "duplicates", "integers", "tiny", "huge", "equal",
)  # fmt: skip


def hard_problem(
    kind: str, n: int, d: int, levels: int, k: int, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Samples and codebooks that make products cancel, overflow, underflow or tie."""
    x, codebooks = (tensor.to(dtype) for tensor in problem(n, d, levels, k, seed))
    if kind == "offset":
        x += 1e4
        codebooks[0] += 1e4
    elif kind == "scales":
        scale = 10 ** torch.linspace(-4, 4, d, dtype=dtype)
        x, codebooks = x * scale, codebooks * scale
    elif kind == "outliers":
        x[::7] *= 1e6
        codebooks[:, ::5] *= 1e5
    elif kind == "duplicates":
        codebooks[:, k // 2 :] = codebooks[:, : k - k // 2].clone()
    elif kind == "integers":
        x, codebooks = x.round(), (2 * codebooks).round()
    elif kind == "equal":
        codebooks[:] = 1
    size = {"tiny": 1e-19, "huge": 1e17}.get(kind, 1.0)
    return x * size, codebooks * size


def nearest(x: Tensor, codebooks: Tensor) -> tuple[Tensor, Tensor]:
    """Labels of what is left, level by level, and what is left."""
    codes = []
    for codebook in codebooks:
        labels, _ = workspace(x, once=True).assign(codebook.unsqueeze(0))
        codes.append(labels[0])
        x = x - codebook[labels[0]]
    return torch.stack(codes, dim=1), x


def assert_beams(x: Tensor, codebooks: Tensor, beam_size: int) -> None:
    """The search keeps the nearest choices, but for rounding, measured in float64."""
    codes, left = beam_search(x, codebooks, beam_size=beam_size)
    rows, k = torch.arange(len(x)).unsqueeze(1), codebooks.shape[1]
    vectors, chosen = x.unsqueeze(1), torch.zeros(len(x), 1, 0, dtype=torch.int64)
    for codebook in codebooks:
        apart = vectors.double().unsqueeze(2) - codebook.double()
        order = apart.square().sum(dim=-1).flatten(1).argsort(dim=1, stable=True)
        beam, code = order[:, :beam_size] // k, order[:, :beam_size] % k
        vectors = vectors[rows, beam] - codebook[code]
        chosen = torch.cat([chosen[rows, beam], code.unsqueeze(-1)], dim=-1)
    expected, found = vectors[:, 0].double().square().sum(1), left.double().square().sum(1)
    differ = (codes != chosen[:, 0]).any(dim=1)
    # Where rounding decides, another choice may lead to other ends, of which few are worse.
    assert differ.double().mean() <= 0.05 or differ.sum() <= 1
    assert found.sum() <= expected.sum() * (1 + 1e-4) + 1e-37


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_a_beam_keeps_the_nearest_whatever_the_data(
    kind: str, dtype: torch.dtype, kernel: str
) -> None:
    for d, k in ((3, 20), (8, 33), (9, 40), (40, 70)):
        assert_beams(*hard_problem(kind, 60, d, 3, k, dtype), beam_size=5)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_one_beam_takes_the_labels_of_what_is_left(
    kind: str, dtype: torch.dtype, instruction_set: str
) -> None:
    for n, d, levels, k in ((300, 1, 2, 5), (200, 8, 4, 70), (300, 9, 3, 33), (70, 1100, 3, 40)):
        x, codebooks = hard_problem(kind, n, d, levels, k, dtype)
        found, expected = beam_search(x, codebooks, beam_size=1), nearest(x, codebooks)
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


@needs_native
@settings(max_examples=40)
@given(
    kind=st.sampled_from(KINDS), n=st.integers(1, 40), d=st.integers(1, 40),
    levels=st.integers(1, 6), k=st.integers(1, 300), seed=st.integers(0, 999),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)  # fmt: skip
def test_one_beam_takes_the_labels_of_any_data(
    kind: str, n: int, d: int, levels: int, k: int, seed: int, dtype: torch.dtype
) -> None:
    x, codebooks = hard_problem(kind, n, d, levels, k, dtype, seed)
    found, expected = beam_search(x, codebooks, beam_size=1), nearest(x, codebooks)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("d", [2, 8, 9, 40])
@pytest.mark.parametrize("beam_size", [1, 3, 64])
def test_ties_go_to_the_lowest_codes(beam_size: int, d: int, kernel: str) -> None:
    x, codebooks = hard_problem("equal", 20, d, 4, 300, torch.float32)
    assert (beam_search(x, codebooks, beam_size=beam_size)[0] == 0).all()
    x, codebooks = hard_problem("plain", 20, d, 3, 10, torch.float32)
    twice = torch.cat([codebooks, codebooks], dim=1)
    assert (beam_search(x, twice, beam_size=2 * beam_size)[0] < 10).all()


@needs_native
def test_many_centroids_levels_and_beams_are_no_other_search() -> None:
    for n, d, levels, k, beam_size in ((6, 16, 2, 4096, 64), (20, 12, 16, 16, 64)):
        x, codebooks = hard_problem("offset", n, d, levels, k, torch.float64)
        found = beam_search(x, codebooks, beam_size=beam_size)
        expected = torch_beam_search(x, codebooks, beam_size=beam_size)
        assert torch.equal(found[0], expected[0])
        torch.testing.assert_close(found[1], expected[1])


def test_the_wider_dtype_is_computed_in(kernel: str) -> None:
    x, codebooks = problem(50, 12, 3, 20)
    codes, left = beam_search(x.half(), codebooks, beam_size=3)
    assert torch.equal(codes, beam_search(x.half().float(), codebooks, beam_size=3)[0])
    assert left.dtype == torch.float32
    codes, left = beam_search(x, codebooks.double(), beam_size=3)
    assert torch.equal(codes, beam_search(x.double(), codebooks.double(), beam_size=3)[0])
    assert left.dtype == torch.float64


@pytest.mark.parametrize("beam_size", [1, 2, 4, 30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_a_plain_beam_search(beam_size: int, dtype: torch.dtype, kernel: str) -> None:
    x, codebooks = problem(30, 3, 3, 5)
    codes, left = beam_search(x.to(dtype), codebooks.to(dtype), beam_size=beam_size)
    assert torch.equal(codes, plain(x, codebooks, beam_size))
    assert left.dtype == dtype


def test_an_exhaustive_beam_finds_the_best_of_all_codes(kernel: str) -> None:
    x, codebooks = problem(50, 4, 3, 4)
    codes, _ = beam_search(x, codebooks, beam_size=16)
    every = torch.tensor(list(itertools.product(range(4), repeat=3)))
    distances = torch.cdist(x.double(), reconstruct(every, codebooks.double()))
    assert torch.equal(codes, every[distances.argmin(dim=1)])


@needs_native
@settings(max_examples=60)
@given(
    n=st.integers(0, 70), d=st.integers(1, 40), levels=st.integers(1, 5), k=st.integers(1, 70),
    beam_size=st.sampled_from([1, 2, 3, 5, 8, 17, 64, 65]), seed=st.integers(0, 999),
)  # fmt: skip
def test_the_native_kernel_equals_the_reference(
    n: int, d: int, levels: int, k: int, beam_size: int, seed: int
) -> None:
    check(*problem(n, d, levels, k, seed), beam_size)


@needs_native
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize(
    ("n", "d", "levels", "k", "beam_size"),
    [(0, 3, 2, 4, 3), (1, 1, 1, 1, 1), (33, 7, 3, 16, 5), (65, 8, 2, 33, 64), (200, 64, 4, 15, 9),
     (300, 65, 1, 256, 4)],
)  # fmt: skip
def test_every_instruction_set_equals_the_reference(
    name: str, n: int, d: int, levels: int, k: int, beam_size: int
) -> None:
    if not use(name):
        pytest.skip(f"this processor has no {name}")
    try:
        check(*problem(n, d, levels, k), beam_size)
    finally:
        assert any(use(other) for other in reversed(INSTRUCTION_SETS))


@needs_native
def test_threads_and_neighbours_do_not_change_a_bit(threads: None) -> None:
    x, codebooks = problem(2000, 16, 4, 32)
    torch.set_num_threads(1)
    codes, left = beam_search(x, codebooks, beam_size=7)
    for count in (2, 3, 8):
        torch.set_num_threads(count)
        for found, expected in zip(
            beam_search(x, codebooks, beam_size=7), (codes, left), strict=True
        ):
            assert torch.equal(found, expected)
    alone = torch.cat([beam_search(row, codebooks, beam_size=7)[0] for row in x[:50].split(1)])
    assert torch.equal(alone, codes[:50])


@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded"])
def test_samples_may_lie_in_memory_as_they_like(layout: str, kernel: str) -> None:
    x, codebooks = problem(40, 6, 3, 5)
    if layout == "expanded":
        x = x[:1].expand(40, 6)
    expected = beam_search(x.clone(memory_format=torch.contiguous_format), codebooks, beam_size=3)
    if layout == "transposed":
        x, codebooks = x.T.contiguous().T, codebooks.mT.contiguous().mT
    elif layout == "strided":
        x = torch.cat([x, x], dim=1)[:, :6]
    found = beam_search(x, codebooks, beam_size=3)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1])


def test_no_samples_are_no_codes(kernel: str) -> None:
    for dtype in (torch.float32, torch.float64):
        x, codebooks = problem(0, 4, 3, 5)
        codes, left = beam_search(x.to(dtype), codebooks.to(dtype), beam_size=4)
        assert codes.shape == (0, 3)
        assert left.shape == (0, 4)


def test_chunks_do_not_change_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    x, codebooks = problem(101, 6, 3, 8)
    codes, left = torch_beam_search(x, codebooks, beam_size=4)
    monkeypatch.setattr(beam, "_CHUNK", 4 * 8 * 10)
    found, found_left = torch_beam_search(x, codebooks, beam_size=4)
    assert torch.equal(found, codes)
    torch.testing.assert_close(found_left, left)


@needs_native
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e25, 3e38])
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_numbers_that_overflow_harm_no_memory_and_no_other_sample(value: float, name: str) -> None:
    if not use(name):
        pytest.skip(f"this processor has no {name}")
    try:
        x, codebooks = problem(70, 9, 4, 20)
        expected, _ = beam_search(x, codebooks, beam_size=6)
        x[[3, 40]] = value
        codes, _ = beam_search(x, codebooks, beam_size=6)
        others = (torch.arange(70) != 3) & (torch.arange(70) != 40)
        assert torch.equal(codes[others], expected[others])
        assert ((codes >= 0) & (codes < 20)).all()
        codes, _ = beam_search(x[others], codebooks.fill_(value), beam_size=6)
        assert ((codes >= 0) & (codes < 20)).all()
    finally:
        assert any(use(other) for other in reversed(INSTRUCTION_SETS))


@needs_native
def test_norms_of_long_rows_that_round_up_discard_no_nearest_centroid() -> None:
    # A lane of sixteen adds up 2^14 equal squares. From 2^13 on floats are 2^-10 apart, and each
    # addition rounds up by 2^-11: the norm is too large by 2^-12, as no bound may take it to be.
    d, k = 2**18, 129  # more centroids than candidates that are measured together
    x = torch.full((1, d), (1 + 2.0**-11 + 2.0**-20) ** 0.5)
    centroids = torch.zeros(k, d)
    centroids[:, 5] = torch.linspace(0, 0.01, k)
    centroids[-1, 7] = 0.4
    codes, _ = beam_search(x, centroids[None], beam_size=1)
    assert codes.item() == k - 1
