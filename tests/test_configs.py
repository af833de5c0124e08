import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from kmeans_module.cli import main
from kmeans_module.clustering.saved_run import SavedRun
from tests.conftest import blobs
from tests.end_to_end.helpers import ROOT

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
MINIATURE = {
    "blobs": ["--data.init_args.samples_per_cluster=20"],
    "features": ["--model.n_clusters=16"],
    "image": [],
    "table": ["--model.n_init=2"],
    "minibatch": ["--data.init_args.samples_per_cluster=40", "--data.init_args.batch_size=500"],
}


def command(config):
    """What the first line of a configuration says to run, without the program."""
    first = config.read_text().splitlines()[0]
    program = "# python train.py "
    assert first.startswith(program)
    return first.removeprefix(program).split()


def test_there_is_a_config_for_every_job():
    assert {config.stem for config in CONFIGS} == set(MINIATURE)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_it_opens_with_the_command_that_runs_it(config):
    args = command(config)
    assert args[0] == "fit"
    assert args[args.index("--config") + 1] == f"configs/{config.name}"


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_key_is_commented(config):
    sections = re.compile(r"^\s*(model|data|figures|checkpoints|trainer|logger|init_args):$")
    names = re.compile(r"^\s*(class_path|name|strategy): \S+$")  # the line above says it
    for line in config.read_text().splitlines():
        if not line.strip() or line.startswith("#") or sections.match(line) or names.match(line):
            continue
        assert re.search(r"\S\s+# \S", line), f"{config.name}: {line}"


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_its_command_runs_in_miniature(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    np.save("features.npy", blobs(300, 8).numpy())
    np.savetxt("table.csv", blobs(60, 2).numpy(), delimiter=",", header="a,b", comments="")
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.jpg")
    main(
        [
            *command(config),
            *MINIATURE[config.stem],
            "--trainer.max_epochs=2",
            "--trainer.enable_progress_bar=false",
            "--run_folder.summary=false",
        ]
    )
    folder = Path("runs") / config.stem / "version_0"
    for name in ("config.yaml", "labels.npy", "clusters.png", "animation.html"):
        assert (folder / name).exists(), name
    assert (folder / "checkpoints" / "last.ckpt").exists()
    assert list(folder.glob("events.out.tfevents*"))
    used = yaml.safe_load((folder / "config.yaml").read_text())
    layer = SavedRun.read(folder).layer
    assert len(layer.centroids) == used["model"]["n_clusters"]
    if config.stem == "image":
        assert (folder / "quantized.png").exists()
        assert (folder / "quantized" / "photo.png").exists()
