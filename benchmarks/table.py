"""The tables of speeds in README.md, made from the JSON files of ``lloyd`` and of ``gpu``."""

from __future__ import annotations

import argparse
import json
import math
import textwrap

from benchmarks.peers import OURS

BEGIN = "<!-- speed: python -m benchmarks table --update README.md -->\n"
END = "<!-- end of speed -->\n"
WIDTH = 104  # of lines of prose


def run(options: argparse.Namespace) -> None:
    """Prints the table, or puts it into a file between its two comments."""
    figures = json.loads(options.source.read_text())
    if figures["what"] == "gpu":
        from benchmarks.gpu import report

        text, first, last = report.markdown(figures), report.BEGIN, report.END
    else:
        text, first, last = markdown(figures), BEGIN, END
    if options.update is None:
        print(text, end="")
        return
    old = options.update.read_text()
    before, begin, rest = old.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise SystemExit(f"{options.update} lacks the lines\n{first}{last}")
    options.update.write_text(before + begin + text + end + after)


def markdown(figures: dict) -> str:
    """A sentence and the table, of what ``__main__.write_json`` wrote."""
    machine, options, rows = figures["machine"], figures["options"], figures["rows"]
    peers = [peer for peer in rows[0]["ms"] if peer != OURS]
    cores = f"{machine['threads']} CPU core" + "s" * (machine["threads"] > 1)
    lines = [
        f"Milliseconds per iteration, {cores}, {options['dtype']}, at most "
        f"{options['iterations']} iterations from the same initial",
        f"centroids, median of {options['repeats']} runs, fewer where they would take more than "
        f"{options['limit']:g} seconds, all",
        "interleaved (`make bench`); the last column compares with the fastest of the others, "
        "whichever it is:",
        "",
        _row(["data", OURS, *(_head(peer, figures["versions"]) for peer in peers), "× faster"]),
        "|---" * (len(peers) + 3) + "|",
    ]
    for row in rows:
        cells = [_number(row["ms"].get(peer)) for peer in (OURS, *peers)]
        speedup = "–" if row["speedup"] is None else f"**{row['speedup']:.1f}**"
        lines.append(_row([row["title"], *cells, speedup]))
    lines += ["", *_notes(rows, peers), "![The same figures as ratios](docs/speed.png)", "", ""]
    return "\n".join(lines)


def _notes(rows: list[dict], peers: list[str]) -> list[str]:
    """What a reader must know to judge the figures."""
    notes = _inertias(rows)
    if "superkmeans" in peers:
        notes.append("superkmeans is approximate where there are many features.")
    if any(row["ms"].get(peer) is None for row in rows for peer in peers):
        notes.append("A dash: a run would have taken too long.")
    return [*textwrap.wrap(" ".join(notes), WIDTH), ""] if notes else []


def _inertias(rows: list[dict]) -> list[str]:
    """By how much each library, ours too, ends above or below the one that is compared with."""
    libraries = list(dict.fromkeys(peer for row in rows for peer in row["deviation"]))
    reference = "scikit-learn" if "scikit-learn" in libraries else libraries[0]
    most: dict[str, list[str]] = {}  # by the data where a library differs most
    for library in libraries:
        there = [row for row in rows if library in row["deviation"]]
        row = max(there, key=lambda row: _size(row["deviation"][library]))
        if library != reference:
            off = f"{library} {100 * row['deviation'][library]:+.2g} %"
            most.setdefault(row["title"], []).append(off)
    if not most:
        return []
    places = "; ".join(f"on {title}: {', '.join(offs)}" for title, offs in most.items())
    return [
        f"The final inertia of each library differs most from that of {reference} {places}.",
        "A minus is a lower inertia, which is better.",
        "Exact libraries differ where ties and rounding send them different ways.",
    ]


def _size(deviation: float) -> float:
    return math.inf if math.isnan(deviation) else abs(deviation)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _head(peer: str, versions: dict[str, str]) -> str:
    return f"{peer} {'.'.join(versions[peer].split('.')[:2])}"


def _number(ms: float | None) -> str:
    """Three digits."""
    if ms is None:
        return "–"
    return f"{ms:,.0f}" if ms >= 99.95 else f"{ms:.1f}" if ms >= 9.995 else f"{ms:.2f}"
