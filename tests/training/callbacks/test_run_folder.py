import json

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image
from torch.utils.data import DataLoader

from kmeans_module import (
    ArrayDataModule,
    BlobDataModule,
    ImageDataModule,
    KMeansLayer,
    LitKMeans,
    files,
)
from kmeans_module.rows.loader import BatchLoader
from kmeans_module.training.callbacks import Checkpoints, RunFolder
from kmeans_module.training.callbacks.drawing import draw_clusters
from kmeans_module.training.callbacks.recorder import Recorder
from tests.conftest import blobs, layer_at
from tests.end_to_end.helpers import quiet_trainer, train
from tests.figures.test_animation import payload

pytestmark = pytest.mark.filterwarnings(
    "ignore:You defined a `validation_step` but have no `val_dataloader`",
    "ignore:The '.*_dataloader' does not have many workers",
)
X = blobs(503, 2)


def run(folder, data, k=6, d=2, summary=False, **options):
    lit = LitKMeans(k, d)
    trainer = train(
        lit, data, callbacks=[RunFolder(summary=summary)], default_root_dir=folder, **options
    )
    return lit, trainer


def labels(folder):
    return torch.from_numpy(np.load(folder / "labels.npy"))


def test_centroids_come_back_as_a_layer(tmp_path):
    lit, _ = run(tmp_path, BlobDataModule())
    layer = KMeansLayer.from_file(tmp_path / "centroids.safetensors")
    assert torch.equal(layer.centroids, lit.kmeans.centroids)
    assert torch.equal(layer.counts, lit.kmeans.counts)
    assert int(layer.n_iter) == int(lit.kmeans.n_iter)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("batch_size", [None, 100])
@pytest.mark.parametrize("val_share", [0.0, 0.3])
def test_labels_are_those_of_all_rows_in_file_order(tmp_path, val_share, batch_size, shuffle):
    np.save(tmp_path / "x.npy", X.numpy())
    data = ArrayDataModule(
        path=str(tmp_path / "x.npy"), val_share=val_share, batch_size=batch_size, shuffle=shuffle
    )
    run(tmp_path, data)
    layer = KMeansLayer.from_file(tmp_path / "centroids.safetensors")
    assert torch.equal(labels(tmp_path), layer(X))


def test_standardized_centroids_come_with_what_they_were_standardized_by(tmp_path):
    np.save(tmp_path / "x.npy", (X * 10 + 100).numpy())
    run(tmp_path, ArrayDataModule(path=str(tmp_path / "x.npy"), standardize=True))
    with pytest.warns(UserWarning, match="centroids of standardized rows; predict"):
        layer = KMeansLayer.from_file(tmp_path / "centroids.safetensors")
    moments, _ = files.load_tensors(tmp_path / "standardization.safetensors")
    rows = (X * 10 + 100 - moments["mean"]) / moments["scale"]
    assert torch.equal(labels(tmp_path), layer(rows.float()))


def test_labels_of_foreign_rows(tmp_path):
    lit, _ = run(tmp_path, DataLoader(X, batch_size=100))
    assert torch.equal(labels(tmp_path), lit(X))


def test_rows_without_a_lasting_order_get_no_labels(tmp_path, caplog):
    run(tmp_path, DataLoader(X, batch_size=100, shuffle=True))
    assert not (tmp_path / "labels.npy").exists()
    assert "labels.npy is not written" in caplog.text
    assert (tmp_path / "centroids.safetensors").exists()


def test_rows_of_no_batch_are_told(tmp_path, caplog):
    loader = BatchLoader(X, batch_size=100, shuffle=True)
    lit, _ = run(tmp_path, loader, limit_train_batches=2, max_epochs=1)
    written = labels(tmp_path)
    seen = written >= 0
    assert int(seen.sum()) == 200
    assert torch.equal(written[seen], lit(X)[: len(written)][seen])
    assert f"labels.npy holds -1 for {len(written) - 200} rows" in caplog.text


def test_predict_leaves_labels(tmp_path):
    data = BlobDataModule(batch_size=400, shuffle=True)
    lit, trainer = run(tmp_path, data)
    (tmp_path / "labels.npy").unlink()
    trainer.predict(lit, data)
    assert torch.equal(labels(tmp_path), lit(data.x))
    for loader in (DataLoader(X, batch_size=100), BatchLoader(X, batch_size=100, shuffle=True)):
        (tmp_path / "labels.npy").unlink()
        trainer.predict(lit, loader)
        assert torch.equal(labels(tmp_path), lit(X))


