"""Each operation of csrc/kernel/simd/ does what a plain loop does, on each instruction set."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.native.build import build, needs_cmake

pytestmark = needs_cmake


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("simd"), "simd_test") / "simd_test"


@pytest.mark.parametrize("instruction_set", ["baseline", "avx2", "avx512"])
def test_operations_equal_plain_loops(program: Path, instruction_set: str) -> None:
    done = subprocess.run([program, instruction_set], capture_output=True, text=True, check=False)
    if done.returncode == 2:
        pytest.skip(f"this processor has no {instruction_set}")
    assert done.returncode == 0, done.stdout
    assert "compared, 0 failed" in done.stdout
