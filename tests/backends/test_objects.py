"""What is compiled for newer processors stays where only they come."""

from __future__ import annotations

import platform
import re
import shutil
from pathlib import Path

import pytest

from tests.native.build import ROOT, build_objects, needs_cmake, run

pytestmark = [
    needs_cmake,
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86-64 only"),
    pytest.mark.skipif(not shutil.which("nm"), reason="there is no nm"),
]
TARGETS = ("baseline", "avx2", "avx512")
HOST = ("abi/native", "host/dispatch", "host/exact_sums", "host/threads")


def shared_functions(target: str, path: Path) -> list[str]:
    """Functions of an object, beside those of km::TARGET, of which a linker keeps one for all."""
    names = [line.split(maxsplit=2) for line in run("nm", "-C", path).splitlines()]
    weak = [words[-1] for words in names if words[-2] in "WVu" and len(words) == 3]
    # DW.ref.* are pointers of the tables of exceptions, and no code.
    return [n for n in weak if f"km::{target}::" not in n and not n.startswith("DW.ref.")]


@pytest.mark.slow
@pytest.mark.parametrize("build_type", ["Release", "Debug"])
def test_no_function_of_an_instruction_set_is_shared(build_type: str, tmp_path: Path) -> None:
    names = tuple(f"kernel/targets/{target}" for target in TARGETS)
    built = build_objects(tmp_path, build_type, names)
    found = {name: shared_functions(Path(name).name, path) for name, path in built.items()}
    assert not any(found.values()), found
    if not shutil.which("objdump"):
        return
    avx = {Path(name).name: uses_avx(path) for name, path in built.items()}
    assert avx == {"baseline": False, "avx2": True, "avx512": True}


def uses_avx(path: Path) -> bool:
    code = run("objdump", "-d", "--no-show-raw-insn", path)
    return re.search(r"%[yz]mm\d|\tv(mov|add|mul|pxor|sqrt)\w+ ", code) is not None


@pytest.mark.skipif(not shutil.which("objdump"), reason="there is no objdump")
def test_host_code_runs_on_every_processor(tmp_path: Path) -> None:
    built = build_objects(tmp_path, "Debug", HOST)  # every function, inlined or not
    assert not [name for name, path in built.items() if uses_avx(path)]


def test_kernels_include_the_standard_library_before_the_region() -> None:
    """An #include within the region would compile its inline functions for newer processors."""
    kernel = ROOT / "csrc" / "kernel"
    included = re.compile(r"^\s*#include <([\w./]+)>", re.MULTILINE)
    before = set(included.findall((kernel / "simd/standard.h").read_text()))
    sources = [*kernel.rglob("*.h"), *kernel.rglob("*.cpp"), ROOT / "csrc/abi/native.h"]
    late = {
        f"{path.relative_to(ROOT)}: <{header}>"
        for path in sources
        for header in included.findall(path.read_text())
        if header not in before
    }
    assert not late


def test_loops_call_no_function_of_the_standard_library() -> None:
    """Types, std::memcpy and std::memset are no functions that a linker could share."""
    allowed = re.compile(r"std::(mem(cpy|set)|is_\w+_v|\w+_t)\b")
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / "csrc" / "kernel").rglob("*-inl.h")
        if path.name != "scalar-inl.h"
        for name in re.findall(r"std::\w+", path.read_text())
        if not allowed.match(name)
    }
    assert not found
