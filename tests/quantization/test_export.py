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
