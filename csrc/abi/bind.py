"""Makes kmeans_module/backends/native/interface.py of native.h, for ctypes: python csrc/abi/bind.py

Reads the plain style of native.h by regular expressions and refuses what it does not know: numbers
as `#define KM_NAME 1`, one enum of element types, structs of one field a line, and functions.
"""

from __future__ import annotations

import re
from pathlib import Path

HEADER = Path(__file__).with_name("native.h")
INTERFACE = Path(__file__).parents[2] / "kmeans_module/backends/native/interface.py"

SCALARS = {"int": "c_int", "int32_t": "c_int32", "int64_t": "c_int64", "double": "c_double"}
CTYPES = ("POINTER", "Structure", "c_void_p", *SCALARS.values())
STRUCTS = {"km_rows": "RowsStruct", "km_sparse": "SparseStruct", "km_result": "ResultStruct"}
OPAQUE = "km_workspace"
ELEMENTS = "km_element"

TOP = '''\
"""The C interface of the native kernels, for ctypes.

Made of csrc/abi/native.h by csrc/abi/bind.py: change that header, and run the script. The header
says what each number, field and argument means.
"""

from __future__ import annotations

from ctypes import CTYPES
from typing import Any

import torch
'''


def interface(header: str) -> str:
    """The text of interface.py.

    Args:
        header: text of native.h.

    Raises:
        ValueError: the header holds a declaration that this script does not know; names it.
    """
    code = re.sub(r"//[^\n]*", "", header)
    code = re.sub(r"#pragma once|#include <cstdint>|#define KM_API [^\n]*", "", code)
    numbers, code = _taken(r"#define KM_(\w+) (\d+)\n", code)
    enums, code = _taken(rf"enum {ELEMENTS} {{(.*?)}};", code)
    structs, code = _taken(r"struct (km_\w+) {(.*?)};", code)
    functions, code = _taken(r"KM_API ([\w ]+?\*?)\s*\b(km_\w+)\((.*?)\);", code)
    _nothing(code.replace('extern "C" {', "").replace(f"struct {OPAQUE};", "").replace("}", "", 1))

    text = "".join(f"{name} = {value}\n" for name, value in numbers)
    text += "\n" + "".join(_elements(body) for (body,) in enums)
    text += "".join("\n\n" + _struct(name, body) for name, body in structs)
    text += "\n\n# The type of the result, and those of the arguments.\n"
    text += "FUNCTIONS: dict[str, tuple[Any, ...]] = {\n"
    text += "".join(_function(*declared) for declared in functions) + "}\n"
    used = (name for name in sorted(CTYPES) if re.search(rf"\b{name}\b", text))
    return TOP.replace("CTYPES", ", ".join(used)) + "\n" + text


def _taken(pattern: str, code: str) -> tuple[list[tuple[str, ...]], str]:
    """What a pattern finds, and the code without it."""
    found = [match.groups() for match in re.finditer(pattern, code, re.DOTALL)]
    return found, re.sub(pattern, "", code, flags=re.DOTALL)


def _nothing(rest: str) -> None:
    if rest.strip():
        raise ValueError(f"{HEADER.name}: bind.py does not know {' '.join(rest.split())[:80]!r}")


def _type(declared: str) -> str:
    """The ctypes type of a field, an argument or a result."""
    words = declared.replace("*", " * ").split()
    words = [word for word in words if word != "const"]
    if words in (["void"], []):
        return "None"
    if words[1:] == ["*"] and words[0] in STRUCTS:
        return f"POINTER({STRUCTS[words[0]]})"
    if words[1:] == ["*"] and words[0] in (*SCALARS, OPAQUE, "void", "float"):
        return "c_void_p"
    if len(words) > 1 or words[0] not in SCALARS:
        raise ValueError(f"{HEADER.name}: bind.py does not know the type {declared.strip()!r}")
    return SCALARS[words[0]]


def _without_name(declared: str) -> str:
    """`const void* x` without the name of the variable."""
    return re.sub(r"\w+\s*$", "", declared.strip())


def _elements(body: str) -> str:
    elements, rest = _taken(r"KM_(\w+) = (\d+),", body)
    _nothing(rest)
    lines = "".join(f"    torch.{name.lower()}: {value},\n" for name, value in elements)
    return f"# {ELEMENTS}\nELEMENTS = {{\n{lines}}}\n"


def _struct(name: str, body: str) -> str:
    fields, rest = _taken(r"([\w ]+\*? *)\b(\w+);", body)
    _nothing(rest)
    lines = "".join(f'        ("{field}", {_type(declared)}),\n' for declared, field in fields)
    head = f'class {STRUCTS[name]}(Structure):\n    """{name}"""\n\n'
    return f"{head}    _fields_ = (\n{lines}    )\n"


def _function(result: str, name: str, arguments: str) -> str:
    declared = [] if arguments.strip() == "void" else arguments.split(",")
    types = [_type(result), *(_type(_without_name(argument)) for argument in declared)]
    line = f'    "{name}": ({", ".join(types)}{"," * (len(types) == 1)}),\n'
    if len(line) <= 101:
        return line
    return f'    "{name}": (\n' + "".join(f"        {one},\n" for one in types) + "    ),\n"


if __name__ == "__main__":
    INTERFACE.write_text(interface(HEADER.read_text()))
