"""Documents whose code blocks are run: README.md and the pages of docs/."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from kmeans_module.cli import main

ROOT = Path(__file__).parents[1]
# Lines of these are shown, not run: they would reach for a network.
SHOWN = ("git",)

Names = dict[str, Any]


def blocks_of(name: str) -> list[tuple[str, str]]:
    """Language and code of each block of a document."""
    return re.findall(r"```(\w+)\n(.*?)```", (ROOT / name).read_text(), flags=re.DOTALL)


def run_command(line: str) -> None:
    """Run a line of a bash block in the current folder, unless it is only shown."""
    words = shlex.split(line, comments=True)
    if not words or words[0] in SHOWN:
        return
    if words[0] == "make":  # a test may be a part of it: only see that there is such a target
        subprocess.run(["make", "--dry-run", words[1]], cwd=ROOT, check=True, capture_output=True)
        return
    if "pytest" in words:  # which is what runs this
        assert all((ROOT / word).exists() for word in words if word.startswith("tests/"))
        return
    if words[0] == "kmeans" and "ddp" not in words:
        main(words[1:])  # in this process, which has imported everything
        return
    if words[0] == "python":
        words[:1] = [sys.executable]
    elif words[0] == "kmeans":
        words[:1] = [sys.executable, "-m", "kmeans_module.cli"]
    elif words[0] == "torchrun":
        words[:1] = [sys.executable, "-m", "torch.distributed.run"]
    else:
        assert words[0] == "cmp", f"no test runs {line}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def run_blocks(name: str, folder: Path) -> Names:
    """Run every block of a document, from top to bottom, in a folder that has what readers have.

    Args:
        name: of the document.
        folder: the current one.

    Returns:
        the names that its Python has left.
    """
    for linked in ("train.py", "configs"):
        os.symlink(ROOT / linked, folder / linked)
    rows = [f"{i % 7},{1_000 * (i % 11)}" for i in range(200)]  # "a table of your own"
    (folder / "table.csv").write_text("\n".join(["age,income", *rows]))
    names: Names = {}
    for language, code in blocks_of(name):
        if language == "python":
            code = code.replace("file:///tmp/rendezvous", (folder / "rendezvous").as_uri())
            exec(compile(code, name, "exec"), names)
        else:
            assert language == "bash", f"{name} has a block in {language}, which no test runs"
            for line in code.replace("\\\n", "").splitlines():
                run_command(line)
    return names
