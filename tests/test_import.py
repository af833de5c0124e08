"""Promise of the package: importing it costs no more than importing torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("lightning", "torchmetrics", "matplotlib", "sklearn", "tensorboard", "pandas", "pyarrow")


@pytest.mark.parametrize("module", HEAVY)
def test_importing_the_package_loads_no(module: str, loaded: frozenset[str]) -> None:
    assert module not in loaded


@pytest.fixture(scope="module")
def loaded() -> frozenset[str]:
    code = "import kmeans_module, sys; print(*{name.split('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = frozenset(run.stdout.split())
    assert "torch" in names
    return names


def test_every_public_name_is_there() -> None:
    import kmeans_module

    for name in kmeans_module.__all__:
        assert getattr(kmeans_module, name) is not None
