"""Compile the Triton kernels for devices that are not there; print what they use as JSON.

``python -m tests.backends.triton_targets CAPABILITY ...``, with Triton in front of PYTHONPATH. Each
line has a kernel, a capability, its registers, bytes on the stack and of shared memory; what the
loop over products on tensor cores does; and which operations round (see test_triton_compiled.py).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kmeans_module.backends.triton import launch
from kmeans_module.backends.triton.kernels import (
    chunks,
    decide,
    few,
    halves,
    regroup,
    screen,
    totals,
)
from kmeans_module.backends.triton.kernels import tiles as kernels_of_tiles
from tests.backends.triton_loops import launched

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"

# Types of arguments by name; other arguments are int32.
TYPES = {
    "x": "*fp32", "half": "*fp16", "norms": "*fp32", "residues": "*fp32", "exponents": "*i32",
    "lengths": "*fp32", "offset": "*fp32", "reach": "*i32", "centroids": "*fp16",
    "described": "*fp16", "described_rows": "*fp16", "scores": "*fp32", "most": "*i32",
    "labels": "*i32", "active": "*i8", "entries": "*i32", "n_entries": "*i32", "masks": "*i32",
    "best": "*i64", "c": "*fp32", "out": "*i64", "wanted": "*i8", "distances": "*fp32",
    "thresholds": "*fp32", "low": "*i32", "high": "*i32", "weights": "*fp64",
    "new_labels": "*i32", "sums": "*i64", "counts": "*i64", "unit_exponents": "*i32",
    "count_exponents": "*i32", "changed": "*i64", "totals": "*i64", "partial": "*fp64",
    "order": "*i32", "homes": "*i32", "place_of": "*i32", "index_of": "*i32",
    "tiles_listed": "*i16", "list_lengths": "*i32", "reaches": "*fp32", "left": "*fp32",
    "moves": "*i32", "listed": "*i16", "positions": "*i16", "state": "*i32", "tallies": "*i64",
    "last": "*fp32", "reach_of_rows": "*i32",
    "weight_exponents": "*i32", "product_error": "fp32", "sum_error": "fp32",
}  # fmt: skip
# Numbers that are multiples of 16, where rows lie one after the other.
MULTIPLES = {"problem_stride", "row_stride", "half_stride", "pitch", "places"}


class Variant(NamedTuple):
    """A kernel as it is launched for some rows.

    Attributes:
        name: of this variant.
        kernel: a function of :mod:`triton`.
        constants: its constexpr arguments.
        types: of arguments that have another type than usual.
        warps: of a program.
    """

    name: str
    kernel: Any
    constants: dict[str, Any]
    types: dict[str, str] = {}  # noqa: RUF012
    warps: int = 4


def screening(capability: tuple[int, int], d: int, k: int, dtype: str = "*fp32") -> list[Variant]:
    """Of rows of d features and k centroids, with the tiles of the launch."""
    tiles = launch.tiles_of(capability, d, k)
    sizes = {
        "rows": tiles.rows, "features": tiles.features, "columns": tiles.columns,
        "stages": tiles.stages,
    }  # fmt: skip
    types: dict[str, str] = {"x": dtype}
    if tiles.described:
        types["described"] = f"tensordesc<fp16[{tiles.columns},{tiles.features}]>"
        types["described_rows"] = f"tensordesc<fp16[{tiles.rows},{tiles.features}]>"
    sift = {**sizes, "segment_tiles": 32, "described_tiles": tiles.described}
    at = f"d={d}, k={k}"
    if d > launch.WHOLE:
        guess = {**sizes, "described_tiles": tiles.described}
        return [
            Variant(f"sift {at}", chunks.sift_in_chunks, sift, types, tiles.warps),
            Variant(f"guess {at}", chunks.guess_in_chunks, guess, types, tiles.warps),
        ]
    ready = {"unit": False, "ready": dtype == "*fp32"}
    return [
        Variant(f"sift {at} {dtype}", screen.sift, {**sift, **ready}, types, tiles.warps),
        Variant(f"guess {at} {dtype}", screen.guess, {**sizes, **ready}, types, tiles.warps),
        Variant(
            f"sift_listed {at} {dtype}",
            kernels_of_tiles.sift_listed,
            {**sift, **ready, "width": 64},
            {"counts": "*i32", "moves": "*fp32", **types},
            tiles.warps,
        ),
    ]


def variants(capability: tuple[int, int]) -> list[Variant]:
    """Every kernel, those that take time with each of their sizes."""
    plain, cosine = {"unit": False}, {"unit": True}
    pairs = {"pairs": 16, "columns": 64, "segment_tiles": 32, "listed": False}
    listed = pairs | {"listed": True}
    moved = {"rows": 16, "features": 64, "keyed": True}
    few_rows = {"rows": 128, "columns": 4}
    moving = moved | {"first": False, "weighted": False}
    first = moved | {"first": True, "weighted": True}
    halved = {"rows": 32, "features": 128, "copies": True}
    centroids = {"centroids": 16, "features": 128, "placed": False}
    placed = centroids | {"placed": True}
    among = {"rows": 256, "features": 16, "first": False, "keyed": True, "weighted": False}
    squares = {"rows": 64, "features": 64, "weighted": False}
    doubles = {"totals": "*fp64", "counts": "*fp64"}
    return [
        *(v for d in (16, 32, 64, 128, 256) for v in screening(capability, d, 4096)),
        *screening(capability, 128, 16),
        *screening(capability, 128, 4096, "*fp16"),
        Variant("find_thresholds", chunks.find_thresholds, {"rows": 32, "features": 64}),
        Variant("decide", decide.decide, pairs | plain),
        Variant("decide, cosine", decide.decide, pairs | cosine),
        Variant("decide, listed", decide.decide, listed | plain),
        Variant("take_decisions", decide.take_decisions, {"rows": 1024} | cosine),
        Variant("measure", decide.measure, {"rows": 32, "few": False} | plain),
        Variant("measure, cosine", decide.measure, {"rows": 32, "few": False} | cosine),
        Variant("measure few", decide.measure, {"rows": 256, "few": True} | plain),
        Variant("assign_few d=1", few.assign_few, {"d": 1} | few_rows | plain),
        Variant("assign_few d=8", few.assign_few, {"d": 8} | few_rows | plain),
        Variant("assign_few, cosine", few.assign_few, {"d": 3} | few_rows | cosine),
        Variant("measure_lengths", halves.measure_lengths, {"rows": 64}),
        Variant("find_frame", halves.find_frame, {"sample": 128, "features": 32} | cosine),
        Variant("halve_rows", halves.halve_rows, halved | plain),
        Variant("halve_centroids", halves.halve_centroids, centroids),
        Variant("halve_centroids, placed", halves.halve_centroids, placed),
        Variant("find_extents", totals.find_extents, {"rows": 64, "features": 64}),
        Variant("find_units", totals.find_units, {"features": 64} | plain, warps=1),
        Variant("move_rows", regroup.move_rows, moving | plain),
        Variant("move_rows, all", regroup.move_rows, first | cosine),
        Variant("move_among_few", regroup.move_among_few, among | plain),
        Variant("read_totals", totals.read_totals, {"numbers": 1024}, {"out": "*fp64"}),
        Variant("add_squares", totals.add_squares, squares | plain),
        Variant("add_inertia", totals.add_inertia, {"centroids": 16, "features": 64}, doubles),
        *(Variant(*kernel) for kernel in launched()),
    ]  # fmt: skip


def compiled(variant: Variant, capability: tuple[int, int]) -> Any:
    """What Triton makes of a kernel for a device."""
    constants = dict(variant.constants)
    names = variant.kernel.arg_names
    if "feature_stride" in names:
        constants["feature_stride"] = 1
    types = {**TYPES, **variant.types}
    signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in names}
    multiples = {
        (i,): [["tt.divisibility", 16]]
        for i, n in enumerate(names)
        if signature[n].startswith("*") or (n in MULTIPLES and signature[n] == "i32")
    }
    source = ASTSource(
        fn=variant.kernel, signature=signature, constexprs=constants, attrs=multiples
    )
    target = GPUTarget("cuda", 10 * capability[0] + capability[1], 32)
    with warnings.catch_warnings():
        # That 3.10 will fuse no longer what is written apart: tl.fma is written where it decides.
        warnings.simplefilter("ignore")
        return triton.compile(source, target=target, options={"num_warps": variant.warps})


def usage(cubin: bytes, *, disassemble: bool) -> tuple[dict[str, int], str]:
    """Registers, stack and local memory of a kernel, and its machine code or ""."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        output = subprocess.run(
            [TOOLS / "cuobjdump", "--dump-resource-usage", file.name],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        code = ""
        if disassemble:
            code = subprocess.run(
                [TOOLS / "nvdisasm", "-c", file.name], capture_output=True, text=True, check=True
            ).stdout
    numbers = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", output))
    return {name: int(number) for name, number in numbers.items()}, code


