"""The C++ code touches no memory that is not its own, no two threads the same, and keeps the
promises of its interface whatever a caller may ask."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.native.build import build, needs_cmake

pytestmark = [pytest.mark.slow, needs_cmake]

FUZZED_SECONDS = 60


@pytest.fixture(scope="module")
def of_addresses(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("addresses")
    return build(folder, "sanitize", "fuzz", KMEANS_SANITIZE="address,undefined")


@pytest.fixture(scope="module")
def of_threads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("threads"), "sanitize", KMEANS_SANITIZE="thread")


@pytest.mark.parametrize("sanitizer", ["of_addresses", "of_threads"])
def test_the_kernels_run_clean_under(sanitizer: str, request: pytest.FixtureRequest) -> None:
    program = request.getfixturevalue(sanitizer) / "sanitize"
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "0 failed" in done.stdout


def test_no_call_that_is_allowed_breaks_a_promise(of_addresses: Path) -> None:
    command = [str(of_addresses / "fuzz"), "1", str(FUZZED_SECONDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr  # which says how to run the input again
    assert "no promise broken" in done.stdout
