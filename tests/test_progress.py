"""What a fit tells while it is under way: callbacks in every fit, displays in every place."""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import rich
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from kmeans_module import Iteration, KMeansLayer, ProductQuantizer, ResidualQuantizer
from kmeans_module.progress import displays
from kmeans_module.progress.displays import Bar, Cell, CellOutput, Lines, State, find_display
from kmeans_module.progress.observer import Observer
from tests.conftest import blobs, seeded

X = blobs(600, 4)
ROOT = Path(__file__).parents[1]


class Stream:
    """Batches that do not stay in memory."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter(X.split(64))


# A fit on anything: what it is called on, and the call.
FITS: dict[str, tuple[Callable[[], Any], Callable[..., Any]]] = {
    "layer": (lambda: KMeansLayer(5, 4), lambda m, **o: m.fit(X, **o)),
    "batches": (lambda: KMeansLayer(5, 4), lambda m, **o: m.fit(Stream(), **o)),
    "restarts in turn": (
        lambda: KMeansLayer(5, 4),
        lambda m, **o: m.fit(X.split(100), n_init=2, init=lambda x, k, g: x[:k], **o),
    ),
    "problems": (lambda: KMeansLayer(5, 4, batch_shape=(2, 3)), lambda m, **o: m.fit(X, **o)),
    "product": (lambda: ProductQuantizer(5, 4, 2), lambda m, **o: m.fit(X, **o)),
    "rotated product": (
        lambda: ProductQuantizer(5, 4, 2, rotation=True),
        lambda m, **o: m.fit(X, rotations=3, **o),
    ),
    "residual": (lambda: ResidualQuantizer(5, 4, 2), lambda m, **o: m.fit(X, **o)),
}


class Terminal(io.StringIO):
    """A terminal that remembers what was written."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """rich's shared console is on a terminal of 200 columns."""
    file = Terminal()
    console = Console(file=file, force_terminal=True, width=200, force_interactive=True)
    monkeypatch.setattr(rich, "get_console", lambda: console)
    monkeypatch.setattr(Bar, "every", 0.0)
    return file


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def state(model: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


# Callbacks


@pytest.mark.parametrize("name", FITS)
def test_every_fit_tells_a_callback_of_its_iterations(name: str) -> None:
    make, fit = FITS[name]
    told: list[Iteration] = []
    fit(make(), callback=told.append, seed=0)
    assert told
    stages: dict[str, list[int]] = {}
    for iteration in told:
        stages.setdefault(iteration.stage, []).append(iteration.number)
        assert torch.as_tensor(iteration.inertia).isfinite().all()
        assert iteration.seconds >= 0
    for numbers in stages.values():
        assert numbers == list(range(1, len(numbers) + 1))
    assert (len(stages) > 1) == (name in ("restarts in turn", "rotated product", "residual"))


@pytest.mark.parametrize("name", FITS)
def test_who_watches_changes_no_result(name: str, terminal: Terminal) -> None:
    make, fit = FITS[name]
    torch.manual_seed(0)
    silent, watched = make(), make()
    watched.load_state_dict(state(silent))
    fit(silent, seed=0)
    fit(watched, seed=0, verbose=True, callback=lambda iteration: None)
    for key, value in state(silent).items():
        assert torch.equal(value, state(watched)[key]), key


def test_the_stage_says_which_restart_level_or_rotation_it_is() -> None:
    found: dict[str, list[str]] = {}
    for name, (make, fit) in FITS.items():
        told: list[Iteration] = []
        fit(make(), callback=told.append, seed=0)
        found[name] = list(dict.fromkeys(iteration.stage for iteration in told))
    assert found["layer"] == [""]
    assert found["restarts in turn"] == ["restart 1 of 2", "restart 2 of 2"]
    assert found["product"] == [""]
    assert found["rotated product"] == [*(f"rotation {i} of 3" for i in (1, 2, 3)), ""]
    assert found["residual"][0] == "level 1 of 2, 2 of 4 directions"
    assert found["residual"][-1] == "level 2 of 2, 4 of 4 directions"


def test_restarts_that_run_together_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMEANS_KERNEL", "reference")
    told: list[Iteration] = []
    KMeansLayer(5, 4).fit(X, n_init=3, seed=0, callback=told.append)
    assert {iteration.stage for iteration in told} == {"restarts 1 to 3 of 3, the best"}
    assert [iteration.number for iteration in told] == list(range(1, len(told) + 1))


# Seeding


@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random"])
@pytest.mark.parametrize("data", [X, X.split(100), Stream()], ids=["x", "list", "loader"])
def test_seeding_counts_to_k(init: str, data: Any) -> None:
    told: list[tuple[int, int]] = []
    KMeansLayer(7, 4).initialize(data, init, seed=0, told=lambda *count: told.append(count))
    centers = [done for done, total in told[-8:] if total == 7]
    if init == "random":
        assert told == [(0, 7), (7, 7)]
    else:
        assert centers == list(range(8))
    passes = [(i, 7) for i in range(8)] if init == "k-means||" else []
    assert told[:-8] == passes or init == "random"


@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random"])
def test_who_hears_of_seeding_changes_no_center(init: str) -> None:
    silent, told = KMeansLayer(7, 4), KMeansLayer(7, 4)
    silent.initialize(X, init, seed=0)
    told.initialize(X, init, seed=0, told=lambda done, total: None)
    assert torch.equal(silent.centroids, told.centroids)


# A terminal


def test_a_bar_tells_what_happens_in_order(terminal: Terminal) -> None:
    result = KMeansLayer(12, 4).fit(X, seed=0, verbose=True)
    text = plain(terminal.getvalue())
    seeded_centers = [int(done) for done in re.findall(r"seeding (\d+)/12 centers", text)]
    assert list(dict.fromkeys(seeded_centers)) == list(range(13))
    numbers = [int(number) for number in re.findall(r"iteration (\d+) of 300, inertia", text)]
    assert list(dict.fromkeys(numbers)) == list(range(1, int(result.n_iter) + 1))
    places = [text.index(part) for part in ("reading the rows", "seeding", "iteration 1 of")]
    assert places == sorted(places)
    assert f"converged after {int(result.n_iter)} iterations, inertia" in text
    assert re.search(r"shift [\d.e-]+, [\d,]+ moved", text)


def test_passes_of_kmeans_parallel_are_counted_as_such(terminal: Terminal) -> None:
    KMeansLayer(7, 4).fit(X, init="k-means||", seed=0, verbose=True, n_init=2, max_iter=2)
    text = plain(terminal.getvalue())
    assert text.index("seeding 3/7 passes") < text.index("seeding 3/7 centers")
    assert "ended after 2 iterations, max_iter" in text


def test_restarts_levels_and_rotations_are_seen(terminal: Terminal) -> None:
    for name in ("restarts in turn", "rotated product", "residual"):
        make, fit = FITS[name]
        fit(make(), seed=0, verbose=True)
    text = plain(terminal.getvalue())
    for part in (
        "restart 2 of 2: iteration 1 of 300", "rotation 3 of 3: iteration", "seeding 5/5 centers",
        "level 2 of 2, 4 of 4 directions: iteration", "refinement 3 of 3",
    ):  # fmt: skip
        assert part in text


def test_a_narrow_terminal_cuts_the_words_and_keeps_the_bar(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rich.get_console(), "width", 50)
    KMeansLayer(5, 4).fit(X, seed=0, verbose=True)
    for line in re.split(r"[\r\n]+", plain(terminal.getvalue())):
        assert len(line) <= 50
        assert not line.strip() or "━" * 12 in line or "╸" in line or "╺" in line


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("name", FITS)
def test_an_interruption_leaves_terminal_and_model_as_they_were(
    name: str, error: type[BaseException], terminal: Terminal
) -> None:
    make, fit = FITS[name]
    model = make()
    before = state(model)
    output = sys.stdout, sys.stderr

    def interrupt(iteration: Iteration) -> None:
        if iteration.number == 2:
            raise error

    with pytest.raises(error):
        fit(model, seed=0, verbose=True, callback=interrupt)
    written = terminal.getvalue()
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") > 0  # the cursor is back
    assert written.endswith("\x1b[?25h")
    assert (sys.stdout, sys.stderr) == output
    for key, value in state(model).items():
        assert torch.equal(value, before[key]), key
    fit(model, seed=0)


def test_an_interruption_of_seeding_leaves_terminal_and_model_as_they_were(
    terminal: Terminal,
) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    layer = KMeansLayer(5, 4)
    with pytest.raises(KeyboardInterrupt):
        layer.initialize(X, verbose=True, told=interrupt)
    assert terminal.getvalue().endswith("\x1b[?25h")
    assert not layer.initialized


def test_bad_data_leave_no_bar_behind(terminal: Terminal) -> None:
    with pytest.raises(ValueError, match="NaN"):
        KMeansLayer(5, 4).fit(X * torch.nan, verbose=True)
    assert terminal.getvalue().endswith("\x1b[?25h")


def test_within_another_display_both_are_seen(terminal: Terminal) -> None:
    with Progress(console=rich.get_console(), auto_refresh=False) as progress:
        progress.add_task("epochs")
        KMeansLayer(5, 4).fit(X, seed=0, verbose=True)
        progress.refresh()
    text = plain(terminal.getvalue())
    assert "epochs" in text
    assert "converged after" in text


def test_where_rich_draws_one_display_only_lines_follow(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.errors import LiveError

    def start(self: object) -> None:
        raise LiveError("Only one live display may be active at once")

    monkeypatch.setattr(Progress, "start", start)
    KMeansLayer(5, 4).fit(X, seed=0, verbose=True)
    assert "converged after" in capsys.readouterr().err


def test_a_terminal_that_is_gone_does_not_end_the_fit(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def show(self: object, state: State) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(Bar, "show", show)
    monkeypatch.setattr(Bar, "close", lambda bar: show(bar, State("", None, "", 0.0)))
    assert KMeansLayer(5, 4).fit(X, seed=0, verbose=True).converged


SCRIPT = """
import torch
from kmeans_module import KMeansLayer
x = torch.arange(400.0).view(-1, 2) % 37
layer = KMeansLayer(4, 2)
layer.fit(x, seed=0, verbose=True, callback=lambda iteration: print("a line of one's own"))
def interrupt(iteration):
    raise KeyboardInterrupt
layer.fit(x, seed=0, verbose=True, callback=interrupt)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_in_a_real_terminal() -> None:
    import pty

    terminal, end = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=end, stderr=end, stdin=end, env=environment, cwd=ROOT
    ) as run:
        os.close(end)
        written = b""
        try:
            while chunk := os.read(terminal, 1 << 16):
                written += chunk
        except OSError:  # Linux reports its end so
            pass
        run.wait(timeout=100)
    os.close(terminal)
    text = plain(written.decode())
    assert re.search(r"[\r\n]a line of one's own[\r\n]", text)
    assert written.count(b"\x1b[?25l") == written.count(b"\x1b[?25h") == 2
    assert text.index("converged after") < text.index("KeyboardInterrupt")
    assert written.rindex(b"\x1b[?25h") < written.index(b"Traceback")


# Elsewhere


def test_without_a_terminal_lines_are_written_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    result = KMeansLayer(5, 4).fit(X, seed=0, verbose=True)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0].startswith("k-means: seeding 5/5 centers")
    assert lines[1].startswith("k-means: iteration 1 of 300, inertia ")
    assert lines[-1].startswith(f"k-means: converged after {int(result.n_iter)} iterations")
    assert "\x1b" not in err


def test_many_iterations_get_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    for number in range(1, 1001):
        lines.show(State(f"iteration {number}", 0.0, "", 0.0, number))
    written = capsys.readouterr().err.splitlines()
    assert len(written) == 9 + 9 + 9 + 1
    assert written[-1] == "k-means: iteration 1000 (0.0 s)"


def test_of_several_fits_each_end_gets_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    FITS["restarts in turn"][1](KMeansLayer(5, 4), seed=0, verbose=True)
    written = capsys.readouterr().err
    assert len(re.findall(r"k-means: restart 1 of 2: iteration", written)) == 1
    assert len(re.findall(r"k-means: restart 2 of 2: iteration", written)) == 1


def test_a_long_wait_gets_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(displays, "_LINE_SECONDS", -1.0)
    Lines().show(State("iteration 17 of 300", 0.1, "restart 1 of 2", 11.0, 17))
    assert "restart 1 of 2: iteration 17 of 300 (11.0 s)" in capsys.readouterr().err


def test_where_logging_is_set_up_lines_go_there(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, logger="kmeans_module.progress"):
        KMeansLayer(5, 4).fit(X, seed=0, verbose=True)
    assert capsys.readouterr().err == ""
    assert any("converged after" in record.message for record in caplog.records)


@pytest.mark.parametrize("stream", [None, "closed"])
def test_without_stderr_the_fit_goes_on(stream: object, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed if stream else None)
    assert KMeansLayer(5, 4).fit(X, seed=0, verbose=True).converged


@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_colors_that_are_asked_for_make_no_terminal(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    monkeypatch.setattr(rich, "get_console", lambda: Console(file=io.StringIO()))
    assert isinstance(find_display(), Lines)


def test_fits_in_several_threads_share_the_terminal(terminal: Terminal) -> None:
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda s: KMeansLayer(5, 4).fit(X, seed=s, verbose=True), range(8)):
            assert result.converged
    written = terminal.getvalue()
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h")


def test_without_rich_there_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    assert isinstance(find_display(), Lines)


def test_silence_is_the_default(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    for make, fit in FITS.values():
        fit(make(), seed=0)
    assert terminal.getvalue() == "".join(capsys.readouterr()) == ""


@pytest.mark.parametrize("verbose", ["yes", None, -1, 0.5])
def test_what_is_no_flag_is_refused(verbose: Any) -> None:
    for make, fit in (FITS["layer"], FITS["product"], FITS["residual"]):
        with pytest.raises(TypeError, match="verbose should be True or False; got"):
            fit(make(), verbose=verbose)
    with pytest.raises(TypeError, match="verbose should be"):
        KMeansLayer(5, 4).initialize(X, verbose=verbose)


def test_initialize_shows_its_seeding(capsys: pytest.CaptureFixture[str]) -> None:
    KMeansLayer(5, 4).initialize(X, verbose=True, generator=seeded())
    assert "seeding 5/5 centers" in capsys.readouterr().err


# Notebooks


def test_a_notebook_is_recognized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rich, "get_console", lambda: Console(force_jupyter=True))
    assert isinstance(find_display(), Cell)


def test_the_output_of_a_cell_is_text_and_html_that_is_escaped() -> None:
    output = CellOutput(State("iteration 3 of <300>", 0.01, "level 1", 61.0, 3))
    assert repr(output) == "k-means 1:01 level 1: iteration 3 of <300>"
    assert "&lt;300&gt;" in output._repr_html_()
    assert 'value="0.0100"' in output._repr_html_()


def test_hours_have_their_place() -> None:
    assert State("", None, "", 3_723.0).clock == "1:02:03"


def test_a_watch_without_anybody_is_silent() -> None:
    observer = Observer()
    observer.says("something")
    observer.done("all")
    assert not observer.listens
    assert observer.seeding is None
