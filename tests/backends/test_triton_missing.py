"""Without Triton, or with one that is too old, the others serve, and it is said why."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.backends.conftest import needs_native

CODE = """
import torch
from kmeans_module import KMeansLayer, backends, show_backends
x = torch.randn(40, 5)
for tensor in (x, x.half()):
    print(backends.triton.BACKEND.obstacle(tensor))
print(KMeansLayer(4, 5).fit(x).labels.shape, backends.backend_for(x).name)
print(show_backends())
"""


def output_of(folder: Path, **variables: str) -> list[str]:
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TRITON", "KMEANS"))
    }
    run = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True,
        env=clean | variables | {"PYTHONPATH": f"{folder}{os.pathsep}{os.getcwd()}"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def package(folder: Path, version: str) -> None:
    """A Triton that nobody may import."""
    (folder / "triton").mkdir()
    (folder / "triton" / "__init__.py").write_text("raise ImportError('not to be imported')")
    information = folder / f"triton-{version}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: triton\nVersion: {version}\n"
    )


@needs_native
@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("3.5.1", "triton 3.5.1 is older than 3.6"),
        ("3.10.0+git1234", None),
    ],
)
def test_an_old_triton_is_not_used(tmp_path: Path, version: str, reason: str | None) -> None:
    package(tmp_path, version)
    lines = output_of(tmp_path, TRITON_INTERPRET="1")
    assert lines[:2] == [str(reason)] * 2
    assert lines[2] == "torch.Size([40]) native"
    assert f"triton: for cuda; {reason or 'there'}" in lines


@needs_native
def test_without_triton_it_is_said(tmp_path: Path) -> None:
    information = tmp_path / "triton-3.7.1.dist-info"  # left behind by an uninstalled one
    information.mkdir()
    text = "Metadata-Version: 2.1\nName: triton\nVersion: 3.7.1\n"
    (information / "METADATA").write_text(text)
    lines = output_of(tmp_path, TRITON_INTERPRET="1")
    installed = Path(sys.prefix).glob("lib/python*/site-packages/triton")
    if not any(installed):
        assert lines[:2] == ["there is no package triton"] * 2
        assert "triton: for cuda; there is no package triton" in lines


@needs_native
def test_without_a_device_it_is_said(tmp_path: Path) -> None:
    package(tmp_path, "3.9.0")
    lines = output_of(tmp_path, CUDA_VISIBLE_DEVICES="")
    assert lines[0] == "x is on cpu"
    assert "triton: for cuda; torch sees no CUDA device" in lines
