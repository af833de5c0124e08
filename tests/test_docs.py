"""The pages of docs/: every public name is on one, and every link leads somewhere."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kmeans_module

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "api").glob("*.rst"))
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "csrc" / "README.md"]


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
