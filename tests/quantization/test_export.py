"""Promises of to_faiss: its indexes hold our codebooks, and find what our distances say."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from kmeans_module import NotInitializedError, ProductQuantizer, ResidualQuantizer
from tests.conftest import seeded
from tests.quantization.helpers import normal

Quantizer = ProductQuantizer | ResidualQuantizer
CASES = ("product", "rotated product", "one sub-space", "residual", "shared residual")


def fitted(name: str, x: Tensor, k: int = 16) -> Quantizer:
    if name == "shared residual":
        torch.manual_seed(0)
        shared = ResidualQuantizer(k, x.shape[1], 3, shared_codebook=True)
        for _ in range(3):
            shared(x)
        return shared.eval()
    quantizer: Quantizer
    if name == "residual":
        quantizer = ResidualQuantizer(k, x.shape[1], 3)
    elif name == "one sub-space":
        quantizer = ProductQuantizer(k, x.shape[1], 1)
    else:
        quantizer = ProductQuantizer(k, x.shape[1], 4, rotation=name == "rotated product")
    quantizer.fit(x, max_iter=5, generator=seeded())
    return quantizer


def encoded(quantizer: Quantizer, x: Tensor) -> Tensor:
    """Codes of as many beams as the index of faiss keeps."""
    if isinstance(quantizer, ResidualQuantizer):
        return quantizer.encode(x, beam_size=quantizer.beam_size)
    return quantizer.encode(x)


@pytest.mark.parametrize("k", [16, 64])
@pytest.mark.parametrize("name", CASES)
def test_a_search_finds_our_nearest_at_our_distances(name: str, k: int) -> None:
    pytest.importorskip("faiss")
    x, queries = normal(500, 8), normal(20, 8, seed=1)
    quantizer = fitted(name, x, k)
    index = quantizer.to_faiss()
    index.add(x.numpy())
    assert index.ntotal == len(x)
    found, labels = (torch.from_numpy(array) for array in index.search(queries.numpy(), 500))
    ours = quantizer.distances(queries, encoded(quantizer, x))
    torch.testing.assert_close(found, ours.gather(1, labels), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found, ours.sort(dim=1).values, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_codes_and_what_they_stand_for_are_those_of_faiss(name: str) -> None:
    pytest.importorskip("faiss")
    x = normal(300, 8)
    quantizer = fitted(name, x)
    index = quantizer.to_faiss()
    codes = encoded(quantizer, x)
    packed = quantizer.pack(codes)
    theirs = torch.from_numpy(index.sa_encode(x.numpy()))
    # Rounding may decide between two codes, and of a shared codebook those in another order.
    if name == "shared residual":
        codes, theirs = (quantizer.unpack(found).sort(dim=-1).values for found in (packed, theirs))
        assert (codes == theirs).all(dim=1).double().mean() > 0.98
    else:
        assert (packed == theirs).all(dim=1).double().mean() > 0.98
    decoded = torch.from_numpy(index.sa_decode(packed.numpy()))
    ours = quantizer.decode(quantizer.unpack(packed)).detach()
    torch.testing.assert_close(decoded, ours, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["product", "residual"])
def test_a_number_of_codes_that_faiss_has_not_is_refused(name: str) -> None:
    pytest.importorskip("faiss")
    quantizer = fitted(name, normal(100, 8), k=12)
    with pytest.raises(ValueError, match="faiss needs n_clusters to be a power of 2; got 12"):
        quantizer.to_faiss()


@pytest.mark.parametrize("quantizer", [ProductQuantizer(16, 8, 4), ResidualQuantizer(16, 8, 3)])
def test_a_codebook_has_to_be_there(quantizer: Quantizer) -> None:
    with pytest.raises(NotInitializedError):
        quantizer.to_faiss()


@pytest.mark.parametrize("name", ["product", "residual"])
def test_without_faiss_the_error_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantizer = fitted(name, normal(100, 8))
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match="to_faiss needs faiss: pip install faiss-cpu"):
        quantizer.to_faiss()


def correlated(n: int, d: int) -> Tensor:
    """(n, d), of which few directions hold most of the variance."""
    spread = torch.linalg.qr(normal(d, d, seed=1)).Q * 0.8 ** torch.arange(d)
    return normal(n, d) @ spread.T


def error(x: Tensor, decoded: Tensor | np.ndarray) -> float:
    return float((x - torch.as_tensor(decoded)).detach().square().sum(dim=1).mean())


def test_errors_of_product_quantizers_are_those_of_faiss() -> None:
    faiss = pytest.importorskip("faiss")
    x = correlated(4000, 16)
    theirs = faiss.ProductQuantizer(16, 4, 6)
    theirs.train(x.numpy())
    rotation = faiss.OPQMatrix(16, 4)
    rotation.pq = faiss.ProductQuantizer(16, 4, 6)
    rotation.train(x.numpy())
    turned = rotation.apply(x.numpy())
    rotated = faiss.ProductQuantizer(16, 4, 6)
    rotated.train(turned)
    expected = {
        False: error(x, theirs.decode(theirs.compute_codes(x.numpy()))),
        True: error(x, rotation.reverse_transform(rotated.decode(rotated.compute_codes(turned)))),
    }
    for turns, most in expected.items():
        quantizer = ProductQuantizer(64, 16, 4, rotation=turns)
        quantizer.fit(x, generator=seeded())
        assert error(x, quantizer.decode(quantizer.encode(x))) <= 1.005 * most


def test_errors_of_residual_quantizers_are_those_of_faiss() -> None:
    faiss = pytest.importorskip("faiss")
    x = correlated(4000, 16)
    theirs = faiss.ResidualQuantizer(16, 4, 6)
    theirs.max_beam_size = 5
    theirs.train(x.numpy())
    quantizer = ResidualQuantizer(64, 16, 4)
    quantizer.fit(x, generator=seeded())
    most = error(x, theirs.decode(theirs.compute_codes(x.numpy())))
    assert error(x, quantizer.decode(encoded(quantizer, x))) <= 1.005 * most


@pytest.mark.parametrize("name", [name for name in CASES if name != "shared residual"])
def test_a_quantizer_comes_back_from_its_index(name: str) -> None:
    pytest.importorskip("faiss")
    x = normal(300, 8)
    quantizer = fitted(name, x)
    again = type(quantizer).from_faiss(quantizer.to_faiss())
    assert torch.equal(again.codebooks, quantizer.codebooks)
    assert torch.equal(encoded(again, x), encoded(quantizer, x))
    codes = encoded(quantizer, x)
    torch.testing.assert_close(again.decode(codes), quantizer.decode(codes))
    again.train()
    again(x)


# By the names of faiss.index_factory.
FACTORIES = {
    "PQ4x4": ProductQuantizer,
    "PQ2x5": ProductQuantizer,
    "OPQ4,PQ4x4": ProductQuantizer,
    "OPQ4,RR8,PQ4x4": ProductQuantizer,
    "RQ3x4": ResidualQuantizer,
    "RQ2x5": ResidualQuantizer,
}


# Of an index, and of the codec in it; a rotation is of the index alone.
@pytest.mark.parametrize(
    ("name", "bare"),
    [(name, bare) for name in FACTORIES for bare in (False, True) if not (bare and "," in name)],
)
def test_a_quantizer_of_theirs_finds_their_codes(name: str, bare: bool) -> None:
    faiss = pytest.importorskip("faiss")
    x = normal(400, 8)
    index = faiss.index_factory(8, name)
    index.train(x.numpy())
    source = index
    if bare:
        source = index.pq if hasattr(index, "pq") else index.rq
    quantizer = FACTORIES[name].from_faiss(source)
    packed = quantizer.pack(encoded(quantizer, x))
    theirs = torch.from_numpy(index.sa_encode(x.numpy()))
    assert (packed == theirs).all(dim=1).double().mean() > 0.98
    decoded = torch.from_numpy(index.sa_decode(theirs.numpy()))
    ours = quantizer.decode(quantizer.unpack(theirs)).detach()
    torch.testing.assert_close(decoded, ours, rtol=1e-4, atol=1e-5)


def test_of_an_ivf_index_the_codes_of_what_its_lists_leave_are_taken() -> None:
    faiss = pytest.importorskip("faiss")
    x = normal(700, 8)
    for name, kind in (("IVF4,PQ4x4", ProductQuantizer), ("IVF4,RQ2x4", ResidualQuantizer)):
        index = faiss.index_factory(8, name)
        index.train(x.numpy())
        left = (
            x
            - torch.from_numpy(index.quantizer.reconstruct_n(0, 4))[
                index.quantizer.search(x.numpy(), 1)[1][:, 0]
            ]
        )
        quantizer = kind.from_faiss(index)
        theirs = index.pq if kind is ProductQuantizer else index.rq
        expected = torch.from_numpy(theirs.compute_codes(left.numpy()))
        packed = quantizer.pack(encoded(quantizer, left))
        assert (packed == expected).all(dim=1).double().mean() > 0.98


def test_levels_of_several_sizes_come_and_go() -> None:
    faiss = pytest.importorskip("faiss")
    x = normal(400, 8)
    bits = faiss.UInt64Vector()
    faiss.copy_array_to_vector(np.array([4, 3], dtype=np.uint64), bits)
    theirs = faiss.ResidualQuantizer(8, bits)
    theirs.train(x.numpy())
    ours = ResidualQuantizer.from_faiss(theirs)
    assert ours.sizes == (16, 8)
    codes = ours.encode(x, beam_size=ours.beam_size)
    assert (ours.pack(codes).numpy() == theirs.compute_codes(x.numpy())).all(axis=1).mean() > 0.98
    again = ResidualQuantizer.from_faiss(ours.to_faiss())
    assert all(map(torch.equal, again.codebook_list(), ours.codebook_list()))


def test_options_of_the_quantizer_arrive() -> None:
    faiss = pytest.importorskip("faiss")
    product, residual = faiss.IndexPQ(8, 2, 4), faiss.IndexResidualQuantizer(8, 2, 4)
    for index in (product, residual):
        index.train(normal(300, 8).numpy())
    ours = ProductQuantizer.from_faiss(product, update="frozen", dtype=torch.float64)
    assert ours.quantizer.update_rule == "frozen"
    assert ours.codebooks.dtype == torch.float64
    assert ResidualQuantizer.from_faiss(residual).beam_size == 5
    assert ResidualQuantizer.from_faiss(residual, beam_size=2).beam_size == 2


def test_what_holds_no_codebooks_of_ours_is_refused() -> None:
    faiss = pytest.importorskip("faiss")
    x = normal(400, 8).numpy()
    smaller, centered = faiss.index_factory(8, "OPQ2_4,PQ2x4"), faiss.index_factory(8, "PCA8,PQ2x4")
    for index in (smaller, centered):
        index.train(x + 3)
    cases = [
        (ProductQuantizer, faiss.IndexPQ(8, 2, 4), ValueError, "should be trained; the IndexPQ is"),
        (ProductQuantizer, faiss.ProductQuantizer(8, 2, 4), ValueError, "should be trained"),
        (ProductQuantizer, faiss.IndexFlatL2(8), TypeError, "product codes .*; got IndexFlatL2"),
        (ProductQuantizer, None, TypeError, "product codes .*; got NoneType"),
        (ProductQuantizer, faiss.index_factory(8, "OPQ2,PQ2x4"), ValueError, "trained rotations"),
        (ProductQuantizer, smaller, ValueError, "got OPQMatrix from 8 to 4 features"),
        (ProductQuantizer, centered, ValueError, "got PCAMatrix from 8 to 8 features"),
        (ResidualQuantizer, faiss.IndexResidualQuantizer(8, 2, 4), ValueError, "be trained"),
        (ResidualQuantizer, faiss.IndexPQ(8, 2, 4), TypeError, "residual codes .*; got IndexPQ"),
    ]
    for kind, index, error, message in cases:
        with pytest.raises(error, match=message) as caught:
            kind.from_faiss(index)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [ProductQuantizer, ResidualQuantizer])
def test_without_faiss_from_faiss_says_what_to_install(
    kind: type[Quantizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match="from_faiss needs faiss: pip install faiss-cpu"):
        kind.from_faiss(None)
