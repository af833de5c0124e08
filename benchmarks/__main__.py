"""Times the iterations of k-means in this and other libraries, interleaved, on the same data.

    python -m benchmarks                    all workloads, all peers
    python -m benchmarks lloyd pixels       one workload
    python -m benchmarks seeding            k-means++ against scikit-learn's, paired over seeds
    python -m benchmarks overhead           what import and Lightning add

Medians of several runs; ratios count, not seconds: machines differ and are noisy.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path

# These slow numpy's BLAS down where they are set; the peers shall have the best.
for variable in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(variable, None)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "what", nargs="?", default="lloyd", choices=("lloyd", "seeding", "overhead")
    )
    parser.add_argument("workloads", nargs="*", help="names of workloads; default all")
    parser.add_argument("--peers", nargs="*", help="names of peers; default all")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each peer (default 3)")
    parser.add_argument("--iterations", type=int, default=20, help="at most (default 20)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    if options.what == "lloyd":
        figures = lloyd(options)
    elif options.what == "seeding":
        from benchmarks.seeding import seeding

        figures = seeding(options.workloads)
    else:
        from benchmarks.overhead import overhead

        figures = overhead()
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def lloyd(options: argparse.Namespace) -> list[dict[str, object]]:
    """Milliseconds per iteration from the same initial centroids."""
    import torch

    from benchmarks.peers import PEERS, Run, inertia
    from benchmarks.workloads import WORKLOADS, load

    peers = options.peers or list(PEERS)
    print(f"{torch.get_num_threads()} threads, ms per iteration, median of {options.repeats}")
    head = f"{'workload':<15}{'n × d, k':<24}" + "".join(f"{peer:>16}" for peer in peers)
    print(head + f"{'ours / fastest':>16}")
    figures: list[dict[str, object]] = []
    for name in options.workloads or WORKLOADS:
        work = load(name)
        runs: dict[str, list[Run]] = {peer: [] for peer in peers}
        for _ in range(options.repeats):
            for peer in peers:
                runs[peer].append(PEERS[peer](work.x, work.centroids, options.iterations))
        n, d = work.x.shape
        shape = f"{n:,} × {d}, {len(work.centroids):,}"
        milliseconds = {
            peer: statistics.median(1e3 * run.seconds / run.n_iter for run in runs[peer])
            for peer in peers
        }
        finals = {peer: inertia(work.x, runs[peer][-1].centroids) for peer in peers}
        others = [value for peer, value in milliseconds.items() if peer != "kmeans_module"]
        ratio = milliseconds.get("kmeans_module", float("nan")) / min(others, default=float("nan"))
        row = f"{name:<15}{shape:<24}"
        row += "".join(f"{milliseconds[peer]:>16.1f}" for peer in peers) + f"{ratio:>16.2f}"
        spread = max(finals.values()) / min(finals.values()) - 1
        print(row + (f"   inertia differs by {spread:.1e}" if spread > 1e-4 else ""), flush=True)
        iterations = {peer: runs[peer][-1].n_iter for peer in peers}
        figures.append(
            {"workload": name, "n": n, "d": d, "k": len(work.centroids), "ms": milliseconds,
             "n_iter": iterations, "inertia": finals, "ratio": ratio}
        )  # fmt: skip
    return figures


if __name__ == "__main__":
    main()
