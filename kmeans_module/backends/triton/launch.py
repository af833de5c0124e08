"""Whether Triton is there, and the sizes of tiles that suit a device."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache, lru_cache, wraps
from importlib import metadata
from importlib.util import find_spec
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

LEAST_VERSION = (3, 6)
LEAST_CAPABILITY = (8, 0)
MOST_ROWS = (1 << 31) - (1 << 20)  # programs number them by int32
MOST_PROBLEMS = 65_535  # programs along the second axis

P = ParamSpec("P")
R = TypeVar("R")
# Names under which Triton is distributed: by itself, with nightly builds of torch, for Windows.
_DISTRIBUTIONS = ("triton", "pytorch-triton", "triton-windows")


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on tensors of the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def installed() -> str | None:
    """Version of Triton, which is not imported; None without it."""
    if find_spec("triton") is None:
        return None
    for name in _DISTRIBUTIONS:
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return None


@cache
def missing() -> str | None:
    """Why no kernel of Triton can be launched in this process; None where one can."""
    version = installed()
    if version is None:
        return "there is no package triton"
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or tuple(map(int, numbers.groups())) < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        return f"triton {version} is older than {least}"
    if not interpreted() and not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if torch.version.hip is not None:
        return "devices of ROCm are not served"
    if not interpreted():
        best = max(map(capability, range(torch.cuda.device_count())))
        if best < LEAST_CAPABILITY:
            return f"no device has compute capability 8.0 or more; the best has {best[0]}.{best[1]}"
    return None


@lru_cache(maxsize=64)
def capability(index: int) -> tuple[int, int]:
    """Compute capability of a CUDA device."""
    return torch.cuda.get_device_capability(index)


def current(device: torch.device) -> AbstractContextManager[Any]:
    """Kernels are launched on the current device: makes it that of the tensors."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def on_its_device(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """A method that launches kernels on the device of its object."""

    @wraps(method)
    def launching(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with current(self.device):
            return method(self, *args, **kwargs)

    return launching


def on_device_of_first(
    function: Callable[Concatenate[Tensor, P], R],
) -> Callable[Concatenate[Tensor, P], R]:
    """A function that launches kernels on the device of its first argument."""

    @wraps(function)
    def launching(x: Tensor, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with current(x.device):
            return function(x, *args, **kwargs)

    return launching


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
        return Tiles(64, 16, power_of_two(d, 16) if d <= WHOLE else 64, 1, 1, False)
    return tiles_of(capability(device.index or 0), d, k)


def tiles_of(capability: tuple[int, int], d: int, k: int) -> Tiles:
    """Tiles of a device of some compute capability.

    Shared memory is scarce on devices 8.6, 8.9 and 12: 99 KB. Tiles by descriptors pay where
    products read them from shared memory themselves: on 9.0 and 10.
    """
    columns = power_of_two(k, 16)
    large = (9, 0) <= capability < (12, 0)
    if d <= WHOLE:
        stages = 3 if large or capability == (8, 0) else 2
        return Tiles(128, min(64, columns), power_of_two(d, 16), 4, stages, large and d >= 32)
    if large:
        return Tiles(128, min(128, columns), 64, 8, 4, True)
    return Tiles(128, min(128, columns), 32, 8, 4, False)


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
