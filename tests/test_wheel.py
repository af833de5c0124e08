"""Wheels that are built where the kernel cannot be: pure, and not in silence."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("CMakeLists.txt", "LICENSE", "README.md", "csrc", "kmeans_module", "pyproject.toml")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("scikit_build_core") is None, reason="it builds the wheels"),
]


def build(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A wheel of a copy of the tree, by a compiler that fails."""
    tree = folder / "tree"
    tree.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            ignored = shutil.ignore_patterns("*.so", "__pycache__")
            shutil.copytree(ROOT / part, tree / part, ignore=ignored)
        else:
            shutil.copy(ROOT / part, tree)
    # As pip calls it.
    code = f"from scikit_build_core import build; build.build_wheel({str(folder)!r})"
    environment = {**os.environ, "CXX": "/bin/false", **variables}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=tree, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def test_a_wheel_without_its_kernel_is_pure_and_says_so(tmp_path: Path) -> None:
    built = build(tmp_path)
    assert built.returncode == 0, built.stderr
    assert "WITHOUT its native kernel" in built.stdout
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    assert not list((tmp_path / "site").rglob("*.so"))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path / "site", capture_output=True, text=True,
            check=True,
        )  # fmt: skip

    code = (
        "import torch, kmeans_module\n"
        "x = torch.rand(50, 3)\n"
        "for i in range(2):\n"
        "    print(kmeans_module.KMeansLayer(4, 3).fit(x).labels.shape)\n"
    )
    used = run("-c", code)
    assert used.stdout.count("torch.Size([50])") == 2
    assert used.stderr.count("kmeans_module has no native kernel") == 1
    assert "UserWarning" in used.stderr
    assert "without its native kernel" in run("-m", "kmeans_module", "--version").stdout


def test_a_kernel_that_is_required_is_built_or_no_wheel(tmp_path: Path) -> None:
    built = build(tmp_path, KMEANS_REQUIRE_NATIVE="1")
    assert built.returncode != 0
    assert "KMEANS_REQUIRE_NATIVE asks for it" in built.stdout
    assert not list(tmp_path.glob("*.whl"))
