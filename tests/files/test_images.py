"""Promises of the reader of pictures: RGB in [0, 1], upright, or a refusal in one line."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kmeans_module import files


def test_image_is_rgb_in_the_unit_interval(tmp_path: Path) -> None:
    pixels = np.array([[[255, 0, 51], [0, 255, 102]]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = files.read_image(tmp_path / "a.png")
    assert image.shape == (1, 2, 3)
    assert image.dtype == torch.float32
    torch.testing.assert_close(image, torch.from_numpy(pixels) / 255, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK"])
def test_images_of_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    Image.new("RGB", (4, 3), "white").convert(mode).save(tmp_path / "a.tif")
    assert torch.equal(files.read_image(tmp_path / "a.tif"), torch.ones(3, 4, 3))


def test_image_is_turned_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 2))
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was held on its side
    image.save(tmp_path / "a.jpg", exif=exif)
    assert files.read_image(tmp_path / "a.jpg").shape == (4, 2, 3)


def test_bad_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = tmp_path / "good.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8)).save(good)
    cut, text, deep = (tmp_path / name for name in ("cut.png", "text.png", "deep.png"))
    cut.write_bytes(good.read_bytes()[:700])
    text.write_text("no picture")
    Image.fromarray(np.full((2, 2), 40_000, dtype=np.uint16)).save(deep)
    for path, reason in [
        (cut, "not a readable image"),
        (text, "not a readable image"),
        (deep, "expected 8 bits per channel, got mode I"),
        (tmp_path, "is a folder"),
    ]:
        with pytest.raises(ValueError, match=re.escape(f"{path}: {reason}")):
            files.read_image(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        files.read_image(tmp_path / "gone.png")
    for limit in (399, 199):  # Pillow warns above its limit and raises above twice that
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            with pytest.raises(
                ValueError, match=r"good\.png: not a readable image .*exceeds limit"
            ):
                files.read_image(good)


def test_image_files_are_the_sorted_images_of_a_folder(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "notes.txt", "._a.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [file.name for file in files.image_files(tmp_path)] == ["a.JPG", "b.png"]
    assert files.image_files(tmp_path / "b.png") == [tmp_path / "b.png"]
    with pytest.raises(ValueError, match=r"folder\.png: no images in this folder"):
        files.image_files(tmp_path / "folder.png")
    with pytest.raises(FileNotFoundError, match="gone: no such file"):
        files.image_files(tmp_path / "gone")
