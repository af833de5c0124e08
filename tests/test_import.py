"""Promises of the package's names: importing is light, and old names lead to the new ones."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import kmeans_module
from kmeans_module.moved import MOVED

HEAVY = {
    "lightning", "torchmetrics", "matplotlib", "sklearn", "tensorboard", "pandas", "pyarrow",
    "rich", "IPython", "safetensors", "yaml", "PIL", "jsonargparse",
}  # fmt: skip
RUNS = {"ArrayDataModule", "BlobDataModule", "ImageDataModule", "LitKMeans"}
SCORES = {"ClusterUsage", "Inertia"}
ESTIMATORS = {"KMeans", "MiniBatchKMeans"}
# Public names that import more than torch and NumPy, and what they bring along themselves or by
# the packages that they stand on.
MAY_LOAD = [
    (RUNS, HEAVY - {"sklearn", "pandas", "pyarrow", "tensorboard", "IPython"}),
    (SCORES, {"torchmetrics", "matplotlib", "PIL"}),
    (ESTIMATORS, {"sklearn", "pandas", "pyarrow"}),
    (set(kmeans_module.__all__) - RUNS - SCORES - ESTIMATORS, set()),
]


def output_of(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize(
    ("names", "allowed"), MAY_LOAD, ids=["runs", "scores", "estimators", "others"]
)
def test_public_names_load_no_more_than_they_need(names: set[str], allowed: set[str]) -> None:
    names = names & set(kmeans_module.__all__)
    if not names:
        pytest.skip("they need scikit-learn")
    code = (
        f"from kmeans_module import {', '.join(names)}; import sys; "
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    loaded = set(output_of(code).split())
    assert "torch" in loaded
    assert loaded & HEAVY <= allowed


def test_layers_quantizers_and_functions_run_on_torch_and_numpy_alone() -> None:
    output_of(f"""
import sys
sys.modules.update(dict.fromkeys({HEAVY}))  # none of which can be imported now
import torch
import kmeans_module as km
import kmeans_module.functional as F
x = torch.randn(40, 4)
result = km.kmeans(x, 3, seed=0)
assert torch.equal(km.predict(result, x), result.labels)
km.KMeansLayer(3, 4).fit(x)
km.VectorQuantizer(3, 4)(x)
km.ProductQuantizer(3, 4, 2).fit(x)
km.ResidualQuantizer(3, 4, 2).fit(x)
F.e_step(x, x[:3])
""")


@pytest.mark.slow
def test_importing_takes_little_more_than_torch() -> None:
    code = (
        "import time; t = time.perf_counter(); import torch; u = time.perf_counter(); "
        "import kmeans_module; print((time.perf_counter() - u) / (u - t))"
    )
    assert statistics.median(float(output_of(code)) for _ in range(10)) < 0.25


def test_every_public_name_is_there() -> None:
    for name in kmeans_module.__all__:
        assert getattr(kmeans_module, name) is not None


def test_extras_that_are_spoken_of_are_there() -> None:
    root = Path(__file__).parents[1]
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pages = [root / "README.md", root / "CHANGELOG.md", *(root / "docs").glob("*.md")]
    texts = [path.read_text(encoding="utf-8") for path in pages]
    texts += [path.read_text(encoding="utf-8") for path in (root / "kmeans_module").rglob("*.py")]
    spoken_of = re.compile(r"(?:kmeans-module|`(?:pip install )?\.)\[(\w+)\]")
    named = {extra for text in texts for extra in spoken_of.findall(text)}
    assert {"faiss", "parquet", "sklearn"} <= named
    assert named <= set(project["optional-dependencies"])


def test_the_version_is_that_of_the_installed_package() -> None:
    assert kmeans_module.__version__ == importlib.metadata.version("kmeans-module")


@pytest.mark.parametrize("old", MOVED)
def test_a_module_that_moved_says_where(old: str) -> None:
    with pytest.raises(ModuleNotFoundError, match=rf"kmeans_module\.{old} has moved: .*"):
        importlib.import_module(f"kmeans_module.{old}")
    package, _, name = f"kmeans_module.{old}".rpartition(".")
    with pytest.raises(ImportError, match="has moved"):
        exec(f"from {package} import {name}")
    assert not hasattr(kmeans_module, old)


@pytest.mark.parametrize("text", MOVED.values(), ids=MOVED)
def test_where_a_module_moved_there_is_something(text: str) -> None:
    for word in text.replace(",", " ").split():
        if word.startswith("kmeans_module"):
            importlib.import_module(word)


def test_the_history_lists_every_module_that_moved() -> None:
    table = (Path(__file__).parents[1] / "docs" / "history.md").read_text().partition("## Moved")[2]
    assert all(f".{old}`" in table for old in [*MOVED, "lightning_module"])


def test_parts_of_modules_that_moved_say_where_too() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"kmeans_module\.kernels has moved"):
        importlib.import_module("kmeans_module.kernels.reference")
    with pytest.raises(ModuleNotFoundError, match="No module named"):
        importlib.import_module("kmeans_module.nothing")


def test_the_lightning_module_has_its_old_name_too() -> None:
    from kmeans_module import lightning_module
    from kmeans_module.rows import as_batch

    assert lightning_module.LitKMeans is kmeans_module.LitKMeans
    assert lightning_module.Iteration is kmeans_module.Iteration
    assert lightning_module.as_batch is as_batch
    assert lightning_module.read_centroids
    assert lightning_module.ALGORITHMS == ("lloyd", "minibatch")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = lightning_module.nothing
