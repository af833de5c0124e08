"""python examples/vq_vae.py

A VQ-VAE on patches of a photograph (van den Oord, Vinyals & Kavukcuoglu, Neural discrete
representation learning, NIPS 2017): an encoder, a VectorQuantizer, a decoder. It learns on random
crops of the left three quarters of the picture and is measured on the rest. The losses, the PSNR,
the use of the codes and a picture of reconstructions go to TensorBoard: tensorboard --logdir runs
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torchmetrics.image import PeakSignalNoiseRatio

try:
    from sklearn.datasets import load_sample_image
except ImportError as error:
    raise SystemExit("examples/vq_vae.py needs scikit-learn: pip install scikit-learn") from error

from kmeans_module import ClusterUsage, VectorQuantizer


class Crops:
    """Batches (batch_size, 3, size, size) of random crops of a photograph (3, H, W)."""

    def __init__(
        self, photograph: Tensor, size: int, batch_size: int, n_batches: int, seed: int
    ) -> None:
        self.windows = photograph.unfold(1, size, 1).unfold(2, size, 1)  # a view: (3, i, j, s, s)
        self.batch_size, self.n_batches, self.seed = batch_size, n_batches, seed

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        _, rows, columns, _, _ = self.windows.shape
        for _ in range(self.n_batches):
            i = torch.randint(rows, (self.batch_size,), generator=generator)
            j = torch.randint(columns, (self.batch_size,), generator=generator)
            yield self.windows[:, i, j].transpose(0, 1)


class Residual(nn.Sequential):
    """x + f(x), of the same shape."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def residual(width: int) -> Residual:
    return Residual(nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
                    nn.ReLU(), nn.Conv2d(width, width, 1))  # fmt: skip


class VQVAE(LightningModule):
    """Pictures (N, 3, H, W) by way of (N, H / 4, W / 4) codes.

    Args:
        quantizer: takes (N, d, h, w), returns the same quantized, codes (N, h, w) and a loss.
        n_codes: size of its codebook.
        n_features: d.
        variance: of the pixels, in which the error of reconstruction is measured.
    """

    def __init__(
        self, quantizer: nn.Module, n_codes: int, n_features: int, variance: float, width: int = 64
    ) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 4, stride=2, padding=1), residual(width),
            nn.ReLU(), nn.Conv2d(width, n_features, 1),
        )  # fmt: skip
        self.quantizer = quantizer
        self.decoder = nn.Sequential(
            nn.Conv2d(n_features, width, 3, padding=1), residual(width), nn.ReLU(),
            nn.ConvTranspose2d(width, width, 4, stride=2, padding=1), nn.ReLU(),
            nn.ConvTranspose2d(width, 3, 4, stride=2, padding=1),
        )  # fmt: skip
        self.variance = variance
        self.psnr = PeakSignalNoiseRatio(data_range=1.0)
        self.usage = ClusterUsage(n_codes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        quantized, codes, loss = self.quantizer(self.encoder(images - 0.5))
        return self.decoder(quantized) + 0.5, codes, loss.sum()

    def training_step(self, images: Tensor, batch_idx: int) -> Tensor:
        reconstructions, codes, commitment = self(images)
        error = F.mse_loss(reconstructions, images)
        usage = ClusterUsage(self.usage.n_clusters).to(self.device)(codes)
        self.log_dict({
            "train/reconstruction": error / self.variance, "train/commitment": commitment,
            "train/psnr": -10 * error.log10(), "train/perplexity": usage["perplexity"],
        })  # fmt: skip
        return error / self.variance + commitment

    def validation_step(self, images: Tensor, batch_idx: int) -> None:
        reconstructions, codes, _ = self(images)
        self.psnr.update(reconstructions.clamp(0, 1), images)
        self.usage.update(codes)
        first = batch_idx == 0 and not self.trainer.sanity_checking
        if first and isinstance(self.logger, TensorBoardLogger):
            pairs = torch.stack([images[:8], reconstructions[:8].clamp(0, 1)])
            picture = pairs.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)
            self.logger.experiment.add_image("val/reconstructions", picture, self.global_step)

    def on_validation_epoch_end(self) -> None:
        usage = self.usage.compute()
        self.log_dict({
            "val/psnr": self.psnr.compute(), "val/perplexity": usage["perplexity"],
            "val/used": usage["used"],
        })  # fmt: skip
        self.psnr.reset()
        self.usage.reset()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def make_quantizer(
    which: str, n_codes: int, n_features: int, decay: float, revive_below: float
) -> nn.Module:
    """Ours, or that of vector-quantize-pytorch, whose gradients are by rotation, set up alike."""
    if which == "ours":
        return VectorQuantizer(
            n_codes, n_features, decay=decay, revive_below=revive_below, estimator="rotation",
            commitment=0.25, channel_first=True,
        )  # fmt: skip
    try:
        from vector_quantize_pytorch import VectorQuantize
    except ImportError:
        raise SystemExit("--quantizer peer needs: pip install vector-quantize-pytorch") from None
    return VectorQuantize(
        n_features, n_codes, decay=decay, commitment_weight=0.25, kmeans_init=True,
        threshold_ema_dead_code=revive_below, accept_image_fmap=True,
    )  # fmt: skip


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[1],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    photographs = ["china.jpg", "flower.jpg"]
    add("--photograph", choices=photographs, default="china.jpg", help="one of scikit-learn's")
    add("--quantizer", choices=["ours", "peer"], default="ours", help="whose codebook")
    add("--codes", type=int, default=512, help="size of the codebook")
    add("--features", type=int, default=32, help="features of a code")
    add("--decay", type=float, default=0.8, help="of the codebook's moving average")
    add("--revive-below", type=float, default=2.0, help="move codes with fewer vectors of a batch")
    add("--crop", type=int, default=32, help="height and width of a crop, a multiple of 4")
    add("--batch", type=int, default=64, help="crops in a batch")
    add("--steps", type=int, default=400, help="batches to learn from")
    add("--seed", type=int, default=0, help="of weights and crops")
    add("--folder", default="runs", help="where TensorBoard's events go")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Learn, measure, and return what was measured."""
    options = parse(arguments)
    if options.crop % 4:
        raise SystemExit(f"--crop should be a multiple of 4; got {options.crop}")
    torch.manual_seed(options.seed)
    photograph = torch.tensor(load_sample_image(options.photograph)).permute(2, 0, 1) / 255
    split = photograph.shape[2] * 3 // 4
    crops = Crops(photograph[..., :split], options.crop, options.batch, options.steps, options.seed)
    held_out = Crops(photograph[..., split:], options.crop, options.batch, 8, seed=0)
    quantizer = make_quantizer(
        options.quantizer, options.codes, options.features, options.decay, options.revive_below
    )
    model = VQVAE(quantizer, options.codes, options.features, variance=float(photograph.var()))
    trainer = Trainer(
        max_epochs=1, log_every_n_steps=min(10, options.steps),
        enable_checkpointing=False, enable_model_summary=False,
        logger=TensorBoardLogger(options.folder, "vq_vae"),
    )  # fmt: skip
    trainer.fit(model, crops, held_out)
    measured = {name: float(trainer.callback_metrics[f"val/{name}"])
                for name in ("psnr", "perplexity", "used")}  # fmt: skip
    print(
        f"PSNR {measured['psnr']:.2f} dB, perplexity {measured['perplexity']:.1f}, "
        f"{measured['used']:.1%} of {options.codes} codes used"
    )
    return measured


if __name__ == "__main__":
    main()
