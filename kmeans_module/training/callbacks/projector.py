"""TensorBoard's embedding projector: centroids and a sample of the rows, with names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import to_hex
from PIL import Image
from torch import Tensor

from kmeans_module import files
from kmeans_module.figures.drawing import literal

FOLDER = "projector"  # of the files that projector_config.pbtxt names
# The projector colors points by up to 50 names; beyond, by a number.
_MOST_NAMES = 50
_MOST_FEATURES = 16  # that are listed beside a point
_MOST_SPRITES = 2_025  # of which a square has 45 a side
_SIDE = 16  # of the picture of a point, in pixels
_CONFIG = f"""embeddings {{
  tensor_name: "clusters"
  tensor_path: "{FOLDER}/tensors.tsv"
  metadata_path: "{FOLDER}/metadata.tsv"
%s}}
"""
_SPRITE = f"""  sprite {{
    image_path: "{FOLDER}/sprite.png"
    single_image_dim: {_SIDE}
    single_image_dim: {_SIDE}
  }}
"""


def save_projection(
    folder: Path,
    x: Tensor,
    labels: Tensor,
    centroids: Tensor,
    *,
    target: Tensor | None = None,
    feature_names: Sequence[str] | None = None,
    colors: bool = False,
) -> None:
    """Write projector_config.pbtxt, which TensorBoard looks for, and projector/.

    Args:
        folder: of the logger.
        x: a sample of the rows, (m, d).
        labels: their clusters, (m,).
        centroids: (k, d).
        target: true labels of the sample, (m,).
        feature_names: d names.
        colors: whether rows are red, green and blue in [0, 1]: each point is a patch of its color.
    """
    points = torch.cat([centroids.cpu().float(), x.cpu().float()])
    table = _table(points, labels.tolist(), len(centroids), target, feature_names, colors=colors)
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    # The projector shows three coordinates, and nothing where there are fewer.
    shown = torch.nn.functional.pad(points, (0, max(0, 3 - points.shape[1])))
    _write(folder / FOLDER / "tensors.tsv", _lines(shown.tolist()))
    _write(folder / FOLDER / "metadata.tsv", _lines(table))
    sprite = ""
    if colors and len(points) <= _MOST_SPRITES:
        picture = partial(_sprite(points).save, format="png")
        files.write_atomically(folder / FOLDER / "sprite.png", picture)
        sprite = _SPRITE
    _write(folder / "projector_config.pbtxt", _CONFIG % sprite)


def _table(
    points: Tensor,
    labels: Sequence[int],
    k: int,
    target: Tensor | None,
    feature_names: Sequence[str] | None,
    *,
    colors: bool,
) -> list[list[object]]:
    """What is known of each point, below a line of names."""
    few = k <= _MOST_NAMES
    clusters = [*range(k), *labels]
    columns: dict[str, Iterable[object]] = {
        "name": [f"{'centroid' if i < k else 'cluster'} {j}" for i, j in enumerate(clusters)],
        "cluster": [f"cluster {j}" if few else j for j in clusters],
        "kind": ["centroid" if i < k else "row" for i in range(len(points))],
    }
    if target is not None:
        names = ["outlier" if label < 0 else f"class {label}" for label in target.tolist()]
        columns["true class"] = ["centroid"] * k + names
    if colors:
        columns["color"] = [to_hex(color) for color in points.clamp(0, 1).tolist()]
    features = [literal(name) for name in feature_names or ()][:_MOST_FEATURES]
    for i, name in enumerate(features):
        column = name or f"feature {i + 1}"
        while column in columns:
            column += "'"
        columns[column] = [f"{value:.6g}" for value in points[:, i].tolist()]
    return [list(columns), *map(list, zip(*columns.values(), strict=True))]


def _sprite(points: Tensor) -> Image.Image:
    """A patch of the color of each point, in rows of equal length."""
    side = int(np.ceil(np.sqrt(len(points))))
    patches = np.zeros((side * side, 3), dtype=np.uint8)
    patches[: len(points)] = (points.clamp(0, 1) * 255).round().numpy()
    grid = patches.reshape(side, side, 3).repeat(_SIDE, axis=0).repeat(_SIDE, axis=1)
    return Image.fromarray(grid)


def _lines(rows: Iterable[Iterable[object]]) -> str:
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)


def _write(path: Path, text: str) -> None:
    files.write_atomically(path, lambda file: file.write(text.encode()))
