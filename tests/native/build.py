"""Programs of tests/native, built by CMakeLists.txt: it has the compile flags."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# CMake of the test tools comes first.
_PLACES = (str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))
CMAKE = shutil.which("cmake", path=os.pathsep.join(_PLACES))

needs_cmake = pytest.mark.skipif(
    CMAKE is None or shutil.which("g++") is None, reason="C++ is built by CMake and g++"
)


def build(folder: Path, *targets: str, **options: str) -> Path:
    """Targets of CMakeLists.txt, in a folder, which is returned.

    Args:
        folder: of the build; what another call has built there is used.
        targets: such as "sanitize", a program of tests/native.
        options: of CMake, such as KMEANS_SANITIZE="thread".
    """
    assert CMAKE is not None
    given = [f"-D{name}={value}" for name, value in options.items()]
    configure = [CMAKE, "-S", str(ROOT), "-B", str(folder), "-DKMEANS_BUILD_TESTS=ON", *given]
    cores = str(os.cpu_count() or 1)
    make = [CMAKE, "--build", str(folder), "--parallel", cores, "--target", *targets]
    for command in (configure, make):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return folder
