"""Every code block of the README, run from top to bottom in one folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def blocks_of(name: str) -> list[tuple[str, str]]:
    """Language and code of each block of a document."""
    return re.findall(r"```(\w+)\n(.*?)```", (ROOT / name).read_text(), flags=re.DOTALL)


BLOCKS = blocks_of("README.md")


def run_command(line: str, folder: Path) -> None:
    words = shlex.split(line)
    if words[0] == "make":  # this test may be a part of it: only see that there is such a target
        subprocess.run(["make", "--dry-run", words[1]], cwd=ROOT, check=True, capture_output=True)
        return
    assert words[0] in ("python", ".venv/bin/python")
    done = subprocess.run(
        [sys.executable, *words[1:]], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_code_block_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("train.py", "configs"):
        os.symlink(ROOT / name, tmp_path / name)
    rows = [f"{i % 7},{1_000 * (i % 11)}" for i in range(200)]  # "a table of your own"
    Path("table.csv").write_text("\n".join(["age,income", *rows]))
    names: dict[str, Any] = {}
    for language, code in BLOCKS:
        if language == "python":
            code = code.replace("file:///tmp/rendezvous", (tmp_path / "rendezvous").as_uri())
            exec(compile(code, "README.md", "exec"), names)
        else:
            assert language == "bash"
            for line in code.splitlines():
                run_command(line, tmp_path)
    assert (names["labels"] == names["result"].labels).all()
    for file in (
        "table/version_0/clusters.png",
        "features/version_0/labels.npy",
        "image/version_0/quantized.png",
    ):
        assert (tmp_path / "runs" / file).stat().st_size
    ends = [
        (tmp_path / "runs" / "blobs" / f"version_{i}" / "centroids.safetensors").read_bytes()
        for i in (0, 1)
    ]
    assert ends[0] == ends[1], "a resumed run and one on two processes find the same"


def test_the_python_of_the_page_on_gpus_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for language, code in blocks_of("docs/gpu.md"):
        if language == "python":
            exec(compile(code, "docs/gpu.md", "exec"), names)
    assert (names["labels"] == names["result"].labels).all()
    assert "reference: for any device; there" in capsys.readouterr().out


def test_the_readme_has_a_block_for_every_use() -> None:
    code = "\n".join(block for _, block in BLOCKS)
    for use in (
        "make train",
        "layer.fit",
        "layer.m_step",
        "from_file",
        "train.py fit",
        "LitKMeans",
    ):
        assert use in code