def test_clusters_of_pixels_have_their_own_colors(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    data = ImageDataModule(path=str(tmp_path / "x.png"))
    lit, trainer = run(tmp_path, data, k=5, d=3)
    own = [to_hex(color) for color in lit.kmeans.centroids.clamp(0, 1).tolist()]
    page = (tmp_path / "animation.html").read_text()
    assert payload(page)["colors"] == own
    figure = draw_clusters(Recorder.of(trainer).trajectory, lit, trainer)
    (points,) = [artist for artist in figure.axes[0].collections if len(artist.get_offsets()) > 5]
    drawn = {to_hex(color[:3]) for color in points.get_facecolors()}
    assert drawn == set(own)


def test_the_figure_is_a_picture(tmp_path):
    run(tmp_path, BlobDataModule())
    with Image.open(tmp_path / "clusters.png") as picture:
        picture.load()
        assert picture.format == "PNG"
        assert min(picture.size) > 400
        assert len(picture.convert("RGB").getcolors(10**7)) > 50


def test_the_animation_has_a_frame_per_iteration(tmp_path):
    data = BlobDataModule(variance=200.0)
    lit, _ = run(tmp_path, data, k=9, max_epochs=7)
    page = payload((tmp_path / "animation.html").read_text())
    assert page["iterations"] == list(range(8))
    assert len(page["inertia"]) == 8
    assert all(np.diff(page["inertia"]) <= 0)
    assert page["inertia"][-2] == pytest.approx(lit.last.inertia)
    final = float(lit.kmeans.e_step(data.x).stats.inertia)
    assert page["inertia"][-1] == pytest.approx(final)
    np.testing.assert_allclose(page["centroids"][-1], lit.kmeans.centroids, atol=1e-3)
    np.testing.assert_allclose(page["points"], data.x, atol=1e-3)
    np.testing.assert_array_equal(page["labels"][-1], lit(data.x))


def test_a_hundred_frames_of_the_seeds_data_stay_small(tmp_path):
    data = BlobDataModule(variance=300.0)
    run(tmp_path, data, k=12, max_epochs=110)
    assert (tmp_path / "animation.html").stat().st_size < 5e6


def quantized(folder, name):
    with Image.open(folder / "quantized" / f"{name}.png") as picture:
        return np.asarray(picture.convert("RGB"))


def test_a_picture_in_the_colors_of_its_palette(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (31, 44, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    lit, _ = run(tmp_path, ImageDataModule(path=str(tmp_path / "photo.png")), k=16, d=3)
    picture = quantized(tmp_path, "photo")
    assert picture.shape == pixels.shape
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) <= 16
    x = torch.from_numpy(pixels).reshape(-1, 3).float() / 255
    expected = (lit.kmeans.decode(lit(x)) * 255).round().to(torch.uint8)
    np.testing.assert_array_equal(picture.reshape(-1, 3), expected)
    with Image.open(tmp_path / "quantized.png") as figure:
        figure.load()
        assert figure.width > figure.height


def test_a_folder_of_pictures_keeps_their_names_and_shapes(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    generator = np.random.default_rng(0)
    shapes = {"a.png": (8, 9), "b.png": (12, 5), "b.bmp": (4, 4)}
    for name, shape in shapes.items():
        array = generator.integers(0, 256, (*shape, 3), dtype=np.uint8)
        Image.fromarray(array).save(pictures / name)
    run(tmp_path, ImageDataModule(path=str(pictures), batch_size=30), k=3, d=3)
    for name, shape in shapes.items():
        assert quantized(tmp_path, name).shape == (*shape, 3)


def test_the_summary_says_how_it_ended(tmp_path, capsys):
    lit, _ = run(tmp_path, BlobDataModule(), summary=True)
    shown = capsys.readouterr().out
    for line in ("inertia", "iterations", "stopped", "cluster sizes", "run folder", "labels.npy"):
        assert line in shown, line
    assert f"{int(lit.kmeans.n_iter)}\n" in shown.replace(" ", "")
    assert lit.stop_reason.split(" is ")[0] in shown
    assert "none empty" in shown


def test_the_summary_and_files_of_a_run_that_had_converged(tmp_path, capsys):
    first = tmp_path / "first"
    data = BlobDataModule()
    lit = LitKMeans(6, 2)
    train(lit, data, callbacks=[Checkpoints()], enable_checkpointing=True, default_root_dir=first)
    again = LitKMeans(6, 2)
    path = str(first / "checkpoints" / "last.ckpt")
    with pytest.warns(UserWarning, match="callbacks used to create the checkpoint"):
        train(again, data, ckpt_path=path, callbacks=[RunFolder()], default_root_dir=tmp_path)
    assert torch.equal(labels(tmp_path), lit(data.x))
    assert (tmp_path / "clusters.png").exists()
    assert len(payload((tmp_path / "animation.html").read_text())["iterations"]) == 1
    assert lit.stop_reason.split(" is ")[0] in capsys.readouterr().out


def test_what_was_there_stays_whole_when_a_run_fails(tmp_path):
    run(tmp_path, BlobDataModule())
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    x = X.clone()
    x[400] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        run(tmp_path, BatchLoader(x))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before


@pytest.mark.parametrize("entry", ["fit", "predict"])
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path, entry):
    (tmp_path / "file").write_text("")
    lit = LitKMeans(6, 2)
    lit.kmeans = layer_at(X[:6])
    trainer = quiet_trainer(callbacks=[RunFolder()], default_root_dir=tmp_path / "file" / "run")
    with pytest.raises(NotADirectoryError, match="file"):
        getattr(trainer, entry)(lit, BatchLoader(X))
    assert int(lit.kmeans.n_iter) == 0


def test_the_page_is_json_whatever_the_numbers(tmp_path):
    run(tmp_path, BlobDataModule(), max_epochs=1)
    text = (tmp_path / "animation.html").read_text()
    data = text.split('type="application/json">')[1].split("</script>")[0]
    json.loads(data, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
