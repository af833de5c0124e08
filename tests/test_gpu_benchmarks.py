"""`python -m benchmarks gpu` without a GPU: the code to measure is there, and tried."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu
from benchmarks.__main__ import main
from benchmarks.gpu import kinds, libraries, report
from benchmarks.gpu.cases import CASES, OURS, PEER, STEP, TORCH, Case, Goal, chosen
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.labels import check
from benchmarks.gpu.libraries import LIBRARIES, Fitted, Runner
from benchmarks.gpu.rows import ROWS
from kmeans_module import KMeansLayer

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(autouse=True)
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a full run would write its figures."""
    file = tmp_path / "results" / "gpu.json"
    monkeypatch.setattr(gpu, "OUT", file)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    return file


@pytest.fixture(scope="module")
def tried() -> list[dict[str, Any]]:
    """Every case in its tiny form."""
    clock = Clock(CPU, timing=False)
    return gpu.measure([case.tiny() for case in CASES], clock, None)


def small(name: str) -> Case:
    """A case of this name on little data."""
    (case,) = chosen([name])
    return case._replace(n=min(case.n, 300), d=min(case.d, 8), k=min(case.k, 5))


def runs(name: str) -> bool:
    """Whether a contestant can be tried on a CPU with the tools for tests."""
    return name in (STEP, PEER, TORCH) or (
        name.startswith("kmeans_module ") and "graph" not in name
    )


def test_every_case_is_tried_on_the_cpu(tried: list[dict[str, Any]]) -> None:
    assert [row["case"] for row in tried] == [case.name for case in CASES]
    for case, row in zip(CASES, tried, strict=True):
        assert row["failed"] == [], row["without"]
        assert set(row["figures"]) == {name for name in case.contestants if runs(name)}
        assert set(row["figures"]) | set(row["without"]) == set(case.contestants)
        for name, figures in row["figures"].items():
            assert figures.get("wrong", 0) == 0, (case.name, name)
            assert "wrong" in figures or row["group"] in ("memory", "waits")


def test_what_is_only_tried_has_no_figure_of_time_memory_or_waits(
    tried: list[dict[str, Any]],
) -> None:
    for row in tried:
        for figures in row["figures"].values():
            assert not {"ms", "whole_ms", "mb", "waits", "calls"} & set(figures)
        assert all(goal["reached"] is None for goal in row["goals"])
        assert " ms," not in report.lines(row, {})


def test_cases_have_names_of_their_own_and_goals_that_can_be_read() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert not {case.name for case in CASES} & {case.group for case in CASES}
    for case in CASES:
        assert case.kind in kinds.KINDS
        assert case.rows in ROWS
        for goal in case.goals:
            assert goal.ours in case.contestants
            assert goal.peer is None or goal.peer in case.contestants
            if goal.peer is not None:
                assert case.quick().goals


