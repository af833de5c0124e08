"""What docs/migration.md does for programs, on data of the shapes that they have."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kmeans_module import KMeansLayer
from tests.conftest import seeded
from tests.documents import ROOT

Names = dict[str, Any]
SECTION = (ROOT / "docs/migration.md").read_text().split("\n## In programs\n")[1]
PROGRAMS = dict(re.findall(r"### (.*?)\n.*?```python\n(.*?)```", SECTION, flags=re.DOTALL))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


def clustered(n: int, k: int, d: int, *, seed: int = 0) -> Tensor:
    """n rows around k centers."""
    centers = normal(k, d, seed=seed + 1) * 5
    return centers[torch.arange(n) % k] + normal(n, d, seed=seed) * 0.1


def speech_units() -> Names:
    features = clustered(4_000, 100, 39).numpy()
    return {"features": features, "frames": torch.from_numpy(features[:500])}


def are_units(names: Names) -> None:
    assert names["units"].shape == (500,)
    assert (names["units"].numpy() == names["model"].predict(names["features"][:500])).all()


def deep_cluster() -> Names:
    return {"embeddings": clustered(2_000, 64, 16), "epoch": 3}


def are_targets(names: Names) -> None:
    assert names["targets"].shape == (2_000,)
    assert torch.equal(names["targets"].bincount(minlength=64).double(), names["sizes"])


def late_interaction() -> Names:
    return {"tokens": normal(3_000, 128).half(), "queries": normal(5, 128).half()}


def are_residuals(names: Names) -> None:
    assert names["codes"].shape == (3_000,)
    assert torch.equal(names["buckets"].unique(), torch.arange(4, dtype=torch.uint8))
    assert names["nearest"].shape == (5, 4)
    assert torch.equal(names["nearest"][:, 0], names["layer"](names["queries"]))


def inverted_lists() -> Names:
    pytest.importorskip("faiss")
    vectors = clustered(3_000, 256, 24)
    return {"vectors": vectors, "queries": vectors[:20] + 0.01}


def finds_neighbors(names: Names) -> None:
    assert names["index"].ntotal == 3_000
    assert (names["found"][:, 0] == range(20)).all()


def language_model() -> Names:
    return {"matrix": normal(32, 200), "sensitivity": torch.rand(32, 200, generator=seeded(1))}


def is_rounded(names: Names) -> None:
    matrix, sensitivity = names["matrix"], names["sensitivity"]
    assert names["tables"].shape == (32, 16)
    error = (sensitivity * (names["rounded"] - matrix).square()).sum(dim=1)
    torch.testing.assert_close(error.double(), names["result"].inertia, rtol=1e-4, atol=0)
    distances = (matrix.unsqueeze(-1) - names["tables"].unsqueeze(1)).abs()
    nearest = distances.amin(dim=-1)
    torch.testing.assert_close((names["rounded"] - matrix).abs(), nearest)


def additive_codes() -> Names:
    return {"matrix": normal(64, 256)}


def is_restored(names: Names) -> None:
    matrix, restored = names["matrix"], names["restored"]
    assert names["codes"].shape == (64 * 256 // 8, 2)
    assert (restored - matrix).square().mean() < 0.5 * matrix.square().mean()


def splatting() -> Names:
    layer = KMeansLayer(32, 3)
    colors = torch.rand(1_000, 3, generator=seeded(0))
    layer.initialize(colors, seed=0)
    return {"layer": layer, "colors": colors.requires_grad_()}


def goes_straight_through(names: Names) -> None:
    colors, labels, layer = names["colors"], names["labels"], names["layer"]
    for cluster in (0, 31):
        mean = colors.detach()[labels == cluster].double().mean(dim=0)
        torch.testing.assert_close(layer.centroids[cluster].double(), mean)
    names["quantized"].sum().backward()
    assert torch.equal(colors.grad, torch.ones_like(colors))


def weighed_splats() -> Names:
    """A quarter matters, around few centers; the others are anywhere."""
    harmonics = torch.cat([clustered(1_000, 64, 48), 10 * normal(3_000, 48)])
    importance = torch.cat([1 + torch.rand(1_000, generator=seeded(1)), torch.full((3_000,), 1e-6)])
    return {"harmonics": harmonics, "importance": importance}


def are_light(names: Names) -> None:
    harmonics, restored, kept = names["harmonics"], names["restored"], names["kept"]
    assert names["codes"].dtype == torch.int16
    assert torch.equal(restored[kept], harmonics[kept])
    assert 0 < kept.sum() < len(kept) / 2
    rounded = names["vq"].decode(names["codes"])
    errors = (rounded - harmonics).square().mean(dim=1)
    assert errors[:1_000].mean() < 0.1 < errors[1_000:].mean(), "weights say where codes are"


def codec() -> Names:
    return {"latents": normal(4, 32, 200)}


def has_levels_first(names: Names) -> None:
    assert names["codes"].shape == (4, 4, 200)
    assert names["sent"].shape == (4, 200, 2)
    assert names["received"].shape == names["quantized"].shape == (4, 32, 200)


def drops_levels_by_sample(names: Names) -> None:
    codes = names["codes"]
    assert codes.shape == (4, 200, 9)
    levels = (codes >= 0).sum(dim=-1)
    assert (levels == levels[:, :1]).all(), "all vectors of a sample have its number of levels"
    names["loss"].backward()
    gradients = [p.grad for p in names["rq"].parameters() if p.grad is not None]
    assert gradients


def images(features: int) -> Callable[[], Names]:
    return lambda: {"images": normal(4, features, 8, 8)}


def reads_back(names: Names) -> None:
    assert names["sample"].shape == (4, 32, 8, 8)
    assert 1 <= float(names["output"].perplexity) <= 256


def keeps_use_even(names: Names) -> None:
    assert names["codes"].shape == (4, 8, 8)
    assert torch.isfinite(names["loss"])
    names["loss"].backward()


USES: dict[str, tuple[Callable[[], Names], Callable[[Names], None]]] = {
    "Speech units: HuBERT, GSLM, espnet": (speech_units, are_units),
    "Clusters as targets: DeepCluster": (deep_cluster, are_targets),
    "Late interaction: ColBERT, PLAID": (late_interaction, are_residuals),
    "An index of inverted lists: IVF in faiss": (inverted_lists, finds_neighbors),
    "Weights of a language model: SqueezeLLM": (language_model, is_rounded),
    "Additive codes of weights: AQLM": (additive_codes, is_restored),
    "3-D Gaussian splatting: compact3d": (splatting, goes_straight_through),
    "3-D Gaussian splatting: LightGaussian": (weighed_splats, are_light),
    "Neural codecs: EnCodec": (codec, has_levels_first),
    "Neural codecs: DAC": (codec, drops_levels_by_sample),
    "Image tokenizers: VQGAN": (images(32), reads_back),
    "Image tokenizers: LlamaGen": (images(8), keeps_use_even),
}


def test_every_program_has_a_use() -> None:
    assert list(PROGRAMS) == list(USES)


@pytest.mark.parametrize("program", USES)
def test_a_program_is_served_in_ten_lines(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    make, check = USES[program]
    names, code = make(), PROGRAMS[program]
    lines = [line for line in code.splitlines() if line and not line.startswith(("from", "import"))]
    assert len(lines) <= 10
    exec(compile(code, program, "exec"), names)
    check(names)
