"""The benchmarks in miniature: they run, they write what the README's table is made from."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import codebooks, draws, instructions, machine, peers, stream, table, workloads
from benchmarks.__main__ import is_full, main, parser
from benchmarks.peers import OURS, PEERS, Peer, Run
from kmeans_module.backends.native.library import LIBRARY
from tests.backends.conftest import needs_native

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def figures(folder: Path, *arguments: str) -> dict[str, Any]:
    """What a command writes on a thousandth of its data."""
    file = folder / "figures.json"
    what, *others = arguments
    main([what, "--scale", "0.001", *others, "--json", str(file)])
    assert file.stat().st_size < 50_000
    return json.loads(file.read_text())


@pytest.fixture(autouse=True)
def small_roofline(monkeypatch: pytest.MonkeyPatch) -> None:
    measure = machine.Roofline.measure
    monkeypatch.setattr(machine.Roofline, "measure", lambda dtype: measure(dtype, size=64))


@pytest.fixture(scope="module")
def lloyd(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    plot = tmp_path_factory.getbasetemp() / "speed.png"
    found = figures(
        plot.parent, "lloyd", "blobs-2d-6", "zipf", "--peers", OURS, "scikit-learn",
        "--repeats", "2", "--plot", str(plot),
    )  # fmt: skip
    assert plot.read_bytes().startswith(b"\x89PNG")
    return found


def test_lloyd_compares_from_the_same_start(lloyd: dict[str, Any]) -> None:
    assert lloyd["options"]["iterations"] == 20
    assert lloyd["machine"]["threads"] == torch.get_num_threads()
    assert [row["workload"] for row in lloyd["rows"]] == ["blobs-2d-6", "zipf"]
    for row in lloyd["rows"]:
        ours, theirs = row["ms"][OURS], row["ms"]["scikit-learn"]
        assert row["speedup"] == pytest.approx(theirs / ours, rel=1e-3)
        assert row["fastest_peer"] == "scikit-learn"
        assert row["runs"] == {OURS: 2, "scikit-learn": 2}
        assert abs(row["first_deviation"][OURS]) < 1e-6
        assert row["read_ms"] > 0
        assert row["product_ms"] > 0


def test_a_wrong_result_is_flagged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(work: workloads.Workload, iterations: int) -> Run:
        return Run(1e-9, iterations, work.centroids * 1.01)

    monkeypatch.setitem(PEERS, "broken", Peer("torch", broken))
    names = [OURS, "scikit-learn", "broken"]
    (row,) = figures(tmp_path, "lloyd", "blobs-2d-6", "--peers", *names)["rows"]
    assert row["flagged"] == ["broken"]
    assert row["speedup"] < 1
    assert "inertia of broken differs" in capsys.readouterr().out


def test_a_peer_that_is_absent_or_slow_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def slow(work: workloads.Workload, iterations: int) -> Run:
        assert iterations == 1, "its first iteration tells that the others would take too long"
        return Run(100.0, iterations, work.centroids)

    monkeypatch.setitem(PEERS, "absent", Peer("no-such-package", slow))
    monkeypatch.setitem(PEERS, "slow", Peer("torch", slow))
    found = figures(tmp_path, "lloyd", "blobs-2d-6", "--peers", OURS, "slow", "absent")
    assert "without absent: no-such-package is not installed" in capsys.readouterr().out
    (row,) = found["rows"]
    assert row["ms"]["slow"] is None
    assert row["speedup"] is None
    found["versions"]["slow"] = "1.2.3"
    text = table.markdown(found)
    assert "| data | kmeans_module | slow 1.2 | × faster |" in text
    assert text.count("| – |") == 1


def test_the_table_says_how_far_each_library_ends_from_scikit_learn() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "lloyd.json").read_text())
    text = " ".join(table.markdown(found).split())
    for library in found["rows"][0]["ms"]:
        offs = {row["title"]: row["deviation"][library] for row in found["rows"]}
        title = max(offs, key=lambda title: abs(offs[title]))
        there = f"on {title}: .*{library} {100 * offs[title]:+.2g} %".replace("+", r"\+")
        assert bool(re.search(there, text)) == (library != "scikit-learn")
    for row in found["rows"]:  # a single one of which says something else
        row["deviation"] = dict.fromkeys(row["deviation"], 0.0)
    found["rows"][1]["deviation"]["superkmeans"] = 0.012
    found["rows"][1]["deviation"]["faiss"] = math.nan
    text = " ".join(table.markdown(found).split())
    title = found["rows"][1]["title"]
    assert f"on {title}: faiss +nan %, superkmeans +1.2 %" in text


@pytest.mark.slow
def test_every_installed_peer_starts_from_the_same_centroids(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    arguments = ["blobs-16d-100", "--scale", "0.01", "--repeats", "1", "--json", str(file)]
    # Their thread pools stay out of the process of the other tests.
    subprocess.run([sys.executable, "-m", "benchmarks", "lloyd", *arguments], check=True, cwd=ROOT)
    (row,) = json.loads(file.read_text())["rows"]
    assert len(row["first_deviation"]) >= 2
    assert max(map(abs, row["first_deviation"].values())) < 1e-6


def test_the_table_goes_between_its_comments(lloyd: dict[str, Any], tmp_path: Path) -> None:
    source, readme = tmp_path / "lloyd.json", tmp_path / "README.md"
    source.write_text(json.dumps(lloyd))
    readme.write_text(f"before\n{table.BEGIN}old\n{table.END}after\n")
    for _ in range(2):
        main(["table", str(source), "--update", str(readme)])
    text = readme.read_text()
    assert text == f"before\n{table.BEGIN}{table.markdown(lloyd)}{table.END}after\n"
    assert "| blobs, 1,000 × 2, k = 6 |" in text
    readme.write_text("no comments")
    with pytest.raises(SystemExit, match="lacks the lines"):
        main(["table", str(source), "--update", str(readme)])


def test_the_readme_has_a_place_for_the_table() -> None:
    text = (ROOT / "README.md").read_text()
    assert text.index(table.BEGIN) < text.index(table.END)


def test_fit_pairs_seeds(tmp_path: Path) -> None:
    (row,) = figures(tmp_path, "fit", "blobs-2d-6", "--seeds", "3")["rows"]
    assert row["speedup"] > 0
    assert abs(row["log_inertia"]) < 0.5
    assert row["two_errors"] >= 0


def test_assign_counts_equal_labels(tmp_path: Path) -> None:
    (row,) = figures(tmp_path, "assign", "blobs-16d-100", "--dtype", "float64")["rows"]
    assert row["ms"].keys() == {OURS, "scikit-learn"}
    assert row["equal"]["scikit-learn"] == 1


def test_growth_covers_n_and_k(tmp_path: Path) -> None:
    plot = tmp_path / "growth.png"
    rows = figures(
        tmp_path, "growth", "--scale", "0.002", "--max-n", "1000000", "--repeats", "1",
        "--plot", str(plot),
    )["rows"]  # fmt: skip
    assert [row["n"] for row in rows if row["against"] == "n"] == [200, 600, 2_000]
    assert {row["against"] for row in rows} == {"n", "k"}
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_sparse_rows_are_timed_beside_scikit_learn(tmp_path: Path) -> None:
    (row,) = figures(
        tmp_path, "sparse", "20 clusters", "--repeats", "1", "--iterations", "3"
    )["rows"]  # fmt: skip
    assert row["equal_labels"] > 0.99
    assert all(seconds > 0 for what in ("iterations", "labels") for seconds in row[what])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    (row,) = figures(tmp_path, "memory", "blobs-2d-6")["rows"]
    assert 0 <= row["beyond_mb"] < row["limit_mb"]


@pytest.mark.slow
def test_seeding_and_overhead_run(tmp_path: Path) -> None:
    (row,) = figures(tmp_path, "seeding", "blobs-2d-6", "--seeds", "2")["rows"]
    assert abs(row["k-means++"][0]) < 0.5
    (row,) = figures(tmp_path, "overhead", "--repeats", "1", "--iterations", "2")["rows"]
    assert row["import"] > 0


def test_initial_centroids_are_distinct_samples() -> None:
    work = workloads.start("", "", torch.arange(4.0).repeat(50)[:, None], 4)
    assert work.centroids.unique().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("draw", [draws.fastkmeans, draws.superkmeans])
@pytest.mark.parametrize("n", [50, 51, 70_000])
def test_samples_are_placed_where_a_library_draws_them(draw: Any, n: int) -> None:
    work = workloads.start("", "", torch.arange(float(n))[:, None], 7)
    drawn = draw(n, 7)
    placed = draws.placed(work, drawn)
    assert placed[drawn].equal(work.centroids)
    assert placed.sort(dim=0).values.equal(work.x)


def test_inertia_is_that_of_subtracted_distances() -> None:
    x, centroids = torch.rand(300, 5) + 1_000, torch.rand(7, 5) + 1_000
    distances = (x.double()[:, None] - centroids.double()).square().sum(-1)
    expected = float(distances.amin(dim=1).sum())
    assert peers.inertia(x, centroids) == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
def test_quantizers_are_compared(tmp_path: Path) -> None:
    """The steps of both libraries run on little data, and every figure is there."""
    rows = figures(tmp_path, "quantize", "vq-64-1024", "--scale", "0.02", "--repeats", "1")["rows"]
    (row,) = rows
    assert set(row["ms"]) == {"train", "eval"}
    assert all(value > 0 for found in row["ms"].values() for value in found.values())
    assert len(row["ms"]["train"]) == 2


def test_codebooks_are_trained_in_every_mode(tmp_path: Path) -> None:
    rows = figures(tmp_path, "codebooks", "vectors", "--scale", "0.01", "--seeds", "2")["rows"]
    assert [row["update"] for row in rows] == ["gradient"] * 3 + ["ema"] * 3
    for row in rows:
        assert 0 < row["final"][0] <= row["worst"][0]
        assert row["worst"][1] > 0
        assert 1 <= row["used"][0] <= 256


def test_codes_in_use_are_counted(tmp_path: Path) -> None:
    options = ("--scale", "0.01", "--steps", "3")
    (row,) = figures(tmp_path, "many_codes", "clusters", *options)["rows"]
    ((step, used, error),) = row["used"]
    assert step == 3
    assert 0 < used <= 1
    assert error > 0
    assert 0 <= row["revival_ms"] < row["step_ms"]


@pytest.mark.parametrize("name", codebooks.problems())
def test_problems_of_codebooks_fit_their_networks(name: str) -> None:
    problem = codebooks.problems()[name]
    images = problem.images(torch.Generator().manual_seed(0))
    encoder, decoder = problem.network()
    features = encoder(images)
    assert features.shape[1] == problem.n_features
    assert decoder(features).shape == images.shape


def test_inits_are_compared_after_convergence(tmp_path: Path) -> None:
    rows = figures(
        tmp_path, "inits", "noise", "patches", "--rows", "400000", "--ks", "10", "--seeds", "3"
    )["rows"]  # fmt: skip
    assert [row["title"] for row in rows] == [
        "Gaussian noise, 400 × 128", "patches of two photographs, 400 × 192"
    ]  # fmt: skip
    for row in rows:
        for init in ("k-means||", "scikit-learn"):
            ratio, two_errors = row[init]
            assert abs(ratio) < 0.2
            assert two_errors > 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_stream_is_measured_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "INITS", ("random",))
    (row,) = figures(
        tmp_path, "stream", "--scale", "1", "--batch-mb", "0.125", "--batches", "3",
        "--features", "2",
    )["rows"]  # fmt: skip
    assert row["data_mb"] == pytest.approx(3 * row["batch_mb"])
    assert 0 <= row["beyond_mb"] < 500


@pytest.mark.parametrize("what", ["inits", "stream", "seeding", "lloyd", "overhead"])
def test_only_a_run_of_the_usual_sizes_is_full(what: str) -> None:
    assert is_full(parser().parse_args([what]))
    assert not is_full(parser().parse_args([what, "--scale", "0.5"]))


@pytest.mark.parametrize("size", ["inits --ks 10", "stream --batches 4", "seeding --rows 9"])
def test_a_run_of_other_sizes_is_not_full(size: str) -> None:
    assert not is_full(parser().parse_args(size.split()))


@needs_native
@pytest.mark.skipif(shutil.which("g++") is None, reason="a program in C++ calls the library")
@pytest.mark.parametrize("time", [False, True])
def test_two_builds_are_compared(time: bool, capsys: pytest.CaptureFixture[str]) -> None:
    if not time and shutil.which("valgrind") is None:
        pytest.skip("instructions are counted by valgrind")
    library = str(LIBRARY)
    main([
        "instructions", "blobs-2d-6", "embeddings", "--library", library, "--against", library,
        "--rows", "200", "--iterations", "2", "--phases", "lloyd", "seeding", "neighbors",
        "--repeats", "3", *(["--time"] if time else []),
    ])  # fmt: skip
    lines = capsys.readouterr().out.splitlines()[3:]
    assert len(lines) == 2 * 3
    for line in lines:
        against, library, ratio = (float(number) for number in line.split(": ")[1].split()[1:4])
        assert min(against, library) > 0
        assert time or ratio == pytest.approx(1, abs=0.01)
        assert "DIFFER" not in line


def test_the_interval_of_ratios_is_that_of_the_sign_test() -> None:
    assert instructions.interval([float(i) for i in range(15)]) == (7, 3, 11)
    assert instructions.interval([3.0, 1.0, 2.0]) == (2, 1, 3)
