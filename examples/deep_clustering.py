"""python examples/deep_clustering.py

Deep clustering of handwritten digits without their labels (Caron et al., Deep clustering for
unsupervised learning of visual features, ECCV 2018): at the start of each epoch the embeddings of
all pictures are clustered by a KMeansLayer, and its labels are what the network then learns to
tell from distorted pictures. In the end k-means finds the digits in the embeddings far better
than in the pixels; the agreement with the true ones is measured, and never learned from.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn

try:
    from sklearn.datasets import load_digits
    from sklearn.metrics import normalized_mutual_info_score
except ImportError as error:
    raise SystemExit(
        "examples/deep_clustering.py needs scikit-learn: pip install scikit-learn"
    ) from error

from kmeans_module import KMeansLayer
from kmeans_module.rows import Batch, BatchLoader


def distort(pixels: Tensor, noise: float = 0.1) -> Tensor:
    """Pictures (n, 64), each turned, scaled and shifted a little at random, with noise."""
    images = pixels.view(-1, 1, 8, 8)

    def uniform(limit: float) -> Tensor:
        return images.new_empty(len(images)).uniform_(-limit, limit)

    angle, scale, pixel = uniform(math.pi / 12), 1 + uniform(0.1), 2 / images.shape[-1]
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1)
    shift = torch.stack([uniform(pixel), uniform(pixel)], dim=1)
    theta = torch.cat([(rotation * scale[:, None]).view(-1, 2, 2), shift[:, :, None]], dim=2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    distorted = F.grid_sample(images, grid, align_corners=False).flatten(1)
    return distorted + noise * torch.randn_like(distorted)


class Network(LightningModule):
    """An encoder of pictures, clusters of its embeddings, and a head that tells these apart.

    Attributes:
        targets: cluster of each picture, (n,); :class:`DeepClustering` sets them.
    """

    targets: Tensor

    def __init__(self, n_pictures: int, n_clusters: int, n_features: int = 64) -> None:
        super().__init__()

        def convolution(channels: int, width: int, stride: int) -> nn.Sequential:
            kernel = nn.Conv2d(channels, width, 3, stride=stride, padding=1)
            return nn.Sequential(kernel, nn.BatchNorm2d(width), nn.ReLU())

        self.encoder = nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            convolution(1, 32, 1), convolution(32, 64, 2), convolution(64, 64, 1),
            nn.Flatten(), nn.Linear(64 * 4 * 4, n_features),
        )  # fmt: skip
        self.clusters = KMeansLayer(n_clusters, n_features, metric="cosine")
        self.head = nn.Linear(n_features, n_clusters)
        self.register_buffer("targets", torch.zeros(n_pictures, dtype=torch.int64))

    @torch.no_grad()
    def embed(self, pixels: Tensor) -> Tensor:
        """Embeddings of undistorted pictures (n, 64); leaves the training mode as it was."""
        training = self.training
        embeddings: Tensor = self.eval().encoder(pixels.to(self.device))
        self.train(training)
        return embeddings

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits = self.head(self.encoder(distort(batch.x)))
        loss = F.cross_entropy(logits, self.targets[batch.index])
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(logits))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        encoder = {"params": self.encoder.parameters(), "lr": 1e-3}
        return torch.optim.Adam([encoder, {"params": self.head.parameters(), "lr": 1e-2}])


class DeepClustering(Callback):
    """Clusters the embeddings at the start of each epoch: new targets, and a fresh head for them.

    Logs the normalized mutual information of the targets with those before, which approaches 1 as
    the network settles.

    Args:
        pixels: all pictures in order, (n, 64).
    """

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Network)
        generator = torch.Generator().manual_seed(trainer.current_epoch)  # alike on all ranks
        embeddings = pl_module.embed(self.pixels)
        targets = pl_module.clusters.fit(embeddings, n_init=3, generator=generator).labels
        agreement = normalized_mutual_info_score(targets.cpu(), pl_module.targets.cpu())
        pl_module.log("train/agreement_with_last_targets", agreement)
        pl_module.targets.copy_(targets)
        pl_module.head.reset_parameters()
        for parameter in pl_module.head.parameters():
            trainer.optimizers[0].state.pop(parameter, None)  # Adam's moments of the old head


def agreement_with_truth(x: Tensor, truth: Tensor, *, metric: str, seed: int) -> float:
    """Normalized mutual information of ten clusters of k-means with the ten digits."""
    generator = torch.Generator().manual_seed(seed)
    layer = KMeansLayer(10, x.shape[1], metric=metric)
    labels = layer.fit(x.cpu(), n_init=10, generator=generator).labels
    return float(normalized_mutual_info_score(labels, truth))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[1],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--clusters", type=int, default=10, help="of the embeddings, to learn from")
    add("--epochs", type=int, default=40, help="how often to cluster and learn in turn")
    add("--batch", type=int, default=64, help="pictures in a batch")
    add("--seed", type=int, default=0, help="of weights, distortions and k-means")
    add("--folder", default="runs", help="where TensorBoard's events go")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Learn, and return the agreement of k-means with the digits, on pixels and embeddings."""
    options = parse(arguments)
    torch.manual_seed(options.seed)
    digits = load_digits()
    pixels = torch.tensor(digits.data, dtype=torch.float32) / 16
    truth = torch.tensor(digits.target)
    network = Network(len(pixels), options.clusters)
    trainer = Trainer(
        max_epochs=options.epochs, log_every_n_steps=1, callbacks=[DeepClustering(pixels)],
        enable_checkpointing=False, enable_model_summary=False,
        logger=TensorBoardLogger(options.folder, "deep_clustering"),
    )  # fmt: skip
    trainer.fit(network, BatchLoader(pixels, batch_size=options.batch, shuffle=True))
    found = {
        "pixels": agreement_with_truth(pixels, truth, metric="euclidean", seed=options.seed),
        "embeddings": agreement_with_truth(
            network.embed(pixels), truth, metric="cosine", seed=options.seed
        ),
    }
    print(
        f"normalized mutual information with the digits: k-means on pixels {found['pixels']:.3f}, "
        f"on embeddings {found['embeddings']:.3f}"
    )
    return found


if __name__ == "__main__":
    main()
