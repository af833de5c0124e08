"""Promise: what TensorBoard's own server gives to its pages is filled and named."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from kmeans_module import ArrayDataModule, BlobDataModule, ImageDataModule, LitKMeans
from kmeans_module.training.callbacks import ClusterFigures
from tests.conftest import blobs
from tests.end_to_end.helpers import train

pytestmark = pytest.mark.filterwarnings(
    "ignore:You defined a `validation_step` but have no `val_dataloader`"
)
COLUMNS = {
    "blobs": ["name", "cluster", "kind", "true class"],
    "restarts": ["name", "cluster", "kind", "true class"],
    "one": ["name", "cluster", "kind", "income in $"],
    "five": ["name", "cluster", "kind"],
    "pixels": ["name", "cluster", "kind", "color", "red", "green", "blue"],
}
Get = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    rows = blobs(200, 1).numpy()
    np.savetxt(folder / "one.csv", rows, header="income in $", comments="")
    np.save(folder / "five.npy", blobs(200, 5).numpy())
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "x.png")
    data: dict[str, Any] = {
        "blobs": BlobDataModule(samples_per_cluster=30, outliers=0.1),
        "restarts": BlobDataModule(samples_per_cluster=30, batch_size=40),
        "one": ArrayDataModule(path=str(folder / "one.csv")),
        "five": ArrayDataModule(path=str(folder / "five.npy")),
        "pixels": ImageDataModule(path=str(folder / "x.png")),
    }
    for name, module in data.items():
        lit = LitKMeans(6, n_init=2 if name == "restarts" else 1)
        logger = TensorBoardLogger(folder / "logs", name=name, version="")
        callbacks = [ClusterFigures(every_n_iterations=100)]
        train(lit, module, logger=logger, callbacks=callbacks, max_epochs=3)
        (folder / name).mkdir()
        torch.save(lit.kmeans.centroids, folder / name / "centroids.pt")
    return folder


@pytest.fixture(scope="module")
def get(folder: Path) -> Get:
    """Asks TensorBoard's server, as its pages do."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    logs = str(folder / "logs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorBoard's own
        from tensorboard import program

        board = program.TensorBoard()
        board.configure(argv=["tensorboard", "--logdir", logs, "--load_fast=false", "--port", "0"])
        url = board.launch()

    def ask(path: str, body: dict[str, Any] | None = None, **query: str) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{url}data/{path}?{urlencode(query)}", data=data)
        request.add_header("Content-Type", "application/json")
        with urlopen(request) as answer:
            return answer.read()

    for _ in range(100):
        if len(json.loads(ask("runs"))) == len(COLUMNS):
            return ask
        time.sleep(0.1)
    raise TimeoutError("TensorBoard does not see the runs")


def test_every_run_has_a_projection(get: Get) -> None:
    assert sorted(json.loads(get("plugin/projector/runs"))) == sorted(COLUMNS)


@pytest.mark.parametrize("run", COLUMNS)
def test_the_projector_has_points_to_show_and_their_names(run: str, get: Get, folder: Path) -> None:
    info = json.loads(get("plugin/projector/info", run=run))["embeddings"][0]
    n, d = info["tensorShape"]
    assert d >= 3, "the projector shows three coordinates"
    of_run = {"run": run, "name": info["tensorName"]}
    points = np.frombuffer(get("plugin/projector/tensor", **of_run), dtype=np.float32).reshape(n, d)
    lines = get("plugin/projector/metadata", **of_run).decode().splitlines()
    head, *rows = [line.split("\t") for line in lines]
    assert head == COLUMNS[run]
    assert len(rows) == n
    centroids = torch.load(folder / run / "centroids.pt")
    k = len(centroids)
    np.testing.assert_allclose(points[:k, : centroids.shape[1]], centroids, rtol=1e-5)
    assert [row[0] for row in rows[:k]] == [f"centroid {j}" for j in range(k)]
    nearest = np.square(points[k:, None] - points[None, :k]).sum(-1).argmin(-1)
    assert [row[1] for row in rows[k:]] == [f"cluster {j}" for j in nearest]
    if "true class" in head:
        classes = {row[3] for row in rows[k:]}
        assert classes == {f"class {j}" for j in range(6)} | ({"outlier"} & classes)
        assert ("outlier" in classes) == (run == "blobs")


def test_points_of_pixels_are_patches_of_their_color(get: Get, folder: Path) -> None:
    info = json.loads(get("plugin/projector/info", run="pixels"))["embeddings"][0]
    (folder / "sprite.png").write_bytes(
        get("plugin/projector/sprite_image", run="pixels", name=info["tensorName"])
    )
    sprite = np.asarray(Image.open(folder / "sprite.png"))
    width, height = info["sprite"]["singleImageDim"]
    centroid = torch.load(folder / "pixels" / "centroids.pt")[0]
    np.testing.assert_allclose(sprite[height // 2, width // 2], 255 * centroid, atol=0.51)
    assert sprite.shape[0] * sprite.shape[1] >= info["tensorShape"][0] * width * height


def test_the_hparams_tab_compares_the_runs(get: Get) -> None:
    experiment = json.loads(get("plugin/hparams/experiment", {"experimentName": ""}))
    names = {info["name"] for info in experiment["hparamInfos"]}
    assert names >= {"n_clusters", "n_init", "algorithm", "metric", "seed", "tol", "data"}
    tags = [info["name"]["tag"] for info in experiment["metricInfos"]]
    assert set(tags) == {
        f"fit/{name}"
        for name in ("inertia", "n_iter", "converged", "cluster_usage", "adjusted_rand",
                     "normalized_mutual_info")
    }  # fmt: skip
    request = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
        "colParams": [{"metric": info["name"]} for info in experiment["metricInfos"]],
        "startIndex": 0,
        "sliceSize": 100,
    }
    groups = json.loads(get("plugin/hparams/session_groups", request))["sessionGroups"]
    found = {
        group["name"]: {value["name"]["tag"]: value["value"] for value in group["metricValues"]}
        for group in groups
    }
    asked = {group["name"]: group["hparams"] for group in groups}
    assert set(found) == set(COLUMNS)
    for run, metrics in found.items():
        assert metrics["fit/inertia"] > 0
        assert metrics["fit/n_iter"] <= 3
        assert metrics["fit/cluster_usage"] == 1
        assert ("fit/adjusted_rand" in metrics) == (run in ("blobs", "restarts")), run
    assert (asked["blobs"]["n_init"], asked["restarts"]["n_init"]) == (1, 2)
    assert asked["one"]["data"].endswith("one.csv")
