"""What the pages of the API show: each argument is documented, and each documented one is there."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from kmeans_module import functional

pytest.importorskip("sklearn")  # whose base classes the estimators have

ROOT = Path(__file__).parents[1]
SECTIONS = ("Args", "Attributes", "Example", "Examples", "Raises", "Returns", "Shape")
DIRECTIVE = re.compile(
    r"^\.\. (currentmodule|auto\w+):: ([\w.]+)\n(?: +:members:((?:[\w, ]|\n {4,})*))?", re.MULTILINE
)


def found(name: str) -> Any:
    """The thing of a dotted name, as a class or a module has it: methods are not bound."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            thing: Any = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for part in parts[n:]:
            thing = inspect.getattr_static(thing, part) if inspect.isclass(thing) else (
                getattr(thing, part)
            )  # fmt: skip
        return thing
    raise LookupError(name)


def public_members(name: str) -> list[str]:
    """What ``:members:`` without a list shows: all that has a docstring of its own."""
    thing = found(name)
    names = getattr(thing, "__all__", None) or [each for each in vars(thing) if each[0] != "_"]
    members = {each: found(f"{name}.{each}") for each in names}
    return [
        each
        for each, member in members.items()
        if isinstance(member, property | cached_property | classmethod | staticmethod)
        or callable(member)
    ]


def shown() -> Iterator[str]:
    """Dotted names of the classes, functions and methods of docs/api."""
    for page in sorted((ROOT / "docs" / "api").glob("*.rst")):
        module = ""
        for match in DIRECTIVE.finditer(page.read_text(encoding="utf-8")):
            kind, name, members = match.groups()
            if kind in ("currentmodule", "automodule"):
                module = name
            if not name.startswith("kmeans_module"):
                name = f"{module}.{name}"
            if kind in ("autoclass", "autofunction", "autoexception"):
                yield name
            if members is not None:
                for member in re.findall(r"\w+", members) or public_members(name):
                    yield f"{name}.{member}"


def sections_of(doc: str) -> dict[str, str]:
    """The text of each section, its indentation removed."""
    sections: dict[str, list[str]] = {"": []}
    lines = sections[""]
    for line in inspect.cleandoc(doc).splitlines():
        if line.removesuffix(":") in SECTIONS and line.endswith(":"):
            lines = sections.setdefault(line[:-1], [])
            continue
        if line and not line.startswith(" "):  # what follows a section
            lines = sections[""]
        lines.append(line)
    return {name: dedent("\n".join(text)) for name, text in sections.items()}


def named(section: str) -> list[str]:
    """``a`` and ``b`` of lines such as ``a, b: what they are``."""
    heads = re.findall(r"^(\w+(?:, \w+)*): ", section, flags=re.MULTILINE)
    return [name for head in heads for name in head.split(", ")]


def documented_by(thing: Any) -> list[str]:
    """Names of the section Args; of a class whose fields are its arguments, of Attributes."""
    sections = sections_of(inspect.getdoc(thing) or "")
    fields = hasattr(thing, "_fields") or hasattr(thing, "__dataclass_fields__")
    if fields and "Args" not in sections:
        return named(sections.get("Attributes", ""))
    return named(sections.get("Args", ""))


def unwrapped(thing: Any) -> Any:
    if isinstance(thing, classmethod | staticmethod):
        return thing.__func__
    return thing.func if isinstance(thing, cached_property) else thing


def is_public(name: str) -> bool:
    """Whether a user calls it: core may move, and one sentence says what backends have to do."""
    protocols = ("kmeans_module.backends.Backend.", "kmeans_module.backends.Workspace.")
    return not name.startswith(("kmeans_module.core.", *protocols))


NAMES = sorted(set(filter(is_public, shown())))


def test_the_pages_show_the_api() -> None:
    assert {"kmeans_module.KMeansLayer.fit", "kmeans_module.functional.e_step"} <= set(NAMES)


def test_all_of_it_says_what_it_is() -> None:
    assert not [name for name in NAMES if not (found(name).__doc__ or "").strip()]


def test_every_argument_is_documented_and_nothing_else() -> None:
    faults = {}
    for name in NAMES:
        thing = unwrapped(found(name))
        if not callable(thing) or getattr(thing, "_is_protocol", False) or name.endswith("Error"):
            continue
        parameters = set(inspect.signature(thing).parameters) - {"self", "cls"}
        if sorted(documented_by(thing)) != sorted(parameters):
            faults[name] = (documented_by(thing), parameters)
    assert not faults


def test_what_is_returned_is_documented() -> None:
    nothing = ("None", None, inspect.Signature.empty)
    functions = {
        name: unwrapped(found(name)) for name in NAMES if inspect.isroutine(unwrapped(found(name)))
    }
    assert not [
        name
        for name, function in functions.items()
        if inspect.signature(function).return_annotation not in nothing
        and "Returns" not in sections_of(function.__doc__ or "")
    ]


def test_what_people_begin_with_has_an_example() -> None:
    names = (
        "KMeansLayer", "KMeansLayer.fit", "KMeansLayer.initialize", "KMeansLayer.prepare",
        "KMeansLayer.e_step", "KMeansLayer.m_step", "KMeansLayer.stats", "KMeansLayer.forward",
        "KMeansLayer.transform", "KMeansLayer.search", "KMeansLayer.soft_assign",
        "KMeansLayer.decode", "KMeansLayer.save", "KMeansLayer.from_centroids", "FitResult",
        "LitKMeans", "Batch", "BatchLoader", "ArrayDataModule", "BlobDataModule",
        "ImageDataModule", "data.RowsDataModule", "VectorQuantizer", "VectorQuantizer.encode",
        "ResidualQuantizer", "ProductQuantizer", "quantization.Quantized", "kmeans", "predict",
        "KMeans", "MiniBatchKMeans", "Inertia", "ClusterUsage", "show_backends",
        *(f"functional.{name}" for name in functional.__all__),
    )  # fmt: skip
    assert not [name for name in names if ">>> " not in found(f"kmeans_module.{name}").__doc__]
