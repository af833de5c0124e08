"""k-means on a GPU beside its peers, in minutes, the labels of all of them checked.

Nothing is installed and no network is needed: a contestant that this environment lacks is named.
Without a CUDA device nothing is measured; ``--interpret`` tries the code on the CPU.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import report
from benchmarks.gpu.cases import Case, chosen
from benchmarks.gpu.clock import Absent, Clock, Timed, Trial, noted, reason
from benchmarks.gpu.kinds import KINDS, Data
from benchmarks.gpu.libraries import absent
from benchmarks.gpu.rows import ROWS

OUT = Path(__file__).parents[1] / "results" / "gpu.json"


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure, write and print one case after the other; returns their rows."""
    cases = chosen(options.only)
    if options.interpret or os.environ.get("TRITON_INTERPRET") == "1":
        print("on the CPU, tiny: tries the code, measures and writes nothing\n")
        clock = Clock(torch.device("cpu"), timing=False)
        return _right(measure([case.tiny() for case in cases], clock, None))
    device = cuda()
    if device is None:
        print("no CUDA device: nothing was measured")
        return []
    if options.quick:
        cases = [case.quick() for case in cases]
    clock = Clock(device, share=0.2 if options.quick else 0.5, seconds=options.seconds)
    out = options.out or (None if options.quick or options.only else OUT)
    rows = measure(cases, clock, out)
    print(f"\n{report.summary(rows)}")
    print(f"wrote {out}" if out else "not written: --out FILE writes the figures")
    return _right(rows)


def cuda() -> torch.device | None:
    """torch's current CUDA device; None where there is none."""
    if not torch.cuda.is_available():
        return None
    return torch.device("cuda", torch.cuda.current_device())


def measure(cases: list[Case], clock: Clock, out: Path | None) -> list[dict[str, Any]]:
    """Rows of these cases; after each of them ``out`` holds all that there is so far."""
    machine = report.machine(clock.device)
    missing = absent(clock.device)
    print("".join(f"without {name}: {why}\n" for name, why in missing.items()))
    rows: list[dict[str, Any]] = []
    for case in cases:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of peers, and of fits that end before they converge
            row = one(case, clock, absolute=report.is_h200(machine))
        rows.append(row)
        print(report.lines(row, missing), flush=True)
        if out is not None:
            report.write(out, machine, rows)
    return rows


def one(case: Case, clock: Clock, *, absolute: bool = False) -> dict[str, Any]:
    """A case with all its contestants; what fails is a reason in a line, and the rest goes on."""
    begin = time.monotonic()
    figures: dict[str, dict[str, Any]] = {}
    without: dict[str, Exception] = {}
    what, kind = KINDS[case.kind]
    trials: dict[str, Trial] = {}
    data = None
    with noted(without, ""):
        if clock.is_over():
            raise Absent("the time was spent")
        data = Data.of(ROWS[case.rows][1](case.n, case.d, case.k, clock.device), case.k)
    for name in case.contestants:
        with noted(without, name):
            if data is None:
                raise without[""]
            trials[name] = kind(case, name, data)
    for name, timed in clock.in_turns(trials, without).items():
        with noted(without, name):
            figures[name] = _figures(trials[name], timed)
    if clock.device.type == "cuda":
        torch.cuda.empty_cache()
    left_out = {name: without[name] for name in case.contestants if name in without}
    return {
        "case": case.name, "group": case.group, "title": case.title, "what": what,
        "n": case.n, "d": case.d, "k": case.k, "figures": figures,
        "without": {name: reason(error) for name, error in left_out.items()},
        "failed": [name for name, error in left_out.items() if not isinstance(error, Absent)],
        "goals": report.reached(case, figures, absolute=absolute),
        "seconds": time.monotonic() - begin,
    }  # fmt: skip


def _figures(trial: Trial, timed: Timed) -> dict[str, Any]:
    """Of one contestant, with all its times and what the check of its labels says."""
    found = trial.figures(timed.medians(), timed.results)
    if timed.medians():
        found["calls"] = {
            name: {"runs": len(ms), "least_ms": min(ms), "most_ms": max(ms),
                   "first_ms": timed.first[name]}
            for name, ms in timed.ms.items()
        }  # fmt: skip
    if trial.check is not None:
        wrong, distance = trial.check(timed.results)
        found |= {"wrong": wrong, "distance": distance}
    return found


def _right(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows; an error where ours fails or its labels are not the nearest centroids'."""
    wrong = [row["case"] for row in rows if report.own_wrong(row)]
    failed = [row["case"] for row in rows if report.own_failed(row)]
    if wrong or failed:
        parts = [f"labels of kmeans_module are wrong in {', '.join(wrong)}"] if wrong else []
        parts += [f"kmeans_module fails in {', '.join(failed)}"] if failed else []
        raise SystemExit("; ".join(parts))
    return rows
