"""How `make docs` makes pages of docs/ and of the docstrings; no network, warnings are errors."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import kmeans_module  # noqa: E402 (found by the line above)

project = "kmeans_module"
author = "the authors of kmeans_module"
version = release = kmeans_module.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
]
autosummary_generate = False  # tables of names alone
exclude_patterns = ["_build"]
smartquotes_action = "D"  # dashes alone: values of options are copied from the pages
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"kmeans_module {version}"
html_static_path = ["style"]
html_css_files = ["pages.css"]
html_math_renderer = "mathml"
html_show_copyright = False
html_copy_source = False

# Pages whose text is that of a file beside docs/, such as CONTRIBUTING.md.
FROM_ABOVE = ("readme", "contributing", "changelog")

napoleon_numpy_docstring = False
napoleon_custom_sections = ["Shape"]
napoleon_use_ivar = True  # attributes as a list, without a heading for the type of each
napoleon_use_rtype = False  # what stands before a colon need not be a type

autodoc_inherit_docstrings = False  # Lightning's hooks and torch's methods are documented there
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
maximum_signature_line_length = 88

nitpicky = True
# Not looked up: other packages' names, and what stands for a class itself or for several types.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|torchmetrics|lightning|sklearn|numpy|matplotlib)\..*"),
    ("py:.*", r"(collections|os|pathlib|types)\..*"),
    ("py:class", r"(kmeans_module\..*\.)?(Portable|Residual|Product)"),
    ("py:class", "Tensor|Figure|Init"),
]


def as_restructured_text(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Shapes such as (*batch_shape, k, d) are not emphasized; "a, b: of both" is said of each."""
    text = "\n".join(lines)
    for attributes in re.finditer(r"^Attributes:\n((?: .*\n?|\n)*)", text, flags=re.MULTILINE):
        section = attributes[1]
        said_of_each = re.sub(
            r"^( +)(\w+(?:, \w+)+)(: .*(?:\n\1 .*)*)",
            lambda each: "\n".join(f"{each[1]}{name}{each[3]}" for name in each[2].split(", ")),
            section,
            flags=re.MULTILINE,
        )
        text = text.replace(section, said_of_each)
    lines[:] = text.split("\n")
    for i, line in enumerate(lines):
        if line.lstrip().startswith((">>> ", "... ")):
            continue
        line = re.sub(r"(: \w)\.$", r"\1\\.", line)  # "k." alone would be item k of a list
        parts = re.split(r"(``.*?``|:\w+:`.*?`)", line)
        parts[::2] = [re.sub(r"(?<![\\*])\*(?![*\s])", r"\\*", part) for part in parts[::2]]
        lines[i] = "".join(parts)


def with_underscores(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Names such as labels_ are no references."""
    lines[:] = [re.sub(r"^(:(?:ivar|vartype) \w+)_:", r"\1\\_:", line) for line in lines]


def with_files(app: Sphinx, name: str, source: list[str]) -> None:
    """Links to files of the repository outside of docs/ are links to copies of them."""
    if name in FROM_ABOVE:
        file = ROOT / f"{name.upper()}.md"
        app.env.note_dependency(str(file))
        text = re.sub(r"\]\((?!\w+:|#)", "](../", file.read_text(encoding="utf-8"))
        text = text.replace("](../docs/", "](")
        for page in FROM_ABOVE:
            text = text.replace(f"](../{page.upper()}.md", f"]({page}.md")
        source[0] = text
    source[0] = re.sub(r"\[([^]]*)\]\(\.\./([^)]*)\)", link_to_a_copy, source[0])


def link_to_a_copy(link: re.Match[str]) -> str:
    """A link to a copy of a file; a folder has none, and its name stays."""
    return f"[{link[1]}](path:../{link[2]})" if (ROOT / link[2]).is_file() else link[1]


def inline_math(writer: Any, node: nodes.math) -> None:
    writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def block_math(writer: Any, node: nodes.math_block) -> None:
    writer.body.append(tex2mathml(node.astext(), as_block=True))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Math is MathML, which browsers draw by themselves, without a script from the network."""
    app.connect("source-read", with_files)
    app.connect("autodoc-process-docstring", as_restructured_text, priority=400)
    app.connect("autodoc-process-docstring", with_underscores, priority=600)
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
