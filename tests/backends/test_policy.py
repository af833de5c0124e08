"""The policy of bounds moves between its states as the table in csrc/README.md says."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_bounds_are_kept_as_the_table_of_states_says(tmp_path: Path) -> None:
    program = tmp_path / "policy_test"
    sources = [ROOT / "tests/native/policy_test.cpp", ROOT / "csrc/host/policy.cpp"]
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", f"-I{ROOT / 'csrc'}"]
    subprocess.run([*command, *map(str, sources), "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
