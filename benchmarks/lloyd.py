"""Milliseconds per iteration from the same initial centroids, all libraries interleaved."""

from __future__ import annotations

import argparse
import math
import statistics

import torch
from torch import Tensor

from benchmarks.machine import Roofline, rest
from benchmarks.peers import OURS, Peer, Run, choose, inertia
from benchmarks.workloads import WORKLOADS, Workload, load

# Exact libraries from the same start end this close, relative to the inertia.
TOLERANCE = 1e-4


def run(options: argparse.Namespace) -> list[dict[str, object]]:
    """One row for each workload, printed as it is found."""
    dtype = getattr(torch, options.dtype)
    peers = choose(options.peers, dtype)
    roofline = Roofline.measure(dtype)
    print(
        f"{torch.get_num_threads()} threads, {options.dtype}: "
        f"{roofline.bandwidth / 1e9:.1f} GB/s, {roofline.flops / 1e9:.0f} GFlop/s\n"
        f"ms per iteration, at most {options.iterations} from the same centroids, "
        f"median of {options.repeats}\n"
    )
    head = "".join(f"{peer:>14}" for peer in peers)
    print(f"{'':<46}{head}{'× faster':>10}{'× reading':>11}{'× product':>11}")
    rows = []
    for name in options.workloads or WORKLOADS:
        work = load(name, scale=options.scale, dtype=dtype)
        row = compare(work, peers, options, roofline)
        rows.append(row)
        print(_line(row, list(peers)), flush=True)
    return rows


def compare(
    work: Workload, peers: dict[str, Peer], options: argparse.Namespace, roofline: Roofline
) -> dict[str, object]:
    """Times and inertias of every peer on one workload."""
    first, runs = _interleaved(work, peers, options)
    n, d = work.x.shape
    k = work.k
    ms = {
        peer: statistics.median(1e3 * one.seconds / one.n_iter for one in found) if found else None
        for peer, found in runs.items()
    }
    others = {peer: value for peer, value in ms.items() if value is not None and peer != OURS}
    fastest = min(others, key=lambda peer: others[peer], default=None)
    deviation = _deviations(work.x, {peer: found[-1] for peer, found in runs.items() if found})
    return {
        "workload": work.name, "title": f"{work.title}, {work.shape}", "n": n, "d": d, "k": k,
        "ms": ms, "fastest_peer": fastest,
        "speedup": others[fastest] / ms[OURS] if fastest and ms.get(OURS) else None,
        "read_ms": roofline.read_ms(n, d, work.x.itemsize),
        "product_ms": roofline.product_ms(n, d, k),
        "runs": {peer: len(found) for peer, found in runs.items()},
        "n_iter": {peer: found[-1].n_iter for peer, found in runs.items() if found},
        # After one iteration only an error shows; later, rounding and ties send paths apart too.
        "first_deviation": _deviations(work.x, first),
        "deviation": deviation,
        "flagged": [
            peer for peer, off in deviation.items()
            if peers[peer].exact and not abs(off) <= TOLERANCE
        ],
    }  # fmt: skip


def _interleaved(
    work: Workload, peers: dict[str, Peer], options: argparse.Namespace
) -> tuple[dict[str, Run], dict[str, list[Run]]]:
    """One iteration of each peer, and whole runs in turns.

    Others than ours get ``options.limit`` seconds: fewer runs, or none, where these do not do.
    """
    first = {name: peer.run(work, 1) for name, peer in peers.items()}  # warms up
    expected = {name: one.seconds * options.iterations for name, one in first.items()}
    spent = dict.fromkeys(peers, 0.0)
    runs: dict[str, list[Run]] = {name: [] for name in peers}
    for _ in range(options.repeats):
        for name, peer in peers.items():
            if name == OURS or spent[name] + expected[name] <= options.limit:
                rest()
                runs[name].append(peer.run(work, options.iterations))
                expected[name] = runs[name][-1].seconds
                spent[name] += expected[name]
    return first, runs


def _deviations(x: Tensor, runs: dict[str, Run]) -> dict[str, float]:
    """Inertia that each peer reached, relative to scikit-learn's, else to the first one's."""
    reached = {peer: inertia(x, one.centroids) for peer, one in runs.items()}
    reference = reached.get("scikit-learn", next(iter(reached.values()), math.nan))
    return {peer: value / reference - 1 for peer, value in reached.items()}


def _line(row: dict[str, object], peers: list[str]) -> str:
    ms = row["ms"]
    cells = "".join(f"{'-' if ms[peer] is None else f'{ms[peer]:.1f}':>14}" for peer in peers)
    if ours := ms.get(OURS):
        cells += f"{row['speedup']:>10.2f}" if row["speedup"] else f"{'-':>10}"
        cells += f"{ours / row['read_ms']:>11.1f}{ours / row['product_ms']:>11.2f}"
    notes = [
        f"\n    inertia of {peer}{'' if peer in row['flagged'] else ' (approximate)'} differs: "
        f"{off:+.1e}, after one iteration {row['first_deviation'][peer]:+.1e}"
        for peer, off in row["deviation"].items()
        if not abs(off) <= TOLERANCE
    ]
    return f"{row['title']:<46}{cells}{''.join(notes)}"
