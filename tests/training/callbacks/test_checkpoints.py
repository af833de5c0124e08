import pytest
import torch

from kmeans_module import LitKMeans
from kmeans_module.rows.loader import BatchLoader
from kmeans_module.training.callbacks import Checkpoints
from tests.conftest import blobs
from tests.end_to_end.helpers import train

pytestmark = pytest.mark.filterwarnings(
    "ignore:You defined a `validation_step` but have no `val_dataloader`"
)


def run(folder, epochs=5, **options):
    lit = LitKMeans(20, 2, init="random", tol=0)
    train(
        lit,
        BatchLoader(blobs(500, 2)),
        callbacks=[Checkpoints(**options)],
        enable_checkpointing=True,
        default_root_dir=folder,
        max_epochs=epochs,
    )
    paths = (folder / "checkpoints").glob("*.ckpt")
    return lit, {path.stem: torch.load(path)["global_step"] for path in paths}


def test_the_last_and_the_best_iteration_are_kept(tmp_path):
    lit, steps = run(tmp_path)
    assert steps == {"best": 5, "last": 5}
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt")["state_dict"]
    assert torch.equal(state["kmeans.centroids"], lit.kmeans.centroids)


def test_all_are_kept_on_demand(tmp_path):
    _, steps = run(tmp_path, save_top_k=-1)
    assert steps == {**{f"iteration={i}": i for i in range(1, 6)}, "last": 5}


def test_iterations_are_left_out_on_demand(tmp_path):
    _, steps = run(tmp_path, every_n_iterations=2, save_top_k=-1)
    assert steps == {"iteration=2": 2, "iteration=4": 4, "last": 4}


@pytest.mark.parametrize("every", [0, -1])
def test_an_interval_of_nothing_is_refused(every):
    with pytest.raises(ValueError, match=f"every_n_iterations should be >= 1; got {every}"):
        Checkpoints(every_n_iterations=every)
