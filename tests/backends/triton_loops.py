"""Kernels of loops, seeding, codebooks and lists of tiles, as they are launched."""

from __future__ import annotations

import inspect
import re
from typing import Any

from kmeans_module.backends.triton.kernels import (
    codebook,
    draws,
    following,
    halves,
    lloyd,
    move,
    refill,
    samples,
    seeding,
    sorting,
)

_POINTERS = {
    "f64": "*fp64", "f32": "*fp32", "i64": "*i64", "i32": "*i32", "i16": "*i16", "i8": "*i8",
    "u8": "*u8",
}  # fmt: skip
# Where the comment on an argument is elsewhere.
_OTHERS = {
    "book": "*fp64", "sums": "*fp64", "shift_parts": "*fp64", "row_parts": "*fp64",
    "squares": "*fp64", "changed": "*i64", "epsilon": "fp64", "weights": "*fp64",
    "far_rows": "*i32", "far_weights": "*fp64", "donors": "*i32", "takers": "*i32",
    "ranks": "*i32", "heavy": "*i32", "most": "*i64", "most_weight": "*i64", "near": "*fp32",
    "centroids": "*fp32", "residues": "*fp32", "next_counts": "*fp64", "leaders": "*i64",
    "next_centroids": "*fp32", "recorded": "*u8", "places": "*i32", "nth": "*i32",
    "facts": "*fp64", "totals": "*i64", "integer_counts": "*i64", "drawn": "*fp32",
}  # fmt: skip
_OF_KERNEL = {
    "choose_center": {"rounding": "*fp64"},
    "judge": {"parts": "*fp64"},
    "move": {"counts": "*fp64"},
    "count_rows": {"places": "i32", "counts": "*i32"},
    "begin_step": {"places": "i32", "counts": "*i32", "starts": "*i32"},
    "sort_rows": {"places": "i32", "starts": "*i32"},
    "follow": {"counts": "*fp64"},
    "find_farthest": {"counts": "*fp64"},
}

_LLOYD = {"policy": 1, "unit": False, "columns": 64}
_BOOK = {"problems": 4, "columns": 64}
_MEASURED = {"few": False, "weighted": True, "unit": False}
_CODES = {"rows": 16, "features": 64, "averages": True}
_LAUNCHED: tuple[tuple[Any, dict[str, Any]], ...] = (
    (lloyd.settle, _BOOK),
    (lloyd.judge, _BOOK | {"policy": 1, "unit": False}),
    (lloyd.sum_up, _LLOYD | {"clusters": 16, "features": 64, "told": True, "single": False}),
    (move.move, _LLOYD | {"clusters": 16, "features": 64, "half": 0}),
    (refill.measure_rows, _MEASURED | {"rows": 32, "policy": 1}),
    (refill.find_farthest, {"rows": 32, "block": 1024, "weighted": True, "unit": True}),
    (refill.rank_clusters, {"clusters": 32, "block": 128}),
    (seeding.lower_rows, _MEASURED | {"rows": 32, "every": False}),
    (draws.count_blocks, {"rows": 1024, "weighted": True}),
    (
        draws.draw_candidates,
        {"rows": 1024, "together": 1024, "features": 64, "unit": True, "weighted": True},
    ),
    (
        seeding.measure_candidates,
        {"rows": 128, "features": 32, "few": 0, "unit": False, "ready": True, "weighted": True},
    ),
    (halves.scale_rows, {"rows": 32, "features": 64}),
    (draws.choose_center, {"together": 128, "features": 256}),
    (samples.look, {"rows": 32, "features": 64, "draws": True, "masked": True, "shared": False}),
    (samples.find_known, {"rows": 16, "others": 64, "features": 64, "unit": False}),
    (
        codebook.weigh,
        {"size": 1024, "growing": False, "even": False, "revives": True, "skips": True},
    ),
    (codebook.learn, _CODES | {"revives": True, "unit": False}),
    (following.add_spread, _CODES),
    (following.follow, _CODES | {"unit": False}),
    (sorting.count_rows, {"rows": 1024}),
    (sorting.begin_step, {"numbers": 1024}),
    (sorting.sort_rows, {"rows": 1024}),
)


def types_of(kernel: Any) -> dict[str, str]:
    """Types of the pointers of a kernel, as the comments on its arguments give them."""
    told = re.findall(r"^ *((?:\w+, *)+)# \*(\w+) \(", inspect.getsource(kernel.fn), re.MULTILINE)
    written = {
        name: _POINTERS[pointer] for names, pointer in told for name in re.findall(r"\w+", names)
    }
    return _OTHERS | written | _OF_KERNEL.get(kernel.fn.__name__, {})


def launched() -> list[tuple[str, Any, dict[str, Any], dict[str, str]]]:
    """Name, kernel, constants, and types of arguments."""
    return [(kernel.fn.__name__, kernel, sizes, types_of(kernel)) for kernel, sizes in _LAUNCHED]
