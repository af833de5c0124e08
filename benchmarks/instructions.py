"""Two builds of the C++ kernel on the workloads of ``lloyd``: instructions, or seconds in pairs.

    python -m benchmarks instructions --library A.so --against B.so
    python -m benchmarks instructions --library A.so --against B.so --time

Instructions are those of the library's functions in callgrind, by one thread, on fewer rows of
the same features, clusters and kind: two builds differ by noise of a millionth. Valgrind has no
AVX-512, so the AVX2 kernels run; the Python package has no part. Seconds are of the best
instruction set on all rows, of two processes in turns: the interval of the ratios of the pairs
holds their median in 95 % of cases.
"""

from __future__ import annotations

import argparse
import math
import re
import shutil
import statistics
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.workloads import WORKLOADS, Workload, start
from kmeans_module.backends.native.directions import (
    SAMPLE,
    Directions,
    find_directions,
    find_directions_for_seeding,
    worthwhile,
)
from kmeans_module.core.seeding import CANDIDATES

SOURCE = Path(__file__).with_suffix(".cpp")
PHASES = {"lloyd": 6, "seeding": 12, "neighbors": 1}  # with their iterations under callgrind
MEASURED = ("open", "close", "project", "e_step", "lower", "potentials", "neighbors")
# Products of rows, features and clusters that are searched under callgrind, and rows at most.
PRODUCTS, MOST_ROWS = 1 << 30, 1 << 16


class Ratio(NamedTuple):
    """Of the library to the one that it is compared with; low and high are its interval."""

    middle: float
    low: float
    high: float


class Build:
    """A library, and the program that calls it by the C interface of its headers.

    Args:
        library: a shared object.
        headers: folder of the native.h that the library was built with.
        folder: where the program goes.
    """

    def __init__(self, library: Path, headers: Path, folder: Path) -> None:
        if not library.is_file():
            raise SystemExit(f"there is no library {library}")
        self.library = library.resolve()
        self.program = Path(tempfile.mkdtemp(dir=folder)) / "instructions"
        compiler = shutil.which("g++") or shutil.which("c++")
        if compiler is None:
            raise SystemExit("instructions: the program that calls a library needs g++")
        command = [compiler, "-std=c++17", "-O2", f"-I{headers}", str(SOURCE), "-ldl"]
        subprocess.run([*command, "-o", str(self.program)], check=True)

    def command(self, problem: Path, phase: str, iterations: int, threads: int) -> list[str]:
        arguments = (self.program, self.library, problem, phase, iterations, threads)
        return [str(argument) for argument in arguments]

    def instructions(
        self, problem: Path, phase: str, iterations: int, keep: Path | None
    ) -> tuple[int, str]:
        """Of a phase, and the hash of its results; the profile is kept where keep says."""
        options = [f"--toggle-collect=km_{name}" for name in MEASURED]
        options.append(f"--callgrind-out-file={keep or '/dev/null'}")
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", *options,
             *self.command(problem, phase, iterations, 1)],
            input="\n", capture_output=True, text=True, check=False,
        )  # fmt: skip
        counted = re.search(r"Collected : (\d+)", done.stderr)
        if done.returncode or counted is None:
            raise SystemExit(f"callgrind failed on {self.library}:\n{done.stderr[-2000:]}")
        return int(counted[1]), done.stdout.split()[1]


class Clock:
    """A process that runs a phase whenever it is asked to."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self) -> float:
        """Seconds of a run."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit("the program that calls a library has ended")
        self.hash = answer.split()[1]
        return float(answer.split()[0])

    def close(self) -> None:
        self._process.communicate()


def run(options: argparse.Namespace) -> list[dict[str, object]]:
    """One row for each workload and phase, printed as it is found."""
    if not options.time and shutil.which("valgrind") is None:
        raise SystemExit("instructions are counted by valgrind, which is not there; or --time")
    dtype = getattr(torch, options.dtype)
    what = "ms" if options.time else "million instructions"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        new = Build(options.library, options.headers, Path(folder))
        old = Build(options.against, options.against_headers or options.headers, Path(folder))
        print(f"{what}: {options.library} against {options.against}, {options.dtype}\n")
        print(f"{'':<54}{'against':>12}{'library':>12}{'ratio':>9}")
        for name in options.workloads or WORKLOADS:
            work = sample(name, rows=options.rows, dtype=dtype, all_rows=options.time)
            problem = Path(folder) / name
            write(work, problem)
            for phase in options.phases:
                row = {"workload": name, "phase": phase, "n": len(work.x)}
                compared = timed if options.time else counted
                row |= compared(new, old, problem, phase, options)
                rows.append(row)
                print(_line(work, row), flush=True)
            problem.unlink()
    return rows


