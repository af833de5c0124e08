import pytest

from kmeans_module import LitKMeans
from kmeans_module.rows.loader import BatchLoader
from kmeans_module.training.callbacks import IterationBar
from tests.conftest import blobs, layer_at
from tests.end_to_end.helpers import train

pytestmark = pytest.mark.filterwarnings(
    "ignore:You defined a `validation_step` but have no `val_dataloader`"
)
X = blobs(300, 2)


def test_the_bar_shows_iteration_inertia_and_shift(capsys):
    lit = LitKMeans(30, 2, init="random")
    train(lit, BatchLoader(X), callbacks=[IterationBar()], enable_progress_bar=True, max_epochs=3)
    shown = " ".join(capsys.readouterr().out.split())
    assert "iteration 3/3" in shown
    assert f"inertia {lit.last.inertia:,.6g}" in shown
    assert f"shift {lit.last.shift:.3g}" in shown


def test_without_a_cap_the_bar_has_no_end(capsys):
    lit = LitKMeans(4, 2)
    train(lit, BatchLoader(X), callbacks=[IterationBar()], enable_progress_bar=True, max_epochs=-1)
    assert f"{int(lit.kmeans.n_iter)}/?" in capsys.readouterr().out


def test_an_error_takes_the_bar_down():
    bar = IterationBar()
    x = X.clone()
    x[7] = float("nan")
    lit = LitKMeans(4, 2)
    lit.kmeans = layer_at(X[:4])
    lit.variance = 1.0
    with pytest.raises(ValueError, match="finite"):
        train(lit, BatchLoader(x), callbacks=[bar], enable_progress_bar=True)
    assert bar._progress is None


def test_a_disabled_bar_prints_nothing(capsys):
    bar = IterationBar()
    bar.disable()
    train(LitKMeans(4, 2), BatchLoader(X), callbacks=[bar], enable_progress_bar=True, max_epochs=2)
    assert capsys.readouterr().out == ""
