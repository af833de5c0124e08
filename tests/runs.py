"""Run folders for tests, each left by a short run of the command line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from kmeans_module.cli import main
from tests.conftest import blobs

X = blobs(90, 3) * torch.tensor([1.0, 100.0, 0.01]) + 5
FRAME = pd.DataFrame(
    {"id": np.arange(90.0), **{name: X[:, i].double() for i, name in enumerate("uvw")}}
)
_QUIET = (
    "--trainer.enable_progress_bar=false", "--run_folder.summary=false",
    "--figures.projector=false", "--trainer.max_epochs=5", "--model.n_clusters=4",
)  # fmt: skip


def picture(seed: int, height: int = 8, width: int = 11) -> Image.Image:
    colors = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(colors)


def write_data(folder: Path) -> None:
    """Files of every kind that the runs and their predictions read."""
    FRAME.to_csv(folder / "rows.csv", index=False)
    FRAME.to_parquet(folder / "rows.parquet")
    np.save(folder / "rows.npy", X.numpy())
    (folder / "parts" / "deep").mkdir(parents=True)
    np.save(folder / "parts" / "a.npy", X[:30].numpy())
    np.save(folder / "parts" / "deep" / "b.2.npy", X[30:].numpy())
    picture(0).save(folder / "one.png")
    (folder / "pictures").mkdir()
    picture(0).save(folder / "pictures" / "first.png")
    picture(1, 5, 4).save(folder / "pictures" / "second.bmp")


RUNS = {
    "chosen": ("ArrayDataModule", "rows.csv", ("columns=[u,w]", "standardize=true")),
    "rows": ("ArrayDataModule", "rows.npy", ("batch_size=40", "val_share=0.3")),
    "parts": ("ArrayDataModule", "parts", ("standardize=true",)),
    "pictures": ("ImageDataModule", "pictures", ()),
}


def fit_all(folder: Path) -> None:
    """Fill a folder with data and runs of all of them, each in runs/NAME/version_0."""
    write_data(folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        for name, (module, path, options) in RUNS.items():
            metric = "cosine" if name == "rows" else "euclidean"
            data = [f"--data.{option}" for option in (f"path={path}", *options)]
            main(
                [
                    "fit", f"--data={module}", *data, *_QUIET, f"--model.metric={metric}",
                    f"--trainer.logger.name={name}",
                ]
            )  # fmt: skip
    finally:
        os.chdir(before)
