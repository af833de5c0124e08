"""Loads the compiled library, which has the interface of csrc/abi/native.h."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

from torch import Tensor

from kmeans_module.backends.native.interface import ABI_VERSION, FUNCTIONS
from kmeans_module.core.warn import warn

_IMPORTED_BY = os.getpid()

LIBRARY = Path(__file__).with_name("kmeans_native.so")
# A tracing compiler cannot load the library: it has to know beforehand.
INSTALLED = LIBRARY.is_file()
# pip says nothing of a wheel that was built all the same.
_NOT_BUILT = (
    "when it was installed, no C++ compiler could build it. Where there is one, install again: "
    "KMEANS_REQUIRE_NATIVE=1 pip install --force-reinstall --no-deps --no-cache-dir ..., which "
    "says what fails"
)


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None, of which the first call warns, where there are none."""
    try:
        if not INSTALLED:
            raise OSError(_NOT_BUILT)
        opened = ctypes.CDLL(str(LIBRARY))
        _bind(opened)
    except OSError as error:
        warn(f"kmeans_module has no native kernel, torch alone serves, many times slower: {error}")
        return None
    if os.getpid() != _IMPORTED_BY:
        opened.km_forked()
    return opened


def _bind(opened: ctypes.CDLL) -> None:
    """Tell ctypes the types of all functions.

    Raises:
        OSError: the library was built for another version of the interface, whose structs and
            arguments differ, or lacks a function.
    """
    # The first version had no number.
    version = opened.km_abi_version() if hasattr(opened, "km_abi_version") else 1
    if version != ABI_VERSION:
        raise OSError(
            f"{LIBRARY} has interface {version}, not {ABI_VERSION}: build it again, by "
            "installing kmeans_module again (pip install)"
        )
    for name, (result, *arguments) in FUNCTIONS.items():
        if not hasattr(opened, name):
            raise OSError(
                f"{LIBRARY} lacks {name}: build it again, by installing kmeans_module again "
                "(pip install)"
            )
        function = getattr(opened, name)
        function.restype, function.argtypes = result, arguments


def loaded() -> ctypes.CDLL:
    """The library where a caller knows that there is one."""
    present = library()
    assert present is not None
    return present


def aligned(tensor: Tensor) -> Tensor:
    """A tensor at an address that is a multiple of the size of its numbers, as the kernels read
    them: a copy where a buffer of a caller's (torch.frombuffer) begins elsewhere."""
    return tensor.clone() if tensor.data_ptr() % tensor.element_size() else tensor


def packed(tensor: Tensor) -> Tensor:
    """A tensor that is aligned and contiguous."""
    return aligned(tensor.contiguous())


def address(tensor: Tensor, p: int) -> int:
    """Where the numbers of problem p are; 0 where there are none."""
    first = tensor.data_ptr()
    return first and first + p * tensor.stride(0) * tensor.element_size() if p else first
