"""The pages of docs/: code runs, links lead somewhere, every public name is on one."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import yaml
from PIL import Image

import kmeans_module
from kmeans_module.core.metrics import METRICS
from kmeans_module.core.seeding import INITS
from tests.documents import ROOT, SHOWN, Names, blocks_of, run_blocks

PAGES = sorted((ROOT / "docs" / "api").glob("*.rst"))
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "csrc" / "README.md"]


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
    registers: list[Names] = [INITS, METRICS]  # to which CONTRIBUTING.md adds
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


def test_no_command_is_left_unrun_that_no_document_has() -> None:
    names = [*WITH_CODE, "README.md", "docs/migration.md"]
    code = [code for name in names for language, code in blocks_of(name) if language == "bash"]
    assert {line.split()[0] for line in "".join(code).splitlines() if line} >= set(SHOWN)


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
    folder = tmp_path / "pictures"
    code = [sys.executable, str(ROOT / "docs" / "pictures.py"), "--folder", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(code, env=environment, check=True, capture_output=True)
    drawn = sorted(path.name for path in folder.iterdir())
    assert drawn == ["clusters.png", "palette.jpg"]
    with Image.open(ROOT / "docs" / "clusters.png") as picture:
        same_layout = f"version{matplotlib.__version__}," in picture.info["Software"]
    for name in drawn:
        new, shown = (pixels(where / name) for where in (folder, ROOT / "docs"))
        assert new.shape == shown.shape
        # Of 255: other clusters change 5 and more, and so do the margins of another Matplotlib.
        assert abs(new - shown).mean() < 3 or not same_layout


def pixels(path: Path) -> np.ndarray:
    """Of a picture, (height, width, 3)."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.int64)


@pytest.mark.parametrize(
    "program", ["docs/pictures.py", "examples/deep_clustering.py", "examples/vq_vae.py"]
)
def test_a_program_says_in_one_line_that_it_needs_scikit_learn(program: str) -> None:
    code = (
        "import runpy, sys; sys.modules['sklearn'] = None; "
        f"sys.argv = ['{program}']; runpy.run_path('{program}', run_name='__main__')"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ran.returncode == 1
    assert ran.stderr == f"{program} needs scikit-learn: pip install scikit-learn\n"


# A directive of a page of the API, the name after it, and the members that its option lists: none
# stands for all.
DIRECTIVE = re.compile(
    r"^\.\. (currentmodule|auto\w+):: ([\w.]+).*\n( {3}:members:((?: [\w, ]+|\n {6}.+)*))?",
    re.MULTILINE,
)


def shown_on_pages() -> set[int]:
    """Identities of the objects that the pages of the API show."""
    shown: list[Any] = []
    for page in PAGES:
        module: Any = None
        for directive, name, option, members in DIRECTIVE.findall(page.read_text(encoding="utf-8")):
            if directive not in ("currentmodule", "automodule"):
                full = name if name.startswith("kmeans_module.") else f"{module.__name__}.{name}"
                shown.append(pkgutil.resolve_name(full))
                continue
            module = importlib.import_module(name)
            names = re.findall(r"\w+", members) or (module.__all__ if option else [])
            shown += [getattr(module, member) for member in names]
    return set(map(id, shown))


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
    module, shown = importlib.import_module(package), shown_on_pages()
    names = set(module.__all__) - constants
    assert {name for name in names if id(getattr(module, name)) not in shown} == set()


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
