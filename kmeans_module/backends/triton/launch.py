"""Whether Triton is there, and the sizes of tiles that suit a device."""

from __future__ import annotations

import os
from functools import cache, lru_cache
from importlib import metadata
from typing import Any, NamedTuple

import torch
from torch import Tensor

LEAST_VERSION = (3, 6)
LEAST_CAPABILITY = (8, 0)


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on tensors of the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def missing() -> str | None:
    """Why no kernel of Triton can be launched in this process; None where one can."""
    try:
        version = metadata.version("triton")
    except metadata.PackageNotFoundError:
        return "there is no package triton"
    if tuple(int(part) for part in version.split(".")[:2]) < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        return f"triton {version} is older than {least}"
    if not interpreted() and not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if torch.version.hip is not None:
        return "devices of ROCm are not served"
    return None


@lru_cache(maxsize=64)
def capability(index: int) -> tuple[int, int]:
    """Compute capability of a CUDA device."""
    return torch.cuda.get_device_capability(index)


class Tiles(NamedTuple):
    """Sizes of the screening; see :mod:`kernels.screen`.

    Attributes:
        rows, columns: of a tile of scores.
        features: that are multiplied at once.
        warps, stages: of a program, and of its pipeline.
        described: whether tiles come by descriptors (TMA).
    """

    rows: int
    columns: int
    features: int
    warps: int
    stages: int
    described: bool


# Tiles whose candidates fit into one mask.
SEGMENT = 32
# Up to so many features rows stay in registers while all centroids pass.
WHOLE = 128


def tiles_for(device: torch.device, d: int, k: int) -> Tiles:
    """Tiles for rows of d features and k centroids."""
    if device.type != "cuda":
        return Tiles(32, 16, 16 if d <= WHOLE else 32, 1, 1, False)._replace(
            features=power_of_two(d, 16) if d <= WHOLE else 32
        )
    hopper = capability(device.index or 0) >= (9, 0)
    columns = min(64, power_of_two(k, 16))
    if d <= WHOLE:
        return Tiles(128, columns, power_of_two(d, 16), 4, 3, hopper and d >= 32)
    if hopper:
        wide = 256 if d > 256 and k >= 1024 else 128
        return Tiles(128, min(wide, power_of_two(k, 16)), 64, 8, 3 if wide == 256 else 4, True)
    return Tiles(128, min(128, power_of_two(k, 16)), 32, 8, 3, False)


def processors(device: torch.device) -> int:
    """Streaming multiprocessors of a device."""
    if device.type != "cuda":
        return 1
    return _processors(device.index or 0)


@lru_cache(maxsize=64)
def _processors(index: int) -> int:
    return int(torch.cuda.get_device_properties(index).multi_processor_count)


def errors(device: torch.device, d: int) -> tuple[float, float]:
    """What sums of d terms lose, relatively: ε of products on tensor cores, which cut off what
    they add up (measured on an H100 and H200: d / 8 units where all terms have one sign; older
    ones cut off twice as often); and δ of the sum that decides, in 16 lanes, by parts."""
    often = 1 if device.type != "cuda" or capability(device.index or 0) >= (9, 0) else 2
    product = often * (d / 8 + 8) / (1 << 24)
    return product, (min(d, 1024) / 16 + d / 1024 + 16) / (1 << 24)


def power_of_two(number: int, least: int = 1) -> int:
    """The least power of two that is at least a number, and at least another."""
    return max(least, 1 << (number - 1).bit_length())


def described(tensor: Tensor, block: list[int]) -> Any:
    """A descriptor of a matrix, by which the device copies tiles itself."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor.from_tensor(tensor, block)
