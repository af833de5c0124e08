"""The rooms of csrc/: includes point downwards, and files and functions stay short."""

from __future__ import annotations

import re
from graphlib import TopologicalSorter
from pathlib import Path

from tests.backends.native_builds import ROOT

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


def functions(path: Path) -> list[tuple[str, int]]:
    """The first line of each function of a file, and how many lines it has."""
    code = re.sub(r"//[^\n]*", "", path.read_text())
    code = re.sub(r"^#(?:\\\n|[^\n])*", "", code, flags=re.MULTILINE)
    code = re.sub(r'"[^"\n]*"', '""', code)
    found, inside, begins = [], ["scope"], 0  # what each open brace opens; where a statement begins
    for at, sign in enumerate(code):
        statement = code[begins:at]
        if sign == "{" and inside[-1] == "scope":
            names_scope = re.match(
                r"[^(=]*\b(namespace|struct|class|enum|extern)\b[^(=]*$", statement
            )
            inside.append("scope" if names_scope else "function" if "(" in statement else "values")
        elif sign == "{":
            inside.append("block")
        elif sign == "}" and inside.pop() == "function":
            head = statement.strip()
            found.append((head.split("\n")[0], head.count("\n") + 1))
        if sign in ";{}" and inside[-1] == "scope":
            begins = at + 1
    return found


def test_functions_and_files_are_short() -> None:
    lines = {str(path.relative_to(CSRC)): len(path.read_text().splitlines()) for path in FILES}
    assert not {file for file, count in lines.items() if count > MOST_LINES.get(file, 300)}
    lengths = [(count, path.name, head) for path in FILES for head, count in functions(path)]
    assert len(lengths) > 400  # the reader of functions has not lost its way
    assert not [long for long in lengths if long[0] > 60]
