"""Promises of pictures: rows of pixels that turn back into the pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kmeans_module.data import ImageDataModule


def test_pixels_of_a_folder_turn_back_into_its_pictures(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pictures = {
        name: generator.integers(0, 256, (height, width, 3), np.uint8)
        for name, height, width in [("b.png", 2, 3), ("a.png", 4, 5)]
    }
    for name, picture in pictures.items():
        Image.fromarray(picture).save(tmp_path / name)
    data = ImageDataModule(path=str(tmp_path))
    assert data.n_features == 3
    data.setup("fit")
    assert data.x.dtype == torch.float32
    assert data.x.shape == (26, 3)
    assert data.n_samples == 26
    assert [file.name for file in data.image_files] == ["a.png", "b.png"]
    assert data.image_shapes == [(4, 5), (2, 3)]
    parts = data.x.split([h * w for h, w in data.image_shapes])
    for file, shape, part in zip(data.image_files, data.image_shapes, parts, strict=True):
        np.testing.assert_allclose(part.view(*shape, 3) * 255, pictures[file.name], rtol=1e-6)


def test_one_picture_is_a_folder_of_one(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4), "white").save(tmp_path / "a.png")
    data = ImageDataModule(path=str(tmp_path / "a.png"), batch_size=7, shuffle=True)
    assert torch.equal(data.x, torch.ones(20, 3))
    assert data.image_shapes == [(4, 5)]
    assert len(data.train_dataloader()) == 3
    assert len(data.val_dataloader()) == 0


def test_n_features_of_images_needs_no_file() -> None:
    data = ImageDataModule(path="gone.png")
    assert data.n_features == 3
    with pytest.raises(FileNotFoundError, match=r"gone\.png: no such file"):
        data.setup("fit")
