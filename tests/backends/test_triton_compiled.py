"""What Triton's compiler makes of the kernels for devices that are not there.

Registers, spills and shared memory keep within a budget, the products are fed by copies that run
ahead, and what decides is fused where written, rounded correctly, and flushes no denormal number.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.test_triton_process import REPOSITORY, why_not

# Shared memory of a program on each device, bytes, less what the driver takes.
SHARED = {
    80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10,
}  # fmt: skip
# The most registers, bytes of the stack, and KB of shared memory that a kernel may take.
BUDGET = {
    "sift": (255, 256, 147),
    "sift_listed": (255, 288, 147),
    "guess": (255, 0, 131),
    "find_thresholds": (96, 0, 4),
    "decide": (128, 64, 4),
    "measure_candidates": (255, 320, 48),
    "take_decisions": (64, 0, 4),
    "measure": (128, 64, 4),
    "assign_few": (96, 0, 4),
    "measure_lengths": (128, 0, 4),
    "find_frame": (128, 0, 4),
    "halve_rows": (128, 0, 4),
    "halve_centroids": (168, 0, 4),
    "find_extents": (128, 0, 4),
    "find_units": (64, 0, 4),
    "move_rows": (192, 64, 16),
    "move_among_few": (255, 0, 16),
    "read_totals": (96, 32, 4),
    "add_squares": (192, 32, 4),
    "add_inertia": (192, 0, 4),
}
# Kernels that take little of the time.
OTHERS = (255, 320, 16)
# What decides: distances, labels, unit length.
DECIDING = (
    "decide", "measure", "assign_few", "move_rows", "lower_rows", "scale_rows", "find_farthest",
)  # fmt: skip
# Named like what decides, but it only screens.
SCREENING = ("measure_candidates",)
NORMALIZING = ("decide, cosine", "measure, cosine", "assign_few, cosine", "move_rows, all")

TARGETS = [
    ("3.9.0", 80),
    ("3.9.0", 90),
    *(
        pytest.param((version, capability), marks=pytest.mark.slow)
        for version, capabilities in (
            ("3.9.0", (86, 89, 100, 120)), ("3.7.1", (80, 90)), ("3.6.0", (80, 90)),
        )
        for capability in capabilities
    ),
]  # fmt: skip

Reports = dict[str, dict[str, Any]]


@pytest.fixture(
    scope="module", params=TARGETS, ids=lambda target: "triton-{}-sm_{}".format(*target)
)
def reports(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, Reports]:
    """Capability, and what each kernel uses there."""
    version, capability = request.param
    folder = Path(sys.prefix) / f"triton-{version}"
    if why_not(folder) is not None:
        pytest.skip(str(why_not(folder)))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TRITON")}
    run = subprocess.run(
        [sys.executable, "-m", "tests.backends.triton_targets", str(capability)],
        cwd=REPOSITORY, capture_output=True, text=True,
        env=clean | {
            "PYTHONPATH": str(folder), "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("cache")),
        },
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-5_000:]
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    return capability, {line["kernel"]: line for line in lines}


def test_kernels_keep_within_their_budget(reports: tuple[int, Reports]) -> None:
    capability, kernels = reports
    seen = set()
    for name, used in kernels.items():
        kernel = name.split(",")[0].split()[0]
        registers, stack, shared = BUDGET.get(kernel, OTHERS)
        seen.add(kernel)
        assert used["registers"] <= registers, name
        assert used["stack"] <= stack, name
        assert used["shared"] <= min(shared << 10, SHARED[capability]), name
    assert seen >= BUDGET.keys()


def test_loops_over_products_spill_nothing_and_copy_ahead(reports: tuple[int, Reports]) -> None:
    capability, kernels = reports
    for name, used in kernels.items():
        if name.startswith(("sift", "guess")):
            if capability != 100:  # whose products lie in memory of their own
                assert used["copies_in_loop"] > 0, name
            if capability in (80, 90):
                # Rows that are rounded on the way leave fewer registers to lists of tiles.
                rounded = name.startswith("sift_listed") and name.endswith("fp16")
                assert used["spilled_in_loop"] <= (2 if rounded else 0), name
        if name.startswith("sift") and "k=16" not in name and capability in (80, 90):
            # For each score of a thread the sign goes into the mask by one shift.
            scores = 64
            assert scores <= used["shifts_in_loop"] <= scores + 8, name


def test_what_decides_is_fused_and_rounded_as_written(reports: tuple[int, Reports]) -> None:
    _, kernels = reports
    for name, used in kernels.items():
        if name.startswith(DECIDING) and name not in SCREENING:
            assert used["inexact"] == [], name
        if name.startswith(("decide", "measure", "assign_few", "lower_rows")):
            assert used["fused"] > 0, name
        if name in NORMALIZING:
            assert used["quotients"] > 0, name
    assert kernels["measure_lengths"]["roots"] > 0
    # A sum of 8 features for 4 centroids: not one multiplication is left alone.
    assert kernels["assign_few d=8"]["fused"] == 8 * 4
    assert kernels["assign_few d=8"]["multiplied"] == 0
