import io
import re

import pytest
import rich
from rich.console import Console
from rich.progress import Progress

from kmeans_module import LitKMeans
from kmeans_module.core.seeding import INITS
from kmeans_module.progress import displays
from kmeans_module.rows.loader import BatchLoader
from kmeans_module.training.callbacks import IterationBar
from tests.conftest import blobs, layer_at
from tests.end_to_end.helpers import train

pytestmark = pytest.mark.filterwarnings(
    "ignore:You defined a `validation_step` but have no `val_dataloader`"
)
X = blobs(300, 2)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def screen(monkeypatch):
    """What a terminal is sent."""
    console = Console(file=Terminal(), force_terminal=True, width=140)
    monkeypatch.setattr(rich, "_console", console)
    return console.file


def fit(loader=None, bar=None, **options):
    lit = LitKMeans(30, 2, init=options.pop("init", "k-means++"), n_init=options.pop("n_init", 1))
    callbacks = [bar or IterationBar()]
    loader = loader or BatchLoader(X)
    train(lit, loader, callbacks=callbacks, enable_progress_bar=True, **options)
    return lit


def last(lit):
    return f"inertia {lit.last.inertia:,.6g}, shift {lit.last.shift:.3g}"


@pytest.mark.parametrize("init", INITS)
def test_the_bar_shows_seeding_and_iterations(init, screen):
    lit = fit(init=init, max_epochs=3)
    shown = screen.getvalue()
    assert "looking at all rows" in shown
    assert f"seeding by {init}: 30/30 centers" in shown
    assert ("passes" in shown) == (init == "k-means||")
    assert f"iteration 3 of 3, {last(lit)}" in shown


def test_seeding_moves_the_bar(screen, monkeypatch):
    monkeypatch.setattr(displays, "_BAR_SECONDS", 0)
    monkeypatch.setattr(displays.Bar, "every", 0)
    fit(max_epochs=1)
    done = [int(n) for n in re.findall(r"seeding by k-means\+\+: (\d+)/30", screen.getvalue())]
    assert sorted(set(done)) == list(range(31))


def test_without_a_terminal_there_are_lines(capsys):
    lit = fit(max_epochs=3)
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert all(line.startswith("k-means: ") for line in lines)
    doing = [re.sub(r" \(.* s\)$", "", line.removeprefix("k-means: ")) for line in lines]
    assert doing[:2] == ["looking at all rows", "seeding by k-means++: 30/30 centers"]
    assert [line.split(",")[0] for line in doing[2:]] == [f"iteration {i} of 3" for i in (1, 2, 3)]
    assert doing[-1] == f"iteration 3 of 3, {last(lit)}"
    assert captured.out == ""


def test_without_a_cap_the_bar_has_no_end(capsys):
    lit = fit(max_epochs=-1)
    assert f"iteration {int(lit.kmeans.n_iter)}, {last(lit)}" in capsys.readouterr().err


def test_of_restarts_it_is_told_which_is_ahead(capsys):
    lit = fit(n_init=3, init="random", max_epochs=300)
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"restart {lit.restarts.best + 1} of 3 is ahead" in line


def test_an_error_takes_the_bar_down(screen):
    bar = IterationBar()
    x = X.clone()
    x[7] = float("nan")
    lit = LitKMeans(4, 2)
    lit.kmeans = layer_at(X[:4])
    lit.variance = 1.0
    with pytest.raises(ValueError, match="finite"):
        train(lit, BatchLoader(x), callbacks=[bar], enable_progress_bar=True)
    assert bar._screen.display is None
    with Progress(console=rich.get_console()):
        """Another bar can take the screen."""


def test_a_disabled_bar_prints_nothing(capsys):
    bar = IterationBar()
    bar.disable()
    fit(bar=bar, max_epochs=2)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
