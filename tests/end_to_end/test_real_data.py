import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, load_sample_image
from sklearn.metrics import normalized_mutual_info_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kmeans_module import KMeansLayer
from kmeans_module.cli import main
from tests.end_to_end.helpers import ROOT
from tests.figures.test_animation import payload

QUIET = ("--trainer.enable_progress_bar=false", "--figures.projector=false")


def peer_inertia(x, k, runs=3):
    """The lowest of a few runs of scikit-learn."""
    fits = [KMeans(k, n_init=1, random_state=seed).fit(x) for seed in range(runs)]
    return min(fit.inertia_ for fit in fits)


def inertia(x, folder):
    """Of the run's centroids, in float64."""
    layer = KMeansLayer.from_file(folder / "centroids.safetensors")
    labels = torch.from_numpy(np.load(folder / "labels.npy"))
    assert torch.equal(layer(torch.from_numpy(x).float()), labels)
    return float(np.square(x - layer.centroids[labels].double().numpy()).sum())


def check_photograph(photo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo).save("china.jpg", quality=95)
    config = ROOT / "configs" / "image.yaml"
    main(["fit", f"--config={config}", "--data.init_args.path=china.jpg", *QUIET])
    shown = capsys.readouterr().out
    folder = tmp_path / "runs" / "image" / "version_0"
    with Image.open("china.jpg") as picture:
        x = np.asarray(picture.convert("RGB")).reshape(-1, 3) / 255
    assert inertia(x, folder) <= 1.05 * peer_inertia(x, 16)
    with Image.open(folder / "quantized" / "china.png") as picture:
        quantized = np.asarray(picture)
    assert quantized.shape == photo.shape
    assert len(np.unique(quantized.reshape(-1, 3), axis=0)) == 16
    error = np.square(quantized.reshape(-1, 3) / 255 - x).sum()
    assert error == pytest.approx(inertia(x, folder), rel=0.01)
    found = EventAccumulator(str(folder), size_guidance={"images": 0})
    found.Reload()
    assert {"clusters", "cluster sizes", "palette"} <= set(found.Tags()["images"])
    for word in ("inertia", "iterations", "stopped", "cluster sizes", "quantized.png"):
        assert word in shown


def test_the_photograph_in_sixteen_colours(tmp_path, monkeypatch, capsys):
    photo = load_sample_image("china.jpg")[::4, ::4]
    check_photograph(photo, tmp_path, monkeypatch, capsys)


@pytest.mark.slow
def test_the_whole_photograph_in_sixteen_colours(tmp_path, monkeypatch, capsys):
    check_photograph(load_sample_image("china.jpg"), tmp_path, monkeypatch, capsys)


def test_the_digits_in_ten_clusters(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    digits = load_digits()
    np.save("digits.npy", digits.data)
    main(["fit", "--data=ArrayDataModule", "--data.path=digits.npy", "--model.n_clusters=10",
          "--trainer.logger.save_dir=runs", "--trainer.logger.name=digits", *QUIET])  # fmt: skip
    folder = tmp_path / "runs" / "digits" / "version_0"
    assert inertia(digits.data, folder) <= 1.05 * peer_inertia(digits.data, 10)
    labels = np.load(folder / "labels.npy")
    assert normalized_mutual_info_score(digits.target, labels) > 0.65
    page = payload((folder / "animation.html").read_text())
    assert page["names"] != ["x", "y"]
    shown = capsys.readouterr().out
    assert "stopped" in shown
    assert "max_epochs" not in shown
