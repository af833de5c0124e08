"""The compiled library, and the structs of its C interface (csrc/abi/native.h)."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

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


# Of the interface in csrc/abi/native.h that this package is for.
ABI_VERSION = 4

# km_element.
ELEMENTS = {
    torch.float32: 0,
    torch.float64: 1,
    torch.float16: 2,
    torch.bfloat16: 3,
    torch.bool: 4,
    torch.uint8: 5,
    torch.int8: 6,
    torch.uint16: 7,
    torch.int16: 8,
    torch.uint32: 9,
    torch.int32: 10,
    torch.uint64: 11,
    torch.int64: 12,
}


class RowsStruct(ctypes.Structure):
    """km_rows."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("n", ctypes.c_int64),
        ("d", ctypes.c_int64),
        ("row_stride", ctypes.c_int64),
        ("column_stride", ctypes.c_int64),
        ("weights", ctypes.c_void_p),
        ("is_double", ctypes.c_int32),
        ("cosine", ctypes.c_int32),
        ("element", ctypes.c_int32),
        ("beyond", ctypes.POINTER(ctypes.c_int32)),
    )


class SparseStruct(ctypes.Structure):
    """km_sparse."""

    _fields_ = (
        ("starts", ctypes.c_void_p),
        ("columns", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("n", ctypes.c_int64),
        ("d", ctypes.c_int64),
        ("weights", ctypes.c_void_p),
        ("is_double", ctypes.c_int32),
        ("cosine", ctypes.c_int32),
    )


class ResultStruct(ctypes.Structure):
    """km_result."""

    _fields_ = (
        ("labels", ctypes.c_void_p),
        ("distances", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("counts", ctypes.c_void_p),
        ("inertia", ctypes.c_void_p),
        ("changed", ctypes.c_void_p),
        ("warm", ctypes.c_int32),
    )


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None, of which the first call warns, where there are none."""
    try:
        if not INSTALLED:
            raise OSError(_NOT_BUILT)
        opened = ctypes.CDLL(str(LIBRARY))
        version = opened.km_abi_version() if hasattr(opened, "km_abi_version") else 1
        if version != ABI_VERSION:
            raise OSError(f"{LIBRARY} has interface {version}, not {ABI_VERSION}: build it again")
    except OSError as error:
        warn(f"kmeans_module has no native kernel, torch alone serves, many times slower: {error}")
        return None
    rows, pointer, integer = ctypes.POINTER(RowsStruct), ctypes.c_void_p, ctypes.c_int64
    result, threads = ctypes.POINTER(ResultStruct), ctypes.c_int
    opened.km_open.argtypes, opened.km_open.restype = (threads, threads), pointer
    opened.km_close.argtypes = (pointer,)
    opened.km_project.argtypes = (pointer, pointer, pointer, integer, integer)
    opened.km_block_sums.argtypes = (
        pointer, threads, integer, integer, threads, threads, pointer, threads,
    )  # fmt: skip
    opened.km_share_visited.argtypes = (pointer,)
    opened.km_share_visited.restype = ctypes.c_double
    opened.km_e_step.argtypes = (rows, pointer, integer, result, pointer, threads)
    opened.km_lower.argtypes = (rows, pointer, pointer, threads, pointer, threads)
    opened.km_potentials.argtypes = (
        rows, pointer, pointer, integer, threads, pointer, pointer, threads,
    )  # fmt: skip
    sparse = ctypes.POINTER(SparseStruct)
    opened.km_sparse_e_step.argtypes = (sparse, pointer, integer, result, threads)
    opened.km_sparse_lower.argtypes = (sparse, pointer, pointer, threads)
    opened.km_sparse_potentials.argtypes = (sparse, pointer, pointer, integer, pointer, threads)
    opened.km_sparse_distances.argtypes = (sparse, pointer, integer, pointer, threads)
    opened.km_sparse_unit.argtypes = (sparse, pointer, threads)
    opened.km_spread.argtypes = (rows, pointer, pointer, pointer, pointer, threads)
    opened.km_beam_search.argtypes = (
        pointer, threads, integer, integer, pointer, integer, integer, integer, pointer, pointer,
        threads,
    )  # fmt: skip
    opened.km_neighbors.argtypes = (
        pointer, threads, integer, integer, pointer, integer, integer, pointer, pointer, threads,
    )  # fmt: skip
    opened.km_search_sums.argtypes = (
        pointer, threads, integer, integer, threads, threads, pointer, pointer, integer, pointer,
    )  # fmt: skip
    opened.km_draw.argtypes = (
        pointer, threads, integer, integer, threads, threads, pointer, integer, pointer, threads,
    )  # fmt: skip
    opened.km_load.argtypes = (rows, pointer, threads)
    opened.km_use_instruction_set.argtypes = (ctypes.c_char_p,)
    opened.km_guard_mapping.argtypes = (pointer, integer)
    opened.km_release_mapping.argtypes, opened.km_release_mapping.restype = (threads,), None
    opened.km_forked.restype = None
    if os.getpid() != _IMPORTED_BY:
        opened.km_forked()
    return opened


def loaded() -> ctypes.CDLL:
    """The library where a caller knows that there is one."""
    present = library()
    assert present is not None
    return present


def address(tensor: Tensor, p: int) -> int:
    """Where the numbers of problem p are; 0 where there are none."""
    first = tensor.data_ptr()
    return first and first + p * tensor.stride(0) * tensor.element_size() if p else first
