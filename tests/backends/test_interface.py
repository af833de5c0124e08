"""The C interface has one home, csrc/abi/native.h, and a library of another one does not serve."""

from __future__ import annotations

import ctypes
import importlib
import re
import runpy
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from kmeans_module import backends
from kmeans_module.backends.native import interface, library
from kmeans_module.core import distances, scale, seeding
from tests.backends.conftest import needs_native
from tests.native.build import COMPILER, needs_compiler

ABI = Path(__file__).parents[2] / "csrc/abi"
BIND = runpy.run_path(str(ABI / "bind.py"))
HEADER = (ABI / "native.h").read_text()
STRUCTS = (interface.RowsStruct, interface.SparseStruct, interface.ResultStruct)


def test_python_has_the_interface_of_the_header() -> None:
    committed = Path(interface.__file__).read_text()
    assert BIND["interface"](HEADER) == committed, "run python csrc/abi/bind.py"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("int32_t warm;", "float warm;"),
        ("int32_t warm;", "int32_t warm, cold;"),
        ("#define KM_LANES 16", "#define KM_LANES (2 * 8)"),
        ("KM_INT64 = 12,", "KM_INT64,"),
        ("KM_API void km_forked(void);", "KM_API void km_forked(void (*)(int));"),
        ("KM_API void km_forked(void);", "void km_forked(void);"),
        ("const km_rows* rows", "const km_row* rows"),
    ],
)
def test_the_script_refuses_what_it_does_not_know(old: str, new: str) -> None:
    assert old in HEADER
    with pytest.raises(ValueError, match=r"^native\.h: bind\.py does not know"):
        BIND["interface"](HEADER.replace(old, new, 1))


@needs_compiler
def test_structs_are_laid_out_as_in_the_header(tmp_path: Path) -> None:
    lines = []
    for struct in STRUCTS:
        lines.append(f"static_assert(sizeof({struct.__doc__}) == {ctypes.sizeof(struct)});")
        for name, *_ in struct._fields_:
            field = getattr(struct, name)
            lines.append(f"static_assert(offsetof({struct.__doc__}, {name}) == {field.offset});")
    source = tmp_path / "layout.cpp"
    source.write_text('#include <cstddef>\n#include "abi/native.h"\n' + "\n".join(lines))
    command = [*COMPILER, "-std=c++17", "-fsyntax-only", f"-I{ABI.parent}", str(source)]
    subprocess.run(command, check=True)


def test_numbers_that_core_and_the_kernels_share_are_the_same() -> None:
    """core imports no backend, and so has numbers of its own."""
    assert distances.MOST_INTEGER_OF_FLOAT32 == interface.MOST_INTEGER_OF_FLOAT == 2**24
    assert seeding.CANDIDATES <= interface.CANDIDATES_TOGETHER
    assert scale.MOST_BITS <= interface.MOST_BITS
    for largest in (5e-324, 1.0, 1.7e308, float("inf")):
        for n in (1, 2**40):
            exponent, bits = scale.Scale.of_number(largest, n)
            assert abs(exponent) <= interface.MOST_EXPONENT
            assert 0 <= bits <= interface.MOST_BITS


def test_the_triton_kernels_have_the_order_of_the_deciding_distance() -> None:
    """Their source is read, since it cannot be imported without Triton."""
    package = Path(backends.__file__).parent
    text = (package / "triton/kernels/order.py").read_text()
    numbers = dict(re.findall(r"^(\w+) = tl\.constexpr\((\d+)\)", text, re.MULTILINE))
    assert int(numbers["FEW_FEATURES"]) == interface.FEW_FEATURES
    assert int(numbers["LANES"]) == interface.LANES
    assert int(numbers["PART"]) == interface.FEATURES_IN_PART


@needs_native
def test_hooks_of_tests_are_exported_beside_the_interface() -> None:
    kernels = library()
    hooks = set(re.findall(r"KM_API [\w ]+?\b(km_\w+)\(", (ABI / "testing.h").read_text()))
    assert hooks == {"km_use_instruction_set", "km_share_visited"}
    assert not hooks & set(interface.FUNCTIONS)
    assert all(hasattr(kernels, hook) for hook in hooks)
    package = Path(backends.__file__).parents[1]
    for source in package.rglob("*.py"):
        text = source.read_text()
        assert not any(hook in text for hook in hooks), f"{source} calls a hook of tests"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module that loads the library, which it has forgotten, and takes for installed."""
    library.cache_clear()
    loader = importlib.import_module("kmeans_module.backends.native.library")
    monkeypatch.setattr(loader, "INSTALLED", True)
    yield loader
    monkeypatch.undo()
    library.cache_clear()


STALE = {
    "has interface 1, not": "int km_e_step(void) { return 0; }",
    f"has interface {interface.ABI_VERSION - 1}, not {interface.ABI_VERSION}": (
        f"int km_abi_version(void) {{ return {interface.ABI_VERSION - 1}; }}"
    ),
    "lacks km_open": f"int km_abi_version(void) {{ return {interface.ABI_VERSION}; }}",
}


@needs_compiler
@pytest.mark.parametrize("words", STALE)
def test_a_stale_library_is_refused_in_words(
    words: str, module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = tmp_path / "stale.so"
    compiler = [*COMPILER, "-x", "c", "-shared", "-fPIC", "-o", str(stale), "-"]
    subprocess.run(compiler, input=STALE[words], text=True, check=True)
    monkeypatch.setattr(module, "LIBRARY", stale)
    refused = re.escape(f"{stale} {words}") + ".*build it again.*pip install"
    with pytest.warns(UserWarning, match=refused):
        assert library() is None
    assert backends.native.BACKEND.missing() is not None, "torch serves instead"


def test_a_file_that_is_no_library_is_refused_in_words(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    monkeypatch.setattr(module, "LIBRARY", broken)
    refused = "no native kernel, torch alone serves.*" + re.escape(str(broken))
    with pytest.warns(UserWarning, match=refused):
        assert library() is None
