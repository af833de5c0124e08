"""The rooms of csrc/: includes point downwards; files, functions and structs stay small."""

from __future__ import annotations

import re
from graphlib import TopologicalSorter
from pathlib import Path

from tests.native.build import ROOT

CSRC = ROOT / "csrc"
FILES = sorted([*CSRC.rglob("*.h"), *CSRC.rglob("*.cpp")])
# The rooms of the loops (-inl.h), from the ground up.
FLOORS = (("simd",), ("rows",), ("few", "many", "sums", "sparse"), ("seeding", "beam"))
MOST_LINES = {"abi/native.h": 360}  # every function of the interface, and what callers must know


def floor(file: str) -> int:
    """A file may include what has a lower floor, or stands in the same folder."""
    if file == "abi/native.h":
        return 0  # structs and numbers that every room shares
    if file.startswith("kernel/targets/"):
        return 7
    if file.startswith("kernel/"):
        if not file.endswith("-inl.h"):
            return 1  # structs that host/ and the loops share
        rooms = [2 + level for level, names in enumerate(FLOORS) if file.split("/")[1] in names]
        return rooms[0] if rooms else 6  # kernel-inl.h
    return {"host": 8, "abi": 9}[file.split("/")[0]]


def includes(path: Path) -> list[str]:
    return re.findall(r'^#include "([^"]+)"', path.read_text(), re.MULTILINE)


def test_includes_point_downwards() -> None:
    graph = {str(path.relative_to(CSRC)): includes(path) for path in FILES}
    upwards = [
        f"{file} includes {included}"
        for file, all_included in graph.items()
        for included in all_included
        if not (floor(included) < floor(file) or floor(included) == 1 == floor(file))
        and Path(included).parent != Path(file).parent
    ]
    assert not upwards
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the files of a circle


def test_loops_are_included_by_loops_alone() -> None:
    """What includes an -inl.h file is compiled for each instruction set as well."""
    users = {
        path.name for path in FILES for included in includes(path) if included.endswith("-inl.h")
    }
    assert all(name.endswith("-inl.h") for name in users), users


def test_header_and_source_of_one_name_are_twins() -> None:
    headers = {path.stem: path for path in FILES if path.suffix == ".h"}
    for source in FILES:
        if source.suffix == ".cpp" and source.stem in headers:
            header = str(headers[source.stem].relative_to(CSRC))
            assert Path(header).parent == source.relative_to(CSRC).parent, f"{header}, {source}"
            assert includes(source)[0] == header, f"{source} does not begin with {header}"


def fields_of(statement: str) -> int:
    """How many fields a statement in a struct declares; 0 where it declares anything else."""
    words = re.sub(r"<[^<>]*(<[^<>]*>)?[^<>]*>|\[[^]]*\]|^(\s*\w+:\n)+", "", statement).strip()
    if (
        not words
        or "(" in words
        or re.match(r"(using|typedef|static|friend|template|enum)\b", words)
    ):
        return 0
    return 0 if re.match(r"(struct|class)\b[^=]*$", words) else words.count(",") + 1


def measure(path: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Lines of each function of a file, and fields of each struct, by their first lines."""
    code = re.sub(r"//[^\n]*", "", path.read_text())
    code = re.sub(r"^#(?:\\\n|[^\n])*", "", code, flags=re.MULTILINE)
    code = re.sub(r'"[^"\n]*"', '""', code)
    functions: dict[str, int] = {}
    structs: dict[str, int] = {}
    scopes: list[str | None] = [
        ""
    ]  # of each open brace: the head of a scope; None within functions
    begins = 0  # where a statement begins
    for at, sign in enumerate(code):
        statement, scope = code[begins:at], scopes[-1]
        if sign in ";{" and scope in structs and not (sign == "{" and "(" in statement):
            structs[scope] += fields_of(statement)
        if sign == "{":
            head = re.match(r"[^(=]*\b(namespace|struct|class|enum|extern)\b[^(=]*$", statement)
            scopes.append(
                f"{path.name}: {statement.strip()}" if head and scope is not None else None
            )
            if scopes[-1] and head and head[1] in ("struct", "class"):
                structs[scopes[-1]] = 0
        elif sign == "}" and scopes.pop() is None and scopes[-1] is not None and "(" in statement:
            head_line = statement.strip().split("\n")[0]
            functions[f"{path.name}:{at}: {head_line}"] = statement.strip().count("\n") + 1
        if sign in ";{}" and scopes[-1] is not None:
            begins = at + 1
    return functions, structs


def test_files_functions_and_structs_are_small() -> None:
    lines = {str(path.relative_to(CSRC)): len(path.read_text().splitlines()) for path in FILES}
    assert not {file for file, count in lines.items() if count > MOST_LINES.get(file, 300)}
    functions: dict[str, int] = {}
    structs: dict[str, int] = {}
    for path in FILES:
        of_file = measure(path)
        functions.update(of_file[0])
        structs.update(of_file[1])
    assert len(functions) > 400, "the reader of functions has lost its way"
    assert len(structs) > 60, "the reader of structs has lost its way"
    assert not {head: count for head, count in functions.items() if count > 60}
    assert not {head: count for head, count in structs.items() if count > 12}