def test_without_a_gpu_it_says_so_and_writes_nothing(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    main(["gpu", "--out", str(out)])
    assert capsys.readouterr().out == "no CUDA device: nothing was measured\n"
    assert not out.exists()


@pytest.mark.parametrize("way", ["option", "environment"])
def test_interpreting_writes_nothing(
    way: str, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if way == "environment":
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    main(["gpu", "--only", "few-1m-2-6", *(["--interpret"] if way == "option" else [])])
    text = capsys.readouterr().out
    assert text.startswith("on the CPU, tiny: tries the code, measures and writes nothing\n")
    assert "few-1m-2-6: blobs, 96 × 2, k = 6" in text
    assert not out.exists()


def test_only_takes_cases_and_groups() -> None:
    assert [case.name for case in chosen(["waits-fit"])] == ["waits-fit"]
    assert {case.name for case in chosen(["waits"])} == {"waits-fit", "waits-step"}
    with pytest.raises(SystemExit, match=r"names of cases .*noise-128-4096.* got nothing-like-it"):
        main(["gpu", "--interpret", "--only", "nothing-like-it"])


def test_labels_of_the_nearest_centroids_pass() -> None:
    x, centroids = torch.randn(500, 6) + 100, torch.randn(9, 6) + 100
    layer = KMeansLayer(9, 6)
    layer.initialize(x, centroids)
    found = check(x, centroids, layer(x))
    assert found.wrong == 0
    expected = torch.cdist(x.double(), centroids.double()).amin(dim=1).square().mean()
    assert found.distance == pytest.approx(float(expected), rel=1e-9)


def test_wrong_labels_are_found() -> None:
    x = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    centroids = torch.tensor([[0.5], [10.5]])
    assert check(x, centroids, torch.tensor([0, 0, 1, 1])).wrong == 0
    assert check(x, centroids, torch.tensor([0, 1, 1, 1])).wrong == 0.25
    for strange in ([0, 0, 1, 2], [0, 0, 1, -1]):
        with pytest.raises(ValueError, match="should be from 0 to 1"):
            check(x, centroids, torch.tensor(strange))
    with pytest.raises(ValueError, match=r"should be of shape \(4,\)"):
        check(x, centroids, torch.tensor([[0, 0, 1, 1]]))


def test_a_tie_and_rounding_are_not_wrong_and_more_is() -> None:
    x = torch.tensor([[0.0, 0.0]])
    for off, wrong in ((0.0, 0), (1e-7, 0), (1e-4, 1)):
        centroids = torch.tensor([[1.0, 0.0], [0.0, 1.0 + off]])
        assert check(x, centroids, torch.tensor([1])).wrong == wrong


def test_nan_is_wrong() -> None:
    x, centroids = torch.zeros(2, 1), torch.tensor([[0.0], [float("nan")]])
    assert check(x, centroids, torch.tensor([0, 1])).wrong > 0


def broken(x: torch.Tensor, start: torch.Tensor) -> Runner:
    """Says that all rows are in the first cluster."""
    labels = torch.zeros(len(x), dtype=torch.int64)
    return Runner(x, lambda iterations: Fitted(iterations, start, labels), lambda c: lambda: labels)


def failing(x: torch.Tensor, start: torch.Tensor) -> Runner:
    raise RuntimeError("no such kernel\nand a long story")


def test_wrong_labels_of_ours_end_in_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(LIBRARIES, OURS, LIBRARIES[OURS]._replace(ready=broken))
    with pytest.raises(SystemExit, match="labels of kmeans_module are wrong in new-8192-64-1024"):
        main(["gpu", "--interpret", "--only", "new-8192-64-1024"])
    assert "kmeans_module float32          wrong 0.000%" not in capsys.readouterr().out


def test_wrong_labels_of_a_peer_are_a_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIBRARIES, TORCH, LIBRARIES[TORCH]._replace(ready=broken))
    (row,) = gpu.measure([small("noise-128-1024").tiny()], Clock(CPU, timing=False), None)
    assert row["figures"][TORCH]["wrong"] > 0.2
    assert row["figures"][OURS]["wrong"] == 0
    assert not report.own_wrong(row)


def test_a_failure_is_a_line_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(LIBRARIES, TORCH, LIBRARIES[TORCH]._replace(ready=failing))
    (row,) = gpu.measure([small("noise-128-1024").tiny()], Clock(CPU, timing=False), None)
    assert row["without"][TORCH] == "RuntimeError: no such kernel"
    assert OURS in row["figures"]
    assert f"{TORCH:<30} without: RuntimeError: no such kernel" in capsys.readouterr().out
    monkeypatch.setitem(LIBRARIES, OURS, LIBRARIES[OURS]._replace(ready=failing))
    with pytest.raises(SystemExit, match="kmeans_module fails in new-8192-64-1024"):
        main(["gpu", "--interpret", "--only", "new-8192-64-1024"])


def test_absent_peers_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    peer = LIBRARIES[TORCH]._replace(needs={"no_such_module": ("no-such-package",)})
    monkeypatch.setitem(LIBRARIES, TORCH, peer)
    monkeypatch.setitem(sys.modules, "vector_quantize_pytorch", None)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    only = ["new-8192-64-1024", "vq-64-1024", "patches-4096"]
    rows = gpu.measure([case.tiny() for case in chosen(only)], Clock(CPU, timing=False), None)
    text = capsys.readouterr().out
    assert f"without {TORCH}: no-such-package is not installed\n" in text
    by_case = {row["case"]: row for row in rows}
    assert by_case["vq-64-1024"]["without"][PEER] == "vector-quantize-pytorch is not installed"
    whose = "scikit-learn, whose photographs these are, is not installed"
    assert set(by_case["patches-4096"]["without"].values()) == {whose}
    assert all(row["failed"] == [] for row in rows)


def test_nothing_but_torch_is_needed(tmp_path: Path) -> None:
    """A GPU machine may lack what the benchmarks on a CPU take their data from."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(("
        "'sklearn', 'threadpoolctl', 'vector_quantize_pytorch', 'faiss', 'triton', 'lightning', "
        "'torchmetrics', 'matplotlib', 'scipy'))); "
        "from benchmarks.__main__ import main; main(['gpu', '--interpret'])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "patches" in done.stdout


def test_figures_are_written_after_every_case(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [small("small-2-6"), small("new-8192-64-1024"), small("waits-fit")]
    seen: list[list[str]] = []
    title, make = ROWS["noise"]

    def watched(*arguments: Any) -> torch.Tensor:
        seen.append([row["case"] for row in json.loads(out.read_text())["rows"]])
        if len(seen) == 2:
            raise KeyboardInterrupt
        return make(*arguments)

    monkeypatch.setitem(ROWS, "noise", (title, watched))
    with pytest.raises(KeyboardInterrupt):
        gpu.measure(cases, Clock(CPU, share=0.01), out)
    assert seen == [["small-2-6"], ["small-2-6", "new-8192-64-1024"]]
    figures = json.loads(out.read_text())
    assert [row["case"] for row in figures["rows"]] == seen[1]
    assert figures["machine"]["torch"] == torch.__version__
    assert "triton" in figures["machine"]
    for row in figures["rows"]:
        assert row["figures"][OURS]["ms"] > 0
        assert row["figures"][OURS]["wrong"] == 0
    assert [file.name for file in out.parent.iterdir()] == ["gpu.json"]


@pytest.mark.parametrize(
    ("options", "written"),
    [("", "default"), ("--out other.json", "other.json"), ("--quick", None),
     ("--only small-2-6", None), ("--only small-2-6 --quick --out other.json", "other.json")],
)  # fmt: skip
def test_only_a_full_run_writes_unasked(
    options: str,
    written: str | None,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpu, "cuda", lambda: CPU)  # which stands for a GPU here
    monkeypatch.setattr("benchmarks.gpu.cases.CASES", chosen(["small-2-6"]))
    main(["gpu", *options.split()])
    there = [file for file in tmp_path.rglob("*") if file.is_file()]
    file = {"default": out, None: None}.get(written, tmp_path / str(written))
    assert there == ([] if file is None else [file])
    text = capsys.readouterr().out
    assert "0 goals reached, 0 missed" in text
    if file is None:
        assert text.endswith("not written: --out FILE writes the figures\n")
    else:
        n = json.loads(file.read_text())["rows"][0]["n"]
        assert n == (100 if "--quick" in options else 1_000)


def test_cases_for_which_no_time_is_left_are_named() -> None:
    (row,) = gpu.measure([small("small-2-6")], Clock(CPU, seconds=-1), None)
    assert row["figures"] == {}
    assert set(row["without"].values()) == {"the time was spent"}
    assert row["failed"] == []


def trial_of(n_short: int, n_long: int, short: float, long: float) -> dict[str, Any]:
    """Figures of a fit of these iterations and milliseconds."""
    case = small("noise-128-1024")
    data = kinds.Data.of(torch.randn(20, 3), 4)
    trial = kinds.KINDS["iteration"][1](case, OURS, data)
    fits = {name: Fitted(n, data.start, None) for name, n in (("short", n_short), ("long", n_long))}
    return trial.figures({"short": short, "long": long}, fits)


def test_an_iteration_is_the_difference_of_two_fits() -> None:
    found = trial_of(5, 25, 9.0, 29.0)
    assert (found["ms"], found["start_iterations"], found["whole_ms"]) == (1.0, 4.0, 29.0)
    assert found["by"] == "difference"


@pytest.mark.parametrize("fits", [(5, 5, 9.0, 10.0), (5, 7, 9.0, 14.0), (5, 25, 9.0, 8.0)])
def test_where_the_fit_converges_or_time_is_noise_it_is_the_mean(
    fits: tuple[int, int, float, float],
) -> None:
    found = trial_of(*fits)
    assert found["ms"] == fits[3] / fits[1]
    assert found["by"] == "mean"


def test_goals_are_ratios_or_limits() -> None:
    figures = {OURS: {"ms": 2.0, "waits": 5}, TORCH: {"ms": 9.0}}
    goals = (
        Goal(4, TORCH), Goal(5, TORCH), Goal(3), Goal(1), Goal(4, figure="waits"), Goal(2, PEER)
    )  # fmt: skip
    case = small("small-2-6")._replace(goals=goals)
    on_its_card = report.reached(case, figures, absolute=True)
    assert [goal["met"] for goal in on_its_card] == [True, False, True, False, False, None]
    assert [goal["reached"] for goal in on_its_card] == [4.5, 4.5, 2.0, 2.0, 5, None]
    elsewhere = report.reached(case, figures, absolute=False)
    assert [goal["met"] for goal in elsewhere] == [True, False, None, None, False, None]
    text = report.summary([{"case": "it", "goals": on_its_card}])
    assert text.startswith("2 goals reached, 3 missed, 1 open\n    it: 4.5 × torch float32")
    assert report.is_h200({"card": "NVIDIA H200"})
    assert not report.is_h200({"card": "NVIDIA H100 80GB HBM3"})
    assert not report.is_h200({})


def test_waits_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch warns of, and waits for events and for the whole device."""
    modes: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    monkeypatch.setattr(torch.cuda.Event, "synchronize", lambda event: None)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    before = torch.cuda.synchronize, torch.cuda.Event.synchronize

    def work() -> None:
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
        torch.cuda.synchronize()
        torch.cuda.Event.synchronize(None)

    assert kinds.counted(work, torch.device("cuda")) == {"waits": 5}
    assert modes == ["warn", 0]
    assert (torch.cuda.synchronize, torch.cuda.Event.synchronize) == before
    assert kinds.counted(work, CPU) == {}


def test_the_table_goes_into_the_readme_between_its_comments(out: Path, tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    assert text.index(report.BEGIN) < text.index(report.END)
    cases = [small("noise-128-1024"), small("topics-4096"), small("small-2-6")]
    gpu.measure(cases, Clock(CPU, share=0.01), out)
    figures = json.loads(out.read_text())
    figures["machine"]["card"] = "imagined card"
    figures["rows"][0]["figures"][TORCH]["wrong"] = 0.0125
    out.write_text(json.dumps(figures))
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}old\n{report.END}after\n")
    for _ in range(2):
        main(["table", str(out), "--update", str(readme)])
    text = readme.read_text()
    assert text.startswith(f"before\n{report.BEGIN}On one imagined card, torch ")
    assert text.endswith(f"{report.END}after\n")
    head = next(line for line in text.splitlines() if line.startswith("| noise |"))
    assert OURS in head
    assert "flashlib" not in head
    assert "(0.013) |" in text or "(0.012) |" in text
    assert re.search(r"^- .*: flashlib float32, flashlib bfloat16, ", text, flags=re.MULTILINE)
    assert "| topics of two levels, 300 × 8, k = 5 | " in text


def test_versions_are_those_of_what_is_installed() -> None:
    assert libraries.versions()["vector-quantize-pytorch"]
    assert all(libraries.versions().values())
