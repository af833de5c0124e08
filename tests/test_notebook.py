"""The notebook, run headless in a fresh kernel and looked at."""

from __future__ import annotations

import base64
import html
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kmeans_module.backends import native

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "kmeans.ipynb"
RUN = """
import sys
import ipykernel.kernelspec, nbformat
from nbclient import NotebookClient

source, target, kernels = sys.argv[1:]
ipykernel.kernelspec.write_kernel_spec(kernels)  # of this interpreter, whatever others there are
notebook = nbformat.read(source, as_version=4)
NotebookClient(notebook, timeout=300, startup_timeout=120, kernel_name="python3").execute()
nbformat.write(notebook, target)
"""


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The cells of code with their outputs; the process has neither settings nor a display."""
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    folder = tmp_path_factory.mktemp("notebook")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JUPYTER_PATH": str(folder),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "IPYTHONDIR": str(folder / "ipython"),
    }
    environment.pop("MPLBACKEND", None)
    if native.BACKEND.missing() is not None:  # which the first fit of a process would warn of
        environment["KMEANS_KERNEL"] = "reference"
    target = folder / "run.ipynb"
    run = subprocess.run(
        [sys.executable, "-c", RUN, str(NOTEBOOK), str(target), str(folder / "kernels/python3")],
        env=environment, cwd=folder, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    notebook = json.loads(target.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def outputs_of(cells: list[dict[str, Any]], kind: str) -> list[str]:
    """All outputs of a kind, as a browser gets them."""
    return [
        "".join(output["data"][kind])
        for cell in cells
        for output in cell["outputs"]
        if kind in output.get("data", {})
    ]


def test_it_is_small_and_holds_no_outputs() -> None:
    assert NOTEBOOK.stat().st_size < 200_000
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code
    for cell in code:
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


def test_nothing_fails_or_complains(cells: list[dict[str, Any]]) -> None:
    for cell in cells:
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            assert output.get("name") != "stderr", output


def test_every_figure_shows_itself(cells: list[dict[str, Any]]) -> None:
    calls = [cell for cell in cells if re.search(r"\.(plot|animate)\(", "".join(cell["source"]))]
    pictures = outputs_of(cells, "image/png")
    assert len(pictures) == len(calls) == 9
    for picture in pictures:
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB"))
        assert min(pixels.shape[:2]) > 200
        numbers = pixels.astype(np.int64) @ (65_536, 256, 1)
        colors, counts = np.unique(numbers, return_counts=True)
        assert len(colors) > 30
        assert counts.max() < 0.97 * counts.sum()
        assert len(picture) < 500_000


def test_the_animation_is_a_frame_of_its_own(cells: list[dict[str, Any]]) -> None:
    (frame,) = [page for page in outputs_of(cells, "text/html") if "<iframe" in page]
    (page,) = re.findall(r'srcdoc="([^"]*)"', frame)
    assert html.unescape(page).startswith("<!DOCTYPE html>")
    assert "<script" not in frame
    assert len(frame) < 500_000


def test_the_bar_stays_with_the_cell_and_says_how_it_ended(cells: list[dict[str, Any]]) -> None:
    (bar,) = [page for page in outputs_of(cells, "text/html") if "<progress" in page]
    assert re.search(r"converged after \d+ iterations, inertia [\d.]+", bar)
