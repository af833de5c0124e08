"""The C++ code touches no memory that is not its own, and no two threads the same."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLAGS = {
    "avx2": ["-mavx2", "-mfma", "-mbmi", "-mpopcnt"],
    "avx512": [
        "-mavx512f",
        "-mavx512bw",
        "-mavx512dq",
        "-mfma",
        "-mbmi",
        "-mpopcnt",
    ],
    "baseline": [],
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++"),
]


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_the_kernels_run_clean_under(sanitizer: str, tmp_path: Path) -> None:
    options = ["-std=c++17", "-O1", "-g", "-Wno-psabi", "-pthread", f"-I{ROOT / 'csrc'}"]
    options += [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    x86 = platform.machine() in ("x86_64", "AMD64")
    objects = []
    plain = [*(ROOT / "csrc/abi").glob("*.cpp"), *(ROOT / "csrc/host").glob("*.cpp")]
    sources: dict[Path, list[str]] = {source: [] for source in sorted(plain)}
    sources[Path(__file__).with_name("sanitize.cpp")] = []
    for name, flags in FLAGS.items():
        if x86 or name == "baseline":
            sources[ROOT / "csrc/kernel/targets" / f"{name}.cpp"] = flags
    for source, flags in sources.items():
        objects.append(tmp_path / f"{source.stem}.o")
        command = ["g++", *options, *flags, "-c", str(source), "-o", str(objects[-1])]
        subprocess.run(command, check=True)
    program = tmp_path / "sanitize"
    subprocess.run(["g++", *options, *map(str, objects), "-ldl", "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "0 failed" in done.stdout
