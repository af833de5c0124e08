"""What pyproject.toml promises is what documents, oldest.txt and the workflow speak of."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from typing import Any

import pytest
import yaml

from tests.documents import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    pytest.skip("reads pyproject.toml by tomllib", allow_module_level=True)

PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
WORKFLOW: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
HOOKS: dict[str, Any] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
# Programs of the workflow that are no targets of make.
PROGRAMS = ("python -m pip install pre-commit", "pre-commit run --all-files")


def bounds(requirements: list[str]) -> dict[str, tuple[int, ...]]:
    """Of each package the lower bound, or the version, as numbers without zeros at the end."""
    found = {}
    for requirement in requirements:
        name, version = re.split(r"(?:\[\w+\])?[>=]=", requirement)
        numbers = [int(number) for number in version.split(".")]
        while numbers[-1] == 0:
            numbers.pop()
        found[name] = tuple(numbers)
    return found


def steps() -> list[dict[str, Any]]:
    return [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]


def test_every_required_package_is_said_to_be_required_for_something() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = page.split("## Dependencies")[1].split("\n## ")[0]
    listed = re.findall(r"^\| `([\w-]+)` \| .{10,} \|$", section, flags=re.MULTILINE)
    assert listed == list(bounds(PROJECT["dependencies"]))
    for extra in PROJECT["optional-dependencies"]:
        assert f"`{extra}`" in section


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    lines = (ROOT / "oldest.txt").read_text(encoding="utf-8").splitlines()
    promised = bounds(PROJECT["dependencies"])
    for extra in PROJECT["optional-dependencies"].values():
        promised |= bounds(extra)
    assert bounds([line for line in lines if "==" in line]) == promised


def test_the_workflow_has_the_pythons_that_are_promised() -> None:
    classifiers = [text.rpartition(" ")[2] for text in PROJECT["classifiers"] if ":: 3." in text]
    assert WORKFLOW["jobs"]["test"]["strategy"]["matrix"]["python"] == classifiers
    assert PROJECT["requires-python"] == f">={classifiers[0]}"
    tried = {str(step["with"]["python-version"]) for step in steps() if "setup-python" in str(step)}
    assert tried - {"${{ matrix.python }}"} <= set(classifiers)


def test_every_command_of_the_workflow_is_there() -> None:
    commands = [step["run"] for step in steps() if "run" in step]
    targets = []
    for command in commands:
        program, *words = shlex.split(command)
        if program == "make":
            subprocess.run(["make", "--dry-run", *words], cwd=ROOT, check=True, capture_output=True)
            targets.append(words[0])
        else:
            assert command in PROGRAMS
    assert {"test", "test-oldest", "docs", "dist"} <= set(targets)
    assert all("run" in step or "uses" in step for step in steps())


def test_hooks_are_what_make_lint_checks() -> None:
    said = subprocess.run(
        ["make", "--dry-run", "--always-make", "lint"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    (repository,) = HOOKS["repos"]
    assert repository["repo"] == "local"
    entries = [shlex.split(hook["entry"]) for hook in repository["hooks"]]
    assert [words[0] for words in entries] == [".ci/tool"] * 4
    assert (ROOT / ".ci" / "tool").stat().st_mode & 0o111
    assert all(re.search(rf"bin/{program}\b", said) for _, program, *_ in entries)
    files = next(re.compile(hook["files"]) for hook in repository["hooks"] if "files" in hook)
    checked = {
        str(path.relative_to(ROOT))
        for folder in ("csrc", "tests/native", "benchmarks")
        for pattern in ("*.h", "*.cpp")
        for path in (ROOT / folder).rglob(pattern)
    }
    assert checked
    assert all(files.match(path) for path in checked)
