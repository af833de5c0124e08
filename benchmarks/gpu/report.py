"""The figures of ``gpu`` as lines, as a JSON file and as the README's table."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.cases import Case, Goal
from benchmarks.gpu.libraries import versions
from benchmarks.machine import describe, rounded

BEGIN = "<!-- gpu: python -m benchmarks table benchmarks/results/gpu.json --update README.md -->\n"
END = "<!-- end of gpu -->\n"
SHOWN = ("ms", "mb", "waits")  # the figures of a cell, the first that there is
UNITS = {"ms": "ms", "whole_ms": "ms of a whole fit", "mb": "MB", "waits": "waits",
         "start_iterations": "iterations' time to start",
         "over_both": "× an empty epoch plus the layer's iteration"}  # fmt: skip


def machine(device: torch.device) -> dict[str, Any]:
    """The card, and the versions of what runs on it."""
    found: dict[str, Any] = {**describe(), "python": platform.python_version()}
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        found |= {
            "card": card.name, "capability": f"{card.major}.{card.minor}",
            "memory_gb": card.total_memory / 2**30, "cuda": torch.version.cuda,
        }  # fmt: skip
    try:
        import triton
    except ImportError:
        found["triton"] = None
    else:
        found["triton"] = triton.__version__
    return found


def is_h200(found: dict[str, Any]) -> bool:
    """Whether limits in milliseconds, which are those of that card, decide."""
    return "H200" in found.get("card", "")


def reached(
    case: Case, figures: dict[str, dict[str, Any]], *, absolute: bool
) -> list[dict[str, Any]]:
    """For each goal what was reached, and whether that is enough: None where nobody can say."""
    return [_reached(goal, figures, absolute) for goal in case.goals]


def _reached(goal: Goal, figures: dict[str, dict[str, Any]], absolute: bool) -> dict[str, Any]:
    """One goal: a ratio to a peer's figure, or a limit."""
    ours = figures.get(goal.ours, {}).get(goal.figure)
    found: dict[str, Any] = {**goal._asdict(), "reached": None, "met": None}
    if ours is None:
        return found
    if goal.peer is None:
        found["reached"] = ours
        if absolute or not goal.figure.endswith("ms"):
            found["met"] = ours <= goal.factor
        return found
    theirs = figures.get(goal.peer, {}).get(goal.figure)
    if theirs is not None:
        found["reached"] = theirs / ours
        found["met"] = found["reached"] >= goal.factor
    return found


def own_wrong(row: dict[str, Any]) -> bool:
    """Whether a label of ours in the sample is not the nearest centroid's."""
    return any(
        figures.get("wrong", 0) != 0
        for name, figures in row["figures"].items()
        if name.startswith("kmeans_module")
    )


def own_failed(row: dict[str, Any]) -> bool:
    """Whether ours raised an error."""
    return any(name.startswith("kmeans_module") for name in row["failed"])