def counted(
    new: Build, old: Build, problem: Path, phase: str, options: argparse.Namespace
) -> dict[str, object]:
    """Instructions of two builds."""
    iterations = options.iterations or PHASES[phase]
    found = []
    for build, label in ((old, "against"), (new, "library")):
        keep = options.keep and options.keep / f"{problem.name}-{phase}-{label}.callgrind"
        found.append(build.instructions(problem, phase, iterations, keep))
    (before, old_hash), (after, new_hash) = found
    return {
        "against": before / 1e6, "library": after / 1e6, "ratio": after / before,
        "equal": old_hash == new_hash,
    }  # fmt: skip


def timed(
    new: Build, old: Build, problem: Path, phase: str, options: argparse.Namespace
) -> dict[str, object]:
    """Seconds of two builds in turns, of which either is the first as often."""
    iterations = options.iterations or (1 if phase == "neighbors" else 20)
    clocks = [
        Clock(build.command(problem, phase, iterations, options.threads)) for build in (old, new)
    ]
    for clock in clocks:  # pages and caches
        clock()
    pairs = []
    for i in range(options.repeats):
        order = clocks if i % 2 else clocks[::-1]
        seconds = {id(clock): clock() for clock in order}
        pairs.append(tuple(seconds[id(clock)] for clock in clocks))
    for clock in clocks:
        clock.close()
    ratio = interval([after / before for before, after in pairs])
    return {
        "against": 1e3 * statistics.median(pair[0] for pair in pairs),
        "library": 1e3 * statistics.median(pair[1] for pair in pairs),
        "ratio": ratio.middle, "low": ratio.low, "high": ratio.high,
        "equal": clocks[0].hash == clocks[1].hash,
    }  # fmt: skip


def interval(ratios: list[float]) -> Ratio:
    """The median, and the order statistics that hold it with 95 % (those of the sign test)."""
    ratios = sorted(ratios)
    n = len(ratios)
    below, chance = 0, 0.5**n
    while 2 * (chance + math.comb(n, below + 1) * 0.5**n) <= 0.05:
        below += 1
        chance += math.comb(n, below) * 0.5**n
    return Ratio(statistics.median(ratios), ratios[below], ratios[-1 - below])


def sample(name: str, *, rows: int | None, dtype: torch.dtype, all_rows: bool) -> Workload:
    """A workload, or fewer rows of it: every so many, at least eight for a cluster."""
    if name not in WORKLOADS:
        raise SystemExit(f"workloads are {', '.join(WORKLOADS)}; got {name}")
    title, make, k = WORKLOADS[name]
    x = make()
    if rows is None:
        usual = min(MOST_ROWS, max(PRODUCTS // (k * x.shape[1]), 8 * k))
        rows = len(x) if all_rows else usual
    x = x[:: max(1, len(x) // rows)][:rows].to(dtype).contiguous()
    return start(name, title, x, min(k, max(1, len(x) // 8)))


def write(work: Workload, file: Path) -> None:
    """What instructions.cpp reads: n, d, k, whether they are double, how many directions the search
    has and seeding; rows, centroids, and both directions with their origins."""
    n, d = work.x.shape
    size = work.x.itemsize
    rows = work.x[:: max(1, n // SAMPLE)][:SAMPLE]
    search = seeding = None
    if worthwhile(n, work.k, d):
        search = find_directions(rows, work.centroids, most=d * size // 8 - 1)
    if worthwhile(n, 512, d):  # clusters that NativeWorkspace takes seeding to end with
        seeding = find_directions_for_seeding(rows, n_candidates=CANDIDATES, most=d * size // 4 - 1)
    given = [_directions(found, d) for found in (search, seeding)]
    head = (n, d, work.k, work.x.dtype == torch.float64, *(len(one.basis) for one in given))
    tensors = [work.x, work.centroids, *(tensor for one in given for tensor in one)]
    with file.open("wb") as opened:
        opened.write(struct.pack("<6q", *head))
        for tensor in tensors:
            opened.write(tensor.contiguous().numpy().tobytes())


def _directions(found: Directions | None, d: int) -> Directions:
    return found or Directions(torch.empty(0, d), torch.zeros(d))


def _line(work: Workload, row: dict) -> str:
    label = f"{row['workload']}, {work.shape}: {row['phase']}"
    line = f"{label:<54}{row['against']:>12.3f}{row['library']:>12.3f}{row['ratio']:>9.4f}"
    if "low" in row:
        line += f"  [{row['low']:.3f}, {row['high']:.3f}]"
    return line + ("" if row["equal"] else "  RESULTS DIFFER")
