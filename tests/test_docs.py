"""The pages of docs/: code runs, links lead somewhere, every public name is on one."""

from __future__ import annotations

import doctest
import importlib
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

import kmeans_module
from kmeans_module.core.metrics import METRICS
from kmeans_module.core.seeding import INITS
from tests.documents import ROOT, blocks_of, run_blocks

PAGES = sorted((ROOT / "docs" / "api").glob("*.rst"))
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "csrc" / "README.md"]


Names = dict[str, Any]


def exact_layers(names: Names, folder: Path) -> None:
    x = names["x"]
    assert (names["layer"](x) == names["restored"](x)).all(), "saved, read, and the same"


def runs_that_agree(names: Names, folder: Path) -> None:
    files = ("table/version_0/clusters.png", "image/version_0/quantized.png")
    assert all((folder / "runs" / file).stat().st_size for file in files)


def backends_that_serve(names: Names, folder: Path) -> None:
    assert (names["labels"] == names["result"].labels).all()
    assert "reference: for any device; there" in kmeans_module.show_backends()


def nothing_more(names: Names, folder: Path) -> None:
    pass


# What is to hold at the end of each document, beside what it prints; test_readme.py runs README.md,
# test_migration.py and test_programs.py the blocks of migration.md.
WITH_CODE = {
    "docs/layer.md": exact_layers,
    "docs/file.md": runs_that_agree,
    "docs/codebooks.md": nothing_more,
    "docs/large.md": nothing_more,
    "docs/runs.md": nothing_more,
    "docs/gpu.md": backends_that_serve,
    "CONTRIBUTING.md": nothing_more,
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", WITH_CODE)
def test_every_code_block_of_a_document_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    registers: list[dict[str, Any]] = [INITS, METRICS]  # to which CONTRIBUTING.md adds
    before = [dict(register) for register in registers]
    try:
        names = run_blocks(name, tmp_path)
    finally:
        for register, entries in zip(registers, before, strict=True):
            register.clear()
            register.update(entries)
    assert "False" not in capsys.readouterr().out
    WITH_CODE[name](names, tmp_path)


def test_the_doctest_of_the_first_page_runs() -> None:
    faults, tried = doctest.testfile(str(ROOT / "docs" / "index.rst"), module_relative=False)
    assert tried
    assert not faults


def test_every_document_with_code_is_run() -> None:
    names = [str(path.relative_to(ROOT)) for path in DOCUMENTS if path.parent.name != "csrc"]
    elsewhere = {"README.md", "docs/migration.md"}
    assert {name for name in names if blocks_of(name)} == {*WITH_CODE, *elsewhere}


def test_every_file_that_is_spoken_of_is_there() -> None:
    for document in (ROOT / "CONTRIBUTING.md", ROOT / "docs" / "architecture.md"):
        text = document.read_text(encoding="utf-8")
        for name in re.findall(r"`((?:tests|kmeans_module|configs|docs|csrc)/[\w./]*)`", text):
            assert (ROOT / name).exists() or (ROOT / "kmeans_module" / name).exists(), name


def test_changelog_and_citation_are_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == kmeans_module.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[([\d.]+)\] - (\d{4}-\d\d-\d\d)$", changelog, flags=re.MULTILINE)
    assert released[0] == (kmeans_module.__version__, str(citation["date-released"]))
    assert changelog.index("## [Unreleased]") < changelog.index(f"## [{released[0][0]}]")
    assert citation["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.slow
def test_two_nodes_find_what_one_process_does(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "large.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^    (MASTER_ADDR.*\\\n.*)$", page, flags=re.MULTILINE)
    words = shlex.split(line.replace("10.0.0.1", "127.0.0.1").replace("\\\n", " "))
    settings = dict(word.split("=", 1) for word in words[:3])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        settings["MASTER_PORT"] = str(free.getsockname()[1])
    command = [sys.executable, "-m", "kmeans_module.cli", *words[4:]]
    command += ["--trainer.accelerator=cpu", "--trainer.max_epochs=5"]
    os.symlink(ROOT / "configs", tmp_path / "configs")

    def start(name: str, extra: dict[str, str], *options: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **extra}
        return subprocess.Popen(
            [*command, f"--trainer.logger.init_args.name={name}", *options],
            cwd=tmp_path, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    nodes = [start("two", {**settings, "NODE_RANK": str(rank)}) for rank in range(2)]
    for node in [*nodes, start("one", {}, "--trainer.num_nodes=1", "--trainer.strategy=auto")]:
        said, _ = node.communicate(timeout=300)
        assert node.returncode == 0, said
    one, two = (
        (tmp_path / "runs" / name / "version_0" / "centroids.safetensors").read_bytes()
        for name in ("one", "two")
    )
    assert one == two


def test_the_pictures_are_drawn_by_their_code(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    code = [sys.executable, str(ROOT / "docs" / "pictures.py"), "--folder", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(code, env=environment, check=True, capture_output=True)
    drawn = sorted(path.name for path in tmp_path.iterdir())
    assert drawn == ["clusters.png", "palette.jpg"]
    for name in drawn:
        with Image.open(tmp_path / name) as new, Image.open(ROOT / "docs" / name) as shown:
            assert new.size == shown.size


def documented() -> set[str]:
    """Names that the pages of the API list: of autoclass and the like, and members."""
    names: set[str] = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        names |= {
            name.rpartition(".")[2]
            for name in re.findall(r"\.\. auto(?:class|function|exception):: ([\w.]+)", text)
        }
        module = ""
        for directive, name, members in re.findall(
            r"\.\. auto(module|class):: ([\w.]+)\n   :members:((?:[\w, ]|\n      )*)", text
        ):
            module = name if directive == "module" else module
            if directive == "module":
                names |= set(re.findall(r"\w+", members)) or set(
                    importlib.import_module(name).__all__
                )
    return names


@pytest.mark.parametrize(
    "package",
    [
        "kmeans_module",
        *(
            f"kmeans_module.{name}"
            for name in (
                "backends", "clustering", "data", "estimators", "figures", "files", "functional",
                "layer", "quantization", "rows", "training", "training.callbacks",
            )
        ),
    ],
)  # fmt: skip
def test_every_public_name_is_on_a_page(package: str) -> None:
    if package.endswith("estimators"):
        pytest.importorskip("sklearn")
    constants = {"ARRAY_SUFFIXES", "BACKENDS", "IMAGE_SUFFIXES", "Header"}
    assert set(importlib.import_module(package).__all__) - constants <= documented()


def anchors_of(path: Path) -> set[str]:
    """Of the headings of a document, as GitHub and MyST make them."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if re.match(r"\w+://", link):
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        assert target.exists(), link
        if anchor:
            assert anchor in anchors_of(target), link


@pytest.mark.slow
def test_the_pages_are_made_without_a_warning(tmp_path: Path) -> None:
    for package in ("sphinx", "furo", "myst_parser", "sklearn"):
        pytest.importorskip(package)
    made = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "docs", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    page = (tmp_path / "api" / "layer.html").read_text(encoding="utf-8")
    assert "<math " in page
    assert kmeans_module.__version__ in page
