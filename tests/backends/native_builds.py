"""Builds of the C++ code for tests: by CMake, with the flags of the wheel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

needs_compiler = pytest.mark.skipif(
    not (shutil.which("cmake") and shutil.which("c++")), reason="there is no cmake, or no c++"
)


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """What a command prints; fails with what it says where it fails."""
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def configured(folder: Path, build_type: str, *options: str) -> Path:
    run("cmake", "-S", ROOT, "-B", folder, f"-DCMAKE_BUILD_TYPE={build_type}", *options)
    return folder


def objects(folder: Path, build_type: str, names: tuple[str, ...]) -> dict[str, Path]:
    """Objects of the library's sources csrc/NAME.cpp, compiled as the library is."""
    configured(folder, build_type, "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON")
    wanted = {ROOT / "csrc" / f"{name}.cpp": name for name in names}
    built, running = {}, []
    for entry in json.loads((folder / "compile_commands.json").read_text()):
        if name := wanted.get(Path(entry["file"])):
            to = folder / f"{name.replace('/', '_')}.o"
            command = f"{entry['command']} -o {to}"  # the last -o counts
            running.append((subprocess.Popen(command, shell=True, cwd=entry["directory"]), name))
            built[name] = to
            if len(running) >= (os.cpu_count() or 1):
                process, name = running.pop(0)
                assert process.wait() == 0, name
    for process, name in running:
        assert process.wait() == 0, name
    assert set(built) == set(names)
    return built
