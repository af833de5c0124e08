"""The tests of Triton's kernels in its interpreter, tests/triton, in a process of their own.

The interpreter has to be chosen before Triton is imported, and only that of Triton 3.9 fuses
multiplication and addition as devices do; torch asks for another version. `make test` puts 3.9
into a folder beside the packages.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.backends.conftest import needs_native

REPOSITORY = Path(__file__).parents[1]
FOLDER = Path(sys.prefix) / "triton-3.9.0"
# Variables that would change what the tests see.
_FOREIGN = ("PYTEST", "KMEANS", "TRITON", "PYTHONPATH")


def why_not(folder: Path = FOLDER) -> str | None:
    """Why tests of a Triton that lies in a folder are left out; None where they are not."""
    if sys.platform != "linux" or sys.version_info < (3, 11):
        return "Triton's interpreter is tested on Linux with Python 3.11 or newer"
    return None if (folder / "triton").is_dir() else f"there is no {folder}, which make prepares"


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
@pytest.mark.parametrize(
    "folder",
    [
        pytest.param("tests/triton", marks=needs_native),  # compares with it
        pytest.param("tests/gpu", marks=pytest.mark.slow),
    ],
)
def test_the_kernels_in_the_interpreter(folder: str) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    options = {
        "TRITON_INTERPRET": "1",
        "KMEANS_KERNEL": "triton",
        "PYTHONPATH": str(FOLDER),
        "OMP_NUM_THREADS": "1",
    }
    command = (
        sys.executable, "-m", "pytest", folder, "-m", "not slow", "-q", "-n", "auto",
        "-p", "no:cacheprovider",
    )  # fmt: skip
    run = subprocess.run(
        command, cwd=REPOSITORY, env=clean | options, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2_000:]
    assert " passed" in run.stdout
