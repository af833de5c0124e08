"""Builds of the C++ code for tests: by CMakeLists.txt, which has the compile flags."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORES = os.cpu_count() or 1
# CMake of the test tools comes first.
_PLACES = (str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))
CMAKE = shutil.which("cmake", path=os.pathsep.join(_PLACES))


def _compiler() -> list[str]:
    """The command of the C++ compiler that CMake takes; empty where there is none that runs."""
    given = os.environ.get("CXX")
    for command in [shlex.split(given)] if given else [["c++"], ["g++"]]:
        if shutil.which(command[0]) is None:
            continue
        version = subprocess.run([*command, "--version"], capture_output=True, check=False)
        if version.returncode == 0:
            return command
    return []


COMPILER = _compiler()
needs_compiler = pytest.mark.skipif(not COMPILER, reason="there is no C++ compiler")
needs_cmake = pytest.mark.skipif(
    CMAKE is None or not COMPILER, reason="there is no CMake, or no C++ compiler"
)


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """What a command prints; fails with what it says where it fails."""
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


def configure(folder: Path, **options: str) -> None:
    """Make a folder ready for builds, with options of CMake such as CMAKE_BUILD_TYPE="Debug"."""
    assert CMAKE is not None
    given = [f"-D{name}={value}" for name, value in options.items()]
    run(CMAKE, "-S", ROOT, "-B", folder, "-DKMEANS_BUILD_TESTS=ON", *given)


def build(folder: Path, *targets: str, **options: str) -> Path:
    """Targets of CMakeLists.txt, in a folder, which is returned.

    Args:
        folder: of the build; what another call has built there is used.
        targets: such as "sanitize", a program of tests/native.
        options: of CMake, such as KMEANS_SANITIZE="thread".
    """
    configure(folder, **options)
    assert CMAKE is not None
    run(CMAKE, "--build", folder, "--parallel", str(CORES), "--target", *targets)
    return folder


def build_objects(folder: Path, build_type: str, names: tuple[str, ...]) -> dict[str, Path]:
    """Objects of the library's sources csrc/NAME.cpp, compiled as the library is."""
    configure(folder, CMAKE_BUILD_TYPE=build_type, CMAKE_EXPORT_COMPILE_COMMANDS="ON")
    wanted = {ROOT / "csrc" / f"{name}.cpp": name for name in names}
    commands = {}
    for entry in json.loads((folder / "compile_commands.json").read_text()):
        name = wanted.get(Path(entry["file"]))
        if name is not None and "kmeans_objects" in entry["command"]:
            commands[name] = entry
    assert set(commands) == set(names)
    objects = {name: folder / f"{name.replace('/', '_')}.o" for name in names}

    def compile_source(name: str) -> str:
        command = f"{commands[name]['command']} -o {objects[name]}"  # the last -o counts
        return run("sh", "-c", command, cwd=Path(commands[name]["directory"]))

    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(compile_source, names))
    return objects
