"""What the tests of quantizers share: quantizers at a codebook of choice, and small networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kmeans_module import VectorQuantizer
from kmeans_module.quantization import Quantized
from tests.conftest import seeded


def normal(*shape: int, seed: int = 0, **options: Any) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), **options)


def quantizer_at(codebook: Tensor, counts: Tensor | None = None, **options: Any) -> VectorQuantizer:
    """A quantizer that holds this codebook, (k, d) or (heads, k, d)."""
    if codebook.ndim == 3:
        options.update(heads=len(codebook), separate_codebooks=True)
    heads = options.get("heads", 1)
    quantizer = VectorQuantizer(
        codebook.shape[-2], codebook.shape[-1] * heads, dtype=codebook.dtype, **options
    )
    layer = quantizer.codebook
    counts = torch.full_like(layer.counts, 10.0) if counts is None else counts
    state = {"centroids": codebook, "counts": counts, "initialized": torch.tensor(True)}
    layer.load_state_dict({**layer.state_dict(), **state})
    return quantizer


def trained(x: Tensor, n_clusters: int = 8, steps: int = 2, **options: Any) -> VectorQuantizer:
    """A quantizer in training that has learnt from x."""
    torch.manual_seed(0)
    features = x.shape[1 if options.get("channel_first") else -1]
    quantizer = VectorQuantizer(n_clusters, features, **options)
    for _ in range(steps):
        quantizer(x)
    quantizer.apply_update()
    return quantizer


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers as they are; unlike state_dict, it does not update quantizers."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in tensors}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name


class Network(nn.Module):
    """An encoder, a quantizer, and a decoder that drops some of what it gets."""

    def __init__(self, quantizer: VectorQuantizer, dropout: float = 0.0) -> None:
        super().__init__()
        width = quantizer.n_features
        torch.manual_seed(1)
        self.encoder = nn.Linear(width, width)
        self.quantizer = quantizer
        self.decoder = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, width))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found: Quantized = self.quantizer(self.encoder(x))
        return self.decoder(found.quantized), found.codes, found.loss


def objective(outputs: tuple[Tensor, Tensor, Tensor], x: Tensor) -> Tensor:
    """Reconstruction error and the quantizer's loss."""
    return (outputs[0] - x).square().mean() + outputs[2]