def write(out: Path, found: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """All rows so far; the file is whole at any time."""
    figures = {"what": "gpu", "machine": found, "versions": versions(), "rows": rows}
    out.parent.mkdir(parents=True, exist_ok=True)
    new = out.with_name(out.name + ".new")
    new.write_text(json.dumps(rounded(figures), indent=1, ensure_ascii=False) + "\n")
    os.replace(new, out)


def lines(row: dict[str, Any], missing: dict[str, str]) -> str:
    """A case for the screen; what is missing in all cases was said before."""
    found = [f"{row['case']}: {row['title']}: {row['what']}"]
    for name, figures in row["figures"].items():
        texts = [f"{figures[figure]:.4g} {UNITS[figure]}" for figure in UNITS if figure in figures]
        if "ms" in figures and "iteration" in row["what"]:
            texts.append(f"{tflops(row, figures['ms']):.0f} TFLOP/s")
        if "wrong" in figures:
            texts.append(f"wrong {figures['wrong']:.3%}")
        found.append(f"    {name:<30} {', '.join(texts) or 'ran'}")
    found += [
        f"    {name:<30} without: {why}"
        for name, why in row["without"].items()
        if missing.get(name) != why
    ]
    found += [
        f"    goal: {goal_text(goal)}" for goal in row["goals"] if goal["reached"] is not None
    ]
    return "\n".join(found)


def tflops(row: dict[str, Any], ms: float) -> float:
    """The 2·n·d·k operations of all inner products, seen as time."""
    return float(2e-9 * row["n"] * row["d"] * row["k"] / ms)


def goal_text(goal: dict[str, Any]) -> str:
    """What was reached, and what should be."""
    mark = {True: "", False: ", missed", None: " on an H200"}[goal["met"]]
    ours = goal["ours"].removeprefix("kmeans_module").strip()
    of = "" if ours in ("", "float32") else f"{ours}: "
    unit = UNITS[goal["figure"]]
    if goal["peer"] is None:
        return f"{of}{goal['reached']:.3g} {unit}, at most {goal['factor']:.3g}{mark}"
    what = "" if goal["figure"] in SHOWN else f" ({unit})"
    return f"{of}{goal['reached']:.3g} × {goal['peer']}{what}, at least {goal['factor']:g}{mark}"


def summary(rows: list[dict[str, Any]]) -> str:
    """How many goals were reached, and which were not."""
    goals = [(row["case"], goal) for row in rows for goal in row["goals"]]
    met = sum(goal["met"] is True for _, goal in goals)
    missed = [f"    {case}: {goal_text(goal)}" for case, goal in goals if goal["met"] is False]
    open_ = len(goals) - met - len(missed)
    return "\n".join([f"{met} goals reached, {len(missed)} missed, {open_} open", *missed])


def markdown(figures: dict[str, Any]) -> str:
    """The tables, a group after the other, of what :func:`write` wrote."""
    found, rows = figures["machine"], figures["rows"]
    text = [
        f"On one {found['card']}, torch {found['torch']}, Triton {found['triton']} (`python -m "
        "benchmarks gpu`): medians of warm",
        "runs in turns, by CUDA events, from the same initial centroids. In brackets the share of "
        "labels that are not the",
        "nearest centroid's, beyond 1e-5, by float64 on a sample; without brackets it is 0.",
        "",
    ]
    for group in dict.fromkeys(row["group"] for row in rows):
        text += [*_table([row for row in rows if row["group"] == group]), ""]
    text += _without(rows)
    text.append(f"Versions: {', '.join(' '.join(one) for one in figures['versions'].items())}.")
    return "\n".join([*text, ""])


def _without(rows: list[dict[str, Any]]) -> list[str]:
    """Why contestants have no figure; cases are named where they have some in others."""
    present = {name for row in rows for name in row["figures"]}
    names: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        for name, why in row["without"].items():
            names.setdefault(why, {}).setdefault(name, []).append(row["case"])
    text = [
        f"- {why}: "
        + ", ".join(
            f"{name} ({', '.join(cases)})" if name in present else name
            for name, cases in found.items()
        )
        for why, found in names.items()
    ]
    return ["Contestants without a figure:", "", *text, ""] if text else []


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """Of one group: a column for each contestant with a figure."""
    names = list(dict.fromkeys(name for row in rows for name in row["figures"]))
    titles = dict.fromkeys(row["what"] for row in rows)
    found = [
        f"{'; '.join(titles)}:", "", _line([rows[0]["group"], *names, "reached"]),
        "|---" * (len(names) + 2) + "|",
    ]  # fmt: skip
    for row in rows:
        goals = [goal_text(goal) for goal in row["goals"] if goal["reached"] is not None]
        cells = [_cell(row["figures"].get(name, {}), row["what"]) for name in names]
        found.append(_line([row["title"], *cells, "; ".join(goals) or "–"]))
    return found


def _cell(figures: dict[str, Any], what: str) -> str:
    shown = next((figure for figure in SHOWN if figure in figures), None)
    if shown is None:
        return "–"
    text = f"{figures[shown]:.3g}"
    if " / " in what:  # two figures
        text += f" / {figures['whole_ms']:.3g}"
    wrong = figures.get("wrong", 0)
    return f"{text} ({wrong:.2g})" if wrong else text


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
