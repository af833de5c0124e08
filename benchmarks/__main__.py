"""Times k-means in this and other libraries, interleaved, on the same data.

    python -m benchmarks                    lloyd, on all workloads, with all peers
    python -m benchmarks lloyd pixels       one workload
    python -m benchmarks gpu                on a GPU, in about five minutes
    python -m benchmarks instructions --library NEW.so --against OLD.so    of the C++ kernel

Medians of several runs; ratios count, not seconds: machines differ and are noisy.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from pathlib import Path

# These slow numpy's BLAS down where they are set; the peers shall have the best.
for variable in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(variable, None)

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
COMMANDS = {
    "lloyd": "milliseconds per iteration from the same initial centroids",
    "fit": "the default fit, seeding included, against scikit-learn's",
    "assign": "labels of new data, against faiss and scikit-learn",
    "growth": "milliseconds per iteration against n and against k",
    "memory": "peak memory of a fit beyond its data",
    "stream": "peak memory of LitKMeans over a loader, against the number of batches",
    "seeding": "k-means++ against scikit-learn's, paired over seeds",
    "inits": "k-means|| against k-means++ after convergence",
    "quantize": "codebooks against vector-quantize-pytorch and faiss",
    "many_codes": "a codebook of 65,536 codes in training: codes in use, seconds, memory",
    "codebooks": "errors of autoencoders in training, with and without moving dead codes",
    "sparse": "sparse rows like TF-IDF, against scikit-learn's fits and labels",
    "overhead": "what import and Lightning add",
}
SEEDS = {
    "fit": 5,
    "seeding": 20,
    "inits": 10,
    "codebooks": 10,
}  # of the commands that have no --repeats
PLOTS = {"lloyd": ROOT / "docs" / "speed.png", "growth": ROOT / "docs" / "growth.png"}


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args((sys.argv[1:] if arguments is None else arguments) or ["lloyd"])
    module = importlib.import_module(f"benchmarks.{options.what}")
    if options.what in ("table", "gpu", "instructions"):  # which write for themselves
        module.run(options)
        return
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    rows = module.run(options)
    if options.json is None and is_full(options):
        options.json = RESULTS / f"{options.what}.json"
    if options.json:
        write_json(options, rows)
    if options.what in PLOTS and (options.plot or is_full(options)):
        from benchmarks import plots

        draw = plots.speed if options.what == "lloyd" else plots.growth
        plots.write(draw(rows), options.plot or PLOTS[options.what])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="what", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        if name not in ("growth", "overhead", "stream"):
            command.add_argument("workloads", nargs="*", help="names of workloads; default all")
        share = {"codebooks": "steps", "many_codes": "codes"}.get(name, "rows")
        command.add_argument(
            "--scale", type=float, default=1.0, help=f"share of the {share} to take"
        )
        if name not in ("inits", "stream", "codebooks", "many_codes"):
            command.add_argument("--dtype", choices=("float32", "float64"), default="float32")
        command.add_argument("--threads", type=int, help="of torch and of the peers")
        command.add_argument(
            "--json", type=Path, help="write the figures here; default of a full run: " + str(
                (RESULTS / name).relative_to(ROOT)) + ".json",
        )  # fmt: skip
        if name in PLOTS:
            command.add_argument("--plot", type=Path, help="draw the figures into this PNG")
        if name in SEEDS:
            command.add_argument(
                "--seeds", type=int, default=SEEDS[name], help=f"default {SEEDS[name]}"
            )
        elif name not in ("stream", "many_codes"):
            repeats = 5 if name == "overhead" else 3
            command.add_argument("--repeats", type=int, default=repeats, help=f"default {repeats}")
            command.add_argument("--iterations", type=int, default=20, help="at most; default 20")
    choices = commands.choices
    choices["lloyd"].add_argument("--peers", nargs="+", help="names of peers; default all")
    choices["lloyd"].add_argument(
        "--limit", type=float, default=60.0,
        help="seconds for a peer on a workload, then it gets fewer runs or none (default 60)",
    )  # fmt: skip
    choices["growth"].add_argument("--max-n", type=int, default=10_000_000)
    choices["seeding"].add_argument("--rows", type=int, default=5_000, help="of each workload")
    inits = choices["inits"]
    inits.add_argument("--rows", type=int, default=20_000, help="of each workload")
    inits.add_argument("--ks", type=int, nargs="+", default=[10, 100, 500, 2000], metavar="K")
    inits.add_argument("--iterations", type=int, default=100, help="at most; default 100")
    inits.add_argument("--no-sklearn", action="store_true", help="leave the peer out")
    choices["many_codes"].add_argument("--steps", type=int, default=2_000, help="default 2000")
    stream = choices["stream"]
    stream.add_argument("--batches", type=int, nargs="+", default=[4, 16, 48], metavar="N")
    stream.add_argument("--features", type=int, nargs="+", default=[2, 64], metavar="D")
    stream.add_argument("--batch-mb", type=float, default=16.0, help="of a batch")
    text = "on a GPU: fits, seeding, assignment, quantizers, memory and waits, beside peers"
    gpu = commands.add_parser("gpu", help=text, description=text)
    gpu.add_argument("--only", nargs="+", metavar="NAME", help="names of cases or of their groups")
    gpu.add_argument("--quick", action="store_true", help="a tenth of the rows, fewer repeats")
    gpu.add_argument(
        "--seconds", type=float, default=300.0,
        help="for everything; cases that are left then are named (default 300)",
    )  # fmt: skip
    gpu.add_argument(
        "--out", type=Path, help="write the figures here, after every case; default of a full "
        "run: benchmarks/results/gpu.json",
    )  # fmt: skip
    gpu.add_argument(
        "--interpret", action="store_true",
        help="try the code on the CPU, tiny, and measure nothing; so with TRITON_INTERPRET=1",
    )  # fmt: skip
    text = "two builds of the C++ kernel: instructions in callgrind, or seconds in pairs"
    pair = commands.add_parser("instructions", help=text, description=text)
    pair.add_argument("workloads", nargs="*", help="names of workloads of lloyd; default all")
    pair.add_argument("--library", type=Path, required=True, help="a kmeans_native.so")
    pair.add_argument("--against", type=Path, required=True, help="the one to compare with")
    pair.add_argument(
        "--headers", type=Path, default=ROOT / "csrc" / "abi",
        help="folder of the native.h of --library; default csrc/abi",
    )  # fmt: skip
    pair.add_argument(
        "--against-headers", type=Path, help="the same of --against, if it has another native.h"
    )
    pair.add_argument(
        "--time",
        action="store_true",
        help="milliseconds in pairs, of the best instruction set, in place of instructions",
    )
    pair.add_argument("--phases", nargs="+", default=["lloyd", "seeding"], metavar="NAME",
                      choices=("lloyd", "seeding", "neighbors"),
                      help="lloyd, seeding, neighbors; default the first two")  # fmt: skip
    pair.add_argument(
        "--rows", type=int, help="at most, of each workload; default few, with --time all"
    )
    pair.add_argument("--iterations", type=int, help="of each phase; default 1 to 20")
    pair.add_argument("--repeats", type=int, default=15, help="of --time, in pairs; default 15")
    pair.add_argument("--threads", type=int, default=1, help="of --time; default 1")
    pair.add_argument("--dtype", choices=("float32", "float64"), default="float32",
                      help="of the rows; default float32")  # fmt: skip
    pair.add_argument("--keep", type=Path, help="folder for the profiles of callgrind")
    text = "the README's tables of speeds, from the figures of lloyd or of gpu"
    table = commands.add_parser("table", help=text, description=text)
    table.add_argument("source", type=Path, nargs="?", default=RESULTS / "lloyd.json")
    table.add_argument("--update", type=Path, help="put it into this file between its comments")
    return top


def write_json(options: argparse.Namespace, rows: list[dict[str, object]]) -> None:
    """The figures of a run and what they depend on."""
    from benchmarks.machine import describe, rounded, version
    from benchmarks.peers import PEERS

    given = {
        name: value for name, value in vars(options).items()
        if name not in ("what", "workloads", "threads", "json", "plot")
    }  # fmt: skip
    found = {name: version(peer.package) for name, peer in PEERS.items()}
    found["vector-quantize-pytorch"] = version("vector-quantize-pytorch")
    figures = {
        "what": options.what, "machine": describe(), "versions": found, "options": given,
        "rows": rounded(rows),
    }  # fmt: skip
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    print(f"wrote {options.json}")


def is_full(options: argparse.Namespace) -> bool:
    """Whether the run is the one that the committed figures come from."""
    parts = (getattr(options, name, None) for name in ("workloads", "peers", "threads"))
    float32 = getattr(options, "dtype", "float32") == "float32"
    return options.scale == 1 and float32 and not any(parts) and _are_defaults(options)


def _are_defaults(options: argparse.Namespace) -> bool:
    """Whether the sizes of a command are those that its figures are committed for."""
    usual = parser().parse_args([options.what])
    return all(
        getattr(options, name, None) == getattr(usual, name, None)
        for name in ("ks", "rows", "batches", "features", "batch_mb", "steps")
    )


if __name__ == "__main__":
    main()
