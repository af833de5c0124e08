"""Pixels of pictures."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch

from kmeans_module import files
from kmeans_module.data.base import RowsDataModule, Split


class ImageDataModule(RowsDataModule):
    """The pixels of a picture, or of all pictures in a folder: rows of red, green and blue.

    Rows are float32 in [0, 1], picture by picture, each from its top left to its bottom right.

    Args:
        path: an image file or a folder of them.
        batch_size: pixels per step over all processes; default all in one batch.
        shuffle: train on the pixels in a new random order every epoch.
        seed: of the random orders.

    Raises:
        ValueError: an argument out of range; when the pictures are read, one that cannot be.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> from kmeans_module import ImageDataModule
        >>> with TemporaryDirectory() as folder:
        ...     Image.new("RGB", (4, 2), "red").save(f"{folder}/red.png")
        ...     data = ImageDataModule(path=f"{folder}/red.png")
        ...     data.setup("fit")
        >>> data.x.shape, data.x[0], data.image_shapes
        (torch.Size([8, 3]), tensor([1., 0., 0.]), [(2, 4)])
    """

    def __init__(
        self,
        *,
        path: str,
        batch_size: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, shuffle, seed)
        files.checked_path(path)
        self.path = path

    @property
    def n_features(self) -> int:
        """3: red, green, blue."""
        return 3

    @property
    def feature_names(self) -> list[str]:
        """red, green, blue."""
        return ["red", "green", "blue"]

    @cached_property
    def image_files(self) -> list[Path]:
        """The pictures in the order of their rows."""
        return files.image_files(self.path)

    @property
    def image_shapes(self) -> list[tuple[int, int]]:
        """(H, W) of each picture: its pixels are H·W consecutive rows."""
        return self._pictures[1]

    @property
    def training_split(self) -> Split:
        return self._pictures[0]

    @cached_property
    def _pictures(self) -> tuple[Split, list[tuple[int, int]]]:
        images = [files.read_image(file) for file in self.image_files]
        pixels = [image.reshape(-1, 3) for image in images]
        x = pixels[0] if len(pixels) == 1 else torch.cat(pixels)
        return Split(x), [(image.shape[0], image.shape[1]) for image in images]
