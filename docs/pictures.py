"""python docs/pictures.py

Draws the pictures of README.md and docs/ that measure nothing; those that do come from
`python -m benchmarks`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

try:
    from sklearn.datasets import load_sample_image
except ImportError as error:
    raise SystemExit("docs/pictures.py needs scikit-learn: pip install scikit-learn") from error

from kmeans_module import BlobDataModule, KMeansLayer, kmeans
from kmeans_module.figures import clustering_figure, quantized_figure

FOLDER = Path(__file__).parent


def clusters() -> Figure:
    """Blobs, the regions of their clusters, and the path that each centroid took."""
    x = BlobDataModule(n_clusters=7, samples_per_cluster=200, variance=12.0, seed=4).x
    layer = KMeansLayer(n_clusters=7, n_features=2)
    layer.initialize(x, "random", seed=40)
    path = [layer.centroids.clone()]
    for _ in range(20):
        layer.m_step(layer.e_step(x).stats)
        path.append(layer.centroids.clone())
    return clustering_figure(x, layer(x), layer.centroids, path=torch.stack(path))


def palette() -> Figure:
    """A photograph beside the same in 16 colors, and these."""
    photo = torch.from_numpy(load_sample_image("china.jpg").copy())[::2, ::2] / 255
    result = kmeans(photo.reshape(-1, 3), 16, n_init=4, seed=0)
    colored = result.centroids[result.labels].reshape(photo.shape)
    return quantized_figure([photo], [colored], result.centroids, result.layer.counts)


PICTURES = {"clusters.png": (clusters, 72), "palette.jpg": (palette, 70)}  # dots per inch


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draws the pictures of README.md and docs/.")
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="where they go; made if it is not there"
    )
    folder = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, (draw, dpi) in PICTURES.items():
        draw().savefig(folder / name, dpi=dpi)


if __name__ == "__main__":
    main()
