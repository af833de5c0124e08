"""What is measured: one row for each case, with what is to be reached."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.gpu.rows import ROWS

OURS = "kmeans_module float32"
HALF = ("kmeans_module float16", "kmeans_module bfloat16")
ON_CPU = "kmeans_module on the CPU"
LIB, LIB_HALF, CUTE = "flashlib float32", "flashlib bfloat16", "flashlib CuTe bfloat16"
FLASH, FLASH_HALF = "flash-kmeans float32", "flash-kmeans float16"
TORCH = "torch float32"
STEP, GRAPH, PEER = "kmeans_module", "kmeans_module in a CUDA graph", "vector-quantize-pytorch"


class Goal(NamedTuple):
    """What a figure should reach: a multiple of a peer's, or a limit.

    Attributes:
        factor: the peer's figure should be at least so many times ours; a limit where there is no
            peer, which ours should not exceed.
        peer: a contestant.
        ours: the contestant whose figure it is.
        figure: which of its figures.
    """

    factor: float
    peer: str | None = None
    ours: str = OURS
    figure: str = "ms"


class Case(NamedTuple):
    """One row of the table.

    Attributes:
        name, group: for the command line and the table.
        kind: a key of ``kinds.KINDS``: what is timed or counted.
        rows: a key of ``rows.ROWS``.
        n, d, k: samples, features, clusters.
        contestants: in the order of the table, ours first.
        levels: of a residual quantizer.
    """

    name: str
    group: str
    kind: str
    rows: str
    n: int
    d: int
    k: int
    contestants: tuple[str, ...]
    goals: tuple[Goal, ...] = ()
    levels: int = 1

    @property
    def title(self) -> str:
        levels = f", {self.levels} levels" if self.levels > 1 else ""
        return f"{ROWS[self.rows][0]}, {self.n:,} × {self.d}, k = {self.k:,}{levels}"

    def quick(self) -> Case:
        """On a tenth of the rows, but twice the clusters; limits are for all rows."""
        goals = tuple(goal for goal in self.goals if goal.peer is not None)
        return self._replace(n=max(self.n // 10, min(self.n, 2 * self.k)), goals=goals)

    def tiny(self) -> Case:
        """The same on so little that an interpreter of kernels gets through it."""
        return self._replace(
            n=min(self.n, 96), d=min(self.d, 18), k=min(self.k, 6), levels=min(self.levels, 2)
        )


def _noise(name: str, n: int, d: int, k: int, *more: str, cute: float = 1.15) -> Case:
    """Noise: no method leaves anything out, the product is all of it."""
    contestants = (OURS, *HALF, LIB, LIB_HALF, CUTE, FLASH, FLASH_HALF, *more)
    goals = [Goal(2, LIB), Goal(1.3, LIB_HALF), Goal(cute, CUTE)]
    goals += [Goal(1, OURS, half) for half in HALF]
    goals += [Goal(1.2, FLASH_HALF, half) for half in HALF]
    if (d, k) == (128, 4096):
        goals.append(Goal(2e3 * n * d * k / 500e12))  # 500 TFLOP/s
    return Case(name, "noise", "iteration", "noise", n, d, k, contestants, tuple(goals))


def _structure(name: str, rows: str, n: int, d: int, k: int, cute: float) -> Case:
    """Structure: what cannot win may be left out; from the tenth iteration on, and whole fits."""
    goals = (Goal(cute, CUTE), Goal(2.5, LIB, figure="whole_ms"))
    contestants = (OURS, LIB, LIB_HALF, CUTE, FLASH, FLASH_HALF)
    return Case(name, "structure", "late iteration", rows, n, d, k, contestants, goals)


def _few(n: int, d: int, k: int, factor: float, *goals: Goal, more: tuple[str, ...] = ()) -> Case:
    name = f"few-{n // 1000}k-{d}-{k}" if n < 10**6 else f"few-{n // 10**6}m-{d}-{k}"
    goals = (Goal(factor, LIB), Goal(factor, FLASH), *goals)
    contestants = (OURS, LIB, LIB_HALF, FLASH, FLASH_HALF, *more)
    return Case(name, "few features", "iteration", "blobs", n, d, k, contestants, goals)


def _assignment(name: str, n: int, d: int, k: int) -> Case:
    goals = [Goal(1, FLASH)]
    if n * d * k >= 65_536 * 256 * 8_192:
        goals.append(Goal(6, TORCH))
    contestants = (OURS, TORCH, FLASH, FLASH_HALF, LIB, LIB_HALF)
    return Case(name, "new rows", "assignment", "noise", n, d, k, contestants, tuple(goals))


def _step(name: str, n: int, d: int, k: int, factor: float, graph: float, levels: int = 1) -> Case:
    goals = [Goal(factor, PEER, STEP)]
    if graph:
        goals.append(Goal(graph, ours=GRAPH))
    contestants = (STEP, GRAPH, PEER)
    return Case(name, "quantizers", "step", "noise", n, d, k, contestants, tuple(goals), levels)


def _memory(name: str, n: int, d: int, k: int) -> Case:
    """At most one copy in half precision, and a little for each row and each centroid."""
    rest = 64 * n + 64 * k * d + 64 * 2**20
    goals = (
        Goal((2 * n * d + rest) / 2**20, figure="mb"),
        Goal(rest / 2**20, ours=HALF[0], figure="mb"),
    )
    return Case(name, "memory", "memory", "noise", n, d, k, (OURS, HALF[0], LIB, FLASH), goals)


STARTS = Goal(3, figure="start_iterations")  # the first sums take no longer than 3 iterations

# The most telling ones first: where the time is spent, the rest is left out.
CASES: tuple[Case, ...] = (
    _noise("noise-128-4096", 1_000_000, 128, 4_096, TORCH),
    _structure("topics-4096", "topics", 1_000_000, 128, 4_096, 5),
    _few(10_000_000, 16, 16, 1, STARTS),
    _few(1_000_000, 2, 64, 6),
    _step("vq-64-1024", 8_192, 64, 1_024, 4, 0.2),
    _assignment("new-65536-256-8192", 65_536, 256, 8_192),
    Case("seeding-1024", "seeding", "seeding", "blobs", 1_000_000, 128, 1_024, (OURS,),
         (Goal(300),)),
    Case("seeding-8192", "seeding", "seeding", "blobs", 65_536, 256, 8_192, (OURS,),
         (Goal(350),)),
    Case("waits-fit", "waits", "waits", "noise", 262_144, 64, 256, (OURS, LIB, FLASH),
         (Goal(4, figure="waits"),)),
    Case("waits-step", "waits", "waits of a step", "noise", 8_192, 64, 1_024, (STEP, PEER),
         (Goal(0, ours=STEP, figure="waits"),)),
    Case("small-2-6", "small", "whole", "blobs", 1_000, 2, 6, (OURS, ON_CPU), (Goal(3),)),
    Case("small-64-64", "small", "whole", "blobs", 8_192, 64, 64, (OURS, ON_CPU),
         (Goal(1, ON_CPU),)),
    Case("epoch-64-256", "Lightning", "epoch", "noise", 262_144, 64, 256, (OURS,),
         (Goal(1.1, figure="over_both"),)),
    _noise("noise-128-1024", 1_000_000, 128, 1_024, TORCH, "faiss float32", "cuML float32"),
    _structure("patches-4096", "patches", 535_940, 108, 4_096, 1.5),
    _structure("overlapping-4096", "overlapping", 1_000_000, 128, 4_096, 4),
    _few(500_000, 16, 100, 3, STARTS, more=("faiss float32", "cuML float32")),
    _few(1_000_000, 2, 6, 6),
    _few(10_000_000, 1, 16, 6),
    _few(10_000_000, 3, 256, 6),
    _few(1_000_000, 8, 64, 6),
    _step("vq-64-8192", 8_192, 64, 8_192, 5, 0.3),
    _step("vq-256-8192", 65_536, 256, 8_192, 12, 3),
    _step("rq-64-1024", 8_192, 64, 1_024, 6, 0, levels=8),
    _memory("memory-128-1024", 1_000_000, 128, 1_024),
    _memory("memory-64-131072", 262_144, 64, 131_072),
    _noise("noise-256-4096", 524_288, 256, 4_096, cute=1),
    _noise("noise-512-4096", 524_288, 512, 4_096),
    _noise("noise-768-4096", 200_000, 768, 4_096),
    _noise("noise-1024-1024", 200_000, 1_024, 1_024),
    _assignment("new-8192-64-1024", 8_192, 64, 1_024),
    _assignment("new-8192-64-8192", 8_192, 64, 8_192),
    _assignment("new-32768-8-16384", 32_768, 8, 16_384),
    _assignment("new-8192-128-65536", 8_192, 128, 65_536),
    _assignment("new-1m-128-1024", 1_000_000, 128, 1_024),
    _assignment("new-1m-128-4096", 1_000_000, 128, 4_096),
    _structure("topics-16384", "topics", 4_000_000, 128, 16_384, 5),
)  # fmt: skip


def chosen(names: list[str] | None) -> list[Case]:
    """The cases of these names or groups, all without; refuses others."""
    known = {case.name for case in CASES} | {case.group for case in CASES}
    for name in names or []:
        if name not in known:
            groups = ", ".join(dict.fromkeys(case.group for case in CASES))
            raise SystemExit(
                f"--only takes names of cases ({', '.join(case.name for case in CASES)}) or of "
                f"groups ({groups}); got {name}"
            )
    return [case for case in CASES if not names or {case.name, case.group} & set(names)]
