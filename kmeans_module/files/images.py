"""Pictures as tensors, and the pictures of a folder."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kmeans_module.files.refusals import UnsuitableError, enumerated, existing_file, refusing

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """Read a picture as RGB, upright as its EXIF orientation says.

    Args:
        path: of the file.

    Returns:
        (H, W, 3) float32 in [0, 1].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no image, is truncated, has more than 8 bits per channel, or is
            larger than Pillow's ``Image.MAX_IMAGE_PIXELS``.
    """
    from PIL import Image, ImageOps

    path = existing_file(path)
    with refusing(path, "image"), warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):  # Pillow would clip them to white
                raise UnsuitableError(f"expected 8 bits per channel, got mode {image.mode}")
            pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    return torch.from_numpy(pixels).float().div_(255)


def image_files(path: str | os.PathLike[str]) -> list[Path]:
    """The file itself, or the pictures of a folder.

    Args:
        path: of a file or a folder.

    Returns:
        Paths, sorted by name; those of subfolders are left out.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: the folder holds no image.
    """
    path = Path(path)
    if not path.is_dir():
        return [existing_file(path)]
    images = sorted(
        file
        for file in path.iterdir()
        if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file() and file.name[0] != "."
    )
    if not images:
        expected = enumerated(IMAGE_SUFFIXES)
        raise ValueError(f"{path}: no images in this folder, expected {expected}")
    return images
