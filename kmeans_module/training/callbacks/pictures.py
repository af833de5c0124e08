"""What is drawn into a run folder: figures as .png, and pictures in the colors of the palette."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from kmeans_module import figures, files
from kmeans_module.data import ImageDataModule
from kmeans_module.training.lit_kmeans import LitKMeans


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure as .png, atomically."""
    files.write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))


def save_pictures(
    folder: Path, data: ImageDataModule, lit: LitKMeans, labels: Tensor, sizes: Tensor
) -> list[str]:
    """Write the pictures in the colors of the palette, and up to four beside their originals.

    Args:
        folder: of the run.
        data: whose pixels were clustered.
        lit: whose centroids are the palette.
        labels: of all pixels, (n,).
        sizes: number of pixels of each color, (k,).

    Returns:
        The names of what was written.
    """
    names = [file.stem for file in data.image_files]
    if len(set(names)) < len(names):
        names = [file.name for file in data.image_files]
    pixels = lit.kmeans.decode(labels.to(lit.device)).float().clamp(0, 1).cpu()
    originals, quantized = _images(data.x, data), _images(pixels, data)
    (folder / "quantized").mkdir(exist_ok=True)
    for name, picture in zip(names, quantized, strict=True):
        image = Image.fromarray((picture * 255).round().to(torch.uint8).numpy())
        path = folder / "quantized" / f"{name}.png"
        files.write_atomically(path, partial(image.save, format="png"))
    figure = figures.quantized_figure(originals, quantized, lit.kmeans.centroids, sizes)
    save_figure(folder / "quantized.png", figure)
    return ["quantized.png", "quantized/"]


def _images(pixels: Tensor, data: ImageDataModule) -> list[Tensor]:
    """Pixels (n, 3) as images (H, W, 3) of the shapes of the data."""
    parts = torch.split(pixels, [height * width for height, width in data.image_shapes])
    return [part.view(*shape, 3) for part, shape in zip(parts, data.image_shapes, strict=True)]
