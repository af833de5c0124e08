"""Pictures of the figures in the JSON files."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.peers import OURS

Rows = list[dict[str, object]]


def speed(rows: Rows) -> Figure:
    """For each workload the time of every peer relative to ours, on a log scale."""
    figure = _figure(8, 1.2 + 0.42 * len(rows))
    axes = figure.subplots()
    peers = [peer for peer in rows[0]["ms"] if peer != OURS]
    heights = range(len(rows))
    for peer, marker in zip(peers, "osD^vPX*", strict=False):
        ratios = [_ratio(row["ms"].get(peer), row["ms"][OURS]) for row in rows]
        axes.plot(ratios, heights, marker, label=peer, markersize=6, alpha=0.8)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    ticks = [t for t in (0.5, 1, 2, 3, 5, 10, 20, 50, 100, 200) if t < 1.3 * axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f"{tick:g} ×" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(heights, [row["title"] for row in rows])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(f"time of an iteration relative to {OURS}")
    figure.legend(loc="outside upper center", ncols=len(peers), frameon=False)
    return figure


def growth(rows: Rows) -> Figure:
    """Milliseconds against n, and against k, with lines of slope 1 to compare with."""
    figure = _figure(9, 4)
    for axes, against in zip(figure.subplots(1, 2), ("n", "k"), strict=True):
        label = {"n": "samples", "k": "clusters"}[against]
        curves: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            if row["against"] == against:
                curves.setdefault(row["title"], []).append((row[against], row["ms"]))
        if not curves:
            continue
        for title, points in curves.items():
            x, y = zip(*points, strict=True)
            (line,) = axes.plot(x, y, "o-", label=title)
            straight = [y[0] * value / x[0] for value in x]
            axes.plot(x, straight, ":", color=line.get_color(), alpha=0.6)
        axes.plot([], [], ":", color="gray", label="slope 1")
        axes.set(xscale="log", yscale="log", xlabel=label, ylabel="ms per iteration")
        values = sorted({row[against] for row in rows if row["against"] == against})
        axes.set_xticks(values, [f"{value:,}" for value in values], fontsize="small")
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    return figure


def write(figure: Figure, file: Path) -> None:
    """As PNG."""
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    print(f"wrote {file}")


def _ratio(theirs: float | None, ours: float) -> float:
    return float("nan") if theirs is None else theirs / ours


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