# Operations that round otherwise than written, or flush denormal numbers.
INEXACT = re.compile(r"^\s*(?:@\S+ )?(\w+\.\S*(?:approx|ftz|full)\S*)", re.MULTILINE)


def innermost_loop(code: str) -> str:
    """Machine code of the loop around the first product on tensor cores, where there is one."""
    product = re.search(r"\b(?:HMMA|HGMMA|UTCHMMA)\b", code)
    if product is None:
        return ""
    labels = {m[1]: m.start() for m in re.finditer(r"^(\.L_x_\d+):", code, re.MULTILINE)}
    loops = [
        (branch.start() - labels[branch[1]], labels[branch[1]], branch.start())
        for branch in re.finditer(r"BRA[^;]*`\((\.L_x_\d+)\)", code)
        if labels[branch[1]] < product.start() < branch.start()
    ]
    _, begin, end = min(loops, default=(0, 0, 0))
    return code[begin:end]


def report(variant: Variant, capability: tuple[int, int]) -> dict[str, Any]:
    begin = time.perf_counter()
    binary = compiled(variant, capability)
    seconds = time.perf_counter() - begin
    numbers, code = usage(binary.asm["cubin"], disassemble="stages" in variant.constants)
    ptx = binary.asm["ptx"]

    loop = innermost_loop(code)

    def count(pattern: str, text: str) -> int:
        return len(re.findall(pattern, text))

    return {
        "kernel": variant.name,
        "capability": capability,
        "registers": numbers["REG"],
        "stack": numbers["STACK"] + numbers["LOCAL"],
        "shared": binary.metadata.shared,
        "seconds": round(seconds, 2),
        "spilled_in_loop": count(r"\b(?:LDL|STL)\b", loop),
        "copies_in_loop": count(r"\b(?:LDGSTS|UTMALDG)\b", loop),
        "shifts_in_loop": count(r"\bSHF\.L", loop),
        "fused": count(r"fma\.rn\.f32\b", ptx) + 2 * count(r"fma\.rn\.f32x2\b", ptx),
        "multiplied": count(r"mul\.(?:rn\.)?f32", ptx),
        "roots": count(r"sqrt\.rn\.f32", ptx),
        "quotients": count(r"div\.rn\.f32", ptx),
        "inexact": sorted(set(INEXACT.findall(ptx))),
    }


def main(capabilities: list[str]) -> None:
    for name in capabilities:
        capability = (int(name[:-1]), int(name[-1]))
        for variant in variants(capability):
            print(json.dumps(report(variant, capability)), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
