import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kmeans_module import BlobDataModule, ImageDataModule, LitKMeans, figures
from kmeans_module.rows.loader import BatchLoader
from kmeans_module.training.callbacks import ClusterFigures
from kmeans_module.training.callbacks.recorder import Recorder
from tests.conftest import blobs
from tests.end_to_end.helpers import MemoryLogger, quiet_trainer, train

pytestmark = pytest.mark.filterwarnings(
    "ignore:You defined a `validation_step` but have no `val_dataloader`"
)
SCALARS = (
    "inertia",
    "shift",
    "empty_clusters",
    "reassigned",
    "size_min",
    "size_median",
    "size_max",
)


def events(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def steps(values):
    return [value.step for value in values]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(events, lit, folder) of a fit of eleven iterations."""
    folder = tmp_path_factory.mktemp("run")
    lit = LitKMeans(9, 2, init="random", tol=0)
    logger = TensorBoardLogger(folder, name=None, version="")
    data = BlobDataModule(variance=200.0, samples_per_cluster=60)
    train(lit, data, logger=logger, callbacks=[ClusterFigures()], max_epochs=11)
    assert int(lit.kmeans.n_iter) == 11
    return events(folder), lit, folder


def test_scalars_of_every_iteration_are_in_tensorboard(run):
    logged, _, _ = run
    for name in SCALARS:
        first = 2 if name == "reassigned" else 1
        assert steps(logged.Scalars(f"train/{name}")) == list(range(first, 12)), name
    for name in ("inertia", "adjusted_rand", "normalized_mutual_info"):
        assert steps(logged.Scalars(f"val/{name}")) == list(range(1, 12)), name


def test_figures_come_at_iterations_1_2_4_8_and_the_last(run):
    logged, _, _ = run
    assert logged.Tags()["images"] == ["clusters", "cluster sizes"]
    for tag in ("clusters", "cluster sizes"):
        assert steps(logged.Images(tag)) == [1, 2, 4, 8, 11]
        pictures = {image.encoded_image_string for image in logged.Images(tag)}
        assert len(pictures) == 5
        assert all(image.width > 300 and image.height > 200 for image in logged.Images(tag))


def test_figures_every_so_many_iterations(tmp_path):
    lit = LitKMeans(9, 2, init="random", tol=0)
    logger = TensorBoardLogger(tmp_path, name=None, version="")
    callback = ClusterFigures(every_n_iterations=3, projector=False)
    train(lit, BatchLoader(blobs(300, 2)), logger=logger, callbacks=[callback], max_epochs=7)
    assert steps(events(tmp_path).Images("clusters")) == [3, 6, 7]
    assert not list(tmp_path.rglob("tensors.tsv"))


@pytest.mark.parametrize("d", [1, 2, 5])
def test_any_number_of_features_is_drawn(d, tmp_path):
    lit = LitKMeans(4, d)
    logger = TensorBoardLogger(tmp_path, name=None, version="")
    loader = BatchLoader(blobs(300, d), batch_size=90)
    train(lit, loader, logger=logger, callbacks=[ClusterFigures()], max_epochs=1)
    assert steps(events(tmp_path).Images("clusters")) == [1]


def test_pictures_show_their_palette(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    logger = TensorBoardLogger(tmp_path, name=None, version="")
    data = ImageDataModule(path=str(tmp_path / "x.png"))
    lit = LitKMeans(4, 3)
    train(lit, data, logger=logger, callbacks=[ClusterFigures()], max_epochs=3)
    assert steps(events(tmp_path).Images("palette")) == [1, 2, 3]


def test_every_tensorboard_gets_them(tmp_path):
    loggers = [TensorBoardLogger(tmp_path, name=name, version="") for name in ("a", "b")]
    lit = LitKMeans(4, 2)
    train(
        lit,
        BatchLoader(blobs(300, 2)),
        callbacks=[ClusterFigures()],
        max_epochs=1,
        logger=[MemoryLogger(), *loggers],
    )
    for name in ("a", "b"):
        assert steps(events(tmp_path / name).Images("clusters")) == [1]


@pytest.mark.parametrize("logger", [False, MemoryLogger()])
def test_nothing_is_drawn_or_kept_that_no_logger_wants(logger, monkeypatch):
    def draw(*args, **options):
        raise AssertionError("a figure was drawn")

    for name in ("clustering_figure", "cluster_sizes_figure", "palette_figure"):
        monkeypatch.setattr(figures, name, draw)
    lit, data = LitKMeans(4, 2), BatchLoader(blobs(300, 2))
    trainer = train(lit, data, logger=logger, callbacks=[ClusterFigures()])
    assert not any(isinstance(callback, Recorder) for callback in trainer.callbacks)


def test_the_last_iteration_of_every_fit_is_drawn(tmp_path):
    callback = ClusterFigures(every_n_iterations=1000, projector=False)
    for name in ("a", "b"):
        logger = TensorBoardLogger(tmp_path, name=name, version="")
        lit = LitKMeans(9, 2, init="random", tol=0)
        train(lit, BatchLoader(blobs(300, 2)), logger=logger, callbacks=[callback], max_epochs=3)
        assert steps(events(tmp_path / name).Images("clusters")) == [3]


def test_drawing_leaves_pyplot_alone(tmp_path, monkeypatch):
    import matplotlib.pyplot as plt

    train(
        LitKMeans(4, 2),
        BatchLoader(blobs(300, 2)),
        callbacks=[ClusterFigures()],
        logger=TensorBoardLogger(tmp_path),
        max_epochs=1,
    )
    assert plt.get_fignums() == []


def test_an_interval_of_nothing_is_refused():
    with pytest.raises(ValueError, match="every_n_iterations should be >= 1; got 0"):
        ClusterFigures(every_n_iterations=0)


def test_another_module_is_refused():
    class Other(LightningModule):
        def training_step(self, batch, batch_idx):
            pass

        def configure_optimizers(self):
            return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])

    trainer = quiet_trainer(callbacks=[ClusterFigures()])
    with pytest.raises(TypeError, match="this callback is for LitKMeans; got Other"):
        trainer.fit(Other(), BatchLoader(blobs(30, 2)))
