"""Codebooks in training: what moving dead codes does to the error of a network.

Autoencoders with a VectorQuantizer learn from seed to seed the same images, once for each way that
the codebook learns: with the defaults, without moving dead codes, with a shorter memory.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

STEPS, EARLY = 500, 150
LEARNING_RATE = 2e-3
WINDOW = 10  # steps whose mean is the error early and at the end
MODES = ("gradient", "ema")
CODEBOOKS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "no revival": {"revive_below": 0},
    "decay 0.8": {"decay": 0.8},
}


class Problem(NamedTuple):
    """Something to learn.

    Attributes:
        title: in words.
        images: draws a batch by a generator, (n, channels, height, width).
        network: makes an encoder and a decoder for features of the codebook's width.
        n_clusters, n_features: of the codebook.
    """

    title: str
    images: Callable[[torch.Generator], Tensor]
    network: Callable[[], tuple[nn.Module, nn.Module]]
    n_clusters: int
    n_features: int


class Course(NamedTuple):
    """What one training run gave.

    Attributes:
        errors: mean squared error of the reconstruction, for each step.
        used: codes that the last batches used.
    """

    errors: list[float]
    used: int


def run(options: argparse.Namespace) -> list[dict[str, object]]:
    """Errors over seeds of each problem, mode and way to keep codes alive."""
    torch.set_num_threads(options.threads or 1)  # little networks; seeds are to be repeatable
    steps = max(2, round(STEPS * options.scale))
    rows: list[dict[str, object]] = []
    for name in options.workloads or problems():
        problem = problems()[name]
        print(f"{problem.title}, {problem.n_clusters} codes, {steps} steps, {options.seeds} seeds")
        print(f"    {'':<22}{'worst':>18}{f'at {EARLY}':>20}{'final':>20}{'used':>8}")
        for mode in MODES:
            for codebook, given in CODEBOOKS.items():
                courses = [
                    train(problem, seed, steps, update=mode, **given)
                    for seed in range(options.seeds)
                ]
                figures = summary(courses)
                print(
                    f"    {mode + ', ' + codebook:<22}"
                    + "".join(
                        f"{figures[what][0]:>11.4f} ±{figures[what][1]:>7.4f}"
                        for what in ("worst", "early", "final")
                    )
                    + f"{figures['used'][0]:>8.0f}",
                    flush=True,
                )
                rows.append(
                    {"workload": name, "title": problem.title, "update": mode,
                     "codebook": codebook, **figures}
                )  # fmt: skip
    return rows


def train(problem: Problem, seed: int, steps: int, **options: Any) -> Course:
    """Train an autoencoder with a codebook."""
    from kmeans_module import VectorQuantizer

    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    encoder, decoder = problem.network()
    quantizer = VectorQuantizer(
        problem.n_clusters, problem.n_features, channel_first=True, **options
    )
    model = nn.ModuleList([encoder, quantizer, decoder])
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    errors: list[float] = []
    codes: list[Tensor] = []
    for _ in range(steps):
        images = problem.images(generator)
        found = quantizer(encoder(images))
        error = (decoder(found.quantized) - images).square().mean()
        optimizer.zero_grad()
        (error + found.loss).backward()
        optimizer.step()
        errors.append(error.item())
        codes = [*codes[1 - WINDOW :], found.codes.flatten()]
    return Course(errors, len(torch.cat(codes).unique()))


def summary(courses: list[Course]) -> dict[str, tuple[float, float]]:
    """Mean and standard error over seeds."""
    early = min(EARLY, len(courses[0].errors))
    return {
        "worst": _mean([max(course.errors) for course in courses]),
        "early": _mean([_last(course.errors[:early]) for course in courses]),
        "final": _mean([_last(course.errors) for course in courses]),
        "used": _mean([float(course.used) for course in courses]),
    }


def _last(errors: list[float]) -> float:
    return statistics.fmean(errors[-WINDOW:])


def _mean(values: list[float]) -> tuple[float, float]:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return statistics.fmean(values), spread / math.sqrt(len(values))


def problems() -> dict[str, Problem]:
    """What is learnt: the trial, and others that say whether it was a special case."""
    return {
        "photographs": Problem(
            "patches of two photographs",
            _patches(size=64, batch=16),
            lambda: _convolutions(3, width=32, strides=(2, 2, 2), n_features=32),
            n_clusters=256,
            n_features=32,
        ),
        "spots": Problem(
            "images of colored spots",
            _spots(size=32, batch=32),
            lambda: _convolutions(3, width=32, strides=(2, 2, 1), n_features=8),
            n_clusters=512,
            n_features=8,
        ),
        "noise": Problem(
            "smooth noise",
            _noise(size=32, batch=32),
            lambda: _convolutions(1, width=32, strides=(2, 2, 2), n_features=64),
            n_clusters=128,
            n_features=64,
        ),
        "vectors": Problem(
            "points of a mixture of 50 in 16 dimensions",
            _mixture(n_features=16, batch=1024),
            lambda: _perceptrons(16, width=64, n_features=8),
            n_clusters=256,
            n_features=8,
        ),
    }


def _convolutions(
    channels: int, *, width: int, strides: tuple[int, ...], n_features: int
) -> tuple[nn.Module, nn.Module]:
    """Convolutions down and as many up."""
    down = [channels, *[width] * (len(strides) - 1), n_features]
    encoder: list[nn.Module] = []
    decoder: list[nn.Module] = []
    for i, stride in enumerate(strides):
        shape = {"kernel_size": 4 if stride == 2 else 3, "stride": stride, "padding": 1}
        encoder += [nn.Conv2d(down[i], down[i + 1], **shape), nn.ReLU()]
        decoder = [nn.ConvTranspose2d(down[i + 1], down[i], **shape), nn.ReLU(), *decoder]
    return nn.Sequential(*encoder[:-1]), nn.Sequential(*decoder[:-1])


def _perceptrons(n: int, *, width: int, n_features: int) -> tuple[nn.Module, nn.Module]:
    """The same for vectors: convolutions of images of one pixel."""

    def layers(start: int, end: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(start, width, 1), nn.GELU(), nn.Conv2d(width, width, 1), nn.GELU(),
            nn.Conv2d(width, end, 1),
        )  # fmt: skip

    return layers(n, n_features), layers(n_features, n)


def _patches(*, size: int, batch: int) -> Callable[[torch.Generator], Tensor]:
    from sklearn.datasets import load_sample_images

    photographs = torch.stack([torch.tensor(image) for image in load_sample_images().images])
    windows = (photographs / 127.5 - 1).unfold(1, size, 1).unfold(2, size, 1)

    def draw(generator: torch.Generator) -> Tensor:
        place = [torch.randint(n, (batch,), generator=generator) for n in windows.shape[:3]]
        return windows[place[0], place[1], place[2]]

    return draw


def _spots(*, size: int, batch: int) -> Callable[[torch.Generator], Tensor]:
    grid = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij"))

    def draw(generator: torch.Generator) -> Tensor:
        images = torch.zeros(batch, 3, size, size)
        for _ in range(4):
            middle = torch.rand(batch, 2, 1, 1, generator=generator) * size
            radius = torch.rand(batch, 1, 1, generator=generator) * 6 + 2
            color = torch.rand(batch, 3, 1, 1, generator=generator) * 2 - 1
            away = (grid - middle).square().sum(dim=1) / radius.square()
            images = images + color * (-away).exp().unsqueeze(1)
        return images

    return draw


def _noise(*, size: int, batch: int) -> Callable[[torch.Generator], Tensor]:
    def draw(generator: torch.Generator) -> Tensor:
        coarse = torch.randn(batch, 1, size // 4, size // 4, generator=generator)
        return nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")

    return draw


def _mixture(*, n_features: int, batch: int) -> Callable[[torch.Generator], Tensor]:
    middles = torch.randn(50, n_features, generator=torch.Generator().manual_seed(0)) * 2

    def draw(generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(middles), (batch,), generator=generator)
        rows = middles[chosen] + torch.randn(batch, n_features, generator=generator) / 2
        return rows.view(batch, n_features, 1, 1)

    return draw
