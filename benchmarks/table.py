"""The tables of speeds in README.md, made from the JSON files of ``lloyd`` and of ``gpu``."""

from __future__ import annotations

import argparse
import json

from benchmarks.peers import OURS

BEGIN = "<!-- speed: python -m benchmarks table --update README.md -->\n"
END = "<!-- end of speed -->\n"


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
    notes = []
    if "superkmeans" in peers:
        notes.append("superkmeans is approximate where there are many features.")
    flagged = sorted({peer for row in rows for peer in row["flagged"]})
    if flagged:
        notes += [
            "The final inertia differs from scikit-learn's by more than 0.01 % somewhere for "
            f"{', '.join(flagged)}",
            "(`benchmarks/results/lloyd.json`).",
        ]
    if any(row["ms"].get(peer) is None for row in rows for peer in peers):
        notes.append("A dash: a run would have taken too long.")
    return [*notes, ""] if notes else []


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _head(peer: str, versions: dict[str, str]) -> str:
    return f"{peer} {'.'.join(versions[peer].split('.')[:2])}"


def _number(ms: float | None) -> str:
    """Three digits."""
    if ms is None:
        return "–"
    return f"{ms:,.0f}" if ms >= 99.95 else f"{ms:.1f}" if ms >= 9.995 else f"{ms:.2f}"
